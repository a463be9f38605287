"""The ring file: what is written comes out at its offsets, or is said to be gone."""

import errno
import fcntl
import os
import pty
import random
import stat
import struct
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobfs import stream
from jobfs.stream import (
    HEADER_SIZE,
    SLACK,
    EndOfPipe,
    Evicted,
    RingReader,
    RingWriter,
    StreamDamaged,
    empty,
    grow_pipe,
)

CAPACITY = 4096
MIB = 1024 * 1024
# Where the fields of the header are: written down here too, for a change of the format to be noticed.
MAGIC, VERSION, CAPACITY_FIELD, RESERVED, TOTAL = 0, 8, 16, 24, 32

_RANDOM = random.Random(20).randbytes(1_000_003)  # noqa: S311 - no secret. A prime: no ring is a multiple of it.


def pattern(offset: int, size: int) -> bytes:
    """Return what these tests write at an offset: it is different everywhere."""
    at = offset % len(_RANDOM)
    return (_RANDOM[at:] + _RANDOM * (1 + size // len(_RANDOM)))[:size]


def poke(path: Path, field: int, value: int) -> None:
    """Scribble on a header."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, struct.pack("=Q", value), field)
    finally:
        os.close(fd)


def peek(path: Path, field: int) -> int:
    """Return what a header says."""
    (value,) = struct.unpack_from("=Q", path.read_bytes(), field)
    return int(value)


class Pipe:
    """A pipe whose reading end does not block."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def write(self, data: bytes) -> None:
        """Write what fits into a pipe."""
        assert len(data) == os.write(self.writing, data)

    def end(self) -> None:
        """Close the writing end."""
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1

    def close(self) -> None:
        """Close both."""
        self.end()
        os.close(self.reading)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe."""
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a stream can be."""
    return tmp_path / "stdout"


@pytest.fixture
def writer(path: Path) -> Iterator[RingWriter]:
    """The writer of a new stream at `path`."""
    made = RingWriter.create(path, CAPACITY)
    yield made
    made.detach()


@pytest.fixture
def reader(path: Path, writer: RingWriter) -> Iterator[RingReader]:  # noqa: ARG001 - which makes the file
    """A reader of that stream."""
    with RingReader.open(path) as made:
        yield made


def refuse_splice(*_: object, **__: object) -> int:
    """Be the splice of a file system that has none."""
    raise OSError(errno.EINVAL, "no splice here")


@pytest.fixture(params=["splice", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Drain with splice, and without."""
    if request.param == "copy":
        monkeypatch.setattr(os, "splice", refuse_splice)
    return str(request.param)


class RingModel(RuleBasedStateMachine):
    """A stream against the count of what was written, through appends, drains, and deaths of its writer."""

    @initialize(capacity=st.sampled_from([1, 100, 4096, 100_000]))
    def create(self, capacity: int) -> None:
        """Make a stream, with a reader that stays."""
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name, "stream")
        self.capacity = capacity
        self.written = 0
        self.writer = RingWriter.create(self.path, capacity)
        self.reader = RingReader.open(self.path)
        self.pipe = Pipe()

    @rule(size=st.one_of(st.integers(0, 5000), st.integers(0, 2 * MIB)))
    def append(self, size: int) -> None:
        """Append at once what may be more than the ring holds."""
        self.writer.append(pattern(self.written, size))
        self.written += size

    @rule(size=st.integers(1, 65536), limit=st.integers(1, 70000))
    def drain(self, size: int, limit: int) -> None:
        """Drain a pipe to its bottom in portions."""
        self.pipe.write(pattern(self.written, size))
        while size:
            moved = self.writer.drain(self.pipe.reading, limit)
            assert min(size, limit) == moved
            size -= moved
            self.written += moved

    @rule(reserved=st.integers(0, SLACK))
    def die_while_writing(self, reserved: int) -> None:
        """Leave bytes behind that were reserved and not published, and go on with another writer."""
        total = self.writer.total
        self.writer.detach()
        poke(self.path, RESERVED, max(total + reserved, peek(self.path, RESERVED)))  # It is never lowered.
        ring = self.capacity + SLACK
        with self.path.open("r+b") as file:
            for at, size in ((total % ring, min(reserved, ring - total % ring)), (0, total % ring + reserved - ring)):
                file.seek(HEADER_SIZE + at)
                file.write(b"#" * max(0, size))
        self.writer = RingWriter.open(self.path)

    @precondition(lambda self: self.written > 0)
    @rule(data=st.data(), size=st.integers(0, 2 * MIB))
    def read_retained(self, data: st.DataObject, size: int) -> None:
        """Read what is retained: it is there."""
        offset = data.draw(st.integers(max(0, self.written - self.capacity), self.written))
        assert pattern(offset, min(size, self.written - offset)) == self.reader.read(offset, size)

    @precondition(lambda self: self.written > self.capacity)
    @rule(data=st.data(), size=st.integers(1, 70000))
    def read_evicted(self, data: st.DataObject, size: int) -> None:
        """Read what is evicted: it is refused, or right still."""
        start = self.written - self.capacity
        offset = data.draw(st.integers(max(0, start - SLACK - 10), start - 1))
        try:
            found = self.reader.read(offset, size)
        except Evicted as evicted:
            assert start == evicted.oldest  # noqa: PT017 - either way is right
        else:
            assert pattern(offset, min(size, self.written - offset)) == found

    @invariant()
    def counts_are_right(self) -> None:
        """The snapshot counts as the model does."""
        if not hasattr(self, "reader"):
            return
        state = self.reader.snapshot()
        start = max(0, self.written - self.capacity)
        assert (self.written, start, self.capacity) == (state.written, state.start, state.capacity)
        assert (self.written - start, start) == (state.retained, state.dropped)
        assert self.written == self.writer.total

    def teardown(self) -> None:
        """Leave nothing."""
        if hasattr(self, "directory"):
            self.reader.close()
            self.writer.detach()
            self.pipe.close()
            self.directory.cleanup()


TestRingModel = RingModel.TestCase
TestRingModel.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_reader_takes_nothing_of_what_is_reserved_and_not_published(
    path: Path, writer: RingWriter, reader: RingReader
) -> None:
    """Bytes that a writer is about to publish are not there yet, and all that is retained is there still."""
    writer.append(pattern(0, 2 * MIB))
    start = writer.total - CAPACITY
    poke(path, RESERVED, writer.total + SLACK)
    assert pattern(start, CAPACITY) == reader.read(start, MIB)
    with pytest.raises(Evicted):
        reader.read(start - 1, 1)


def test_reader_throws_away_what_was_overwritten_while_it_read(
    writer: RingWriter, reader: RingReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that overtakes between the look at the header and the end of the read makes it Evicted."""
    writer.append(pattern(0, 2 * MIB))
    pread = os.pread

    def overtaken(fd: int, size: int, offset: int) -> bytes:
        writer.append(pattern(writer.total, MIB))
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", overtaken)
    with pytest.raises(Evicted) as caught:
        reader.read(writer.total - 100, 100)
    assert writer.total - CAPACITY == caught.value.oldest


def test_writer_reserves_before_it_writes(
    writer: RingWriter, reader: RingReader, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While bytes are on their way into the ring, those they replace are refused, and they are not there yet."""
    writer.append(pattern(0, 2 * MIB))
    splice = os.splice

    def watched(source: int, target: int, size: int, flags: int) -> int:
        moved = splice(source, target, size, flags=flags)
        assert 2 * MIB == reader.snapshot().written
        with pytest.raises(Evicted):
            reader.read(2 * MIB - CAPACITY - SLACK, 1)
        return moved

    monkeypatch.setattr(os, "splice", watched)
    pipe.write(b"x" * 10)
    assert 10 == writer.drain(pipe.reading, 10)


def test_a_slow_reader_has_a_head_start(path: Path, writer: RingWriter, reader: RingReader) -> None:
    """The oldest retained byte of a snapshot outlives 256 KiB of writing, and as much that is under way."""
    writer.append(pattern(0, MIB))
    start = reader.snapshot().start
    writer.append(pattern(MIB, 256 * 1024))
    poke(path, RESERVED, writer.total + 256 * 1024)
    assert pattern(start, CAPACITY) == reader.read(start, CAPACITY)


def test_a_writer_reserves_no_more_than_leaves_that_head_start(
    path: Path, writer: RingWriter, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the limit of a drain, 256 KiB are reserved at once."""
    reserved = []

    def watched(*_: object, **__: object) -> int:
        reserved.append(peek(path, RESERVED))
        raise BlockingIOError

    monkeypatch.setattr(os, "splice", watched)
    assert 0 == writer.drain(pipe.reading, 10 * MIB)
    assert [256 * 1024] == reserved


def test_drain_stops_at_its_limit(way: str, writer: RingWriter, reader: RingReader, pipe: Pipe) -> None:
    """As many bytes as the limit were moved where there are more, fewer where there are not, and none is no end."""
    pipe.write(b"one two")
    assert [4, 3, 0] == [writer.drain(pipe.reading, 4) for _ in range(3)], way
    assert b"one two" == reader.read(0, 100)


def test_drain_says_where_the_pipe_ends(way: str, writer: RingWriter, reader: RingReader, pipe: Pipe) -> None:
    """The bytes before the end come first, and the end is told again as often as one asks."""
    pipe.write(b"last words")
    pipe.end()
    assert 10 == writer.drain(pipe.reading, 4096), way
    for _ in range(2):
        with pytest.raises(EndOfPipe):
            writer.drain(pipe.reading, 4096)
    assert b"last words" == reader.read(0, 100)


def test_drain_wraps(way: str, writer: RingWriter, reader: RingReader, pipe: Pipe) -> None:
    """Bytes that go around the end of the ring come out in one piece."""
    writer.append(pattern(0, CAPACITY + SLACK - 10))
    pipe.write(pattern(writer.total, 50))
    assert 50 == writer.drain(pipe.reading, 4096), way
    assert pattern(writer.total - 100, 100) == reader.read(writer.total - 100, 100)


def test_drain_works_for_a_terminal(writer: RingWriter, reader: RingReader) -> None:
    """The master of a terminal is drained as a pipe is, and ends when nobody holds the terminal."""
    master, terminal = pty.openpty()
    try:
        tty.setraw(terminal)
        os.set_blocking(master, False)
        os.write(terminal, b"hello\n")
        assert 6 == writer.drain(master, 4096)
        assert 0 == writer.drain(master, 4096)
        os.close(terminal)
        with pytest.raises(EndOfPipe):
            writer.drain(master, 4096)
    finally:
        os.close(master)
    assert b"hello\n" == reader.read(0, 100)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_drain_tells_an_error_once_no_byte_moves(
    number: int, writer: RingWriter, reader: RingReader, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that were moved before an error count; the error comes with the next call; nothing is lost."""
    splice = os.splice
    room = 5

    def full(source: int, target: int, size: int, flags: int) -> int:
        nonlocal room
        if not room:
            raise OSError(number, os.strerror(number))
        moved = splice(source, target, min(size, room), flags=flags)
        room -= moved
        return moved

    monkeypatch.setattr(os, "splice", full)
    pipe.write(b"hello world")
    assert 5 == writer.drain(pipe.reading, 4096)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        writer.drain(pipe.reading, 4096)
    assert number == caught.value.errno
    assert b"hello" == reader.read(0, 100)
    room = 100
    assert 6 == writer.drain(pipe.reading, 4096)
    assert b"hello world" == reader.read(0, 100)


def test_without_splice_bytes_wait_in_memory_for_room(
    writer: RingWriter, reader: RingReader, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had left the pipe when the disk was full is counted as pending, and goes before what follows."""
    monkeypatch.setattr(os, "splice", refuse_splice)
    write = os.write

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    pipe.write(b"first,")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        writer.drain(pipe.reading, 4096)
    assert 6 == writer.pending
    assert 0 == reader.snapshot().written
    monkeypatch.setattr(os, "write", write)
    pipe.write(b"second")
    pipe.end()
    assert [4, 8] == [writer.drain(pipe.reading, limit) for limit in (4, 4096)]
    assert 0 == writer.pending
    assert b"first,second" == reader.read(0, 100)


class Killed(BaseException):
    """Ends a writer where SIGKILL might."""


def test_what_a_killed_writer_moved_and_did_not_publish_is_found_by_the_next(
    way: str, writer: RingWriter, reader: RingReader, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever kept the open file resumes with every byte that had left the pipe, at its offset, over the wrap too."""
    kept = os.dup(writer.fileno())
    name = "splice" if way == "splice" else "write"
    real = getattr(os, name)

    def last(*args: int, **options: int) -> int:
        real(*args, **options)
        raise Killed

    for turn in range(40):
        at = writer.total
        pipe.write(pattern(at, 60_000 + turn))
        with monkeypatch.context() as patch:
            patch.setattr(os, name, last)
            with pytest.raises(Killed):
                writer.drain(pipe.reading, 100_000)
        assert at == reader.snapshot().written
        writer.detach()
        writer = RingWriter.resume(os.dup(kept))
        assert at < reader.snapshot().written == writer.total
        while writer.drain(pipe.reading, 100_000):
            pass
        assert at + 60_000 + turn == writer.total
        assert pattern(at, 60_000 + turn) == reader.read(at, 100_000)
    os.close(kept)
    writer.detach()


def test_a_writer_that_was_killed_between_its_steps_is_resumed_where_it_stood(
    writer: RingWriter, reader: RingReader, pipe: Pipe, path: Path
) -> None:
    """Where nothing was on its way, or nothing was drained at all, nothing is added."""
    for size in (0, 10, 3 * MIB):
        kept = os.dup(writer.fileno())
        pipe.write(bytes(min(size, 60_000)))
        writer.drain(pipe.reading, 4 * MIB)
        total = writer.total
        poke(path, RESERVED, total + 256 * 1024)
        resumed = RingWriter.resume(kept)
        assert total == resumed.total == reader.snapshot().written
        resumed.detach()


def fill(file: Path) -> None:
    """Let a file take all the room there is."""
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = os.geteuid() == 0 and 0 == subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=1M", "jobfs-test", place], stderr=subprocess.DEVNULL
    )
    if not mounted:
        pytest.skip("a small file system takes root to mount")
    try:
        yield place
    finally:
        subprocess.check_call(["umount", "--lazy", place])


def test_a_full_disk_loses_nothing(way: str, small_disk: Path, pipe: Pipe) -> None:
    """Draining stops while the disk is full, goes on when there is room, and the stream is whole."""
    writer = RingWriter.create(small_disk / "stream", 4 * MIB)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(MIB // 2))
    sent = 0
    with suppress(OSError):
        while sent < MIB:
            pipe.write(pattern(sent, 50_000))
            sent += 50_000
            while writer.total < sent:
                writer.drain(pipe.reading, 20_000)
    with pytest.raises(OSError, match="No space"):
        writer.drain(pipe.reading, 20_000)
    ballast.unlink()
    while writer.total < sent:
        assert writer.drain(pipe.reading, 20_000) > 0, way
    writer.close()
    with RingReader.open(small_disk / "stream") as reader:
        assert reader.snapshot().closed
        assert pattern(0, sent) == reader.read(0, sent)


@pytest.mark.parametrize("size", [1000, SLACK, 5 * MIB])
def test_append_to_a_full_disk_leaves_the_stream_as_it_was(size: int, small_disk: Path) -> None:
    """ENOSPC of an append, small or giant, changes neither the bytes nor the counts."""
    writer = RingWriter.create(small_disk / "stream", 4 * MIB)
    with RingReader.open(small_disk / "stream") as reader:
        writer.append(pattern(0, 100_000))
        fill(small_disk / "ballast")
        with pytest.raises(OSError, match="No space") as caught:
            writer.append(pattern(100_000, max(size, 8192)))
        assert errno.ENOSPC == caught.value.errno
        assert pattern(0, 100_000) == reader.read(0, MIB)
        (small_disk / "ballast").unlink()
        writer.append(pattern(100_000, 1000))
        assert pattern(0, 101_000) == reader.read(0, MIB)
    writer.close()


def test_create_on_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    """Where there is no room for the header there is no file."""
    fill(small_disk / "ballast")
    with pytest.raises(OSError, match="No space"):
        RingWriter.create(small_disk / "stream", CAPACITY)
    assert ["ballast"] == os.listdir(small_disk)


def test_the_disk_that_a_stream_holds_is_bounded(path: Path, writer: RingWriter) -> None:
    """Capacity + 1 MiB is not passed, however much is written."""
    for _ in range(5):
        writer.append(pattern(writer.total, MIB))
    assert path.stat().st_blocks * 512 <= CAPACITY + MIB


def test_a_stream_is_private(path: Path, writer: RingWriter) -> None:
    """Nobody but its owner can open a ring file."""
    writer.append(b"secret")
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_create_does_not_touch_a_stream_that_exists(path: Path, writer: RingWriter, reader: RingReader) -> None:
    """A second stream of one name is refused, and leaves no file of its own."""
    writer.append(b"precious")
    with pytest.raises(FileExistsError):
        RingWriter.create(path, CAPACITY)
    assert b"precious" == reader.read(0, 100)
    assert ["stdout"] == os.listdir(path.parent)


def test_create_gets_over_a_writer_that_died_in_it(path: Path) -> None:
    """What an unfinished create left behind is replaced."""
    path.with_name("stdout.new").write_bytes(b"half a header")
    RingWriter.create(path, CAPACITY).detach()
    assert ["stdout"] == os.listdir(path.parent)


def test_names_are_relative_to_a_directory_descriptor(tmp_path: Path) -> None:
    """With `dir_fd`, a stream is made, resumed and read in that directory."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        RingWriter.create("s", CAPACITY, dir_fd=directory).detach()
        writer = RingWriter.open("s", dir_fd=directory)
        writer.append(b"here")
        writer.detach()
        with RingReader.open("s", dir_fd=directory) as reader:
            assert b"here" == reader.read(0, 100)
    finally:
        os.close(directory)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_stream_retains_something(path: Path, capacity: int) -> None:
    """A capacity below one byte is refused."""
    with pytest.raises(ValueError, match="capacity"):
        RingWriter.create(path, capacity)


def test_a_stream_without_a_byte_has_a_state() -> None:
    """A stream that has no file yet is empty and open."""
    state = empty(CAPACITY)
    assert (0, 0, 0, 0, False, CAPACITY) == (
        state.written,
        state.start,
        state.retained,
        state.dropped,
        state.closed,
        state.capacity,
    )


def test_a_missing_file_is_said_to_be_missing(path: Path) -> None:
    """Readers and writers of what does not exist get FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        RingReader.open(path)
    with pytest.raises(FileNotFoundError):
        RingWriter.open(path)


def test_links_are_not_followed(path: Path, writer: RingWriter) -> None:
    """A symbolic link in place of a stream is refused."""
    assert 0 == writer.total
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        RingReader.open(link)


def test_close_is_seen_by_readers(writer: RingWriter, reader: RingReader) -> None:
    """A closed stream says so together with its last count, and takes no more."""
    writer.append(b"done")
    assert not reader.snapshot().closed
    writer.close()
    writer.close()
    assert (True, 4) == (reader.snapshot().closed, reader.snapshot().written)
    with pytest.raises(ValueError, match="closed"):
        writer.append(b"more")


def test_a_closed_stream_stays_closed(path: Path, writer: RingWriter, pipe: Pipe) -> None:
    """Another writer of a closed stream finds it closed, and can't write."""
    writer.close()
    again = RingWriter.open(path)
    assert again.closed
    with pytest.raises(ValueError, match="closed"):
        again.drain(pipe.reading, 1)
    again.detach()


def test_detach_leaves_the_stream_open(path: Path, writer: RingWriter, reader: RingReader) -> None:
    """After a detach the next writer goes on where the last one was."""
    writer.append(b"one ")
    writer.detach()
    assert not reader.snapshot().closed
    again = RingWriter.open(path)
    assert (4, CAPACITY) == (again.total, again.capacity)
    again.append(b"two")
    again.detach()
    assert b"one two" == reader.read(0, 100)


def test_the_time_is_that_of_the_last_byte(
    writer: RingWriter, reader: RingReader, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time moves with each byte, and not with an empty write, an empty pipe, or the close."""
    now = 1000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    writer.append(b"x")
    assert 1000 == reader.snapshot().mtime_ns
    now = 2000
    pipe.write(b"y")
    writer.drain(pipe.reading, 100)
    assert 2000 == reader.snapshot().mtime_ns
    now = 3000
    writer.append(b"")
    writer.drain(pipe.reading, 100)
    writer.close()
    assert 2000 == reader.snapshot().mtime_ns


def test_an_unlinked_stream_is_read_on(path: Path, writer: RingWriter, reader: RingReader) -> None:
    """A removed job's open files see what is written still."""
    path.unlink()
    writer.append(b"still here")
    assert b"still here" == reader.read(0, 100)


def test_reads_outside_the_stream(writer: RingWriter, reader: RingReader) -> None:
    """At the end and past it there is nothing; before the beginning is an error."""
    writer.append(b"abc")
    assert [b"", b"", b"", b"c"] == [reader.read(*at) for at in ((3, 10), (100, 10), (0, 0), (2, 10))]
    with pytest.raises(ValueError, match="offset"):
        reader.read(-1, 10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (MAGIC, 0),
        (VERSION, 2),
        (CAPACITY_FIELD, 0),
        (CAPACITY_FIELD, CAPACITY + 1),
        (CAPACITY_FIELD, 2**64 - 1),
        (TOTAL, 1001),
        (TOTAL, 2**64 - 1),
        (RESERVED, 0),
        (RESERVED, 1000 + SLACK + 1),
        (RESERVED, 2**64 - 1),
    ],
)
def test_impossible_numbers_are_damage(path: Path, writer: RingWriter, field: int, value: int) -> None:
    """A header that no writer leaves behind is refused with EIO, for reading and for writing."""
    writer.append(bytes(1000))
    poke(path, field, value)
    with pytest.raises(StreamDamaged) as caught:
        RingReader.open(path)
    assert errno.EIO == caught.value.errno
    with pytest.raises(StreamDamaged):
        RingWriter.open(path)


@pytest.mark.parametrize("size", [0, 100, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + CAPACITY + SLACK - 1])
def test_a_cut_file_is_damage(path: Path, writer: RingWriter, size: int) -> None:
    """A file that lacks even one byte is refused before anything of it is touched."""
    writer.append(b"abc")
    writer.detach()
    os.truncate(path, size)
    with pytest.raises(StreamDamaged):
        RingReader.open(path)


def test_a_directory_is_damage(tmp_path: Path) -> None:
    """What is no file is refused."""
    with pytest.raises(StreamDamaged):
        RingReader.open(tmp_path)


def test_a_file_that_is_cut_while_open_is_damage(path: Path, writer: RingWriter, reader: RingReader) -> None:
    """A reader notices that bytes which must be there are not."""
    writer.append(pattern(0, 10_000))
    os.truncate(path, HEADER_SIZE + 5000)
    with pytest.raises(StreamDamaged):
        reader.read(9000, 100)


def test_a_header_that_is_scribbled_on_while_open_is_damage(path: Path, writer: RingWriter, reader: RingReader) -> None:
    """Reservations that no writer makes are not taken for eviction, which would be tried again for ever."""
    writer.append(b"abc")
    poke(path, RESERVED, 2**62)
    with pytest.raises(StreamDamaged):
        reader.read(0, 3)


def test_refused_files_are_closed(path: Path, writer: RingWriter) -> None:
    """A damaged stream costs no descriptor."""
    poke(path, MAGIC, 0)
    assert 0 == writer.total
    before = os.open("/dev/null", os.O_RDONLY)
    os.close(before)
    with pytest.raises(StreamDamaged):
        RingReader.open(path)
    after = os.open("/dev/null", os.O_RDONLY)
    os.close(after)
    assert before == after


def test_pipes_grow_by_doubling_up_to_1_mib(pipe: Pipe) -> None:
    """A pipe of the default size grows as long as the answer is True, and never past 1 MiB."""
    sizes = [fcntl.fcntl(pipe.reading, fcntl.F_GETPIPE_SZ)]
    while grow_pipe(pipe.reading):
        sizes.append(fcntl.fcntl(pipe.reading, fcntl.F_GETPIPE_SZ))
    assert [sizes[0] * 2**n for n in range(len(sizes))] == sizes
    assert sizes[-1] <= MIB


def test_what_cannot_grow_does_not(path: Path, writer: RingWriter, monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
    """Files that are no pipes, descriptors that are not open, and a user's used-up allowance give False."""
    assert 0 == writer.total
    with path.open("rb") as file:
        assert not grow_pipe(file.fileno())
    assert not grow_pipe(-1)

    def no_more(_: int, command: int, *__: int) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "past pipe-user-pages-soft")
        return 65536

    monkeypatch.setattr(fcntl, "fcntl", no_more)
    assert not grow_pipe(pipe.reading)


def test_a_reader_that_is_overtaken_all_the_time_gets_no_wrong_byte(tmp_path: Path) -> None:
    """Beside a writer at full speed, in another process, each byte is at its offset and each line in order."""
    root = Path(stream.__file__).parents[1]
    script = root / "tests" / "soak" / "overtaken.py"
    options = ["--bytes", "300000000", "--capacity", "65536", "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, script, *options],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        check=False,
    )
    assert (0, b"") == (done.returncode, done.stderr)
