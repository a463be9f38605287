"""A job whose supervisor was killed, in the care of the next one: not its child, so it is looked at and not reaped."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from jobfs.processes import exit_status, stop_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.supervisor.child import Child
    from jobfs.supervisor.loop import Loop, Timer

# How often it is looked at whether it is stopped, which nobody tells who is not its parent, in seconds.
_LOOK = 0.5
# And how soon after a signal of ours.
_LOOK_SOON = 0.01
# How often, and how long in all, it is asked how a process ended that its parent has not reaped yet, in seconds.
_ASK = 0.02
_PATIENCE = 3.0


class Adoption:
    """The process of a job, known by a pidfd: `exited` is told how it ended, None where nobody knows."""

    def __init__(
        self,
        loop: Loop,
        child: Child,
        exited: Callable[[Child, int | None], None],
        stopped: Callable[[Child, bool], None],
    ) -> None:
        self._loop = loop
        self._child = child
        self._exited = exited
        self._stopped = stopped
        self._patience = _PATIENCE
        loop.watch(child.pidfd, self._ended)  # readable once it has ended (pidfd_open(2))
        self._timer: Timer = loop.after(0, self._look)

    def look_soon(self) -> None:
        """A signal was sent: it may be stopped now, or be stopped no more."""
        if self._timer.pending:
            self._timer.cancel()
            self._timer = self._loop.after(_LOOK_SOON, self._look)

    def _look(self) -> None:
        stopped = stop_state(self._child.pid)
        if stopped is None:
            return  # it has ended, as the pidfd is about to tell
        self._stopped(self._child, stopped)
        self._timer = self._loop.after(_LOOK, self._look)

    def _ended(self, _: int) -> None:
        self._loop.unwatch(self._child.pidfd)
        self._timer.cancel()
        self._ask()

    def _ask(self) -> None:
        status = exit_status(self._child.pid, self._child.pidfd)
        if status is None and self._patience > 0 and self._is_there():
            self._patience -= _ASK
            self._timer = self._loop.after(_ASK, self._ask)
        else:
            self._exited(self._child, status)

    def _is_there(self) -> bool:
        """Whether it waits to be reaped: only when it was does the kernel tell."""
        try:
            signal.pidfd_send_signal(self._child.pidfd, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it is another user's by now (setuid), and there
            return True
        return True
