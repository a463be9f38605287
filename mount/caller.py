"""Who is calling. FUSE tells who opened a file, not who writes to it; /proc tells who waits in a write.

Nothing here may look at a path: it might lie in the very mount that the calling thread serves.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from jobfs.model import Surroundings, Writer
from jobfs.mountinfo import parse
from jobfs.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where a task that waits for a FUSE daemon's answer sleeps (proc(5), /proc/PID/wchan).
WAITS_FOR_ANSWER = b"request_wait_answer"
_AWAKE = b"0"
_REMOVED = " (deleted)"
# The lines of /proc/PID/status (proc(5)) that matter: name, umask, process, effective user.
_STATUS = re.compile(
    rb"Name:\t(.*)\n(?:Umask:\t(\d+)\n)?(?:.*\n)*?"
    rb"Tgid:\t(\d+)\n(?:.*\n)*?Uid:\t\d+\t(\d+)"
)
# How often to look for a writer before giving up: first at the opener, which takes 10 µs, then at everybody as well,
# which takes some milliseconds. On a busy machine a writer that is still awake needs our processor to fall asleep: so
# there is a pause. An opener in another pid namespace has no number here, and a writer there will not be found.
_QUICK_LOOKS = 20
_LOOKS = 200
_LOOKS_WITHOUT_OPENER = 3
_LOOK_AGAIN = 0.001  # seconds
_FDINFO = re.compile(rb"^(ino|mnt_id):\t(\d+)$", re.MULTILINE)  # /proc/PID/fdinfo (proc(5))
_DESCRIPTORS = 1 << 30  # more than any process can have (proc(5), fs.nr_open); pointers are larger
_CHUNK = 16384  # bytes; more would be mapped and unmapped for every read


@dataclass(frozen=True, slots=True)
class File:
    """A file of this mount, by what /proc tells of those that processes have open: three numbers.

    The mount may be seen in other places, under another number of its own, and other mounts of jobfs have files of the
    same inode number: the device number of the file system tells them apart.
    """

    inode: int
    mount: int
    device: str


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


async def find_writer(opener: int, file: File) -> Caller:
    """The process that waits in a write to `file`, which the task `opener` opened.

    The kernel serialises the writers of a file, so at most one waits for an answer to a write on it. The opener is
    asked first, then everybody who has the file open. A writer whose request was taken at once may not be asleep yet:
    that is worth another look. If nobody is found, an unknown caller is the answer.
    """
    for look in range(_LOOKS if opener else _LOOKS_WITHOUT_OPENER):
        place = sleeps_in(opener) if opener else None
        if place == WAITS_FOR_ANSWER and not _waits_elsewhere(opener, file):
            return identify(opener)
        # One that is awake is on its way to sleep, or busy with something else while another one writes.
        if place != _AWAKE or look >= _QUICK_LOOKS:
            task = next(_tasks_with_file(file), None)
            if task is not None:
                return identify(task)
        if look < _QUICK_LOOKS:
            os.sched_yield()
        else:
            await trio.sleep(_LOOK_AGAIN)
    return Caller(Writer(), None)


def identify(task: int) -> Caller:
    """The process of a task, as far as /proc tells."""
    try:
        status = read_file(f"/proc/{task}/status")
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


def holder_of(opener: int, file: File, writer: int | None) -> int | None:
    """A pidfd of the process that keeps `file` open, to be closed by the caller; None where that cannot be told.

    It is the process of the task `opener`, or the process `writer` where that one has let go of the file.
    """
    process = identify(opener).writer.pid
    pidfd = _pidfd(process)
    # Looked at when we have hold of it: had its number come again before, the file would be another one's.
    if pidfd is not None and process is not None and has_open(process, file):
        return pidfd
    if pidfd is not None:
        os.close(pidfd)
    return _pidfd(writer)


def _pidfd(process: int | None) -> int | None:
    try:
        return None if process is None else os.pidfd_open(process)
    except OSError:  # it has ended; or no descriptor is left
        return None


def has_open(task: int, file: File) -> bool:
    """Whether the task's process has `file` open; told by /proc, without asking the file system."""
    try:
        numbers = os.listdir(f"/proc/{task}/fd")
    except OSError:
        return False
    return any(_is_open_at(task, number, file) for number in numbers)


def _is_open_at(task: int, number: str, file: File) -> bool:
    try:
        told = dict(_FDINFO.findall(read_file(f"/proc/{task}/fdinfo/{number}")))
    except OSError:  # closed, or no descriptor at all
        return False
    if told.get(b"ino") != b"%d" % file.inode:
        return False
    mount = int(told[b"mnt_id"])
    return mount == file.mount or _device(task, mount) == file.device


def _device(task: int, number: int) -> str | None:
    """The device number of a mount that the task sees, as in another mount namespace."""
    try:
        mounts = parse(read_file(f"/proc/{task}/mountinfo"))
    except OSError:
        return None
    return next((mount.device for mount in mounts if mount.id == number), None)


def _tasks_with_file(file: File) -> Iterator[int]:
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            continue
        waiting = [task for task in tasks if sleeps_in(task) == WAITS_FOR_ANSWER]
        if waiting and has_open(int(pid), file):
            yield from (task for task in waiting if not _waits_elsewhere(task, file))


def _waits_elsewhere(task: int, file: File) -> bool:
    """Whether a task that waits for a FUSE daemon surely does so in a system call on something else than `file`.

    The descriptor that a call writes to is its first argument, of splice(2) and copy_file_range(2) the third (proc(5),
    /proc/PID/syscall; not told where Yama's ptrace_scope is 1).
    """
    try:
        _, first, _, third, *_ = read_file(f"/proc/{task}/syscall").split()
        numbers = int(first, 16), int(third, 16)
    except (OSError, ValueError):  # ValueError: it runs again
        return False
    return not any(_is_open_at(task, str(number), file) for number in numbers if number < _DESCRIPTORS)


def sleeps_in(task: int) -> bytes | None:
    """The kernel function that a task sleeps in, `_AWAKE` for one that does not sleep, None for one that is gone."""
    try:
        return read_file(f"/proc/{task}/wchan")
    except OSError:
        return None


def read_file(path: str) -> bytes:
    """All of a file of /proc; OSError as open(2) and read(2) have it."""
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
        environment = decode(read_file(f"/proc/{task}/environ"))
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
