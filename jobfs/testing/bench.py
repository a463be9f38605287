"""A program that uses an engine, as a check sees it: it attaches, spawns, listens, and leaves nothing behind.

It waits for what the engine tells, and never for time; one deadline for the whole check bounds what hangs. Whatever a
check is about, the news of each job must make sense in the end, see `require_sense`.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TypedDict, TypeVar, Unpack

import trio

from jobfs.engines.base import Closed, Ended, Engine, Grown, News, Started
from jobfs.errors import JobfsError
from jobfs.model import JobSpec
from jobfs.stdin import Stdin
from jobfs.stream import Evicted, StreamState, empty
from jobfs.testing.requiring import require, require_same, require_sense
from jobfs.testing.rigs import Feature, Rig
from jobfs.testing.scripts import Exit, Step

N = TypeVar("N", bound=News)

_SIGKILL = 9
_READ = 1 << 30
# Unlike in all checks of this process, whatever rig they are on.
_numbers = itertools.count(1)


class Options(TypedDict, total=False):
    """What a check may ask for beside a script: fields of `JobSpec`."""

    environment: str
    directory: str
    cwd: str
    umask: int
    stdin: str
    limit: int
    timeout: float
    grace: float
    nice: int
    pty: bool


class Bench:
    """An engine that is attached to. `news`: all that was learned of jobs, in the order in which it was."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stack = AsyncExitStack()
        self._engine: Engine | None = None
        self._base: int | None = None
        self._wakes = trio.Event()
        self._told: list[News] = []
        self._jobs: list[int] = []
        self._forgotten: set[int] = set()
        self._watched: Counter[tuple[int, str]] = Counter()
        self._cues: set[str] = set()  # not given yet
        self.waits_for = "the engine to be opened"
        self.news: list[News] = []

    @property
    def engine(self) -> Engine:
        """The engine, which is open."""
        assert self._engine is not None
        return self._engine

    @property
    def features(self) -> frozenset[Feature]:
        """What the engine can do."""
        return self._rig.features

    # Coming and going

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """The engine is attached to, and closed in the end; jobs that this check left alive are taken up."""
        async with self._stack:
            try:
                ended = {news.job for news in self.news if isinstance(news, Ended)}
                await self.take_up(*(job for job in self._jobs if job not in ended))
                yield
            finally:
                self._engine = None

    async def take_up(self, *alive: int, tell: Callable[[News], None] | None = None) -> list[News]:
        """Opens the engine where it is not, and attaches to it; gives what it answers of the jobs `alive`."""
        if self._engine is None:
            self._engine = await self._stack.enter_async_context(self._rig.open())
        handles = {job: self.started(job).handle for job in alive}
        return await self.attach(handles, tell)

    async def attach(
        self, alive: dict[int, str | None] | dict[int, str], tell: Callable[[News], None] | None = None
    ) -> list[News]:
        """Attaches anew, with these jobs alive; gives the answer."""
        self.waits_for = "attach"
        answer = await self.engine.attach({**alive}, self._take if tell is None else tell)
        self.news += answer
        if self._base is None:
            self._base = max(self.engine.known(), default=0)
        return answer

    async def leave(self) -> None:
        """The program that uses the engine goes."""
        self._engine = None
        self.waits_for = "the engine to be closed"
        await self._stack.aclose()

    def _take(self, news: News) -> None:
        self._told.append(news)
        self.news.append(news)
        self._wakes.set()
        self._wakes = trio.Event()

    # Jobs

    def new_id(self) -> int:
        """An id that no job had."""
        assert self._base is not None
        return self._base + next(_numbers)

    def spec(self, *steps: Step, **options: Unpack[Options]) -> JobSpec:
        """A job that plays `steps`."""
        return replace(self._rig.spec(steps), **options)

    def impossible(self) -> list[JobSpec]:
        """Jobs that cannot start."""
        return list(self._rig.impossible())

    async def spawn(self, *steps: Step, **options: Unpack[Options]) -> int:
        """Spawns a job that plays `steps`; gives its id."""
        return await self.spawn_as(self.new_id(), self.spec(*steps, **options))

    async def spawn_as(self, job: int, spec: JobSpec) -> int:
        """Spawns a job under that id, and gives that."""
        self.waits_for = f"the spawn of job {job}"
        self._jobs.append(job)
        directory = os.open(spec.directory, os.O_PATH | os.O_CLOEXEC)
        try:
            await self.engine.spawn(job, spec, f"{spec.environment}JOBFS_ID={job}\0", directory)
        except JobfsError:
            self._jobs.remove(job)
            raise
        finally:
            os.close(directory)
        return job

    async def run(self, *steps: Step, **options: Unpack[Options]) -> Ended:
        """Spawns a job, and waits for its end."""
        return await self.ended(await self.spawn(*steps, **options))

    async def ready(self, *steps: Step, **options: Unpack[Options]) -> int:
        """Spawns a job whose steps write a line `ready` to its stdout, and waits until it did."""
        job = await self.spawn(*steps, **options)
        await self.reads(job, b"ready\n")
        return job

    def started(self, job: int) -> Started:
        """What was told when the job was started."""
        found = [news for news in self.news if isinstance(news, Started) and news.job == job]
        require(found, f"job {job} was told to be started")
        return found[0]

    async def signal(self, job: int, number: int) -> None:
        """Signals a job."""
        self.waits_for = f"signal {number} to be sent to job {job}"
        await self.engine.signal(job, self.started(job).handle, number)

    async def end(self, job: int, reason: str | None = None, *, grace: float = 5.0) -> None:
        """Ends a job."""
        self.waits_for = f"job {job} to be asked to end"
        await self.engine.end(job, self.started(job).handle, grace, reason)

    async def forget(self, *jobs: int) -> None:
        """Forgets ended jobs, or what was never a job."""
        self.waits_for = f"jobs {jobs} to be forgotten"
        await self.engine.forget(jobs)
        self._forgotten.update(jobs)

    async def refusal(self, attempt: Callable[[], Awaitable[object]], what: str) -> JobfsError:
        """What an attempt fails with; it must."""
        self.waits_for = f"{what} to fail"
        try:
            await attempt()
        except JobfsError as error:
            return error
        raise AssertionError(f"{what} must fail, and did not")

    # Streams

    def state_of(self, job: int, stream: str = "stdout") -> StreamState:
        """How a stream stands."""
        reader = self.engine.open_stream(job, stream)
        if reader is None:
            return empty(0)
        with reader:
            return reader.snapshot()

    def output(self, job: int, stream: str = "stdout") -> bytes:
        """All that is retained of a stream now."""
        return self._retained(job, stream)[1]

    def _retained(self, job: int, stream: str) -> tuple[int, bytes]:
        """What is retained of a stream, and the offset of what will follow on it."""
        while True:
            reader = self.engine.open_stream(job, stream)
            if reader is None:
                return 0, b""
            with reader, suppress(Evicted):  # by a job that writes faster than we read
                start = reader.snapshot().start
                said = reader.read(start, _READ)
                return start + len(said), said

    def watch(self, job: int, stream: str, past: int) -> None:
        """Watches a stream."""
        self._watched[job, stream] += 1
        self.engine.watch(job, stream, past)

    def grown(self, job: int, stream: str = "stdout") -> int:
        """How often the stream was told to have grown."""
        return sum(isinstance(news, Grown) and (news.job, news.stream) == (job, stream) for news in self.news)

    async def reads(self, job: int, text: bytes, stream: str = "stdout") -> bytes:
        """Waits until what is retained of a stream ends with `text`, and gives it all."""
        while True:
            written, said = self._retained(job, stream)
            if said.endswith(text):
                return said
            before = self.grown(job, stream)
            self.watch(job, stream, written)
            await self._until(
                lambda before=before: self.grown(job, stream) > before,  # type: ignore[misc]
                f"{text[-80:]!r} in the {stream} of job {job}, which had {said[-80:]!r}",
            )
            grown = self.state_of(job, stream).written > written
            require(grown, f"{stream} of job {job} is past {written} when it is told to be")

    async def write(self, job: int, data: bytes) -> None:
        """Writes all of `data` to the job, and closes what was opened for it."""
        self.waits_for = f"job {job} to read its stdin"
        stdin = Stdin(partial(self.engine.open_stdin, job))
        try:
            while data:
                data = data[await stdin.write_some(data) :]
        finally:
            stdin.close()

    # Cues

    def cue(self) -> str:
        """A cue that a step can wait for."""
        name = f"cue-{next(_numbers)}"
        self._cues.add(name)
        return name

    async def give(self, cue: str) -> None:
        """Gives a cue."""
        self._cues.discard(cue)
        await self._rig.give(cue)

    # Waiting

    async def _until(self, holds: Callable[[], object], what: str) -> None:
        while not holds():
            self.waits_for = what
            await self._wakes.wait()

    async def learned(self, kind: type[N], job: int, holds: Callable[[N], object] = lambda _: True) -> N:
        """Waits until news of that kind is learned of a job, and gives it."""
        found: list[N] = []

        def look() -> bool:
            news = (news for news in self.news if isinstance(news, kind) and news.job == job)
            found.extend(filter(holds, news))
            return bool(found)

        await self._until(look, f"{kind.__name__} of job {job}")
        return found[0]

    async def ended(self, job: int) -> Ended:
        """Waits for the job's end, and gives it."""
        return await self.learned(Ended, job)

    async def closed(self, job: int) -> None:
        """Waits until none of an ended job's streams may grow any more."""
        if (await self.ended(job)).open_streams:
            await self.learned(Closed, job, lambda news: not news.open_streams)

    async def settle(self) -> None:
        """Waits until all is told that is to be told by now: news come in order, and a job that ends is news."""
        await self.engine.acknowledge([])
        await self.run(Exit(0))
        await trio.lowlevel.checkpoint()

    # The end of a check

    async def clear(self) -> None:
        """Ends all that runs, and forgets it."""
        for cue in tuple(self._cues):
            await self.give(cue)
        for job in [job for job in self._jobs if job not in self._forgotten]:
            await self._end_for_good(job)
        await self.forget(*self._jobs)
        self.waits_for = "nothing"
        known = self.engine.known().keys() & set(self._jobs)
        require_same(set(), known, "jobs that are known after they were forgotten")

    async def _end_for_good(self, job: int) -> None:
        for over in (self.ended, self.closed):
            with suppress(JobfsError):  # it has ended
                if Feature.SIGNALS in self.features:
                    await self.signal(job, _SIGKILL)
                else:
                    await self.end(job, grace=0)
            await over(job)

    def require_sense(self) -> None:
        """AssertionError unless what was told of each job can be, and was told once."""
        strangers = {news.job for news in self._told} - set(self._jobs)
        require_same(set(), strangers, "jobs that were told of, and never spawned")
        for job in self._jobs:
            require_sense([news for news in self._told if news.job == job])
        for (job, stream), watched in self._watched.items():
            told = self.grown(job, stream)
            require(
                told <= watched, f"{stream} of job {job} is told to have grown once for each watch: {told}, {watched}"
            )
        grown = {(news.job, news.stream) for news in self._told if isinstance(news, Grown)}
        require_same(set(), grown - self._watched.keys(), "streams that were told to have grown, and not watched")


