"""Signals to jobs, and their ends: SIGTERM to all of a job, a grace period, and SIGKILL to what is left of it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import TYPE_CHECKING

from jobfs.supervisor.signals import NoGroupSignals, group_lives, signal_group, signal_processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.supervisor.child import Child
    from jobfs.supervisor.loop import Loop
    from jobfs.supervisor.members import Members
    from jobfs.supervisor.records import Records


class Ending:
    """Signals jobs, and ends them when that is asked for or their time is over.

    Of a job that has ended, its number is known, and that of the process that it was, its `leader`.
    """

    def __init__(self, loop: Loop, records: Records, members: Members, grace_over: Callable[[Child], None]) -> None:
        """`grace_over` is called when SIGKILL was sent to all that was left of a job, which may be nobody."""
        self._loop = loop
        self._records = records
        self._members = members
        self._grace_over = grace_over
        self._lingering: set[int] = set()  # ended jobs whose remains are being ended

    def signal(self, child: Child, number: int) -> None:
        """Signals a job that has not ended; OSError where that fails, ProcessLookupError where nobody is left."""
        if child.executed:
            self._signal_group(child, number)
        elif number == signal.SIGKILL:
            signal.pidfd_send_signal(child.pidfd, number)
        else:
            child.queued_signals.append(number)  # it could not heed them before its exec

    def signal_remains(self, job: int, leader: int, number: int) -> None:
        """Signals what an ended job left behind; ProcessLookupError where that is nobody."""
        if not signal_processes(self._members.find(job, leader), number):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    def executed(self, child: Child) -> None:
        """Its exec has happened, so it gets the signals that waited for that."""
        child.executed = True
        for number in child.queued_signals:
            with contextlib.suppress(OSError):
                self._signal_group(child, number)
        child.queued_signals.clear()

    def end(self, child: Child, reason: str | None) -> None:
        """Ends a job and writes down why; does nothing where its process has ended, or is being ended.

        OSError where it cannot be signalled.
        """
        if child.gone or child.ending:
            return
        child.record["reason"] = reason
        if child.executed:
            self._signal_group(child, signal.SIGTERM)
            with contextlib.suppress(ProcessLookupError):  # SIGTERM was enough
                self._signal_group(child, signal.SIGCONT)
        else:
            child.queued_signals += [signal.SIGTERM, signal.SIGCONT]
        child.ending = True
        grace = child.record["grace"]
        child.record["kill_clock"] = time.monotonic() + grace
        self._kill_in(child, grace)
        with contextlib.suppress(OSError):
            self._records.write(child.record)

    def end_remains(self, job: int, leader: int, grace: float) -> None:
        """Ends what an ended job left behind, which has `grace` seconds; ProcessLookupError where that is nobody."""
        left = self._members.find(job, leader)
        if not left:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if job in self._lingering:
            return
        self._lingering.add(job)
        signal_processes(left, signal.SIGTERM)
        signal_processes(left, signal.SIGCONT)
        self._loop.after(grace, lambda: self._kill_remains(job, leader))

    def keep_deadline(self, child: Child) -> None:
        """Ends it when its timeout is over, where it has one."""
        deadline = child.record.get("deadline")
        if deadline is not None and not child.gone:
            timeout = deadline - child.record["started_clock"]
            reason = f"it was ended after its timeout of {timeout:.6g} s"
            left = max(0.0, deadline - time.monotonic())
            child.timeout = self._loop.after(left, lambda: self.end(child, reason))

    def resume(self, child: Child) -> None:
        """Goes on where an earlier supervisor was ending it."""
        if "kill_clock" in child.record:
            child.ending = True
            self._kill_in(child, max(0.0, child.record["kill_clock"] - time.monotonic()))

    def awaits_kill(self, child: Child) -> bool:
        """Whether what is left of an ended job's group is still to be killed. Where nobody is left, that is off."""
        if child.kill is None or not child.kill.pending:
            return False
        if group_lives(child.pidfd):
            return True
        child.kill.cancel()
        return False

    def _signal_group(self, child: Child, number: int) -> None:
        try:
            signal_group(child.pidfd, number)
        except NoGroupSignals:
            group = [p for p in self._members.find(child.job, child.pid) if p.group == child.pid]
            signal_processes(group, number)

    def _kill_in(self, child: Child, seconds: float) -> None:
        child.kill = self._loop.after(seconds, lambda: self._kill(child))

    def _kill(self, child: Child) -> None:
        # ProcessLookupError: nobody is left; PermissionError: those who are left are another user's by now (setuid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if child.pidfd < 0:
                signal_processes(self._members.find(child.job, child.pid), signal.SIGKILL)
            elif child.executed:
                self._signal_group(child, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        self._grace_over(child)

    def _kill_remains(self, job: int, leader: int) -> None:
        self._lingering.discard(job)
        signal_processes(self._members.find(job, leader), signal.SIGKILL)
