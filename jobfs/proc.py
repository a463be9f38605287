"""Looking at other processes in /proc (proc(5)), which may hang, and must not make us hang.

Most of what /proc tells of a process amid its exec cannot be read before that is over (exec_update_lock). It is not
over as long as the process closes a file, for exec, on a FUSE file system that does not answer: one that is dead, or
one that we serve ourselves. So whoever serves looks at others in a thread, and waits for it with patience. The files of
a process for which that was not enough are not touched again before the thread has come back. `/proc/PID/status` alone
can always be read.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from jobfs.errors import LimitReached

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_PATIENCE = 0.5  # seconds that a look is waited for, which takes some hundredths with a thousand processes
_TRIES = 10  # each passes over one more process in which it hung
_CHUNK = 16384  # bytes; more would be mapped and unmapped for every read

_lock = threading.Lock()
_hanging: set[int] = set()  # processes whose files a thread hangs in
_local = threading.local()  # `look`: the one that this thread is


class Look(Generic[T]):
    """One look at /proc: `run` it in a thread, and `abandon` it when it takes too long."""

    def __init__(self, look: Callable[[], T]) -> None:
        self._look = look
        self._task = 0  # that is being read
        self._abandoned = False
        self._over = False

    def run(self) -> T:
        """What is found; what it raises, else. Once abandoned, every further reading raises ProcessLookupError."""
        _local.look = self
        try:
            return self._look()
        finally:
            _local.look = None
            with _lock:
                self._over = True
                if self._abandoned:
                    _hanging.discard(self._task)

    def abandon(self) -> None:
        """Nobody waits for it any more; what it hangs in, nobody else is to touch."""
        with _lock:
            self._abandoned = True
            if self._task and not self._over:  # it may have come back in the very moment
                _hanging.add(self._task)

    def touch(self, task: int) -> None:
        """It is about to read what there is of `task`."""
        with _lock:
            if self._abandoned:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            self._task = task


def patiently(look: Callable[[], T], patience: float = _PATIENCE) -> T:
    """What `look` finds, in a thread; a process in which that hangs for `patience` seconds is passed over.

    TimeoutError where there are too many of those.
    """
    for _ in range(_TRIES):
        attempt = Look(look)
        found: list[T] = []
        thread = threading.Thread(target=lambda: found.append(attempt.run()), daemon=True)  # noqa: B023 - this round's
        thread.start()
        thread.join(patience)
        if found:
            return found[0]
        attempt.abandon()
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def touch(task: int) -> None:
    """Call it before anything of /proc/TASK is read; ProcessLookupError where that is known to hang."""
    if task in _hanging:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    look: Look[object] | None = getattr(_local, "look", None)
    if look is not None:
        look.touch(task)


def starved(error: OSError) -> OSError | LimitReached:
    """What a look is to raise that failed with `error`.

    Out of descriptors nothing was seen, which must not pass for a process that has gone: most who look at many pass
    over an OSError.
    """
    if error.errno in NO_DESCRIPTOR and getattr(_local, "look", None) is not None:
        return LimitReached("the daemon has no descriptor left")
    return error


def read(task: int, name: str) -> bytes:
    """The content of the file /proc/TASK/NAME; OSError as open(2) has it, and as `touch`."""
    touch(task)
    # Without the layers of `open`, which cost more than the kernel does: three files are read for each command.
    try:
        fd = os.open(f"/proc/{task}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise starved(error) from None
    try:
        raw = os.read(fd, _CHUNK)
        while len(raw) % _CHUNK == 0 and (more := os.read(fd, _CHUNK)):
            raw += more
        return raw
    finally:
        os.close(fd)


def entries(task: int, name: str) -> list[str]:
    """What is in the directory /proc/TASK/NAME; OSError likewise."""
    touch(task)
    try:
        return os.listdir(f"/proc/{task}/{name}")
    except OSError as error:
        raise starved(error) from None


def link(task: int, name: str) -> str:
    """Where the link /proc/TASK/NAME points to; OSError likewise."""
    touch(task)
    return os.readlink(f"/proc/{task}/{name}")


def tasks() -> list[int]:
    """The numbers of all processes."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError as error:
        raise starved(error) from None


def own_umask() -> int:
    """The umask of this process, which umask(2) tells only by changing it, for all threads."""
    with open("/proc/self/status", "rb") as status:
        return next((int(line.split()[1], 8) for line in status if line.startswith(b"Umask:")), 0o022)
