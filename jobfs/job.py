"""One job as the table holds it: what changes about it, and how its snapshot is made."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import trio

from jobfs.bell import Bell
from jobfs.errors import JobAlive, MachineError
from jobfs.model import STREAMS, JobInfo, Usage
from jobfs.states import QUEUED, Event, Status, after
from jobfs.store import Row
from jobfs.stream import StreamDamaged, StreamState, damaged, empty

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.engines.base import Ended, Started
    from jobfs.model import JobSpec
    from jobfs.stream import RingReader


log = logging.getLogger(__name__)


class Output(Protocol):
    """Where a job's output is to be had; an engine is one."""

    def open_stream(self, job: int, name: str) -> RingReader | None:
        """See `Engine`."""

    def watch(self, job: int, name: str, past: int) -> None:
        """See `Engine`."""


class StreamView:
    """How one output stream stands: asked of the ring file while it may grow, remembered once it cannot.

    Once it was found damaged it stays that, and opening it fails.
    """

    def __init__(
        self,
        open_reader: Callable[[], RingReader | None],
        capacity: int,
        watch: Callable[[int], None] = lambda _: None,
        label: str = "events",
    ) -> None:
        """`watch` asks who writes the stream to say `grew`, once, when there are bytes past the offset it is given.

        `label` is what the log calls it.
        """
        self._label = label
        self._open_reader = open_reader
        self._capacity = capacity
        self._watch = watch
        self._watched_past: int | None = None  # where the last `watch` stands that was not answered yet
        self._bell = Bell()
        self._reader: RingReader | None = None
        self._final: StreamState | None = None
        self._damage: StreamDamaged | None = None
        self.stored: int | None = None  # how much was written in all, where that was stored
        self.stalled: str | None = None  # why what is written cannot be kept, while it cannot
        self.may_grow = True
        self.told = 0  # how many bytes those who asked were told that it has

    @property
    def state(self) -> StreamState:
        """The counts now; `closed` once nobody can write to the stream any more."""
        if self._final is not None:
            return self._final
        state = self._ask()
        if not self.may_grow:
            self._final = state = state._replace(closed=True)
            self._release()
        return state

    @property
    def written(self) -> int | None:
        """How much was written in all, where that is known and final."""
        return None if self._final is None or self._final.damaged else self._final.written

    def open(self) -> RingReader | None:
        """A reader of the stream, to be closed by the caller; None as long as it has no byte. StreamDamaged."""
        if self._damage is not None:
            raise self._damage.with_traceback(None)
        reader: RingReader | None = None
        try:
            reader = self._open_reader()
            written = 0 if reader is None else reader.snapshot().written
            if self.stored not in (None, written):
                msg = f"it has {written} bytes where {self.stored} were written"
                raise StreamDamaged(msg)  # noqa: TRY301 - as if the reader had said it
        except StreamDamaged as error:
            self._note_damage(error)
            if reader is not None:
                reader.close()
            raise
        return reader

    def listen(self, past: int, call: Callable[[], None]) -> None:
        """Has `call` called, once, when there are bytes past the offset `past`, or none will come: then look again.

        `past` is not less than what the listener has seen as written: what is there already is not told.
        """
        self._bell.listen(call)
        if self.may_grow and (self._watched_past is None or past < self._watched_past):
            self._watched_past = past
            self._watch(past)

    def ignore(self, call: Callable[[], None]) -> None:
        """Takes `listen` back."""
        self._bell.ignore(call)

    async def wait_grown(self, past: int) -> None:
        """Waits as `listen` does."""
        event = trio.Event()
        self.listen(past, event.set)
        try:
            await event.wait()
        finally:
            self.ignore(event.set)

    def grew(self) -> None:
        """Tells those who listen to look again: there are more bytes, or no more will come, or nobody knows."""
        self._watched_past = None
        self._bell.ring()

    def freeze(self) -> None:
        """The job is removed: what files that are still open tell of it is what it was."""
        self.may_grow = False
        with suppress(OSError):  # no descriptor is left: a removal must not fail of that
            _ = self.state
        self.grew()

    def _release(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _ask(self) -> StreamState:
        try:
            if self._reader is None:
                self._reader = self.open()
            state = empty(self._capacity) if self._reader is None else self._reader.snapshot()
        except StreamDamaged as error:
            self._note_damage(error)
            self._release()
            return damaged(self._capacity, f"damaged: {error.why}")
        return state if self.stalled is None else state._replace(problem=self.stalled)

    def _note_damage(self, error: StreamDamaged) -> None:
        if self._damage is None:
            log.error("%s is damaged and cannot be read: %s", self._label, error.why)
            self._damage = error


class Job:
    """A job in the table. Only the table changes it."""

    def __init__(self, id_: int, spec: JobSpec, created_at: float, output: Output) -> None:
        self.id = id_
        self.spec = spec
        self.created_at = created_at
        self.status: Status = QUEUED
        self.handle: str | None = None
        self.pid: int | None = None
        self.reason: str | None = None
        self.started_at: float | None = None
        self.started_clock: float | None = None
        self.ended_at: float | None = None
        self.elapsed: float | None = None
        self.changed_at = created_at
        self.usage = Usage()
        self.removed = False
        self.bell = Bell()  # rung when its status changes

        def view(name: str) -> StreamView:
            return StreamView(
                lambda: output.open_stream(id_, name),
                spec.limit,
                lambda past: output.watch(id_, name, past),
                f"{name} of job {id_}",
            )

        self.streams = {name: view(name) for name in STREAMS}
        if spec.pty:  # all that is written to a terminal comes out of it in one stream
            self.streams["stderr"].may_grow = False

    @classmethod
    def from_row(cls, row: Row, output: Output) -> Job:
        """The job that was stored."""
        job = cls(row.id, row.spec, row.created_at, output)
        job.status, job.handle, job.reason = row.status, row.handle, row.reason
        job.started_at, job.ended_at, job.elapsed = row.started_at, row.ended_at, row.elapsed
        job.changed_at = row.ended_at or row.started_at or row.created_at
        job.usage = row.usage
        job.pid = row.pid
        for name, view in job.streams.items():
            view.stored = row.written.get(name)
        if job.ended:
            job.grows(frozenset())
        return job

    def row(self) -> Row:
        """What is to be stored of it."""
        return Row(
            id=self.id,
            spec=self.spec,
            status=self.status,
            handle=self.handle,
            pid=self.pid,
            reason=self.reason,
            created_at=self.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            elapsed=self.elapsed,
            usage=self.usage,
            written={name: view.written for name, view in self.streams.items() if view.written is not None},
        )

    @property
    def created_ns(self) -> int:
        """When it was accepted, in nanoseconds since the epoch."""
        return int(self.created_at * 1e9)

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.status.final

    def require_restartable(self) -> None:
        """JobAlive where it has not ended, MachineError where not all that it was spawned with is known."""
        if not self.ended:
            msg = f"job {self.id} is {self.status.word}: only one that has ended can be restarted"
            raise JobAlive(msg)
        if self.spec.recovered:
            msg = f"job {self.id} was recovered, and not all that it was spawned with is known: spawn it anew"
            raise MachineError(msg)

    @property
    def open_streams(self) -> frozenset[str]:
        """The streams that may still grow."""
        return frozenset(name for name, view in self.streams.items() if view.may_grow)

    @property
    def retained_bytes(self) -> int:
        """What its output takes on the disk, without what the file system adds."""
        return sum(view.state.retained for view in self.streams.values())

    def start(self, news: Started) -> None:
        """It runs."""
        if self.status == QUEUED:
            self.status = after(self.status, Event.START)
        self.handle, self.pid = news.handle, news.pid
        self.started_at, self.started_clock = news.started_at, news.started_clock
        self.changed_at = news.started_at

    def happen(self, event: Event) -> None:
        """It was stopped or continued, or is said once more to have been."""
        now = after(self.status, event)
        if now != self.status:
            self.status = now
            self.changed_at = time.time()
            self.bell.ring()

    def end(self, news: Ended) -> None:
        """It has ended; IllegalTransition, and nothing is changed, where it cannot have."""
        self.status = after(self.status, news.event, news.code)
        self.ended_at = self.changed_at = news.ended_at
        self.elapsed = news.elapsed
        self.reason = news.reason
        self.usage = Usage(news.cpu_user_s, news.cpu_system_s, None, news.max_rss_bytes, 0, 0)
        self.grows(news.open_streams)
        self.bell.ring()
        self.look_again()

    def look_again(self) -> None:
        """Tells those who listen to its streams to look."""
        for view in self.streams.values():
            view.grew()

    def grows(self, open_streams: frozenset[str]) -> None:
        """Of its streams, only these may still grow."""
        for name, view in self.streams.items():
            ends = view.may_grow and name not in open_streams
            view.may_grow = name in open_streams
            if ends:
                view.grew()

    def snapshot(self, living: Usage | None) -> JobInfo:
        """All about it now; `living`: what its living processes use."""
        return JobInfo(
            id=self.id,
            spec=self.spec,
            status=self.status,
            pid=self.pid,
            reason=self.reason,
            created_at=self.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            elapsed=self._elapsed_now(),
            changed_at=self.changed_at,
            stdout=self.streams["stdout"].state,
            stderr=self.streams["stderr"].state,
            usage=self._usage_with(living),
        )

    def _elapsed_now(self) -> float | None:
        if self.ended or self.started_clock is None:
            return self.elapsed
        return time.monotonic() - self.started_clock

    def _usage_with(self, living: Usage | None) -> Usage:
        if living is None:
            return self.usage
        if not self.ended:
            return Usage(living.cpu_user_s, living.cpu_system_s, living.rss_bytes, None, living.processes, 0)
        return Usage(
            self.usage.cpu_user_s,
            self.usage.cpu_system_s,
            living.rss_bytes,
            self.usage.max_rss_bytes,
            living.processes,
            living.processes,
        )
