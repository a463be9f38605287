"""Waiting for several jobs at once."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jobfs.library.job import Job


class WaitAll:
    """Jobs, each when it has ended, in that order. No generator: it may be left half-way, and be cancelled."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._arrivals = _Arrivals()
        self._arrivals.expect(jobs)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Job:
        job = await self._arrivals.next()
        if job is None:
            raise StopAsyncIteration
        return job

    def __del__(self) -> None:
        self._arrivals.forget()


class _Arrivals:
    """What the jobs know who is waited for; they do not know `WaitAll`, so that it goes when nobody has it."""

    def __init__(self) -> None:
        self._arrived: deque[Job] = deque()
        self._waiting: dict[Job, Callable[[], None]] = {}
        self._news = trio.Event()

    def expect(self, jobs: Iterable[Job]) -> None:
        """Waits for these, of which some may have ended."""
        wanted = list(dict.fromkeys(jobs))
        over = [job for job in wanted if job.ended]
        self._arrived.extend(sorted(over, key=lambda job: job.inner.ended_at or 0.0))
        for job in wanted:
            if not job.ended:
                self._waiting[job] = rung = partial(self._rung, job)
                job.inner.bell.listen(rung)

    def _rung(self, job: Job) -> None:
        if job.ended:
            del self._waiting[job]
            self._arrived.append(job)
            self._news.set()
        else:
            job.inner.bell.listen(self._waiting[job])

    async def next(self) -> Job | None:
        """The next one, or None where there is none left."""
        await trio.lowlevel.checkpoint()
        while not self._arrived and self._waiting:
            if self._news.is_set():  # else somebody else waits for it too
                self._news = trio.Event()
            await self._news.wait()
        return self._arrived.popleft() if self._arrived else None

    def forget(self) -> None:
        """Nobody waits any more."""
        for job, rung in self._waiting.items():
            job.inner.bell.ignore(rung)
