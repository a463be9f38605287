"""A job table on a scripted engine: nothing runs, and each test says what happens to its jobs."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
import trio.testing

from jobfs.engines.fake import FakeEngine
from jobfs.model import JobSpec
from jobfs.store import Store
from jobfs.stream import RingReader, RingWriter
from jobfs.table import JobTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jobfs.job import Job
    from jobfs.model import JobInfo

_EVENTS = 1 << 20  # bytes of events that are kept


class Desk:
    """One state directory with a table on it, and the engine, which outlives the table."""

    def __init__(self, place: Path, engine: FakeEngine | None = None, *, keep: int = 1000) -> None:
        self.place = place
        self.engine = FakeEngine(place) if engine is None else engine
        self._events = RingWriter.create(place / "events", _EVENTS)
        self._open(keep, 1 << 30)

    def _open(self, keep: int, keep_bytes: int) -> None:
        self.store = Store(self.place / "jobs.sqlite")
        self.table = JobTable(self.store, self.engine, self._events, keep=keep, keep_bytes=keep_bytes)
        self.table.mount = "/v/jobs"

    def close(self) -> None:
        """The daemon ends."""
        self.store.close()
        self._events.detach()

    async def restart(self, *, keep: int = 1000, keep_bytes: int = 1 << 30) -> None:
        """The daemon ends, and the next one begins on the same state and engine."""
        self.close()
        self.engine.disconnect()
        self._events = RingWriter.open(self.place / "events")
        self._open(keep, keep_bytes)
        await self.table.attach()

    async def spawn(self, cmd: str = "true", **options: object) -> Job:
        """Spawns a job as a command would."""
        job_spec = spec(cmd, **options)
        return await self.table.spawn(job_spec, job_spec.environment, None)

    async def ended(self, *codes: int) -> list[Job]:
        """One job for each exit status, in the order of their ends."""
        jobs = [await self.spawn() for _ in codes]
        for job, code in zip(jobs, codes, strict=True):
            self.engine.exit(job.id, code)
        return jobs

    async def housekeeping(self, clock: trio.testing.MockClock, seconds: int = 3) -> None:
        """Lets `keep_house` do all that it would in that time, on a clock that is moved by hand."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.table.ended.keep_house)
            for _ in range(seconds):
                await trio.testing.wait_all_tasks_blocked()
                clock.jump(1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    def ids(self) -> list[int]:
        """The table's jobs, in its own order."""
        return [job.id for job in self.table.jobs()]

    def info(self, job: Job) -> JobInfo:
        """A snapshot of one job."""
        return self.table.snapshots([job])[0]

    def stored(self) -> dict[int, str]:
        """The status words that a daemon killed now would leave."""
        return {row.id: row.status.word for row in self.store.jobs()}

    def events(self) -> list[dict[str, object]]:
        """The lines of `events`; AssertionError where the last one is not complete."""
        with RingReader.open(self.place / "events") as reader:
            said = reader.read(0, _EVENTS)
        assert said.endswith(b"\n") or not said
        return [json.loads(line) for line in said.splitlines()]


@asynccontextmanager
async def desk_in(place: Path, engine: FakeEngine | None = None, *, keep: int = 1000) -> AsyncIterator[Desk]:
    """An empty table that is attached to its engine, and closed in the end."""
    desk = Desk(place, engine, keep=keep)
    try:
        await desk.table.attach()
        yield desk
    finally:
        desk.close()


def spec(cmd: str | None = "true", **options: object) -> JobSpec:
    """What a job is to be, in a place that is there."""
    base = {"argv": None, "directory": "/", "environment": "HOME=/root\0"}
    return JobSpec(cmd, **{**base, **options})  # type: ignore[arg-type]
