"""An engine that runs nothing: a test says what happens to each job, and looks at what was asked for.

It is behind the same protocol as the real one and ships with it, for the tests of jobfs and of those who build on it.
It outlives the table that uses it, so a second table on the same store meets it as a daemon meets the supervisor.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio

from jobfs.engines.base import Closed, Continued, Ended, Grown, News, Stalled, Started, Stopped, Trace
from jobfs.errors import JobEnded, JobfsError, StdinClosed
from jobfs.model import STREAMS, Usage
from jobfs.states import Event
from jobfs.stream import RingReader, RingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from jobfs.model import JobSpec


class StdinPipe:
    """The pipe that a job reads as its stdin; neither end blocks."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def close_reader(self) -> None:
        """The job reads no more."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close_writer(self) -> None:
        """The job reads what is in the pipe, and then end of file."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


@dataclass(slots=True)
class FakeJob:
    """What one spawn asked for, and what has become of the job."""

    spec: JobSpec
    environment: str
    directory: int | None
    started: Started
    holder: int | None = None
    stopped: bool = False
    ended: Ended | None = None
    lingering: int = 0  # processes that it left behind
    writers: dict[str, RingWriter] = field(default_factory=dict)
    stdin: StdinPipe | None = None  # once it was opened
    at_eof: bool = False  # its stdin was closed


