"""What every engine promises of `watch`: news of a stream that grew, once, to who asked, and to nobody else.

The same tests run for the engine of this machine, with real jobs, and for the scripted one.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import pytest
import trio
import trio.testing

from jobfs.engines.base import Grown
from jobfs.engines.fake import FakeEngine
from jobfs.model import JobSpec
from jobfs.supervisor import JOBS
from tests.engine.workshop import Workshop, until, workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from jobfs.engines.base import Engine, News

# Writes what it is told to, where it is told to, until it is told to end: `stdout abc`, `stderr abc`, `exit`.
SCRIBE = """
while read -r where text; do
    case $where in stdout) printf %s "$text";; stderr) printf %s "$text" >&2;; exit) exit;; esac
done <> "$FIFO.$JOBFS_ID"
"""


class Subject(Protocol):
    """An engine on which jobs write what the test says."""

    @property
    def engine(self) -> Engine:
        """The engine."""

    @property
    def news(self) -> list[News]:
        """All that was told."""

    def attached(self, *alive: int) -> AbstractAsyncContextManager[object]:
        """A daemon is there, for which the jobs `alive` are alive."""

    async def spawn(self) -> int:
        """Starts a job that writes what `write` says."""

    async def write(self, job: int, stream: str, text: str) -> None:
        """Has the job write `text`, and waits until that is in the stream."""

    async def exit(self, job: int) -> None:
        """Has the job end."""


class Scripted:
    """The engine that runs nothing."""

    def __init__(self, place: Path) -> None:
        self.engine = FakeEngine(place)
        self.news: list[News] = []  # see `Subject`

    @asynccontextmanager
    async def attached(self, *alive: int) -> AsyncIterator[None]:
        """See `Subject`."""
        await self.engine.attach({job: self.engine.jobs[job].started.handle for job in alive}, self.news.append)
        yield
        self.engine.disconnect()

    async def spawn(self) -> int:
        """See `Subject`."""
        job = len(self.engine.jobs) + 1
        await self.engine.spawn(job, JobSpec("scribe", None, "/", ""), "", None)
        return job

    async def write(self, job: int, stream: str, text: str) -> None:
        """See `Subject`."""
        self.engine.write(job, stream, text.encode("ascii"))

    async def exit(self, job: int) -> None:
        """See `Subject`."""
        self.engine.exit(job)


class Real:
    """The engine of this machine."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._fifos: dict[int, int] = {}

    @property
    def engine(self) -> Engine:
        """See `Subject`."""
        return self._shop.engine

    @property
    def news(self) -> list[News]:
        """See `Subject`."""
        return self._shop.news

    def attached(self, *alive: int) -> AbstractAsyncContextManager[object]:
        """See `Subject`."""
        return self._shop.attached(*alive)

    async def spawn(self) -> int:
        """See `Subject`."""
        fifo = f"{self._shop.state}/fifo"
        expected = len(self._fifos) + 1
        os.mkfifo(f"{fifo}.{expected}")
        self._fifos[expected] = os.open(f"{fifo}.{expected}", os.O_RDWR | os.O_CLOEXEC)
        job = await self._shop.spawn(SCRIBE, environment=f"{self._shop.environment}FIFO={fifo}\0")
        assert expected == job
        return job

    async def write(self, job: int, stream: str, text: str) -> None:
        """See `Subject`."""
        before = self._shop.read(job, stream)
        os.write(self._fifos[job], f"{stream} {text}\n".encode("ascii"))
        await until(lambda: self._shop.read(job, stream), lambda said: said == before + text.encode("ascii"))

    async def exit(self, job: int) -> None:
        """See `Subject`."""
        os.write(self._fifos[job], b"exit\n")
        await self._shop.closed(job)

    def close(self) -> None:
        """Lets go of what the jobs read."""
        for fifo in self._fifos.values():
            os.close(fifo)


