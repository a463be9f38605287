"""The writing end of an output stream that this program writes itself, and a way to hold all that a function writes."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from jobfs.stream import EndOfPipe, RingWriter, StreamDamaged, read_source
from jobfs.supervisor.outlet import STALL_RETRY, bytes_in

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

# Bytes that are moved without giving other tasks a turn, a third of a millisecond's worth.
_TURN = 1024 * 1024


class Pause:
    """Whether a job that has no process to be stopped is to wait, where it can be had to."""

    def __init__(self) -> None:
        self._over = trio.Event()
        self._over.set()

    def __bool__(self) -> bool:
        """Whether it is to wait."""
        return not self._over.is_set()

    def begin(self) -> None:
        """It is to wait from now on."""
        if not self:
            self._over = trio.Event()

    def end(self) -> None:
        """It may go on."""
        self._over.set()

    async def wait_over(self) -> None:
        """Waits while it is to wait; a checkpoint in any case."""
        await self._over.wait()
        while self:  # again, by the time that this task had its turn
            await self._over.wait()


class StreamWriter:
    """The writing end of a job's `stdout` or `stderr`. The newest bytes are kept, the oldest evicted, all are counted.

    Writing never waits for a reader. It waits while the job is stopped, and while the disk is full.
    """

    def __init__(self, path: str, capacity: int, pause: Pause, changed: Callable[[], None]) -> None:
        """`changed` is called when there is something to tell: see `is_news` and `obstacle`."""
        self._path = path
        self._capacity = capacity
        self._pause = pause
        self._changed = changed
        self._writer: RingWriter | None = None
        self._discard = False
        self._total = 0  # of a stream that is not kept any more
        self._watched_past: int | None = None
        self._sealed = False
        self._pipes = 0  # that are drained into it
        self.obstacle: str | None = None  # why what is written cannot be kept, while it cannot

    @property
    def capacity(self) -> int:
        """How many bytes are kept."""
        return self._capacity

    @property
    def written(self) -> int:
        """How many bytes were written in all: the offset of the next one."""
        return self._total if self._writer is None else self._writer.total

    @property
    def closed(self) -> bool:
        """Whether nothing will be written any more, by the function or a process that it left behind."""
        return self._sealed and not self._pipes

    async def write(self, data: bytes) -> None:
        """Writes all of `data`; where this is cancelled, perhaps a part of it, and of at most 1 MiB all or nothing.

        Waits while the job is stopped, and while the disk is full. Raises trio.ClosedResourceError once the job has
        ended.
        """
        for at in range(0, max(1, len(data)), _TURN):
            await self._until_room(data[at : at + _TURN])

    def write_nowait(self, data: bytes) -> None:
        """Writes all of `data`, or raises: trio.WouldBlock while the job is stopped, OSError where the disk is full.

        Nothing was written then. Raises trio.ClosedResourceError once the job has ended. It may be called in the trio
        thread only.
        """
        self._require_open()
        if self._pause:
            raise trio.WouldBlock
        self._append(data)

    async def _until_room(self, data: bytes) -> None:
        while True:
            await self._pause.wait_over()
            self._require_open()
            try:
                self._append(data)
            except OSError as error:
                await self.stalled_by(error)
            else:
                return

    def _append(self, data: bytes) -> None:
        writer = self._ring() if data else None
        if writer is None:
            return
        try:
            writer.append(data)
        except StreamDamaged as error:
            self._give_up(error)
        self._moved()

    def _ring(self) -> RingWriter | None:
        if self._writer is None and not self._discard:
            try:
                self._writer = RingWriter.create(self._path, self._capacity)
            except FileNotFoundError as error:  # somebody removed the state
                self._give_up(error)
        return self._writer

    def _give_up(self, error: OSError) -> None:
        """What waiting could not bring back is thrown away, and whoever reads the stream gets an error."""
        log.error("%s: %s: what is written to it is lost", os.path.basename(self._path), error.strerror)
        self.forget()

    def _moved(self) -> None:
        was_stalled = self.obstacle is not None
        self.obstacle = None
        if was_stalled or self._watched_past is not None:
            self._changed()

    def _require_open(self) -> None:
        if self._sealed:
            raise trio.ClosedResourceError("the job has ended")

    # The engine's side

    def watch(self, past: int) -> None:
        """Somebody is to be told when the stream has bytes past the offset `past`; of one that cannot grow, never."""
        if self.closed:
            return
        self._watched_past = past if self._watched_past is None else min(past, self._watched_past)
        self._changed()

    def unwatch(self) -> None:
        """Nobody is to be told any more."""
        self._watched_past = None

    def is_news(self) -> bool:
        """Whether there is what `watch` asked about; True once."""
        if self._watched_past is None or self.written <= self._watched_past:
            return False
        self._watched_past = None
        return True

    def forget(self) -> None:
        """The job was removed: what is still written goes nowhere, and nobody is harmed."""
        self._discard = True
        if self._writer is not None:
            self._total = self._writer.total
            self._writer.detach()
            self._writer = None

    def seal(self) -> None:
        """The job has ended: it writes no more. What it left behind may, through pipes."""
        self._sealed = True
        self._close_if_over()

    def attach(self, pipe: int) -> Pump:
        """What moves the bytes of a pipe, which does not block, into the stream; it takes over `pipe`.

        Raises trio.ClosedResourceError once the job has ended, and the pipe stays the caller's.
        """
        self._require_open()
        self._pipes += 1
        return Pump(self, pipe)

    def move(self, pipe: int) -> int:
        """Moves at most a turn's worth; gives how many. EndOfPipe at its end, OSError where the disk is full."""
        moved = 0
        writer = self._ring()
        try:
            # Without a ring it is thrown away.
            moved = len(read_source(pipe, _TURN)) if writer is None else writer.drain(pipe, _TURN)
        except StreamDamaged as error:
            self._give_up(error)
        except BlockingIOError:
            pass
        self._moved()
        return moved

    def detach(self) -> None:
        """One pipe less."""
        self._pipes -= 1
        self._close_if_over()

    async def stalled_by(self, error: OSError) -> None:
        """The disk is full: has that told, and waits until it is worth another try."""
        if self.obstacle is None:
            self.obstacle = f"cannot be written: {error.strerror}: the job waits when it writes"
            self._changed()
        try:
            await trio.sleep(STALL_RETRY)
        except trio.Cancelled:
            self._moved()  # nobody waits any more; who else does says so again
            raise

    def _close_if_over(self) -> None:
        if self.closed:
            self.obstacle = None
            if self._writer is not None:
                self._writer.close()
            self._changed()


class Pump:
    """A pipe on its way into a stream."""

    def __init__(self, stream: StreamWriter, pipe: int) -> None:
        self._stream = stream
        self._pipe = pipe

    async def run(self) -> None:
        """Moves what comes, until nobody holds the pipe's other end."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._pipe)
                try:
                    self._stream.move(self._pipe)
                except OSError as error:
                    await self._stream.stalled_by(error)
        except EndOfPipe:
            pass
        finally:
            os.close(self._pipe)
            self._pipe = -1
            self._stream.detach()

    async def drain_what_waits(self) -> None:
        """Moves what is in the pipe now: what the process whose end was just met has written."""
        left = bytes_in(self._pipe) if self._pipe >= 0 else 0
        while left > 0 and self._pipe >= 0:
            try:
                moved = self._stream.move(self._pipe)
            except EndOfPipe:
                return
            except OSError as error:
                await self._stream.stalled_by(error)
            else:
                left = left - moved if moved else 0
            await trio.lowlevel.checkpoint()
