"""Who is calling. FUSE tells who opened a file, not who writes to it; /proc tells who waits in a write.

Nothing here may look at a path: it might lie in the very mount that the calling thread serves.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from jobfs import proc
from jobfs.errors import LimitReached
from jobfs.model import Surroundings, Writer
from jobfs.mountinfo import parse
from jobfs.text import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

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
_LOOK_PATIENCE = 0.1  # seconds for a look at one process
ALL_PATIENCE = 2.0  # seconds for a look at all of them, which takes a tenth of that for thousands
_LOOKERS = trio.CapacityLimiter(16)  # threads of their own: some may hang for a while
_FDINFO = re.compile(rb"^(ino|mnt_id):\t(\d+)$", re.MULTILINE)  # /proc/PID/fdinfo (proc(5))
_DESCRIPTORS = 1 << 30  # more than any process can have (proc(5), fs.nr_open); pointers are larger


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
    if opener and (caller := await look(partial(_ask_opener, opener, file))) is not None:
        return caller
    for _ in range(_LOOKS if opener else _LOOKS_WITHOUT_OPENER):
        caller = await look(partial(_ask_everybody, opener, file), ALL_PATIENCE)
        if caller is not None:
            return caller
        await trio.sleep(_LOOK_AGAIN)
    return Caller(Writer(), None)


async def look(at: Callable[[], T], patience: float = _LOOK_PATIENCE) -> T | None:
    """What a look at other processes finds; None where that takes longer than `patience` seconds: see `jobfs.proc`.

    LimitReached where there is no descriptor or thread for it.
    """
    it = proc.Look(at)
    with trio.move_on_after(patience):
        try:
            return await trio.to_thread.run_sync(it.run, abandon_on_cancel=True, limiter=_LOOKERS)
        except RuntimeError as error:
            if not is_without_thread(error):
                raise
            raise LimitReached("the daemon can start no thread") from error
    it.abandon()
    return None


def is_without_thread(error: Exception) -> bool:
    """Whether no thread could be started, which Python tells by a message only: the limit on processes is reached."""
    return isinstance(error, RuntimeError) and "start new thread" in str(error)


def _ask_opener(opener: int, file: File) -> Caller | None:
    for _ in range(_QUICK_LOOKS):
        place = sleeps_in(opener)
        if place == WAITS_FOR_ANSWER and _waits_for(opener, file):
            return identify(opener)
        if place != _AWAKE:  # one that is awake is on its way to sleep, or busy while another one writes
            break
        os.sched_yield()
    return None


def _ask_everybody(opener: int, file: File) -> Caller | None:
    task = next(_tasks_with_file(file), None)
    if task is not None:
        return identify(task)
    return _ask_opener(opener, file) if opener else None


def identify(task: int) -> Caller:
    """The process of a task, as far as /proc tells."""
    try:
        status = proc.read(task, "status")
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
    except OSError as error:
        _check_descriptors(error)
        return None  # it has ended


def _check_descriptors(error: OSError) -> None:
    """LimitReached where that is why something was not seen: what cannot be read may else be taken for none."""
    if error.errno in proc.NO_DESCRIPTOR:
        raise LimitReached("the daemon has no descriptor left") from error


def has_open(task: int, file: File) -> bool:
    """Whether the task's process has `file` open; told by /proc, without asking the file system."""
    try:
        numbers = proc.entries(task, "fd")
    except OSError:
        return False
    return any(_is_open_at(task, number, file) for number in numbers)


def _is_open_at(task: int, number: str, file: File) -> bool:
    try:
        told = dict(_FDINFO.findall(proc.read(task, f"fdinfo/{number}")))
    except OSError:  # closed, or no descriptor at all
        return False
    if told.get(b"ino") != b"%d" % file.inode:
        return False
    mount = int(told[b"mnt_id"])
    return mount == file.mount or _device(task, mount) == file.device


def _device(task: int, number: int) -> str | None:
    """The device number of a mount that the task sees, as in another mount namespace."""
    try:
        mounts = parse(proc.read(task, "mountinfo"))
    except OSError:
        return None
    return next((mount.device for mount in mounts if mount.id == number), None)


def _tasks_with_file(file: File) -> Iterator[int]:
    for pid in proc.tasks():
        try:
            tasks = [int(task) for task in proc.entries(pid, "task")]
        except OSError:
            continue
        waiting = [task for task in tasks if sleeps_in(task) == WAITS_FOR_ANSWER]
        if waiting and has_open(pid, file):
            yield from (task for task in waiting if _waits_for(task, file))


def _waits_for(task: int, file: File) -> bool:
    """Whether a task that waits for a FUSE daemon may do so in a system call on `file`; False where it surely does not.

    The descriptor that a call writes to is its first argument, of splice(2) and copy_file_range(2) the third (proc(5),
    /proc/PID/syscall; not told where Yama's ptrace_scope is 1).
    """
    try:
        told = proc.read(task, "syscall").split()
    except OSError:
        return True
    try:
        numbers = int(told[1], 16), int(told[3], 16)
    except (IndexError, ValueError):  # it runs again, so it was in another call; or it met a fault, and is in none
        return False
    return any(_is_open_at(task, str(number), file) for number in numbers if number < _DESCRIPTORS)


def sleeps_in(task: int) -> bytes | None:
    """The kernel function that a task sleeps in, `_AWAKE` for one that does not sleep, None for one that is gone."""
    try:
        return proc.read(task, "wchan")
    except OSError:
        return None


def _surroundings(task: int, umask: int) -> Surroundings:
    environment = None
    try:
        environment = decode(proc.read(task, "environ"))
    except OSError as error:
        _check_descriptors(error)
    try:
        directory = proc.link(task, "cwd")
        # O_PATH: neither opens nor asks the file system that the directory is on, which may be this one.
        descriptor = os.open(f"/proc/{task}/cwd", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        _check_descriptors(error)
        return Surroundings(environment=environment, umask=umask)
    if directory.endswith(_REMOVED):
        os.close(descriptor)
        return Surroundings(directory_removed=True, environment=environment, umask=umask)
    return Surroundings(directory=directory, directory_fd=descriptor, environment=environment, umask=umask)