@pytest.fixture(params=["local", "fake"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    """Every engine there is, with nobody attached."""
    if request.param == "fake":
        yield Scripted(tmp_path)
        return
    async with workshop() as shop:
        real = Real(shop)
        yield real
        real.close()


async def told(subject: Subject) -> list[tuple[int, str]]:
    """Which streams were told to have grown, when the engine has said all that there is to say."""
    await trio.testing.wait_all_tasks_blocked()  # what was asked is on its way
    await subject.engine.acknowledge([])  # and this is answered after it
    return [(news.job, news.stream) for news in subject.news if isinstance(news, Grown)]


async def until_told(subject: Subject, holds: Callable[[list[tuple[int, str]]], object]) -> list[tuple[int, str]]:
    """Waits for news that are sure to come."""
    return await until(lambda: [(it.job, it.stream) for it in subject.news if isinstance(it, Grown)], holds)


async def test_growth_is_told_once(subject: Subject) -> None:
    """The first bytes past the offset are news; the next ones are not, until somebody asks again."""
    async with subject.attached():
        job = await subject.spawn()
        subject.engine.watch(job, "stdout", 0)
        assert [] == await told(subject)
        await subject.write(job, "stdout", "abc")
        await until_told(subject, len)
        await subject.write(job, "stdout", "def")
        assert [(job, "stdout")] == await told(subject)
        subject.engine.watch(job, "stdout", 6)
        await told(subject)
        await subject.write(job, "stdout", "g")
        assert [(job, "stdout")] * 2 == await told(subject)


async def test_what_is_there_already_is_told_at_once(subject: Subject) -> None:
    """Who asks past an offset that the stream has passed need not wait for more."""
    async with subject.attached():
        job = await subject.spawn()
        await subject.write(job, "stdout", "abc")
        subject.engine.watch(job, "stdout", 2)
        assert [(job, "stdout")] == await told(subject)


async def test_growth_up_to_the_offset_is_no_news(subject: Subject) -> None:
    """Offset N is told when byte N is there, the one after the first N."""
    async with subject.attached():
        job = await subject.spawn()
        subject.engine.watch(job, "stdout", 6)
        await told(subject)
        await subject.write(job, "stdout", "abc")
        await subject.write(job, "stdout", "def")
        assert [] == await told(subject)
        await subject.write(job, "stdout", "g")
        assert [(job, "stdout")] == await told(subject)


async def test_of_several_offsets_the_first_one_is_told(subject: Subject) -> None:
    """Who asks past a later offset does not keep who asked past an earlier one waiting, in whichever order."""
    async with subject.attached():
        for offsets in ((0, 6), (6, 0)):
            job = await subject.spawn()
            for past in offsets:
                subject.engine.watch(job, "stdout", past)
            await told(subject)
            await subject.write(job, "stdout", "abc")
            assert (job, "stdout") in await told(subject)


async def test_a_stream_that_nobody_watches_is_no_news(subject: Subject) -> None:
    """Neither another stream of the same job, nor the same of another one."""
    async with subject.attached():
        job, other = await subject.spawn(), await subject.spawn()
        subject.engine.watch(job, "stdout", 0)
        await told(subject)
        await subject.write(job, "stderr", "abc")
        await subject.write(other, "stdout", "abc")
        assert [] == await told(subject)


async def test_several_streams_are_told_each(subject: Subject) -> None:
    """Each stream that is watched has its own news."""
    async with subject.attached():
        jobs = [await subject.spawn() for _ in range(3)]
        streams = [(job, name) for job in jobs for name in ("stdout", "stderr")]
        for job, name in streams:
            subject.engine.watch(job, name, 0)
        await told(subject)
        for job, name in reversed(streams):
            await subject.write(job, name, "x")
        assert streams[::-1] == await told(subject)


async def test_after_an_attach_nothing_is_told_until_asked_again(subject: Subject) -> None:
    """A new daemon is told of what it asks about, not of what the last one did."""
    async with subject.attached():
        job = await subject.spawn()
        subject.engine.watch(job, "stdout", 0)
        await told(subject)
    async with subject.attached(job):
        await subject.write(job, "stdout", "abc")
        assert [] == await told(subject)
        subject.engine.watch(job, "stdout", 0)
        assert [(job, "stdout")] == await told(subject)


async def test_of_a_job_that_has_ended_or_is_not_there_nothing_is_told(subject: Subject) -> None:
    """A watch never fails; what cannot grow is no news, and what others ask about is told all the same."""
    async with subject.attached():
        job, other = await subject.spawn(), await subject.spawn()
        subject.engine.watch(job, "stdout", 3)
        await subject.write(job, "stdout", "abc")
        await subject.exit(job)
        subject.engine.watch(job, "stdout", 0)
        subject.engine.watch(99, "stdout", 0)
        subject.engine.watch(other, "stdout", 0)
        await told(subject)
        await subject.write(other, "stdout", "x")
        assert [(other, "stdout")] == await told(subject)


async def test_a_watch_without_a_supervisor_is_no_error(tmp_path: Path) -> None:
    """A watch is asked for whether anybody is connected or not."""
    (tmp_path / JOBS).mkdir()
    Workshop(tmp_path).engine.watch(1, "stdout", 0)


async def test_jobs_that_are_told_of_do_not_hold_up_others(subject: Subject) -> None:
    """Many watches at once are each told."""
    async with subject.attached():
        job = await subject.spawn()
        for past in range(200):
            subject.engine.watch(job, "stdout", past)
            await trio.lowlevel.checkpoint()
        await subject.write(job, "stdout", "abc")
        await until_told(subject, lambda grown: (job, "stdout") in grown)
