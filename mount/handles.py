"""What an open file remembers: text as it was rendered, or a place in a stream. `ctl` has a module of its own.

A handle holds its job, so that a file of a job that was removed reads on until it is closed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
from typing import TYPE_CHECKING, Protocol

import pyfuse3
import trio

from jobfs.cursor import StreamCursor
from jobfs.errors import JobfsError
from jobfs.stream import Evicted
from mount.caller import File

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from jobfs.job import Job, StreamView
    from jobfs.stdin import Stdin
    from jobfs.stream import RingReader
    from mount.blocked import BlockedRequests


log = logging.getLogger(__name__)

# How often a read that a writer at full speed overtakes begins anew, ten times each, before it says try again.
_OVERTAKEN = 10
_READABLE = select.POLLIN | select.POLLRDNORM
# What a file on a disk polls as (poll(2)): always ready.
AS_ON_DISK = _READABLE | select.POLLOUT | select.POLLWRNORM


class Wake(Protocol):
    """Wakes the process that polls a file; `pyfuse3.PollHandle` is one."""

    def notify(self) -> None:
        """It is to ask again; OSError where it has gone."""


class Handle(Protocol):
    """An open file. Offsets and sizes are bytes; errors are of the `jobfs.errors` family, or OSError."""

    async def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on."""

    async def write(self, offset: int, data: bytes) -> int:
        """How many bytes of `data` were taken."""

    def poll(self, wake: Wake | None) -> int:
        """The events that hold now; has `wake`, and no earlier one, notified when there would be more."""

    async def flush(self) -> None:
        """Somebody closed a descriptor of it."""

    async def release(self) -> None:
        """Nobody has it open any more."""


class Opened:
    """How a file was opened: by which task, as which of the kernel's files, and with which flags of open(2)."""

    def __init__(self, file: File, opener: tuple[int, int], flags: int, blocked: BlockedRequests) -> None:
        self.file = file
        self.task, self.uid = opener
        self._non_blocking = bool(flags & os.O_NONBLOCK)
        self._blocked = blocked

    def waiting(self) -> AbstractContextManager[None]:
        """Its body waits for what a request needs; EAGAIN instead for a file that was opened not to block."""
        if self._non_blocking:
            raise pyfuse3.FUSEError(errno.EAGAIN)
        return self._blocked.waiting(self.file, self.task)


class ReadOnly:
    """What most files do with what they are not for. By itself it is a file that nothing is in."""

    async def read(self, offset: int, size: int) -> bytes:
        """End of file."""
        del offset, size
        return b""

    async def write(self, offset: int, data: bytes) -> int:
        """It was not opened for writing."""
        del offset, data
        raise pyfuse3.FUSEError(errno.EBADF)

    def poll(self, wake: Wake | None) -> int:
        """Always ready."""
        del wake
        return AS_ON_DISK

    async def flush(self) -> None:
        """Nothing is kept back."""

    async def release(self) -> None:
        """Nothing is held."""


class Poller:
    """The process that polls a file, as far as the kernel lets us wake it."""

    def __init__(self) -> None:
        self._wake: Wake | None = None

    @property
    def waits(self) -> bool:
        """Whether there is one to be woken."""
        return self._wake is not None

    def keep(self, wake: Wake) -> None:
        """This is how to wake it from now on."""
        self._wake = wake

    def wake(self) -> None:
        """Wakes it, once; then it asks again, and says anew how."""
        wake, self._wake = self._wake, None
        if wake is not None:
            with contextlib.suppress(OSError):  # it has gone meanwhile
                wake.notify()


class TextHandle(ReadOnly):
    """A rendered file: what it said when it was opened, and anew for each read from its beginning, as in /proc."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._text = render()
        self._fresh = True
        self._next = 0
        self._went_back = False

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`."""
        if offset == 0 and not self._fresh:
            self._text = self._render()
        self._fresh = False
        data = self._text[offset : offset + size]
        self._went_back = self._went_back or bool(data and offset < self._next)
        self._next = max(self._next, offset + len(data))
        return data


class StatusHandle(TextHandle):
    """A job's status, which polls as readable once the job has ended."""

    def __init__(self, job: Job, render: Callable[[], bytes]) -> None:
        super().__init__(render)
        self._job = job
        self._end = _End(job)

    def poll(self, wake: Wake | None) -> int:
        """See `Handle`. A reader that goes back gets what a disk's file says: less asks before it reads."""
        self._fresh = False  # what the open said is not what the poll tells of
        return AS_ON_DISK if self._went_back else self._end.poll(wake)

    async def release(self) -> None:
        """See `Handle`."""
        self._end.forget()