class FakeEngine:
    """A scripted engine; the ring files of its jobs' output are made in `directory`.

    What it was asked stands in `jobs`, `signals`, `ends`, `eofs`, `sizes`, `acknowledged` and `forgotten`, in
    order.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tell: Callable[[News], None] | None = None
        self._failure: JobfsError | None = None
        self._holds = False
        self._held: dict[int, trio.Event] = {}
        self.jobs: dict[int, FakeJob] = {}
        self.signals: list[tuple[int, int]] = []
        self.ends: list[tuple[int, float]] = []
        self.reasons: list[str | None] = []  # one for each of `ends`
        self.eofs: list[int] = []
        self.sizes: list[tuple[int, int, int]] = []
        self.acknowledged: list[int] = []
        self.forgotten: list[int] = []
        self._watches: dict[tuple[int, str], int] = {}

    # What the test says

    def fail(self, error: JobfsError | None) -> None:
        """From now on every request fails with `error`; None: they succeed again."""
        self._failure = error

    def hold(self) -> None:
        """From now on a job that is spawned waits for `start`."""
        self._holds = True

    def start(self, *jobs: int) -> None:
        """These of the jobs that wait start; where none is named all do, and later ones do not wait."""
        if not jobs:
            self._holds = False
        for job in jobs or list(self._held):
            self._held.pop(job).set()

    def disconnect(self) -> None:
        """Nobody listens any more, until the next `attach`."""
        self._tell = None

    def write(self, job: int, stream: str, data: bytes) -> None:
        """The job, or what it left behind, writes `data`."""
        writers = self.jobs[job].writers
        if stream not in writers:
            writers[stream] = RingWriter.create(self._path(job, stream), self.jobs[job].spec.limit)
        writers[stream].append(data)
        self._tell_if_grown(job, stream)

    def read_stdin(self, job: int, size: int) -> bytes:
        """The job reads at most `size` bytes that were written to it; BlockingIOError where there are none now."""
        return os.read(self._stdin(job).reader, size)

    def hang_up_stdin(self, job: int) -> None:
        """The job closes its stdin."""
        self._stdin(job).close_reader()

    def stop(self, job: int) -> None:
        """A signal stops the job."""
        self.jobs[job].stopped = True
        self._say(Stopped(job))

    def stall(self, job: int, **streams: str) -> None:
        """What is written to these streams cannot be kept, and why; none: it can again."""
        self._say(Stalled(job, streams))

    def cont(self, job: int) -> None:
        """A signal continues the job."""
        self.jobs[job].stopped = False
        self._say(Continued(job))

    def exit(self, job: int, code: int = 0, *, lingering: int = 0, open_streams: Iterable[str] = ()) -> None:
        """The job exits with `code`, and leaves processes behind that hold `open_streams`."""
        event = Event.EXIT_NONZERO if code else Event.EXIT_ZERO
        self._end_as(job, event, code, lingering=lingering, open_streams=frozenset(open_streams))

    def kill(self, job: int, number: int, reason: str | None = None) -> None:
        """The signal `number` ends the job."""
        self._end_as(job, Event.SIGNAL, number, reason=reason)

    def close(self, job: int, *streams: str) -> None:
        """Nobody holds these streams of an ended job any more."""
        self._close_writers(job, streams)
        fake = self.jobs[job]
        assert fake.ended is not None, f"job {job} has not ended"
        fake.ended = replace(fake.ended, open_streams=fake.ended.open_streams - set(streams))
        self._say(Closed(job, fake.ended.open_streams))

    # The protocol

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`."""
        await self._asked()
        self._tell = tell
        self._watches.clear()
        news: list[News] = []
        for job, handle in alive.items():
            if job in self.jobs:
                news += self._story(self.jobs[job])
            else:
                event = Event.CANCEL if handle is None else Event.LOSE
                news.append(Ended(job, event, None, time.time(), None, "the engine does not know it"))
        open_streams = {job: fake.ended.open_streams for job, fake in self.jobs.items() if fake.ended is not None}
        news += [Closed(job, names) for job, names in open_streams.items() if job not in alive]
        return news

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        if self._holds:
            start = self._held[job] = trio.Event()
            await start.wait()
        await self._asked()
        started = Started(job, time.time(), time.monotonic(), 1000 + job, f"fake {job}")
        self.jobs[job] = FakeJob(spec, environment, directory, started, holder)
        self._say(started)

    async def signal(self, job: int, handle: str, number: int) -> None:
        """See `Engine`. It is noted; what comes of it, the test says."""
        await self._asked()
        self._require_somebody(job, handle)
        self.signals.append((job, number))

    async def end(self, job: int, handle: str, grace: float, reason: str | None = None) -> None:
        """See `Engine`. It is noted; what comes of it, the test says."""
        await self._asked()
        self._require_somebody(job, handle)
        self.ends.append((job, grace))
        self.reasons.append(reason)

    async def open_stdin(self, job: int) -> int:
        """See `Engine`."""
        await self._asked()
        fake = self.jobs.get(job)
        if fake is None or fake.ended is not None or fake.at_eof or not fake.spec.takes_input:
            msg = "nobody reads its stdin any more"
            raise StdinClosed(msg)
        return os.dup(self._stdin(job).writer)

    async def close_stdin(self, job: int) -> None:
        """See `Engine`."""
        await self._asked()
        fake = self.jobs.get(job)
        if fake is None or fake.ended is not None:
            msg = "nothing is left of it"
            raise JobEnded(msg)
        self.eofs.append(job)
        if not fake.spec.pty:
            fake.at_eof = True
            self._stdin(job).close_writer()

    async def resize(self, job: int, rows: int, columns: int) -> None:
        """See `Engine`. It is noted."""
        await self._asked()
        if job not in self.jobs or self.jobs[job].ended is not None:
            msg = "nothing is left of it"
            raise JobEnded(msg)
        self.sizes.append((job, rows, columns))

    async def acknowledge(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        await self._asked()
        self.acknowledged += jobs

    def known(self) -> Mapping[int, Trace]:
        """See `Engine`."""
        return {
            job: Trace(
                fake.spec.line, fake.started.started_at, fake.spec.limit, fake.spec.pty, may_live=fake.ended is None
            )
            for job, fake in self.jobs.items()
        }

    async def forget(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        await self._asked()
        for job in jobs:
            self.forgotten.append(job)
            if job in self.jobs:
                self._close_writers(job, STREAMS)
                del self.jobs[job]
            for stream in STREAMS:
                self._path(job, stream).unlink(missing_ok=True)

    def open_stream(self, job: int, name: str) -> RingReader | None:
        """See `Engine`."""
        try:
            return RingReader.open(self._path(job, name))
        except FileNotFoundError:
            return None

    def watch(self, job: int, name: str, past: int) -> None:
        """See `Engine`."""
        self._watches[job, name] = min(past, self._watches.get((job, name), past))
        self._tell_if_grown(job, name)

    def usage(self, handles: Mapping[int, str]) -> Mapping[int, Usage]:
        """See `Engine`. One process for each job that is alive, and those that were said to linger."""
        return {
            job: Usage(processes=1 if self.jobs[job].ended is None else self.jobs[job].lingering)
            for job in handles
            if job in self.jobs
        }

    # Inside

    async def _asked(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _end_as(  # noqa: PLR0913 - the parts of an end
        self,
        job: int,
        event: Event,
        code: int,
        *,
        lingering: int = 0,
        open_streams: frozenset[str] = frozenset(),
        reason: str | None = None,
    ) -> None:
        fake = self.jobs[job]
        self._close_writers(job, [name for name in fake.writers if name not in open_streams])
        if fake.stdin is not None:
            fake.stdin.close_reader()
            fake.stdin.close_writer()
        elapsed = time.monotonic() - fake.started.started_clock
        fake.lingering = lingering
        fake.ended = Ended(job, event, code, time.time(), elapsed, reason, open_streams, 0.0, 0.0)
        self._say(fake.ended)

    def _stdin(self, job: int) -> StdinPipe:
        fake = self.jobs[job]
        if fake.stdin is None:
            fake.stdin = StdinPipe()
        return fake.stdin

    def _close_writers(self, job: int, streams: Iterable[str]) -> None:
        for stream in streams:
            writer = self.jobs[job].writers.pop(stream, None)
            if writer is not None:
                writer.close()

    def _tell_if_grown(self, job: int, stream: str) -> None:
        writer = self.jobs[job].writers.get(stream) if job in self.jobs else None
        if writer is not None and writer.total > self._watches.get((job, stream), writer.total):
            del self._watches[job, stream]
            self._say(Grown(job, stream))

    def _require_somebody(self, job: int, handle: str) -> None:
        fake = self.jobs.get(job)
        if fake is None or fake.started.handle != handle or (fake.ended is not None and not fake.lingering):
            msg = "nothing is left of it"
            raise JobEnded(msg)

    def _story(self, fake: FakeJob) -> list[News]:
        story: list[News] = [fake.started]
        if fake.ended is not None:
            story.append(fake.ended)
        else:
            story.append(Stopped(fake.started.job) if fake.stopped else Continued(fake.started.job))
        return story

    def _say(self, news: News) -> None:
        if self._tell is not None:
            self._tell(news)

    def _path(self, job: int, stream: str) -> Path:
        return self._directory / f"{job}.{stream}"
