"""The reading and the writing end of a job's output, for any thread."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs.errors import JobEnded
from jobfs.sync.portal import Items

if TYPE_CHECKING:
    from jobfs.engines.inprocess import output
    from jobfs.library import streams
    from jobfs.library.streams import Snapshot
    from jobfs.stream import StreamState
    from jobfs.sync.portal import Cancellation, Portal


class StreamReader:
    """A job's `stdout` or `stderr`. Offsets are absolute: offset N is the N-th byte that was ever written.

    Every method raises StreamDamaged, an OSError, where the file that it is kept in was damaged.
    """

    def __init__(self, portal: Portal, inner: streams.StreamReader) -> None:
        """Made by the table."""
        self._portal = portal
        self._inner = inner

    @property
    def state(self) -> StreamState:
        """The counts now: `written`, `start`, `retained`, `dropped`, `capacity` in bytes, and `closed`."""
        return self._portal.ask(lambda: self._inner.state)

    def read(self, offset: int, size: int | None = None) -> bytes:
        """The bytes at exactly `offset` and on: `size` of them, or fewer at the end; without `size`, all to the end.

        Raises Evicted where one of them is, with `oldest`, the offset to go on at; ValueError for a negative offset.
        """
        return self._portal.ask(lambda: self._inner.read(offset, size))

    def snapshot(self) -> Snapshot:
        """All that is retained."""
        return self._portal.ask(self._inner.snapshot)

    def wait_changed(self, since: int, timeout: float | None = None) -> StreamState:
        """Waits until more than `since` bytes were written, or none will come any more; gives the counts.

        TimeoutError after `timeout` seconds.
        """
        state = self.state
        if state.written > since or state.closed or state.damaged:
            return state
        return self._portal.wait(lambda: self._inner.wait_changed(since), timeout, "nothing was written")

    def follow(self, offset: int = 0) -> Iterator[bytes]:
        """What is written from `offset` on, as it comes, until the job has ended.

        What was evicted, also meanwhile, is skipped to the start of a line.
        """
        return Items(self._portal, self._inner.follow(offset))


class StreamWriter:
    """The writing end of a job's `stdout` or `stderr`. The newest bytes are kept, the oldest evicted, all are counted.

    Writing never waits for a reader. It waits while the job is stopped, and while the disk is full.
    """

    def __init__(self, portal: Portal, inner: output.StreamWriter, cancellation: Cancellation | None) -> None:
        """Made by the table."""
        self._portal = portal
        self._inner = inner
        self._cancellation = cancellation

    @property
    def capacity(self) -> int:
        """How many bytes are kept."""
        return self._inner.capacity

    @property
    def written(self) -> int:
        """How many bytes were written in all: the offset of the next one."""
        return self._portal.ask(lambda: self._inner.written)

    @property
    def closed(self) -> bool:
        """Whether nothing will be written any more, by the job or a process that it left behind."""
        return self._portal.ask(lambda: self._inner.closed)

    def write(self, data: bytes) -> None:
        """Writes all of `data`; where that is cancelled, perhaps a part of it, and of at most 1 MiB all or nothing.

        Waits while the job is stopped, and while the disk is full. Raises JobEnded once the job has ended, Cancelled
        in a function that is being ended.
        """
        with _translated():
            self._portal.wait(partial(self._inner.write, data), cancellation=self._cancellation)

    def write_nowait(self, data: bytes) -> None:
        """Writes all of `data`, or raises: BlockingIOError while the job is stopped, OSError where the disk is full.

        Nothing was written then. Raises JobEnded once the job has ended. It is right for the last words of a function
        that is being ended.
        """
        with _translated():
            self._portal.act(lambda: self._inner.write_nowait(data))


class StdinReader(Iterator[bytes]):
    """What is written to a job's `stdin`, in pieces as they come; as an iterator, until it is closed."""

    def __init__(self, portal: Portal, inner: trio.abc.ReceiveStream, cancellation: Cancellation | None) -> None:
        """Made by the table."""
        self._portal = portal
        self._inner = inner
        self._cancellation = cancellation

    def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Waits for bytes, and gives at most `max_bytes` of them; none when it was closed.

        Raises JobEnded once the job has ended, Cancelled in a function that is being ended.
        """
        with _translated():
            data = self._portal.wait(lambda: self._inner.receive_some(max_bytes), cancellation=self._cancellation)
        return bytes(data)

    def __next__(self) -> bytes:
        """The next piece."""
        data = self.receive_some()
        if not data:
            raise StopIteration
        return data


@contextmanager
def _translated() -> Iterator[None]:
    """What trio's own errors are here, where nobody knows of trio."""
    try:
        yield
    except trio.ClosedResourceError:
        raise JobEnded("the job has ended") from None
    except trio.WouldBlock:
        raise BlockingIOError(errno.EAGAIN, "the job is stopped") from None
