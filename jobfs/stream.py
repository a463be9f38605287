"""A bounded stream in a ring file: the newest bytes a job wrote, at the absolute offsets they were written at.

One process writes (`RingWriter`: the supervisor, or the daemon for `events`), any number of others read
(`RingReader`), with no lock between them: a reader takes bytes first and then finds out whether they were
overwritten meanwhile. A stream that has no byte yet has no file; `empty` is its state.

The file is a header page and a ring of `capacity + SLACK` bytes; byte N lives at `HEADER_SIZE + N % ring`. The writer
raises `reserved`, writes, then raises `total`. The reader loads `total`, reads the bytes, loads `reserved`, and throws
away what lies below `reserved - ring`: with `total` alone it would hand out bytes of a write that is under way.
"""

import errno
import fcntl
import mmap
import os
import stat
import sys
import time
from contextlib import suppress
from typing import NamedTuple, Self

HEADER_SIZE = 4096
SLACK = 512 * 1024
"""Bytes of the ring beyond the capacity: what a writer may overwrite while all that is retained stays whole."""

# At most this much is reserved at once: the rest of the slack is the head start of a reader of the oldest byte. Half of
# this costs 6 % of the speed, and twice as much, which leaves no head start, gains as much.
_BATCH = SLACK // 2
_PENDING = 64 * 1024  # Bytes read at once where there is no splice: the most that waits in memory for a full disk.
_PIPE_MAX = 1024 * 1024  # /proc/sys/fs/pipe-max-size, as it is unless root raised it.
_SIZE_LIMIT = 1 << 63  # off_t is signed.

# The header's fields, each 8 bytes in the machine's own order. They are touched through a memoryview cast to "Q", one
# load or store each: struct.pack_into("<Q") goes byte by byte, and a reader would see half-written numbers.
_MAGIC, _VERSION, _CAPACITY, _RESERVED, _TOTAL, _CLOSED, _MTIME = range(7)
_MAGIC_WORD = int.from_bytes(b"jobfring", sys.byteorder)
_FORMAT = 1


class EndOfPipe(Exception):  # noqa: N818 - it is where a pipe ends, no fault
    """The pipe is empty and nobody holds its writing end."""


class Evicted(Exception):  # noqa: N818 - what a bounded stream does, no fault
    """Bytes that were asked for have been overwritten; `oldest` is the offset of the oldest one retained by then."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"evicted: the oldest retained byte is {oldest}")
        self.oldest = oldest


class StreamDamaged(OSError):  # noqa: N818 - named as the two above
    """The file is no ring file, or was cut or scribbled on; `errno` is EIO."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EIO, f"damaged stream: {why}")


class StreamState(NamedTuple):
    """What a stream was at one moment, sizes and offsets in bytes; a tuple, for one is made at every read."""

    written: int
    """Bytes ever written: the offset of the next one."""
    start: int
    """Offset of the oldest byte retained."""
    closed: bool
    """No byte will follow."""
    mtime_ns: int
    """When the last byte came, in nanoseconds since the epoch."""
    capacity: int
    """Bytes that are retained at most."""

    @property
    def retained(self) -> int:
        """Bytes that can be read."""
        return self.written - self.start

    @property
    def dropped(self) -> int:
        """Bytes that were evicted."""
        return self.start


def empty(capacity: int, mtime_ns: int = 0) -> StreamState:
    """Return the state of a stream that has no ring file, because no byte was written yet."""
    return StreamState(written=0, start=0, closed=False, mtime_ns=mtime_ns, capacity=capacity)


def grow_pipe(fd: int) -> bool:
    """Double the size of a pipe that keeps filling up, to 1 MiB at most; False where it stays, never an error."""
    try:
        size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        if size >= _PIPE_MAX:
            return False
        # EPERM: the user has more than pipe-user-pages-soft (64 MiB) in pipes already.
        return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size * 2) > size
    except (OSError, ValueError):
        return False


