"""A real mount for tests: `jobfs mount` run as by a user, with a state of its own, and nothing left of it afterwards.

`Mounted` is used by the tests on a mount and by those of the documents. Waiting is for events: it looks again until
what it waits for is there, and a deadline only bounds what hangs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import psutil

from jobfs.mountinfo import mounts
from jobfs.state import serving, supervisor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

JOBFS = str(Path(sys.executable).with_name("jobfs"))
PATIENCE = 30.0  # seconds until a wait is given up: a bound for what hangs
_LOOK_AGAIN = 0.005  # seconds between looks
_REPLY = 1 << 20

T = TypeVar("T")


@contextmanager
def frozen(process: int | None) -> Iterator[None]:
    """Stops a process for as long as it takes, bounded, because a test that asks it for anything would never end."""
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    thaw = threading.Timer(PATIENCE, os.kill, (process, signal.SIGCONT))
    thaw.start()
    try:
        yield
    finally:
        thaw.cancel()
        thaw.join()
        os.kill(process, signal.SIGCONT)


def until(look: Callable[[], T], holds: Callable[[T], object] = bool, *, patience: float = PATIENCE) -> T:
    """Looks until what is seen `holds`, and gives it; AssertionError with what was seen last where it never does."""
    deadline = time.monotonic() + patience
    while not holds(seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain; last seen: {seen!r}")
        time.sleep(_LOOK_AGAIN)
    return seen


def is_running(pid: int) -> bool:
    """Whether a process of that number runs; one that only waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Mounted:
    """A jobfs with its own state and mountpoint. `path`: where the jobs are; `state`: where they are kept."""

    def __init__(self, *options: str) -> None:
        """Makes the directories; nothing is mounted yet. `options` go to every `jobfs mount`."""
        # Short, as a state's path may have to be, and private, as the supervisor's socket wants its directory.
        self.place = Path(tempfile.mkdtemp(prefix="jobfs-test-"))
        self.path = self.place / "m"
        self.state = self.place / "state"
        self.options = options
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.place), "JOBFS_MOUNT": str(self.path)}
        self._processes: set[int] = set()  # daemons and supervisors that were seen

    # Coming and going

    def jobfs(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs the `jobfs` command with `words`, for this mount where it needs one."""
        command = [JOBFS, *words]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert not check or done.returncode == 0, f"{command} failed: {done.stderr}{self.log()}"
        return done

    def mount(self, *options: str) -> str:
        """Runs `jobfs mount` and gives what it says."""
        said = self.jobfs("mount", "--state", str(self.state), *self.options, *options, str(self.path)).stdout
        self.note_processes()
        return said

    def umount(self, *options: str) -> str:
        """Runs `jobfs umount` and gives what it says."""
        self.note_processes()
        return self.jobfs("umount", *options, str(self.path)).stdout

    def note_processes(self) -> None:
        """Remembers who serves this mount now, to see later that they have gone."""
        self._processes |= {pid for pid in (self.daemon, self.supervisor) if pid is not None}

    @property
    def is_mounted(self) -> bool:
        """Whether the kernel has it among its mounts."""
        return any(mount.point == self.path for mount in mounts())

    @property
    def daemon(self) -> int | None:
        """The number of the process that serves the mount, or served it when it was killed."""
        who = serving(self.state)
        return None if who is None else who.pid

    @property
    def supervisor(self) -> int | None:
        """The number of the process that owns the jobs."""
        return supervisor_of(self.state)

    def log(self) -> str:
        """What daemon and supervisor have logged."""
        try:
            return (self.state / "log").read_text()
        except FileNotFoundError:
            return ""

    def finish(self) -> None:
        """Ends everything, and asserts that nothing is left: no mount, no process, no zombie, no file."""
        try:
            if self.is_mounted and self.daemon is not None and not is_running(self.daemon):
                self.mount()  # over what a killed daemon left, so that the jobs can be ended
            if self.is_mounted:
                until(self._zombies, lambda zombies: not zombies)
                self.umount("--end-jobs")
            assert not self.is_mounted
            until(self.left_running, lambda left: not left)
        finally:
            self._force_away()
        assert not self.place.exists()

    def left_running(self) -> list[str]:
        """The processes that belong to this mount: its daemons, its supervisors, its jobs and what they left."""
        return [
            f"{process.pid} {' '.join(process.info['cmdline'] or [])}"
            for process in psutil.process_iter(["cmdline", "environ", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and (process.pid in self._processes or self._is_a_jobs(process.info["environ"] or {}))
        ]

    def _is_a_jobs(self, environment: Mapping[str, str]) -> bool:
        return environment.get("JOBFS_MOUNT") == str(self.path) and "JOBFS_ID" in environment

    def _zombies(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            if self.supervisor is not None:
                children = psutil.Process(self.supervisor).children(recursive=True)
                return [child for child in children if child.status() == psutil.STATUS_ZOMBIE]
        return []

    def _force_away(self) -> None:
        """Leaves nothing behind after a failure either."""
        while self.is_mounted:
            subprocess.run(["fusermount3", "-uz", str(self.path)], check=True)
        for line in self.left_running():
            with suppress(psutil.NoSuchProcess):
                psutil.Process(int(line.partition(" ")[0])).kill()
        shutil.rmtree(self.place)

    # The files

    def ctl(self, text: str | bytes, job: int | None = None) -> int:
        """Writes `text`, a newline added where it lacks one, to `ctl` in one write; OSError where that is refused."""
        raw = text if isinstance(text, bytes) else os.fsencode(text)
        fd = os.open(self.file("ctl", job), os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(fd, raw if raw.endswith(b"\n") else raw + b"\n")
        finally:
            os.close(fd)

    def ask(self, text: str | bytes) -> str:
        """Writes one command and gives its reply, without the newline; also where the write is refused."""
        raw = text if isinstance(text, bytes) else os.fsencode(text)
        fd = os.open(self.path / "ctl", os.O_RDWR | os.O_CLOEXEC)
        try:
            with suppress(OSError):
                os.write(fd, raw + b"\n")
            return os.fsdecode(os.read(fd, _REPLY)).removesuffix("\n")
        finally:
            os.close(fd)

    def spawn(self, line: str) -> int:
        """Spawns a job, of `line` with its options before it, and gives its id."""
        reply = self.ask(f"spawn {line}")
        assert reply.isdigit(), reply
        return int(reply)

    def run(self, line: str) -> int:
        """Spawns a job, waits until it has ended and its streams are closed, and gives its id."""
        job = self.spawn(line)
        self.until_closed(job)
        return job

    def file(self, name: str, job: int | None = None) -> Path:
        """A file of the root, or of a job."""
        return self.path / name if job is None else self.path / str(job) / name

    def read(self, job: int, name: str = "stdout") -> bytes:
        """All that a file of a job says now."""
        return self.file(name, job).read_bytes()

    def status(self, job: int) -> str:
        """The job's status word."""
        return self.file("status", job).read_text().removesuffix("\n")

    def info(self, job: int) -> dict[str, object]:
        """What `info` says."""
        return dict(json.loads(self.file("info", job).read_text()))

    def until(self, job: int, wanted: str | Callable[[str], object]) -> str:
        """Waits until the job's status is, or holds for, `wanted`, and gives it."""
        holds = (lambda word: word == wanted) if isinstance(wanted, str) else wanted
        return until(lambda: self.status(job), holds)

    def until_ended(self, job: int) -> str:
        """Waits until the job's status is final, and gives it."""
        return self.until(job, lambda word: word not in ("queued", "running", "stopped"))

    def until_closed(self, job: int) -> str:
        """Waits until the job has ended and nobody holds its pipes; gives its status."""
        status = self.until_ended(job)
        until(lambda: self.info(job), lambda info: all(_closed(info[name]) for name in ("stdout", "stderr")))
        return status

    def until_output(self, job: int, wanted: bytes, name: str = "stdout") -> bytes:
        """Waits until a stream of the job contains `wanted`, and gives what it retains."""
        return until(lambda: self.read(job, name), lambda output: wanted in output)

    # Programs

    def sh(
        self, script: str, *arguments: str, shell: Sequence[str] = ("bash", "-c"), cwd: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs `script` in a shell, where $J is the mount and $1 ... are `arguments`."""
        return subprocess.run(
            [*shell, script, "sh", *arguments],
            env={**os.environ, "J": str(self.path), "LC_ALL": "C"},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )


def _closed(stream: object) -> bool:
    return isinstance(stream, dict) and bool(stream["closed"])