@asynccontextmanager
async def bounded(bench: Bench, seconds: float) -> AsyncIterator[None]:
    """AssertionError, which says what was waited for, where the body takes longer than that."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        told = "\n".join(f"  {news}" for news in bench.news[-20:])
        raise AssertionError(f"waited in vain for {bench.waits_for}; what was learned last:\n{told}") from None


async def run_on_bench(body: Callable[[Bench], Awaitable[None]], rig: Rig) -> None:
    """Runs `body` on an engine of `rig` that is attached to; see `Check`."""
    bench = Bench(rig)

    async def whole() -> None:
        await body(bench)
        await bench.clear()
        bench.require_sense()

    failure = await _failure(bench, whole, rig.patience)
    if failure is not None:
        await _failure(bench, bench.clear, rig.patience)  # as far as that can be done
        raise failure


async def _failure(bench: Bench, steps: Callable[[], Awaitable[None]], patience: float) -> Exception | None:
    """What the steps fail with, once the engine is closed: it does not go through the engine's own nurseries."""
    failure: Exception | None = None
    try:
        async with bounded(bench, patience), bench.opened():
            try:
                await steps()
            except Exception as error:  # noqa: BLE001 - given back
                failure = error
    except Exception as error:  # noqa: BLE001 - given back
        failure = failure or error
    return failure