class _RingFile:
    """An open ring file and its mapped header; owns `fd`, also where this raises."""

    def __init__(self, fd: int, access: int) -> None:
        self._fd = fd
        try:
            size = _file_size(fd)
            self._map = mmap.mmap(fd, HEADER_SIZE, access=access)
        except BaseException:
            os.close(fd)
            raise
        self._header = memoryview(self._map).cast("Q")
        try:
            self._check(size)
        except BaseException:
            self._release()
            raise
        self._capacity = self._header[_CAPACITY]
        self._ring = self._capacity + SLACK

    def _check(self, size: int) -> None:
        header = self._header
        if header[_MAGIC] != _MAGIC_WORD or header[_VERSION] != _FORMAT:
            raise StreamDamaged("not a ring file of this version")
        if header[_CAPACITY] == 0 or header[_CAPACITY] + SLACK + HEADER_SIZE != size:
            raise StreamDamaged(f"a capacity of {header[_CAPACITY]} in a file of {size} bytes")
        # A writer may be at work and raise both meanwhile, so `total` is loaded on either side of `reserved`.
        before, reserved, after = header[_TOTAL], header[_RESERVED], header[_TOTAL]
        if not before <= reserved <= after + SLACK < _SIZE_LIMIT:
            raise StreamDamaged(f"{reserved} bytes reserved where {after} were written")

    @property
    def capacity(self) -> int:
        """Bytes that the stream retains at most."""
        return self._capacity

    def _release(self) -> None:
        if self._fd < 0:
            return
        self._header.release()
        self._map.close()
        os.close(self._fd)
        self._fd = -1


