"""Jobs from Python, over the mounted files and nothing else: any program could do the same by opening them.

Standard library only, and synchronous: for scripts, for threads, and for asyncio through `asyncio.to_thread`. Nothing
is kept between two calls but where the mount is and which job is meant, so objects can be shared between threads, and
are good for the next mount of the same state too. Who waits does so in poll(2), which Ctrl-C interrupts.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypeAlias, TypedDict, get_args

from jobfs import client_files as files
from jobfs.client_files import ClientError, CommandError, EvictedError, NoSuchJobError, NotMountedError
from jobfs.mountinfo import mounts

__all__ = [
    "Client",
    "ClientError",
    "CommandError",
    "Event",
    "EvictedError",
    "Info",
    "Job",
    "NoSuchJobError",
    "NotMountedError",
    "StrPath",
    "Stream",
    "StreamInfo",
    "Usage",
    "Writer",
    "find",
]

TYPE = "fuse.jobfs"
PREFERRED = Path("/v/jobs")
FALLBACK = "jobs"  # in the home directory of a user who cannot have that
ALIVE = ("queued", "running", "stopped")  # statuses that are not final

Stream: TypeAlias = Literal["stdout", "stderr"]
StrPath: TypeAlias = str | os.PathLike[str]


class StreamInfo(TypedDict):
    """A stream, in bytes. The counts are None where it is damaged; `problem` is a sentence that says so."""

    written: int | None
    retained: int | None
    dropped: int | None
    capacity: int
    closed: bool
    problem: str | None


class Usage(TypedDict):
    """What a job has used: seconds, bytes, and counts of processes. None: not known."""

    cpu_user_s: float | None
    cpu_system_s: float | None
    rss_bytes: int | None
    max_rss_bytes: int | None
    processes: int | None
    lingering: int | None


class Writer(TypedDict):
    """The process that spawned a job. None: not known."""

    pid: int | None
    uid: int | None
    session: int | None
    command: str | None


class Info(TypedDict):
    """What `info` says; a newer jobfs may add keys. Times are RFC 3339, UTC. None: it does not apply."""

    id: int
    name: str | None
    status: str
    cmd: str
    argv: list[str] | None
    cwd: str | None
    pid: int | None
    pgid: int | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    created_at: str
    started_at: str | None
    ended_at: str | None
    elapsed_s: float | None
    stdout: StreamInfo
    stderr: StreamInfo
    usage: Usage
    spawned_by: Writer
    recovered: bool
    function: bool


class Event(TypedDict):
    """A line of `events`: `at` is RFC 3339, UTC; which of the other keys are there depends on `event`."""

    at: str
    event: str
    id: NotRequired[int]
    name: NotRequired[str | None]
    status: NotRequired[str]
    reason: NotRequired[str | None]
    errno: NotRequired[int]
    error: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the mount at `mount`. NoSuchJobError from everything here once it was removed."""

    mount: Path
    id: int

    @property
    def directory(self) -> Path:
        """Where the job's files are."""
        return self.mount / str(self.id)

    @property
    def status(self) -> str:
        """The status word as it is now: `running`, `done:0`, `killed:15` ..."""
        return os.fsdecode(self._text("status")).strip()

    @property
    def ended(self) -> bool:
        """Whether the status is final."""
        return self.status.partition(":")[0] not in ALIVE

    def info(self) -> Info:
        """Everything about the job."""
        info: Info = json.loads(self._text("info"))
        return info

    def wait(self, timeout: float | None = None) -> str:
        """Waits until the job has ended and gives its status word; TimeoutError after `timeout` seconds."""
        with self._opened("wait") as fd:
            if not files.ready(fd, timeout):
                raise TimeoutError(errno.ETIMEDOUT, f"job {self.id} has not ended after {timeout} seconds")
            return os.fsdecode(b"".join(files.rest(fd))).strip()

    def read(self, offset: int | None = None, *, stream: Stream = "stdout") -> bytes:
        """What is retained of a stream, or exactly the bytes from the absolute `offset` to where it stands now.

        EvictedError where a byte at or after `offset` is not retained any more. At or past the end it is empty.
        """
        with self._opened_stream(stream) as fd:
            if offset is not None:
                os.lseek(fd, offset, os.SEEK_SET)
            data = b"".join(files.rest(fd))
            written = os.fstat(fd).st_size
        if offset is not None:
            # The file moves a read of evicted bytes to the oldest line, and doesn't say so. What was evicted by now is
            # told by the size, which is of this moment, and not by `info`, which may be of a tenth of a second ago.
            oldest = written - self.info()[stream]["capacity"]
            if oldest > offset:
                error = EvictedError(errno.ENODATA, f"byte {offset} was evicted: the oldest that is kept is {oldest}")
                error.oldest = oldest
                raise error
        return data

    def follow(self, stream: Stream = "stdout") -> Iterator[bytes]:
        """The bytes of a stream as they come, from the oldest that is retained to the last, when the job has ended.

        Who is slower than the job skips to the oldest line that is still there; if that happens inside a line, a
        newline comes before it. What a descendant writes after the job's end is given only as far as it was there.
        """
        with self._opened_stream(stream) as fd:
            yield from files.growing(fd, self._over)

    def lines(self, stream: Stream = "stdout") -> Iterator[bytes]:
        """`follow` by lines, each with its newline, which only the last may lack."""
        return files.lines(self.follow(stream))

    def write(self, data: bytes) -> None:
        """Writes to the job's stdin, or types into its terminal; waits for room while the job does not read.

        BrokenPipeError once the job has ended or closed it, after `eof`, and where it was spawned with neither
        `stdin="pipe"` nor `pty`.
        """
        with self._opened("stdin", os.O_WRONLY) as fd:
            files.write_all(fd, data)

    def eof(self) -> None:
        """Closes the job's stdin: it reads what was written, and then end of file. Types that into a terminal."""
        self._command("eof")

    def kill(self, signal: int | str | None = None) -> None:
        """Ends the job: SIGTERM, and SIGKILL after its grace period; or sends just the `signal`, a number or a name.

        Returns when the signal is sent. CommandError with ESRCH where nothing is left of the job.
        """
        self._command("kill" if signal is None else f"kill -s {_signal(signal)}")

    def stop(self) -> None:
        """Sends SIGSTOP."""
        self._command("stop")

    def cont(self) -> None:
        """Sends SIGCONT."""
        self._command("cont")

    def winsize(self, rows: int, columns: int) -> None:
        """Sets the size of the terminal of a job that was spawned with `pty`."""
        self._command(f"winsize {rows} {columns}")

    def restart(self) -> Job:
        """Spawns a job that has ended again, the same, and gives the new one. CommandError with EBUSY if it lives."""
        return Job(self.mount, int(self._command("restart")))

    def remove(self) -> None:
        """Forgets a job that has ended, and its output. CommandError with EBUSY if it lives."""
        self._command("rm")

    def _over(self) -> bool:
        try:
            return self.ended
        except NoSuchJobError:  # what was open of it reads on
            return True

    def _command(self, line: str) -> str:
        with self._opened("ctl", os.O_RDWR) as fd:
            return files.command(fd, line)

    def _text(self, name: str) -> bytes:
        with self._opened(name) as fd:
            return b"".join(files.rest(fd))

    @contextmanager
    def _opened_stream(self, stream: Stream) -> Iterator[int]:
        if stream not in get_args(Stream):
            raise ValueError(f"stream: {stream!r} is neither stdout nor stderr")
        with self._opened(stream) as fd:
            yield fd

    @contextmanager
    def _opened(self, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
        with files.explained(self.mount, self.id), files.opened(self.directory / name, flags) as fd:
            yield fd


class Client:
    """One mount."""

    def __init__(self, directory: StrPath | None = None) -> None:
        """`directory`: where it is; without it the mount that JOBFS_MOUNT names, or this user's own."""
        self.directory = Path(directory) if directory is not None else find()

    def command(self, line: str) -> str:
        """Writes one command and gives its reply: an id, or `ok`. Raises CommandError where it is refused."""
        with self._opened("ctl", os.O_RDWR) as fd:
            return files.command(fd, line)

    def spawn(  # noqa: PLR0913 - the options of the verb
        self,
        command: str | Sequence[str],
        *,
        name: str | None = None,
        cwd: StrPath | None = None,
        env: Mapping[str, str] | None = None,
        env_file: StrPath | None = None,
        stdin: StrPath | None = None,
        limit: int | str | None = None,
        timeout: float | str | None = None,
        grace: float | str | None = None,
        nice: int | None = None,
        pty: bool = False,
    ) -> Job:
        """Starts a job: a command line for the shell, or a program and its arguments. CommandError where it cannot be.

        The options are those of the verb. `limit` is in bytes or as in "64K", `timeout` and `grace` are seconds or as
        in "5m"; `stdin` is "pipe", "none" or a file, which a Path always is. The job has this process's directory and
        umask, and the environment that this process was started with: what was put into os.environ since then is for
        `env` to say.
        """
        request = {
            "op": "spawn",
            "cmd" if isinstance(command, str) else "argv": command if isinstance(command, str) else list(command),
            "name": name,
            "cwd": _path(cwd),
            "env": None if env is None else dict(env),
            "env-file": _path(env_file),
            "stdin": stdin if stdin is None or isinstance(stdin, str) else os.path.join(".", stdin),
            "limit": limit,
            "timeout": timeout,
            "grace": grace,
            "nice": nice,
            "pty": pty or None,
        }
        line = json.dumps({key: value for key, value in request.items() if value is not None})
        return Job(self.directory, int(self.command(line)))

    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        with files.explained(self.directory):
            names = os.listdir(self.directory)
            if "events" not in names:  # an empty directory is what is beneath a mount
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return [Job(self.directory, number) for number in sorted(int(name) for name in names if name.isdigit())]

    def job(self, job: int | str) -> Job:
        """The job of an id or a name, or the `last`; NoSuchJobError where there is none."""
        word = str(job).removeprefix("%")
        with files.explained(self.directory, word):
            found = Job(self.directory, int(word) if word.isascii() and word.isdigit() else self._linked(word))
            os.stat(found.directory)
        return found

    def infos(self) -> list[Info]:
        """What is known of every job, oldest first, all of one moment."""
        with self._opened("table.jsonl") as fd:
            infos: list[Info] = [json.loads(line) for line in b"".join(files.rest(fd)).splitlines()]
        return infos

    def clean(self) -> None:
        """Forgets every job that has ended."""
        self.command("clean")

    def events(self, *, follow: bool = False) -> Iterator[Event]:
        """What happened, from the oldest event that is retained to the newest; with `follow`, and on for ever."""
        with self._opened("events") as fd:
            for line in files.lines(files.growing(fd, lambda: False) if follow else files.rest(fd)):
                with suppress(json.JSONDecodeError):  # cut short: the reader was overtaken in it
                    event: Event = json.loads(line)
                    yield event

    @contextmanager
    def _opened(self, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
        with files.explained(self.directory), files.opened(self.directory / name, flags) as fd:
            yield fd

    def _linked(self, name: str) -> int:
        """The id that a link of the root leads to; FileNotFoundError for what is none."""
        try:
            if name and "/" not in name:
                return int(os.readlink(self.directory / name))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENAMETOOLONG):
                raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def find() -> Path:
    """The mount that JOBFS_MOUNT names, else the one in a usual place, else this user's only one.

    NotMountedError where there is none, and where it would have to be guessed which of several is meant.
    """
    usual = find_usual()
    if usual is not None:
        return usual
    own = _own_mounts()
    if not own:
        raise NotMountedError(errno.ENOENT, "jobfs is not mounted: start it with `jobfs mount`")
    if len(own) > 1:
        places = ", ".join(str(point) for point in own)
        raise NotMountedError(errno.ENOENT, f"jobfs is mounted at {places}: say which you mean with JOBFS_MOUNT=DIR")
    return own[0]


def find_usual() -> Path | None:
    """The mount that JOBFS_MOUNT names, else this user's at `/v/jobs` or `~/jobs`; None where there is none."""
    named = os.environ.get("JOBFS_MOUNT")
    if named:
        return Path(named)
    own = _own_mounts()
    return next((place for place in (PREFERRED, Path.home() / FALLBACK) if place in own), None)


def _own_mounts() -> list[Path]:
    return [mount.point for mount in mounts() if mount.type == TYPE and mount.user == os.geteuid()]


def _path(path: StrPath | None) -> str | None:
    return None if path is None else os.fspath(path)


def _signal(signal: int | str) -> str:
    return shlex.quote(signal) if isinstance(signal, str) else str(int(signal))
