"""What a job's life depends on: a file that somebody holds open, which the daemon watches as long as it is there.

When the daemon goes, the lease passes to the process that had opened the file, of which a pidfd was sent ahead.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.supervisor.connection import Sender
    from jobfs.supervisor.loop import Loop, Timer


class Lease:
    """The lease of one job, which came from `daemon`. `holder`: a pidfd of the process, where it is known."""

    def __init__(self, loop: Loop, daemon: Sender, holder: int | None) -> None:
        """Takes over `holder`."""
        self._loop = loop
        self.daemon = daemon
        self._holder = holder
        self._over: Timer | None = None

    def pass_on(self, over: Callable[[str], None]) -> None:
        """The daemon has gone. Has `over` called with the reason when the process ends; at once where none is known."""
        if self._holder is None:
            self._over = self._loop.after(0, lambda: over("the daemon ended, and who held its lease is not known"))
            return

        def ended(_: int) -> None:
            self.close()
            over("the process that held its lease ended")

        self._loop.watch(self._holder, ended)  # a pidfd is readable once the process has ended (pidfd_open(2))

    def close(self) -> None:
        """Nothing depends on it any more, and `over` is not called any more."""
        if self._over is not None:
            self._over.cancel()
        if self._holder is not None:
            self._loop.unwatch(self._holder)
            os.close(self._holder)
            self._holder = None
