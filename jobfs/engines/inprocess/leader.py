"""The first process of a session that belongs to a job: a child of this program, known by a pidfd."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import trio

from jobfs import proc
from jobfs.processes import Stray, all_processes, exit_status, read_process, ticks
from jobfs.supervisor.signals import NoGroupSignals, group_lives, signal_group, signal_processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.processes import Process

_LOOK_AGAIN = 0.02  # seconds between looks whether a group that was told to end has
_STOPS = (os.CLD_STOPPED, os.CLD_TRAPPED)
_LOOK_FLAGS = os.WSTOPPED | os.WCONTINUED | os.WNOHANG  # not WEXITED: nothing is reaped
_ENDED = os.WEXITED | os.WNOWAIT | os.WNOHANG  # likewise


def require_leader(pid: int) -> Process:
    """A child of this program's that leads a process group.

    ProcessLookupError where there is none of that number, PermissionError where it leads no group: the one that it
    is in may be this program's own, which is not to be signalled.
    """
    process = read_process(pid)
    if process is None or process.parent != os.getpid():
        raise ProcessLookupError(errno.ESRCH, f"process {pid} is no child of this program")
    if process.group != pid:
        raise PermissionError(
            errno.EPERM, f"process {pid} leads no process group: start it with start_new_session=True"
        )
    return process


class Leader:
    """A process and the group that it leads, or led; `members` finds those where the kernel cannot signal a group."""

    def __init__(self, pid: int, began: int, members: Callable[[], list[Process]]) -> None:
        """Takes hold of a child; OSError where that fails. `began`: ticks before its start.

        Something else in this program may have reaped it already. Then it has ended, and nobody tells how.
        """
        self.pid = pid
        self.pidfd = _child(pid)
        self.reaped = self.pidfd < 0
        self.stopped = False
        self._window = (began, ticks())
        self._members = members

    @classmethod
    def of(cls, pid: int, members: Callable[[], list[Process]]) -> Self:
        """A child that was started by other means, and that whoever started it reaps.

        Raises as `require_leader` does.
        """
        leader = cls(pid, require_leader(pid).start, members)
        if leader.pidfd < 0:
            raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")
        return leader

    def stray(self, job: int) -> Stray:
        """What its session is known by, also when it has ended."""
        return Stray(job, self.pid, *self._window)

    def signal(self, number: int) -> None:
        """Signals its group; ProcessLookupError where nobody is left in it, OSError as kill(2) has it."""
        if self.pidfd < 0:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        try:
            signal_group(self.pidfd, number)
        except NoGroupSignals:
            if not signal_processes([process for process in self._members() if process.group == self.pid], number):
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None

    @property
    def group_lives(self) -> bool:
        """Whether anybody is left in its group, a zombie that leads it included."""
        if self.pidfd < 0 or not group_lives(self.pidfd):
            return False
        try:  # kernels before Linux 6.9 cannot tell that by a pidfd; signal 0 does no harm, whoever gets it
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    @property
    def group_runs(self) -> bool:
        """Whether anybody in its group runs. One that has ended does not, though whoever is to did not reap it yet.

        That may be the first process of a container, for good.
        """
        if not self.group_lives:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(0):
            return True
        try:
            everybody = proc.patiently(all_processes).values()
        except TimeoutError:  # nobody can tell, because no descriptor is left, for one
            return True
        return any(process.group == self.pid and not process.zombie for process in everybody)

    async def wait_ended(self) -> tuple[int | None, resource.struct_rusage | None]:
        """Waits for its end and reaps it; gives the wait status, None where somebody else did and nobody tells."""
        if self.pidfd < 0:
            await trio.lowlevel.checkpoint()
            return None, None
        await trio.lowlevel.wait_readable(self.pidfd)
        self.reaped = True
        try:
            # First by the pidfd: where somebody else reaped it, its number may be another child's by now.
            os.waitid(os.P_PIDFD, self.pidfd, _ENDED)  # noqa: ASYNC222 - it does not wait
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)  # noqa: ASYNC222 - likewise
        except ChildProcessError:
            return exit_status(self.pid, self.pidfd), None
        return (status if pid else None), usage

    def look(self) -> bool:
        """Looks whether it is stopped, which nobody tells, and gives that."""
        with suppress(ChildProcessError):
            while not self.reaped and (told := os.waitid(os.P_PIDFD, self.pidfd, _LOOK_FLAGS)) is not None:
                self.stopped = told.si_code in _STOPS
        return self.stopped

    async def wait_group_ended(self) -> None:
        """Returns when nobody runs in its group."""
        while self.group_runs:  # noqa: ASYNC110 - nobody is told of the end of a group
            await trio.sleep(_LOOK_AGAIN)

    async def kill_after(self, grace: float) -> None:
        """Kills what is left of its group after `grace` seconds; returns as soon as nobody is left in it."""
        with trio.move_on_after(grace):
            await self.wait_group_ended()
            return
        with suppress(OSError):  # nobody is left; or those who are left are another user's by now (setuid)
            self.signal(signal.SIGKILL)

    def close(self) -> None:
        """Lets go of it."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _child(pid: int) -> int:
    """A pidfd of the child that has or had that number; -1 where there is none any more."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    try:
        os.waitid(os.P_PIDFD, pidfd, _ENDED)
    except ChildProcessError:  # the number is another process's by now
        os.close(pidfd)
        return -1
    return pidfd
