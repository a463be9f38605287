"""Who is calling. FUSE tells who opened a file, not who writes to it; /proc tells who waits in a write.

Nothing here may look at a path: it might lie in the very mount that the calling thread serves.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobfs.model import Surroundings, Writer
from jobfs.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where a task that waits for a FUSE daemon's answer sleeps (proc(5), /proc/PID/wchan).
_WAITS_FOR_ANSWER = b"request_wait_answer"
_REMOVED = " (deleted)"


@dataclass(slots=True)
class Caller:
    """The process that wrote a command. Its surroundings are read while it still waits in its write."""

    writer: Writer
    task: int | None
    _surroundings: Surroundings | None = field(default=None)

    @property
    def surroundings(self) -> Surroundings:
        """Its working directory, environment and umask; what cannot be read is None."""
        if self._surroundings is None:
            self._surroundings = Surroundings() if self.task is None else _surroundings(self.task)
        return self._surroundings

    def close(self) -> None:
        """Gives back the descriptor of its working directory."""
        around, self._surroundings = self._surroundings, None
        if around is not None and around.directory_fd is not None:
            os.close(around.directory_fd)


def find_writer(opener: int, inode: int) -> Caller:
    """The process that waits in a write to the file `inode` of this mount, which the task `opener` opened.

    The kernel serialises the writers of a file, so at most one waits for an answer to a write on it. The opener is
    asked first, then everybody who has the file open; if nobody is found, an unknown caller is the answer.
    """
    if opener and _waits(opener):
        return identify(opener)
    for task in _tasks_with_file(inode):
        return identify(task)
    return Caller(Writer(), None)


def identify(task: int) -> Caller:
    """The process of a task, as far as /proc tells."""
    try:
        status = _status(task)
        stat = Path(f"/proc/{task}/stat").read_bytes()
    except OSError:
        return Caller(Writer(), None)
    name = stat[stat.index(b"(") + 1 : stat.rindex(b")")]
    session = int(stat[stat.rindex(b")") + 2 :].split()[3])
    writer = Writer(int(status[b"Tgid"]), int(status[b"Uid"].split()[1]), session, decode(name))
    return Caller(writer, task)


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
    for line in Path(f"/proc/{task}/fdinfo/{number}").read_bytes().splitlines():
        if line.startswith(b"ino:"):
            return int(line[4:])
    return None


def _tasks_with_file(inode: int) -> Iterator[int]:
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            continue
        waiting = [task for task in tasks if _waits(task)]
        if waiting and has_open(int(pid), inode):
            yield from waiting


def _waits(task: int) -> bool:
    try:
        return Path(f"/proc/{task}/wchan").read_bytes() == _WAITS_FOR_ANSWER
    except OSError:
        return False


def _status(task: int) -> dict[bytes, bytes]:
    lines = Path(f"/proc/{task}/status").read_bytes().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}


def _surroundings(task: int) -> Surroundings:
    try:
        umask = int(_status(task)[b"Umask"], 8)
    except (OSError, KeyError):
        umask = 0o077  # unknown: what keeps most to itself
    environment = None
    with contextlib.suppress(OSError):
        environment = decode(Path(f"/proc/{task}/environ").read_bytes())
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
