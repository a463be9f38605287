"""What an engine's system calls fail with, as errors of the family: one place for all engines that have processes."""

from __future__ import annotations

import errno
import os

from jobfs.errors import (
    JobEnded,
    JobfsError,
    LimitReached,
    NotPermitted,
    SpawnFailed,
    StateFull,
    StdinClosed,
)

_ERRORS: dict[int, tuple[type[JobfsError], str]] = {
    errno.ESRCH: (JobEnded, "nothing is left of it"),
    errno.EPIPE: (StdinClosed, "nobody reads its stdin any more"),
    errno.EPERM: (NotPermitted, "its processes are another user's"),
    errno.ENOSPC: (StateFull, "the disk that holds the state is full"),
    errno.EDQUOT: (StateFull, "the disk quota of the state is used up"),
    errno.EMFILE: (LimitReached, "the process that owns the jobs has no descriptor left"),
    errno.ENFILE: (LimitReached, "the machine has no descriptor left"),
    errno.EAGAIN: (LimitReached, "no process or terminal can be made: a limit is reached"),
    errno.ENOMEM: (LimitReached, "there is no memory for another process"),
}


def failure(number: int, about: str) -> JobfsError:
    """The error that an errno stands for; `about` is what was being done ("run make"), where that says more."""
    if number in _ERRORS:
        kind, sentence = _ERRORS[number]
        return kind(sentence)
    return SpawnFailed(f"cannot {about}: {os.strerror(number)}", number)