class RingWriter(_RingFile):
    """The writing half; one at a time for a file, which is up to the caller."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`, a ring file open for reading and writing."""
        super().__init__(fd, mmap.ACCESS_WRITE)
        self._total = self._header[_TOTAL]
        self._closed = bool(self._header[_CLOSED])
        self._splices = True
        self._pending = memoryview(b"")

    @classmethod
    def create(cls, path: str | os.PathLike[str], capacity: int, *, dir_fd: int | None = None) -> Self:
        """Make the file of a stream that retains `capacity` bytes.

        Under a second name first, so that nobody finds it without its header. Raises ValueError for a capacity below 1,
        FileExistsError, OSError as open(2) and write(2) have it; nothing is left behind then.
        """
        if capacity < 1:
            raise ValueError(f"capacity: {capacity}")
        path = os.fspath(path)
        unready = f"{path}.new"
        with suppress(FileNotFoundError):
            os.unlink(unready, dir_fd=dir_fd)  # Of a writer that died here.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(unready, flags, 0o600, dir_fd=dir_fd)
        try:
            _write_header(fd, capacity)
            os.link(unready, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except BaseException:
            os.close(fd)
            raise
        finally:
            os.unlink(unready, dir_fd=dir_fd)
        return cls(fd)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, dir_fd: int | None = None) -> Self:
        """Go on with a stream where the last writer left it: bytes that it reserved and did not publish are rewritten.

        Raises FileNotFoundError, StreamDamaged, or OSError as open(2) has it.
        """
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=dir_fd))

    @classmethod
    def resume(cls, fd: int) -> Self:
        """Go on with `fd`, the open file of a writer that was killed, of which a duplicate was kept.

        `drain` moves with the file's own offset, which the kernel raises by what it has moved also where the writer did
        not live to publish that: such bytes are published here, and none is lost. Owns `fd`, also where this raises:
        StreamDamaged, OSError.
        """
        at = os.lseek(fd, 0, os.SEEK_CUR) - HEADER_SIZE
        writer = cls(fd)
        moved = (at - writer.total) % writer._ring
        if at >= 0 and writer._total + moved <= writer._header[_RESERVED]:
            writer._publish(moved)
        return writer

    def fileno(self) -> int:
        """Return the descriptor of the ring file."""
        return self._fd

    @property
    def total(self) -> int:
        """Bytes ever written: the offset of the next one."""
        return self._total

    @property
    def closed(self) -> bool:
        """Whether the stream was marked closed, by this writer or an earlier one."""
        return self._closed

    @property
    def pending(self) -> int:
        """Bytes that left the pipe and wait in memory for room on the disk; 0 wherever splice works."""
        return len(self._pending)

    def append(self, data: bytes) -> None:
        """Write all of `data`, or raise OSError (ENOSPC ...) and leave the stream as it was; ValueError when closed."""
        self._require_open()
        if len(data) > _BATCH:
            # It will be published piece by piece, and what was published cannot be taken back: have the room first.
            self._allocate(min(len(data), self._ring))
        view = memoryview(data)
        for at in range(0, len(data), _BATCH):
            piece = view[at : at + _BATCH]
            self._reserve(self._total + len(piece))
            self._write(piece)
            self._publish(len(piece))
        if data:
            self._header[_MTIME] = time.time_ns()

    def drain(self, pipe_fd: int, limit: int) -> int:
        """Move up to `limit` bytes from a non-blocking pipe or terminal master; return how many.

        `limit` itself says that there may be more; less, that there was no more at the moment, 0 included. Raises
        EndOfPipe at end of file, OSError (ENOSPC, EDQUOT, EIO ...) when no byte could be written, ValueError when the
        stream is closed. An error that comes after bytes were moved is left to the next call. Nothing is lost: what
        could not be written stays in the pipe, or, `pending` bytes, in memory, and goes first in the next call.
        """
        self._require_open()
        first = self._total
        stop = first + limit
        try:
            while self._total < stop:
                end = min(stop, self._total + _BATCH)
                self._reserve(end)
                if self._splices:
                    self._splice_until(pipe_fd, end)
                else:
                    self._copy_until(pipe_fd, end)
        except BlockingIOError:
            pass
        except (EndOfPipe, OSError):
            if self._total == first:
                raise
        if self._total > first:
            self._header[_MTIME] = time.time_ns()
        return self._total - first

    def close(self) -> None:
        """Mark the stream closed, and let go of the file. Pending bytes are given up."""
        if self._fd >= 0:
            self._header[_CLOSED] = 1
            self._closed = True
        self.detach()

    def detach(self) -> None:
        """Let go of the file, leaving the stream open for a later writer."""
        self._pending = memoryview(b"")
        self._release()

    def _require_open(self) -> None:
        if self._closed or self._fd < 0:
            raise ValueError("the stream is closed")

    def _reserve(self, end: int) -> None:
        # Never lowered: an earlier writer may have died on its way to a higher mark.
        self._header[_RESERVED] = max(end, self._header[_RESERVED])

    def _publish(self, count: int) -> None:
        self._total += count
        self._header[_TOTAL] = self._total

    def _splice_until(self, pipe_fd: int, end: int) -> None:
        """Move bytes without copying them through Python, 2.8 GB/s, until `total` is `end` or something raises."""
        fd, ring, header, splice = self._fd, self._ring, self._header, os.splice
        total = self._total
        try:
            self._seek()
            while total < end:
                # Without an offset of ours, so that the file's own tells what was moved: see `resume`.
                count = splice(pipe_fd, fd, min(end - total, ring - total % ring), flags=os.SPLICE_F_NONBLOCK)
                if count == 0:
                    raise EndOfPipe
                # Published each time: it costs little, and where nobody kept the file no more than this is lost.
                total += count
                header[_TOTAL] = self._total = total
                if total % ring == 0:
                    self._seek()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._splices = False  # Not a pipe (a terminal), or a file system that has no splice.

    def _copy_until(self, pipe_fd: int, end: int) -> None:
        while self._total < end:
            room = min(end - self._total, self._ring - self._total % self._ring)
            if not self._pending:
                self._pending = memoryview(read_source(pipe_fd, min(room, _PENDING)))
            self._seek()
            count = min(len(self._pending), room)
            count = os.write(self._fd, self._pending[:count])
            self._pending = self._pending[count:]
            self._publish(count)

    def _seek(self) -> None:
        os.lseek(self._fd, HEADER_SIZE + self._total % self._ring, os.SEEK_SET)

    def _write(self, data: memoryview) -> None:
        """Write at `total` and on, without publishing."""
        offset = self._total
        while data:
            at = offset % self._ring
            count = os.pwrite(self._fd, data[: self._ring - at], HEADER_SIZE + at)
            offset += count
            data = data[count:]

    def _allocate(self, size: int) -> None:
        at = self._total % self._ring
        before_wrap = min(size, self._ring - at)
        try:
            os.posix_fallocate(self._fd, HEADER_SIZE + at, before_wrap)
            if size > before_wrap:
                os.posix_fallocate(self._fd, HEADER_SIZE, size - before_wrap)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # A file system that can't promise room.
                raise


