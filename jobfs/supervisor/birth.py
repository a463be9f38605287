"""The way of a forked child to its exec: who asked for it is answered when that is known, or has taken too long."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jobfs.supervisor.launch import read_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.supervisor.child import Child
    from jobfs.supervisor.loop import Loop

# A spawn whose exec hangs is answered after this many seconds: a verb never waits.
EXEC_PATIENCE = 1.0


class Birth:
    """A forked child on its way to exec: whichever comes first, its report or the end of patience, is answered."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it is told with and what it is told to
        self,
        loop: Loop,
        child: Child,
        report: int,
        executed: Callable[[Child], None],
        never_ran: Callable[[Child, tuple[int, str], bool], None],
        tell: Callable[[tuple[int, str] | None], None] | None,
    ) -> None:
        """Takes over `report`. Tells `tell` the failure, or None; nobody where the spawn was answered already."""
        self._loop = loop
        self._child = child
        self._report = report
        self._executed = executed
        self._never_ran = never_ran
        self._tell = tell
        self._patience = loop.after(EXEC_PATIENCE, self._patience_over)
        loop.watch(report, lambda _: self.reported())

    def reported(self) -> None:
        """The child has said how its way to exec ended, by a failure or by closing the pipe."""
        try:
            failure = read_report(self._report)
        except BlockingIOError:  # the readiness was that of another file, which had this number a moment ago
            return
        self._child.birth = None
        self._loop.unwatch(self._report)
        os.close(self._report)
        self._patience.cancel()
        if failure is None:
            self._executed(self._child)
            self._answer()
        else:
            self._never_ran(self._child, failure, self._tell is None)
            self._answer(failure)

    def _patience_over(self) -> None:
        self.reported()  # it may have been long ago, if it was this process that stood still
        self._answer()

    def _answer(self, failure: tuple[int, str] | None = None) -> None:
        if self._tell is not None:
            tell, self._tell = self._tell, None
            tell(failure)
