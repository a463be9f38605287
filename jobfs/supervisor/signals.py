"""Signals to a job's processes, and never to a stranger: always through a pidfd (pidfd_open(2)), never by number."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

from jobfs.processes import read_process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobfs.processes import Process

# Linux 6.9: the signal goes to the process group that the pidfd's process leads or led, after its reaping too.
_TO_GROUP = 1 << 2


class NoGroupSignals(Exception):  # noqa: N818 - a fact about this kernel, not an error
    """The kernel is older than Linux 6.9: signal the members one by one."""


def signal_group(leader: int, number: int) -> None:
    """Signals the group led by the process of pidfd `leader`; ProcessLookupError where nobody is left in it."""
    try:
        signal.pidfd_send_signal(leader, number, None, _TO_GROUP)
    except OSError as error:
        if error.errno == errno.EINVAL and number in signal.valid_signals():
            raise NoGroupSignals from None
        raise


def group_lives(leader: int) -> bool:
    """Whether anybody is left in the group led by the process of pidfd `leader`; True where that cannot be told."""
    try:
        signal.pidfd_send_signal(leader, 0, None, _TO_GROUP)
    except ProcessLookupError:
        return False
    except OSError:  # EPERM: somebody of another user; EINVAL: a kernel older than Linux 6.9
        return True
    return True


def signal_processes(processes: Iterable[Process], number: int) -> int:
    """Signals each of `processes` that is still who it was; gives how many that were."""
    reached = 0
    for process in processes:
        # ProcessLookupError: it has ended since it was listed; PermissionError: it is another user's by now (setuid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            pidfd = os.pidfd_open(process.pid)
            try:
                now = read_process(process.pid)
                if now is not None and now.start == process.start:
                    signal.pidfd_send_signal(pidfd, number)
                    reached += 1
            finally:
                os.close(pidfd)
    return reached
