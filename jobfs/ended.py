"""The jobs of a table that have ended: their ends are stored, and the oldest of them go when there are too many."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs.errors import EngineGone, JobfsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from jobfs.engines.base import Engine
    from jobfs.job import Job
    from jobfs.store import Store

log = logging.getLogger(__name__)

# How long it waits before it tries again to store what it could not, in seconds.
_STORE_RETRY = 1.0
# How long ends are gathered before they are stored together, in seconds; meanwhile the engine keeps them.
_GATHER = 0.05


class EndedJobs:
    """The ended jobs of one table; `remove` is what takes them out of it."""

    def __init__(
        self, store: Store, engine: Engine, remove: Callable[[list[Job]], Awaitable[None]], bounds: tuple[int, int]
    ) -> None:
        """`bounds`: how many stay, and how many bytes of output of theirs."""
        self._store = store
        self._engine = engine
        self._remove = remove
        self._bounds = bounds
        self._jobs: dict[int, Job] = {}  # in the order of their ends
        self._bytes: dict[int, int] = {}  # of output that each of those retains
        self._total = 0  # the sum of those
        self._unstored: dict[int, Job] = {}
        self._wake = trio.Event()

    # What the table says

    def take_up(self, jobs: Iterable[Job]) -> None:
        """All that have ended by now, when it is known which of their streams may still grow."""
        for job in sorted(jobs, key=lambda job: job.ended_at or 0.0):
            self._measure(job)

    def note(self, job: Job) -> None:
        """It has ended."""
        self._unstored[job.id] = job
        self.look()

    def note_closed(self, job: Job) -> None:
        """Of one that has ended a stream was closed."""
        if job.id in self._jobs:  # else its turn comes in the order of the ends
            self._measure(job)
        if not job.open_streams:
            self._unstored[job.id] = job  # anew, with how much was written in all
        self.look()

    def forget(self, job: Job) -> None:
        """It was removed."""
        self._jobs.pop(job.id, None)
        self._unstored.pop(job.id, None)
        self._total -= self._bytes.pop(job.id, 0)

    def look(self) -> None:
        """There is something to be done, or what could not be done may work now."""
        self._wake.set()

    # What is done

    async def keep_house(self) -> None:
        """Runs for ever: drops the oldest past the bounds, and stores what could not be stored before."""
        while True:
            await self._wake.wait()
            await trio.sleep(_GATHER)
            self._wake = trio.Event()
            # Each by itself: on a full disk nothing can be stored until pruning has made room. Whatever goes wrong, a
            # thread that cannot be started for one, is no reason for the daemon to end.
            done = [await self._tried(task) for task in (self.store, partial(self.prune, *self._bounds))]
            if not all(done):
                await trio.sleep(_STORE_RETRY)
                self._wake.set()

    async def _tried(self, task: Callable[[], Awaitable[None]]) -> bool:
        try:
            await task()
        except JobfsError as error:
            log.warning("%s; trying again", error)
        except Exception:
            log.exception("keeping house failed; trying again")
        else:
            return True
        return False

    async def store(self) -> None:
        """Stores the ends that were not stored yet; StateFull, MachineError."""
        self._measure_new()  # before they are not new any more
        ended = list(self._unstored.values())
        if not ended:
            return
        self._store.end(job.row() for job in ended)
        for job in ended:
            self._unstored.pop(job.id, None)
        try:
            await self._engine.acknowledge([job.id for job in ended])
        except EngineGone:
            log.info("the ends of %d jobs are stored, and nobody is there to be told", len(ended))

    async def prune(self, keep: int, keep_bytes: int) -> None:
        """Removes the oldest past `keep` of them, or past `keep_bytes` of output of theirs."""
        self._measure_new()
        count, total = len(self._jobs), self._total
        oldest: list[Job] = []
        for job in self._jobs.values():
            if count <= keep and total <= keep_bytes:
                break
            oldest.append(job)
            count -= 1
            total -= self._bytes[job.id]
        await self._remove(oldest)

    def _measure_new(self) -> None:
        for job in [job for job in self._unstored.values() if job.id not in self._jobs]:
            self._measure(job)

    def _measure(self, job: Job) -> None:
        before = self._bytes.get(job.id, 0)
        try:
            retained = job.retained_bytes
        except OSError as error:  # no descriptor is left, for one
            log.warning("the output of job %d cannot be looked at: %s", job.id, error)
            retained = before
        self._total += retained - before
        self._jobs[job.id] = job
        self._bytes[job.id] = retained