class RingReader(_RingFile):
    """The reading half; goes on reading after the file was unlinked."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`, a ring file open for reading."""
        super().__init__(fd, mmap.ACCESS_READ)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, dir_fd: int | None = None) -> Self:
        """Read a stream; FileNotFoundError says that it has no byte yet.

        Raises StreamDamaged, or OSError as open(2) has it.
        """
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=dir_fd))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def snapshot(self) -> StreamState:
        """Return what the stream is now."""
        header = self._header
        closed = bool(header[_CLOSED])  # Loaded first: where it is set, the total that follows is the last one.
        written = header[_TOTAL]
        return StreamState(written, max(0, written - self._capacity), closed, header[_MTIME], self._capacity)

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at exactly `offset` and on: `size` of them, or as many as were written.

        Also bytes that are evicted by the count, but not overwritten yet. Raises Evicted where one of them is,
        StreamDamaged where the file was cut or its numbers are impossible, ValueError for a negative offset.
        """
        if offset < 0:
            raise ValueError(f"offset: {offset}")
        total = self._header[_TOTAL]
        size = min(size, total - offset)
        if size <= 0:
            return b""
        self._require_intact(offset)  # Saves the reading, and bounds the size to the ring's.
        at = offset % self._ring
        data = os.pread(self._fd, min(size, self._ring - at), HEADER_SIZE + at)
        if size > self._ring - at:
            data += os.pread(self._fd, size - (self._ring - at), HEADER_SIZE)
        self._require_intact(offset)
        if len(data) != size:
            raise StreamDamaged("the file was cut")
        return data

    def close(self) -> None:
        """Let go of the file."""
        self._release()

    def _require_intact(self, offset: int) -> None:
        reserved = self._header[_RESERVED]
        if offset >= reserved - self._ring:
            return
        total = self._header[_TOTAL]  # Loaded after `reserved`, which is at most SLACK ahead of it.
        if reserved > total + SLACK:
            raise StreamDamaged(f"{reserved} bytes reserved where {total} were written")
        raise Evicted(max(0, total - self._capacity))


def _file_size(fd: int) -> int:
    """Look before mapping: touching a page past the end of a file is SIGBUS."""
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_size < HEADER_SIZE:
        raise StreamDamaged("no header")
    return about.st_size


def _write_header(fd: int, capacity: int) -> None:
    """Write the whole header page: were it a hole, the first store into its mapping on a full disk would be SIGBUS."""
    page = bytearray(HEADER_SIZE)
    with memoryview(page).cast("Q") as header:
        header[_MAGIC], header[_VERSION], header[_CAPACITY] = _MAGIC_WORD, _FORMAT, capacity
        header[_MTIME] = time.time_ns()
    if os.pwrite(fd, page, 0) != HEADER_SIZE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # The ring is a hole, filled as it is written; the size is final from the start, so that a cut file shows.
    os.ftruncate(fd, HEADER_SIZE + capacity + SLACK)


def read_source(fd: int, size: int) -> bytes:
    """Return at most `size` bytes of a pipe or terminal master; EndOfPipe at its end, OSError as read(2) has it."""
    for _ in range(2):
        try:
            data = os.read(fd, size)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # How a terminal master tells that nobody holds the terminal; a pipe has no EIO. Read once more, for the
            # kernel looks for bytes first, and then at who holds it: what was written between would be lost.
            continue
        if data:
            return data
        break
    raise EndOfPipe
