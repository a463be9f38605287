"""What a job reads, seen from those who write it: one descriptor, shared by all who have the job's `stdin` open.

The descriptor is a duplicate of the one that the engine keeps. While anybody has one the pipe is open, and the job
meets no end of file: so there is one for each job, here, and `close` is the end for all writers at once.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from jobfs.errors import StdinClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# What a write fails with where nobody will read it: a pipe's reader has gone, a terminal's other end was closed.
_NOBODY_READS = (errno.EPIPE, errno.EIO)


class Stdin:
    """The stdin of one job. The table owns it, and closes it."""

    def __init__(self, open_descriptor: Callable[[], Awaitable[int]]) -> None:
        """`open_descriptor` gives a non-blocking descriptor to write to, to be closed here; see `Engine.open_stdin`."""
        self._open_descriptor = open_descriptor
        self._fd: int | None = None
        self._opening = trio.Lock()
        self._turn = trio.Lock()  # trio lets one task wait for a descriptor
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it was closed here. The job may have closed its own end, which a write finds out."""
        return self._closed

    @property
    def ready(self) -> bool:
        """Whether a write would be answered at once, by an error too; the first one, which opens it, counts as such."""
        if self._fd is None:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    async def open(self) -> None:
        """Has the descriptor opened, the first time; StdinClosed where there is nobody to write to."""
        async with self._opening:
            if self._fd is None and not self._closed:
                await self._open()
        self._require()

    async def _open(self) -> None:
        try:
            fd = await self._open_descriptor()
        except StdinClosed:
            self._closed = True  # what was closed is never opened again
            raise
        if self._closed:  # meanwhile
            os.close(fd)
        else:
            self._fd = fd

    async def write_some(self, data: bytes) -> int:
        """Writes as much of `data` as the job's pipe or terminal takes, and waits while that is nothing.

        Gives how many bytes were taken. Where this is cancelled, none was. Raises StdinClosed once it is closed, or
        where nobody reads any more.
        """
        await self.open()
        while True:
            try:
                return self.write_nowait(data)
            except BlockingIOError:
                await self.wait_ready()

    def write_nowait(self, data: bytes) -> int:
        """As `write_some`, after `open`; BlockingIOError instead of waiting."""
        try:
            return os.write(self._require(), data)
        except OSError as error:
            if error.errno in _NOBODY_READS:
                msg = "nobody reads its stdin any more"
                raise StdinClosed(msg) from error
            raise

    async def wait_ready(self) -> None:
        """Returns when `ready`; any number of tasks may wait."""
        async with self._turn:
            if self._fd is not None:
                with suppress(trio.ClosedResourceError):  # a write tells
                    await trio.lowlevel.wait_writable(self._fd)

    def close(self) -> None:
        """Nothing is written any more; tells all who wait."""
        self._closed = True
        fd, self._fd = self._fd, None
        if fd is not None:
            trio.lowlevel.notify_closing(fd)
            os.close(fd)

    def _require(self) -> int:
        if self._fd is None:
            msg = "its stdin is closed"
            raise StdinClosed(msg)
        return self._fd
