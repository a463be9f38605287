"""A real engine for tests: its own state, its own supervisor process, and proof at the end that nothing is left.

Waiting is for what the engine tells, never for time; a deadline only bounds what hangs.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import trio

from jobfs.engines.base import Closed, Ended, News, Started
from jobfs.engines.local import LocalEngine
from jobfs.errors import JobfsError
from jobfs.model import JobSpec
from jobfs.states import Event
from jobfs.stdin import Stdin
from jobfs.stream import Evicted, StreamState, empty
from jobfs.supervisor import ADDRESS, JOBS, RECORDS
from jobfs.supervisor.records import SIZE, read_records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jobfs.supervisor.wire import JobRecord

PATIENCE = 30.0  # seconds until a wait is given up
_LOOK_AGAIN = 0.005  # seconds between looks at what cannot be waited for

T = TypeVar("T")
N = TypeVar("N", bound=News)


class Options(TypedDict, total=False):
    """What a test may ask for beside a shell's command line: fields of `JobSpec`."""

    argv: tuple[str, ...]
    directory: str
    environment: str
    cwd: str
    umask: int
    stdin: str
    limit: int
    timeout: float
    grace: float
    nice: int
    pty: bool
    lease: bool


class Workshop:
    """One state directory and the engine on it. `news`: all that was told, in order."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.news: list[News] = []
        self.engine = LocalEngine(state)
        self.supervisors: set[int] = set()
        self.started_by_hand: list[trio.Process] = []  # supervisors, too
        self._told = trio.Event()
        self._ids = iter(range(1, 1 << 30))
        self._mark = f"JOBFS_TEST={state}"

    # Coming and going

    @asynccontextmanager
    async def attached(self, *alive: int) -> AsyncIterator[list[News]]:
        """A daemon is there, for which the jobs `alive` are alive; gives what it learns of them."""
        self.engine = LocalEngine(self.state)
        async with trio.open_nursery() as nursery:
            yield await self.take_up(nursery, *alive)
            nursery.cancel_scope.cancel()

    async def take_up(self, nursery: trio.Nursery, *alive: int) -> list[News]:
        """Connects to the supervisor, or starts one, as long as `nursery` is there; gives what it learns."""
        handles = {news.job: news.handle for news in self.news if isinstance(news, Started)}
        await nursery.start(self.engine.run)
        learned = await self.engine.attach({job: handles.get(job) for job in alive}, self._take)
        self.supervisors.add(self.supervisor)
        return learned

    @asynccontextmanager
    async def supervisor_killed(self, *alive: int) -> AsyncIterator[list[News]]:
        """While a daemon is attached: the supervisor is killed, and another one started, as the daemon does it."""
        await self.kill_supervisor()
        async with self.taken_up(*alive) as learned:
            yield learned

    @asynccontextmanager
    async def taken_up(self, *alive: int) -> AsyncIterator[list[News]]:
        """The daemon has taken up its work again, after the supervisor was killed."""
        async with trio.open_nursery() as nursery:
            yield await self.take_up(nursery, *alive)
            nursery.cancel_scope.cancel()

    async def kill_supervisor(self) -> None:
        """Kills it, and waits until the daemon knows."""
        os.kill(self.supervisor, signal.SIGKILL)
        await self.engine.gone.wait()
        self.engine.gone = trio.Event()

    @property
    def supervisor(self) -> int:
        """The supervisor's process number."""
        return int(json.loads((self.state / ADDRESS).read_text(encoding="utf-8"))["pid"])

    async def finish(self) -> None:
        """Kills what still runs; raises unless the supervisors, with nothing left to do, end by themselves."""
        await until(self._kill, lambda left: not left)
        for process in self.started_by_hand:
            await process.wait()

    def kill_marked(self) -> list[int]:
        """Kills every process of a job; gives which there were. One amid its exec is not seen for a moment."""
        marked = self._marked()
        for pid in marked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return marked

    def _kill(self) -> list[int]:
        self.kill_marked()
        return [pid for pid in self.supervisors if not has_ended(pid)]

    def _marked(self) -> list[int]:
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._mark in environment_of(pid)]

    # Jobs

    @property
    def mark(self) -> str:
        """An entry of the environment that marks a process as a job of this test."""
        return f"{self._mark}\0"

    @property
    def environment(self) -> str:
        """What a job has in its environment by default; it marks the job as this test's."""
        return f"PATH={os.path.dirname(sys.executable)}:/usr/bin:/bin\0{self._mark}\0"

    def spec(self, cmd: str | None = None, **options: Unpack[Options]) -> JobSpec:
        """A job to be spawned."""
        base = JobSpec(cmd, None, "/", self.environment)
        return replace(base, **options)

    async def spawn(self, cmd: str | None = None, *, holder: int | None = None, **options: Unpack[Options]) -> int:
        """Spawns and gives the job's id; `Started` has been told by then. `holder`: a pidfd, see `Engine.spawn`."""
        job = next(self._ids)
        spec = self.spec(cmd, **options)
        directory = os.open(spec.directory, os.O_PATH | os.O_CLOEXEC)
        try:
            await self.engine.spawn(job, spec, f"{spec.environment}JOBFS_ID={job}\0", directory, holder)
        finally:
            os.close(directory)
        return job

    async def run(self, cmd: str | None = None, **options: Unpack[Options]) -> int:
        """Spawns and waits for the end; gives the id."""
        job = await self.spawn(cmd, **options)
        await self.ended(job)
        return job

    async def output(self, cmd: str | None = None, **options: Unpack[Options]) -> str:
        """What a job writes to its stdout, from its beginning to its end."""
        return self.read(await self.run(cmd, **options)).decode()

    def started(self, job: int) -> Started:
        """What was told when the job was started."""
        return next(news for news in self.news if isinstance(news, Started) and news.job == job)

    async def signal(self, job: int, number: int) -> None:
        """Signals a job."""
        await self.engine.signal(job, self.started(job).handle, number)

    async def end(self, job: int, grace: float = 5.0, reason: str | None = None) -> None:
        """Ends a job."""
        await self.engine.end(job, self.started(job).handle, grace, reason)

    def state_of(self, job: int, stream: str = "stdout") -> StreamState:
        """How a stream stands."""
        reader = self.engine.open_stream(job, stream)
        if reader is None:
            return empty(0)
        with reader:
            return reader.snapshot()

    def records(self) -> dict[int, JobRecord]:
        """What the record of each job says."""
        return read_records(str(self.state / JOBS / RECORDS))

    def rewrite_record(self, job: int, *gone: str, **changes: object) -> None:
        """Changes what the record of a job says, and what is `gone` from it, while nobody writes to it."""
        path = self.state / JOBS / RECORDS
        blocks = path.read_bytes()
        for at in range(0, len(blocks), SIZE):
            record = json.loads(blocks[at : at + SIZE].strip() or b"{}")
            if record.get("id") == job:
                said = {name: value for name, value in (record | changes).items() if name not in (*gone, "checksum")}
                block = json.dumps(said).encode().ljust(SIZE, b"\n")
                path.write_bytes(blocks[:at] + block + blocks[at + SIZE :])

    def retained(self, job: int, stream: str = "stdout") -> tuple[int, bytes]:
        """What is retained of a stream now, and the offset at which it starts."""
        while True:
            reader = self.engine.open_stream(job, stream)
            if reader is None:
                return 0, b""
            with reader, suppress(Evicted):  # by a job that writes faster than we read
                state = reader.snapshot()
                return state.start, reader.read(state.start, state.retained)

    def read(self, job: int, stream: str = "stdout") -> bytes:
        """All that is retained of a stream now."""
        return self.retained(job, stream)[1]

    # What is written to jobs

    @asynccontextmanager
    async def stdin_of(self, job: int) -> AsyncIterator[Stdin]:
        """A job's stdin, as the table has it."""
        stdin = Stdin(partial(self.engine.open_stdin, job))
        try:
            yield stdin
        finally:
            stdin.close()

    async def write(self, job: int, data: bytes) -> None:
        """Writes all of `data` to the job, as a process that opens the file, writes and closes it."""
        async with self.stdin_of(job) as stdin:
            while data:
                data = data[await stdin.write_some(data) :]

    async def refusal(self, job: int) -> int:
        """What a write to the job fails with; AssertionError where it does not."""
        return (await error_of(lambda: self.write(job, b"x"))).errno

    # A job that waits for the test to let it go

    def fifo(self) -> str:
        """Makes a FIFO that a job can wait at; gives an environment in which FIFO names it."""
        os.mkfifo(self.state / "fifo")
        return f"{self.environment}FIFO={self.state}/fifo\0"

    async def go(self) -> None:
        """Writes a line to the FIFO, once somebody reads it."""
        await until(self._go)

    def _go(self) -> bool:
        try:
            fd = os.open(self.state / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        with suppress(BrokenPipeError):  # opening it was all that the reader waited for
            os.write(fd, b"go\n")
        os.close(fd)
        return True

    # Waiting

    def _take(self, news: News) -> None:
        self.news.append(news)
        self._told.set()
        self._told = trio.Event()

    async def told(self, kind: type[N], job: int, holds: Callable[[N], bool] = lambda _: True) -> N:
        """Waits until news of that kind was told of a job, and gives it."""
        with trio.fail_after(PATIENCE):
            while True:
                for news in self.news:
                    if isinstance(news, kind) and news.job == job and holds(news):
                        return news
                await self._told.wait()

    async def ended(self, job: int) -> Ended:
        """Waits for the job's end, and gives it."""
        return await self.told(Ended, job)

    async def closed(self, job: int) -> None:
        """Waits until nobody holds the job's pipes any more."""
        if (await self.ended(job)).open_streams:
            await self.told(Closed, job, lambda news: not news.open_streams)

    async def says(self, job: int, text: bytes, stream: str = "stdout") -> None:
        """Waits until the job has written something that ends with `text`."""
        await until(lambda: self.read(job, stream), lambda said: said.endswith(text))


async def until(look: Callable[[], T], holds: Callable[[T], object] = bool) -> T:
    """Looks until what is seen `holds`, and gives it."""
    with trio.fail_after(PATIENCE):
        while not holds(seen := look()):  # noqa: ASYNC110 - what is looked at tells nobody
            await trio.sleep(_LOOK_AGAIN)
        return seen


def has_ended(pid: int) -> bool:
    """Whether a process has ended; a child of ours is reaped."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        over = bool(select.select([pidfd], [], [], 0)[0])
        if over:
            with suppress(ChildProcessError):  # another one's child
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        return over
    finally:
        os.close(pidfd)


async def ended(pid: int) -> bool:
    """Waits until a process has ended."""
    return await until(lambda: has_ended(pid))


def environment_of(pid: int) -> list[str]:
    """The environment of a process, empty where it cannot be read or there is none."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
    except OSError:
        return []


def status_of(news: Ended) -> str:
    """How a job ended, as the contract's word."""
    words = {Event.EXIT_ZERO: "done", Event.EXIT_NONZERO: "failed", Event.SIGNAL: "killed"}
    return f"{words[news.event]}:{news.code}" if news.event in words else news.event.value


async def error_of(attempt: Callable[[], object]) -> JobfsError:
    """What an async `attempt` fails with; AssertionError where it does not."""
    try:
        await attempt()  # type: ignore[misc]
    except JobfsError as error:
        return error
    raise AssertionError("it did not fail")


@asynccontextmanager
async def workshop() -> AsyncIterator[Workshop]:
    """A workshop in a place of its own, of which nothing is left afterwards."""
    # Short, for the socket's path is bounded, and private.
    place = Path(tempfile.mkdtemp(prefix="jobfs-e-"))
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(place)
    (place / JOBS).mkdir()
    shop = Workshop(place)
    try:
        yield shop
        await shop.finish()
    finally:
        if runtime is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = runtime
        shutil.rmtree(place)
