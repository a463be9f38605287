"""Who is calling. FUSE tells who opened a file, not who writes to it; /proc tells who waits in a write.

Nothing here may look at a path: it might lie in the very mount that the calling thread serves.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobfs.model import Surroundings, Writer
from jobfs.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where a task that waits for a FUSE daemon's answer sleeps (proc(5), /proc/PID/wchan).
_WAITS_FOR_ANSWER = b"request_wait_answer"
_AWAKE = b"0"
_REMOVED = " (deleted)"
# The lines of /proc/PID/status (proc(5)) that matter: name, umask, process, effective user.
_STATUS = re.compile(rb"Name:\t(.*)\n(?:Umask:\t(\d+)\n)?(?:.*\n)*?Tgid:\t(\d+)\n(?:.*\n)*?Uid:\t\d+\t(\d+)")
# How often to look for a writer before giving up. A look at the opener takes 10 µs, one at everybody some milliseconds.
_LOOKS = 100
_CHUNK = 1 << 20  # bytes; only an environment can be longer


@dataclass(slots=True)
class Caller:
    """The process that wrote a command. Its surroundings are read while it still waits in its write."""

    writer: Writer
    task: int | None
    umask: int = 0o077  # unknown: what keeps most to itself
    _surroundings: Surroundings | None = field(default=None)

    @property
    def surroundings(self) -> Surroundings:
        """Its working directory, environment and umask; what cannot be read is None."""
        if self._surroundings is None:
            self._surroundings = Surroundings() if self.task is None else _surroundings(self.task, self.umask)
        return self._surroundings

    def close(self) -> None:
        """Gives back the descriptor of its working directory."""
        around, self._surroundings = self._surroundings, None
        if around is not None and around.directory_fd is not None:
            os.close(around.directory_fd)


def find_writer(opener: int, inode: int) -> Caller:
    """The process that waits in a write to the file `inode` of this mount, which the task `opener` opened.

    The kernel serialises the writers of a file, so at most one waits for an answer to a write on it. The opener is
    asked first, then everybody who has the file open. A writer whose request was taken at once may not be asleep yet:
    that is worth another look. If nobody is found, an unknown caller is the answer.
    """
    for _ in range(_LOOKS):
        place = _sleeps_in(opener) if opener else None
        if place == _WAITS_FOR_ANSWER:
            return identify(opener)
        if place != _AWAKE:
            task = next(_tasks_with_file(inode), None)
            if task is not None:
                return identify(task)
        os.sched_yield()
    return Caller(Writer(), None)


def identify(task: int) -> Caller:
    """The process of a task, as far as /proc tells."""
    try:
        status = _read(f"/proc/{task}/status")
    except OSError:
        return Caller(Writer(), None)
    match = _STATUS.match(status)
    if match is None:
        return Caller(Writer(), None)
    name, umask, process, uid = match.groups()
    writer = Writer(int(process), int(uid), session_of(task), decode(name))
    return Caller(writer, task, 0o077 if umask is None else int(umask, 8))


def session_of(task: int) -> int | None:
    """The session of a task; None where it cannot be seen (another pid namespace) or has gone."""
    if not task:
        return None
    try:
        return os.getsid(task)
    except OSError:
        return None


def has_open(task: int, inode: int) -> bool:
    """Whether the task's process has the file `inode` of this mount open.

    /proc/PID/fdinfo tells the inode without asking the file system; another file system's file of the same number is
    told apart by the name that its link has.
    """
    return any(True for _ in _descriptors(task, inode))


def _descriptors(task: int, inode: int) -> Iterator[int]:
    try:
        numbers = os.listdir(f"/proc/{task}/fd")
    except OSError:
        return
    for number in numbers:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{task}/fd/{number}").endswith("/ctl") and _inode(task, number) == inode:
                yield int(number)


def _inode(task: int, number: str) -> int | None:
    for line in _read(f"/proc/{task}/fdinfo/{number}").splitlines():
        if line.startswith(b"ino:"):
            return int(line[4:])
    return None


def _tasks_with_file(inode: int) -> Iterator[int]:
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            continue
        waiting = [task for task in tasks if _sleeps_in(task) == _WAITS_FOR_ANSWER]
        if waiting and has_open(int(pid), inode):
            yield from waiting


def _sleeps_in(task: int) -> bytes | None:
    """The kernel function that a task sleeps in, `_AWAKE` for one that does not sleep, None for one that is gone."""
    try:
        return _read(f"/proc/{task}/wchan")
    except OSError:
        return None


def _read(path: str) -> bytes:
    # Without the layers of `open`, which cost more than the kernel does: three files are read for each command.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.read(fd, _CHUNK)
        while len(raw) % _CHUNK == 0 and (more := os.read(fd, _CHUNK)):
            raw += more
        return raw
    finally:
        os.close(fd)


def _surroundings(task: int, umask: int) -> Surroundings:
    environment = None
    with contextlib.suppress(OSError):
        environment = decode(_read(f"/proc/{task}/environ"))
    try:
        directory = os.readlink(f"/proc/{task}/cwd")
        # O_PATH: neither opens nor asks the file system that the directory is on, which may be this one.
        descriptor = os.open(f"/proc/{task}/cwd", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return Surroundings(environment=environment, umask=umask)
    if directory.endswith(_REMOVED):
        os.close(descriptor)
        return Surroundings(directory_removed=True, environment=environment, umask=umask)
    return Surroundings(directory=directory, directory_fd=descriptor, environment=environment, umask=umask)
