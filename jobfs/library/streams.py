"""The reading end of a job's output."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from jobfs.cursor import StreamCursor
from jobfs.stream import Evicted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from jobfs.job import StreamView
    from jobfs.stream import RingReader, StreamState

_PIECE = 256 * 1024  # bytes that `follow` gives at most at once


class Snapshot(NamedTuple):
    """What a stream retained at one moment."""

    start: int
    """The offset of the first byte."""
    data: bytes


class StreamReader:
    """A job's `stdout` or `stderr`. Offsets are absolute: offset N is the N-th byte that was ever written.

    Every method raises StreamDamaged, an OSError, where the file that it is kept in was damaged.
    """

    def __init__(self, view: StreamView, ended: Callable[[], bool]) -> None:
        """Made by the table."""
        self._view = view
        self._ended = ended

    @property
    def state(self) -> StreamState:
        """The counts now: `written`, `start`, `retained`, `dropped`, `capacity` in bytes, and `closed`."""
        return self._view.state

    def read(self, offset: int, size: int | None = None) -> bytes:
        """The bytes at exactly `offset` and on: `size` of them, or fewer at the end; without `size`, all to the end.

        Raises Evicted where one of them is, with `oldest`, the offset to go on at; ValueError for a negative offset.
        """
        if offset < 0:
            raise ValueError(f"offset: {offset}")
        reader = self._view.open()
        if reader is None:
            return b""
        with reader:
            state = reader.snapshot()
            if offset < min(state.start, state.written):
                raise Evicted(state.start)
            return reader.read(offset, state.written - offset if size is None else size)

    def snapshot(self) -> Snapshot:
        """All that is retained."""
        reader = self._view.open()
        if reader is None:
            return Snapshot(0, b"")
        with reader:
            while True:
                state = reader.snapshot()
                try:
                    return Snapshot(state.start, reader.read(state.start, state.retained))
                except Evicted:  # by a process that writes faster than this reads
                    continue

    async def wait_changed(self, since: int) -> StreamState:
        """Waits until more than `since` bytes were written, or none will come any more; gives the counts."""
        await trio.lowlevel.checkpoint()
        while True:
            state = self._view.state
            if state.written > since or state.closed or state.damaged:
                return state
            await self._view.wait_grown(max(since, state.written))

    async def follow(self, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """What is written from `offset` on, as it comes, until the job has ended.

        What was evicted, also meanwhile, is skipped to the start of a line.
        """
        cursor = StreamCursor(None)
        cursor.polled()  # the end of what is there now is not the end
        reader: RingReader | None = None
        at = offset
        try:
            while True:
                ended = self._ended()  # asked first: what comes before the end is then in the stream
                written = self._view.state.written
                if reader is None and (reader := self._view.open()) is not None:
                    cursor.attach(reader)
                await trio.lowlevel.checkpoint()
                try:
                    data = cursor.read(at, _PIECE)
                except Evicted:
                    continue
                if data:
                    at += len(data)
                    yield data
                elif ended:
                    return
                else:
                    await self._view.wait_grown(written)
        finally:
            if reader is not None:
                reader.close()
