"""One output pipe of a job on its way into a ring file, which is made at the pipe's first byte."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import struct
import termios
from typing import TYPE_CHECKING

from jobfs.stream import EndOfPipe, RingWriter, StreamDamaged, grow_pipe, read_source

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

# Bytes that one turn may move: enough for the speed of the pipe, little enough that other jobs' pipes get their turn.
TURN = 1024 * 1024
# How often a full disk is asked whether there is room again, in seconds.
STALL_RETRY = 0.25
# A pipe that was found full this often in a row is worth more kernel memory.
_FULL_TURNS = 4


class Outlet:
    """The reading end of a pipe and the stream that it is drained into."""

    def __init__(self, reader: int | None = None) -> None:
        """Makes the pipe, or takes over `reader`, which an earlier supervisor drained; OSError where that fails."""
        self._path = ""
        self._capacity = 0
        self._announce: Callable[[int], None] = lambda _: None
        self._writer: RingWriter | None = None
        self._discard = False
        self._full_turns = 0
        self._watched_past: int | None = None
        self.at_end = False
        self.stalled = False
        self.obstacle = ""  # why it is stalled
        self.reader, self.job_end = self._make() if reader is None else self._take_over(reader)

    @staticmethod
    def _make() -> tuple[int, int]:
        reader, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # Opened for both, so that the job is a reader of its own pipe: should the supervisor be killed, the job
            # blocks instead of dying of SIGPIPE.
            return reader, os.open(f"/proc/self/fd/{write_end}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(write_end)

    @staticmethod
    def _take_over(reader: int) -> tuple[int, int]:
        return reader, -1  # the job has its end

    @property
    def inode(self) -> int:
        """The number of the pipe, the same for all who hold an end of it; not to be had of one that is closed."""
        return os.fstat(self.reader).st_ino

    @property
    def ring(self) -> int | None:
        """The descriptor of the ring file; None as long as there is none, or where there is none any more."""
        return None if self._writer is None else self._writer.fileno()

    def assign(self, path: str, capacity: int, announce: Callable[[int], None]) -> None:
        """Says where the ring file will be, and how many bytes it keeps.

        `announce` is told its descriptor before anything is written to it.
        """
        self._path = path
        self._capacity = capacity
        self._announce = announce

    def resume(self, ring: int | None) -> None:
        """Goes on with the stream of an earlier supervisor; `ring` is its open file, where somebody kept that.

        OSError where that cannot be used. Takes over `ring`. A stream whose end was met already stays ended.
        """
        try:
            writer = RingWriter.open(self._path) if ring is None else RingWriter.resume(ring)
        except FileNotFoundError:
            return
        if writer.closed:
            writer.detach()
            self.close()
        else:
            self._write_to(writer)

    def started(self) -> None:
        """The job has its end now; ours goes."""
        self._close_job_end()

    def process_ended(self) -> None:
        """The job's process has ended; who else has its end goes on."""

    def notice(self, events: int) -> None:
        """Takes note of what epoll says of the reader: a hang-up with nothing to read is the end of a pipe."""
        if events & (select.EPOLLHUP | select.EPOLLIN) == select.EPOLLHUP:  # no need to ask the pipe
            self.at_end = True

    def drain(self, limit: int = TURN) -> int:
        """Moves up to `limit` bytes; gives how many. Sets `at_end` there, `stalled` where the disk is full.

        Nothing is lost by a full disk: the bytes stay in the pipe and the job waits. What waiting could not bring back
        is thrown away, and whoever reads the stream gets an error.
        """
        if self.at_end:
            return 0
        try:
            moved = self._move(limit)
        except EndOfPipe:
            self.at_end = True
            return 0
        except (FileNotFoundError, StreamDamaged) as error:  # somebody removed the state, or damaged the file
            log.error("%s: %s: what is written to it is lost", os.path.basename(self._path), error.strerror)  # noqa: TRY400
            self.forget()
            return self.drain(limit)
        except OSError as error:
            self.stalled, self.obstacle = True, error.strerror or str(error)
            return 0
        self.stalled = False
        self._full_turns = self._full_turns + 1 if moved >= limit else 0
        if self._full_turns == _FULL_TURNS:
            self._full_turns = 0
            grow_pipe(self.reader)
        return moved

    def watch(self, past: int) -> None:
        """Somebody is to be told when the stream has bytes past the offset `past`; see `is_news`."""
        self._watched_past = past if self._watched_past is None else min(past, self._watched_past)

    def unwatch(self) -> None:
        """Nobody is to be told any more."""
        self._watched_past = None

    def is_news(self) -> bool:
        """Whether there is what `watch` asked about; True once."""
        if self._watched_past is None or self._writer is None or self._writer.total <= self._watched_past:
            return False
        self._watched_past = None
        return True

    def waiting(self) -> int:
        """How many bytes the pipe holds now."""
        if self.at_end:
            return 0
        return bytes_in(self.reader)

    def own_ends(self, name: str) -> dict[str, int]:
        """The descriptors with which another supervisor could go on, by the names that they are held under."""
        return {name: self.reader}

    def forget(self) -> None:
        """The job was removed: what is still written goes nowhere, and nobody is harmed."""
        self._discard = True
        if self._writer is not None:
            self._writer.detach()
            self._writer = None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.reader < 0

    def close(self) -> None:
        """Nobody will write any more: the stream says so from now on."""
        self._close_job_end()
        os.close(self.reader)
        self.reader = -1
        self.stalled = False
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _move(self, limit: int) -> int:
        if self._discard:
            return _throw_away(self.reader, limit)
        if self._writer is None:
            if not self.waiting():  # nothing to make a file for
                if self._hung_up():
                    raise EndOfPipe
                return 0
            self._write_to(RingWriter.create(self._path, self._capacity))
        assert self._writer is not None
        return self._drain_into(self._writer, limit)

    def _drain_into(self, writer: RingWriter, limit: int) -> int:
        return writer.drain(self.reader, limit)

    def _write_to(self, writer: RingWriter) -> None:
        self._writer = writer
        self._announce(writer.fileno())

    def _close_job_end(self) -> None:
        if self.job_end >= 0:
            os.close(self.job_end)
            self.job_end = -1

    def _readable(self) -> bool:
        return bool(self._poll() & select.POLLIN)

    def _hung_up(self) -> bool:
        return self._poll() & (select.POLLHUP | select.POLLIN) == select.POLLHUP

    def _poll(self) -> int:
        poll = select.poll()
        poll.register(self.reader, select.POLLIN)
        return next((events for _, events in poll.poll(0)), 0)


def bytes_in(pipe: int) -> int:
    """How many bytes a pipe holds."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))
    return int(count)


def _throw_away(reader: int, limit: int) -> int:
    try:
        return len(read_source(reader, limit))
    except BlockingIOError:
        return 0