class WaitHandle(ReadOnly):
    """A file that says how the job has ended, when it has."""

    def __init__(self, job: Job, render: Callable[[], bytes], opened: Opened) -> None:
        self._job = job
        self._render = render
        self._opened = opened
        self._end = _End(job)

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`. Waits for the end."""
        while not self._job.ended:
            with self._opened.waiting():
                await self._job.bell.wait_rung()
        return self._render()[offset : offset + size]

    def poll(self, wake: Wake | None) -> int:
        """See `Handle`."""
        return self._end.poll(wake)

    async def release(self) -> None:
        """See `Handle`."""
        self._end.forget()


class _End:
    """The end of a job as an event for poll(2)."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._poller = Poller()

    def poll(self, wake: Wake | None) -> int:
        if self._job.ended:
            return _READABLE
        if wake is not None:
            self._poller.keep(wake)
            self._job.bell.listen(self._changed)
        return 0

    def forget(self) -> None:
        self._job.bell.ignore(self._changed)

    def _changed(self) -> None:
        if self._job.ended:
            self._poller.wake()
        else:
            self._job.bell.listen(self._changed)


class StreamHandle(ReadOnly):
    """A stream: the reads of one open file, see `StreamCursor`. `ended` tells whether the job has ended.

    Of a file that the kernel has `cached` perhaps no read is ever heard of, and then nobody knows whether all was read:
    from the second poll on it is as a pipe that was closed with something in it.
    """

    def __init__(self, view: StreamView, ended: Callable[[], bool], *, cached: bool = False) -> None:
        self._view = view
        self._ended = ended
        self._cached = cached
        self._asked = False  # by a poll
        self._reader: RingReader | None = view.open()
        self._cursor = StreamCursor(self._reader)
        self._poller = Poller()

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`."""
        if self._reader is None:
            self._reader = self._view.open()
            if self._reader is not None:
                self._cursor.attach(self._reader)
        self._cursor.told(self._view.told)
        for _ in range(_OVERTAKEN):
            try:
                data = self._cursor.read(offset, size)
            except Evicted:  # the job writes faster than this process gets to read
                await trio.lowlevel.checkpoint()
            else:
                self._tell_end(data)
                return data
        raise pyfuse3.FUSEError(errno.EAGAIN)

    def poll(self, wake: Wake | None) -> int:
        """See `Handle`."""
        self._cursor.polled()
        if self._cursor.went_back:
            return AS_ON_DISK
        written = self._listen(wake)
        asked, self._asked = self._asked, True
        if written > self._cursor.position:
            unheard = self._cached and asked and not self._cursor.position
            return _READABLE | (select.POLLHUP if unheard else 0)
        return select.POLLHUP if self._ended() else 0

    async def release(self) -> None:
        """See `Handle`."""
        self._view.ignore(self._poller.wake)
        if self._reader is not None:
            self._reader.close()

    def _tell_end(self, data: bytes) -> None:
        """The read that takes the last byte makes POLLHUP true; nothing else would tell an edge-triggered epoll."""
        if data and self._poller.waits and self._ended() and self._view.state.written <= self._cursor.position:
            self._poller.wake()

    def _listen(self, wake: Wake | None) -> int:
        """How much was written; has `wake` notified of more, in any case: epoll(7) may be edge-triggered."""
        written = self._view.state.written
        if wake is not None:
            self._poller.keep(wake)
            self._view.listen(written, self._poller.wake)
        return written


class FollowHandle(StreamHandle):
    """A stream whose reads wait for more, until the job has ended."""

    def __init__(self, view: StreamView, ended: Callable[[], bool], opened: Opened) -> None:
        super().__init__(view, ended)
        self._opened = opened
        self._cursor.polled()  # the end of what is there now is no end of file

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`."""
        while True:
            ended = self._ended()  # asked first: what comes before the end is then in the stream
            written = self._view.state.written
            data = await super().read(offset, size)
            if data or ended:
                return data
            with self._opened.waiting():
                await self._view.wait_grown(written)

    def poll(self, wake: Wake | None) -> int:
        """See `Handle`."""
        written = self._listen(wake)
        if self._ended():
            return _READABLE | (select.POLLHUP if written <= self._cursor.position else 0)
        return _READABLE if written > self._cursor.position else 0


class StdinHandle:
    """The job's stdin: what is written the job reads; reading it gives end of file."""

    def __init__(self, stdin: Stdin, opened: Opened) -> None:
        self._stdin = stdin
        self._opened = opened
        self._poller = Poller()
        self._watch: trio.CancelScope | None = None  # of the task that waits for room, for the poller

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`."""
        del offset, size
        return b""

    async def write(self, offset: int, data: bytes) -> int:
        """See `Handle`. Returns when all of `data` is in the job's pipe, or as much as was when it was interrupted."""
        del offset
        await self._stdin.open()
        taken = 0
        try:
            while taken < len(data):
                try:
                    taken += self._stdin.write_nowait(data[taken:])
                except BlockingIOError:
                    self._wake_when_ready()
                    with self._opened.waiting():
                        await self._stdin.wait_ready()
        except (pyfuse3.FUSEError, JobfsError):
            if not taken:
                raise
        return taken

    def poll(self, wake: Wake | None) -> int:
        """See `Handle`. POLLOUT where a write would not block; to read there is always the end of file."""
        if wake is not None:
            self._poller.keep(wake)
        if self._stdin.ready:
            return AS_ON_DISK
        self._wake_when_ready()
        return _READABLE

    async def flush(self) -> None:
        """Nothing is kept back."""

    async def release(self) -> None:
        """See `Handle`."""
        if self._watch is not None:
            self._watch.cancel()

    def _wake_when_ready(self) -> None:
        """Has the poller woken when there is room again; also for one that polled before there was none (edges)."""
        if self._poller.waits and self._watch is None:
            self._watch = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._wait_ready, self._watch)

    async def _wait_ready(self, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._stdin.wait_ready()
        except OSError as error:  # no exception of a system task may get out: it would end the daemon
            log.warning("whether stdin is ready cannot be told: %s", error)
        self._watch = None
        self._poller.wake()
