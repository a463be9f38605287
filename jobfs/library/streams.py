"""The reading end of a job's output."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

import trio

from jobfs.cursor import StreamCursor
from jobfs.stream import Evicted, StreamDamaged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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

    What reads raises StreamDamaged, an OSError, where the file that it is kept in was damaged, or removed with its job
    or its table. `state` goes on to tell how it was.
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
        reader = _open(self._view)
        if reader is None:
            return b""
        with reader:
            state = reader.snapshot()
            if offset < min(state.start, state.written):
                raise Evicted(state.start)
            return reader.read(offset, state.written - offset if size is None else size)

    def snapshot(self) -> Snapshot:
        """All that is retained."""
        reader = _open(self._view)
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

    def follow(self, offset: int = 0) -> AsyncIterator[bytes]:
        """What is written from `offset` on, as it comes, until the job has ended.

        What was evicted, also meanwhile, is skipped to the start of a line. ValueError for a negative offset.
        """
        if offset < 0:
            raise ValueError(f"offset: {offset}")
        return _Following(self._view, self._ended, offset)


class _Following:
    """A stream on its way to somebody. No generator: it may be left half-way, or be cancelled and gone on with."""

    def __init__(self, view: StreamView, ended: Callable[[], bool], offset: int) -> None:
        self._view = view
        self._ended = ended
        self._at = offset  # where `follow` is, as the offset of a file that is read on and on
        self._cursor = StreamCursor(None)
        self._cursor.polled()  # the end of what is there now is not the end
        self._reader: RingReader | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._over:
            ended = self._ended()  # asked first: what comes before the end is then in the stream
            written = self._view.state.written
            try:
                data = self._read()
            except Evicted:  # again and again: others are to have a turn
                await trio.lowlevel.checkpoint()
                continue
            if data:
                self._at += len(data)
                return data
            if ended:
                self._close()
            else:
                await self._view.wait_grown(written)
        raise StopAsyncIteration

    def _read(self) -> bytes:
        if self._reader is None and (reader := _open(self._view)) is not None:
            self._reader = reader
            self._cursor.attach(reader)
        return self._cursor.read(self._at, _PIECE)

    def _close(self) -> None:
        self._over = True
        if self._reader is not None:
            self._reader.close()

    def __del__(self) -> None:
        self._close()


def _open(view: StreamView) -> RingReader | None:
    """A reader, for the caller to close; None where nothing was written yet. StreamDamaged."""
    state = view.state
    if not state.written and not state.damaged:
        return None
    reader: RingReader | None = None
    with suppress(FileNotFoundError):
        reader = view.open()
    if reader is None:
        raise StreamDamaged("it was removed, with its job")
    return reader
