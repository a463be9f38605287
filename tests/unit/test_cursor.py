"""What plain reads of an open stream file give, whatever was evicted."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.cursor import LINE_SEARCH, StreamCursor
from jobfs.stream import Evicted, StreamState


class Source:
    """A stream in memory; `before_read` may write between a snapshot and the read that relies on it."""

    def __init__(self, capacity: int, slack: int = 0) -> None:
        self.data = bytearray()
        self.capacity = capacity
        self.slack = slack
        self.before_read: Callable[[], None] = lambda: None
        self.calls: list[str] = []

    def append(self, data: bytes) -> None:
        """Write."""
        self.data += data

    def snapshot(self) -> StreamState:
        """Return the counts."""
        self.calls.append("snapshot")
        written = len(self.data)
        return StreamState(written, max(0, written - self.capacity), closed=False, mtime_ns=0, capacity=self.capacity)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes, or raise Evicted."""
        self.calls.append("read")
        self.before_read()
        start = max(0, len(self.data) - self.capacity)
        if offset < start - self.slack:
            raise Evicted(start)
        return bytes(self.data[offset : offset + size])


class OpenFile:
    """What a program has: a position in the file that moves with each read."""

    def __init__(self, cursor: StreamCursor, position: int = 0) -> None:
        self.cursor = cursor
        self.position = position

    def read(self, size: int) -> bytes:
        """Give the next bytes, as the system call does."""
        data = self.cursor.read(self.position, size)
        self.position += len(data)
        return data

    def read_all(self, size: int = 10) -> bytes:
        """Read to the end of the file, as cat does."""
        return b"".join(iter(lambda: self.read(size), b""))


def source_of(data: bytes, capacity: int = 1000, slack: int = 50) -> Source:
    """Return a stream to which `data` was written."""
    source = Source(capacity, slack)
    source.append(data)
    return source


def opened(source: Source, position: int = 0) -> OpenFile:
    """Open a file of a stream."""
    return OpenFile(StreamCursor(source), position)


def lines(first: int, end: int) -> bytes:
    """Return numbered lines of four bytes."""
    return b"".join(b"%03d\n" % n for n in range(first, end))


def test_a_read_of_retained_bytes_is_exact() -> None:
    """Any offset that is retained gives its bytes, in any order."""
    source = source_of(lines(0, 100), capacity=40)
    cursor = StreamCursor(source)
    for offset in (380, 361, 399, 360, 377):
        assert bytes(source.data[offset : offset + 10]) == cursor.read(offset, 10)


def test_a_read_of_retained_bytes_costs_one_snapshot_and_one_read() -> None:
    """The common case does nothing twice."""
    source = source_of(lines(0, 100))
    StreamCursor(source).read(40, 4)
    assert ["snapshot", "read"] == source.calls


def test_reading_from_the_beginning_gives_what_is_retained() -> None:
    """The whole lines among the retained bytes come, in full reads, and then the end."""
    source = source_of(lines(0, 100), capacity=41)
    file = opened(source)
    assert [b"090\n091\n09", b"2\n093\n094\n", b"095\n096\n09", b"7\n098\n099\n", b"", b""] == [
        file.read(10) for _ in range(6)
    ]


def test_the_oldest_line_is_not_dropped_where_it_is_whole() -> None:
    """A line that starts with the very oldest byte is the oldest retained line."""
    assert lines(90, 100) == opened(source_of(lines(0, 100), capacity=40)).read_all()


def test_a_part_of_a_line_is_left_out() -> None:
    """A line that lost its first byte is not delivered."""
    assert lines(91, 100) == opened(source_of(lines(0, 100), capacity=39)).read_all()


def test_without_a_line_within_64_kib_the_oldest_byte_is_where_it_starts() -> None:
    """A stream without newlines is delivered from its oldest byte on."""
    data = b"x" * 200_000 + b"\nend"
    assert data[-100_000:] == opened(source_of(data, capacity=100_000)).read_all(4096)


@pytest.mark.parametrize(("before", "expected"), [(LINE_SEARCH - 2, b"end"), (LINE_SEARCH - 1, None)])
def test_64_kib_are_searched_for_a_line(before: int, expected: bytes | None) -> None:
    """A line that starts among the oldest 65,536 bytes is found, one after them is not."""
    retained = b"x" * before + b"\nend"
    source = source_of(b"x" * 1000 + retained, capacity=len(retained))
    assert (retained if expected is None else expected) == opened(source).read_all(100_000)


def test_a_newline_at_the_very_end_starts_no_line() -> None:
    """One line longer than the capacity is delivered from its oldest byte on, not dropped."""
    assert b"x" * 9 + b"\n" == opened(source_of(b"x" * 100 + b"\n", capacity=10)).read_all()


def test_who_goes_back_in_its_last_buffer_ends_where_the_stream_stood() -> None:
    """A shell seeks back to the end of each line that it reads, and shall end on a job that writes faster than that."""
    source = source_of(lines(0, 20), capacity=10_000)
    file = opened(source)
    seen = []
    while chunk := file.read(30):
        source.append(lines(20, 40))
        line, newline, rest = chunk.partition(b"\n")
        file.position -= len(rest)
        seen.append(line + newline)
    assert lines(0, 20) == b"".join(seen)


def test_a_second_look_from_the_beginning_starts_at_the_oldest_line_again() -> None:
    """As less does: 256 bytes at 0, then all from 0 on."""
    source = source_of(lines(0, 200), capacity=400)
    file = opened(source)
    assert lines(100, 164) == file.read(256)
    file.position = 0
    assert lines(100, 200) == file.read_all(64)


def test_reads_that_follow_on_go_before_the_offset() -> None:
    """In a sequence that began in evicted bytes, an offset that happens to be retained is no absolute one."""
    source = source_of(lines(0, 30), capacity=80)
    file = opened(source)
    file.read(60)
    assert source.snapshot().start <= file.position
    assert lines(25, 30) == file.read(100)


def test_who_goes_back_in_a_sequence_finds_what_was_there() -> None:
    """As bash does for each line: read a buffer, and seek back to where the line ended."""
    source = source_of(lines(0, 100), capacity=160)
    file = opened(source)
    seen = []
    while chunk := file.read(30):
        line, newline, rest = chunk.partition(b"\n")
        file.position -= len(rest)
        seen.append(line + newline)
    assert lines(60, 100) == b"".join(seen)


def test_who_goes_back_behind_a_skip_starts_at_the_oldest_line() -> None:
    """What a sequence was given before it was overtaken is gone, and what it was given after is there."""
    source = source_of(lines(0, 20), capacity=40)
    file = opened(source)
    file.cursor.polled()
    assert lines(10, 14) == file.read(16)
    source.append(lines(20, 40))
    assert lines(30, 34) == file.read(16)
    file.position -= 8
    assert lines(32, 34) == file.read(8)
    file.position -= 20
    assert lines(30, 32) == file.read(8)


def test_an_overtaken_sequence_goes_on_at_a_line() -> None:
    """A reader that was at the end of a line goes on at the oldest line, with nothing between."""
    source = source_of(lines(0, 10), capacity=40)
    file = opened(source)
    assert lines(0, 2) == file.read(8)
    source.append(lines(10, 90))
    file.cursor.polled()
    assert lines(80, 90) == file.read(100)


def test_an_overtaken_half_line_is_ended() -> None:
    """A newline comes between a line's first half and the next line, and counts as delivered."""
    source = source_of(lines(0, 10), capacity=40)
    file = opened(source)
    file.cursor.polled()
    assert b"000\n00" == file.read(6)
    source.append(lines(10, 90))
    assert [b"\n080\n081\n", b"082\n083\n08", b"4\n085\n086\n"] == [file.read(n) for n in (9, 10, 10)]
    assert 35 == file.position


@pytest.mark.parametrize("size", [1, 2])
def test_the_newline_may_be_all_that_fits(size: int) -> None:
    """A small read is filled by the newline, and the line follows in the next one."""
    source = source_of(lines(0, 10), capacity=40)
    file = opened(source)
    file.cursor.polled()
    file.read(6)
    source.append(lines(10, 90))
    assert b"\n080\n081\n" == b"".join(file.read(size) for _ in range(9))[:9]


def test_a_newline_is_not_repeated() -> None:
    """A reader that is overtaken again right after the newline gets no empty line."""
    source = source_of(lines(0, 10), capacity=40)
    file = opened(source)
    file.cursor.polled()
    file.read(6)
    source.append(lines(10, 90))
    assert b"\n" == file.read(1)
    source.append(lines(90, 180))
    assert lines(170, 180) == file.read(100)


def test_a_read_is_filled_across_a_skip() -> None:
    """A read that is overtaken between its bytes gives as many as were asked for."""
    source = source_of(lines(0, 10), capacity=40, slack=0)
    file = opened(source)
    file.cursor.polled()
    file.read(2)
    writes = iter([lines(10, 90)])
    source.before_read = lambda: source.append(next(writes, b""))
    # Without slack nobody can tell that line 80 is whole.
    assert b"\n081\n082\n083\n" == file.read(13)


def test_reads_end_where_the_stream_stood_at_the_first_one() -> None:
    """A program that reads to the end of a stream which grows with each read comes to it."""
    source = source_of(lines(0, 10), capacity=4000)
    file = opened(source)
    source.before_read = lambda: source.append(lines(500, 520))
    assert lines(0, 10) == file.read_all(4)


def test_reads_end_also_where_all_that_there_was_is_evicted() -> None:
    """A program that is overtaken past the end it was to reach meets it."""
    source = source_of(lines(0, 10), capacity=40)
    file = opened(source)
    assert lines(0, 1) == file.read(4)
    source.append(lines(10, 90))
    assert b"" == file.read(4)
    assert lines(80, 90) == file.read(100)


def test_once_the_end_was_met_it_is_the_current_one() -> None:
    """After a read of no bytes, reads follow the stream."""
    source = source_of(b"one\n")
    file = opened(source)
    assert b"one\n" == file.read(100)
    source.append(b"two\n")
    assert [b"", b"two\n", b""] == [file.read(100) for _ in range(3)]
    source.append(b"three\n")
    assert [b"three\n", b""] == [file.read(100) for _ in range(2)]


def test_reads_get_as_far_as_the_size_that_was_told() -> None:
    """Who looks at the file's size again, as tail -f does, reads up to it; more than that is still not there."""
    source = source_of(b"one")
    file = opened(source)
    assert b"one" == file.read(10)
    source.append(b"two")
    file.cursor.told(6)
    source.append(b"three")
    assert [b"two", b"", b"three"] == [file.read(10) for _ in range(3)]


def test_once_polled_the_end_is_the_current_one() -> None:
    """A handle that was polled reads what there is, without an end of file before."""
    source = source_of(b"one\n")
    file = opened(source)
    file.read(2)
    source.append(b"two\n")
    file.cursor.polled()
    assert b"e\ntwo\n" == file.read(100)


def test_tail_f_skips_and_goes_on() -> None:
    """A reader that asks for the size minus what it read, and is outrun, sees whole lines in order, to the last."""
    source = source_of(b"")
    source.capacity = 100
    file = opened(source)
    seen = b""
    written = 0
    for burst in (3, 10, 200, 1, 300, 0, 7):
        source.append(lines(written, written + burst))
        written += burst
        while data := file.read(max(1, len(source.data) - file.position)):
            seen += data
        assert b"%03d\n" % (written - 1) == seen[-4:]
    numbers = [int(line) for line in seen.splitlines()]
    assert sorted(set(numbers)) == numbers
    assert file.position <= len(source.data)


def test_tail_n_reads_blocks_from_the_end() -> None:
    """Blocks that are read backwards from the size are exact, and the file is followed from the end on."""
    source = source_of(lines(0, 500), capacity=400)
    file = opened(source)
    blocks: list[bytes] = []
    for offset in (1950, 1900, 1850):
        file.position = offset
        blocks.insert(0, file.read(50))
    assert bytes(source.data[1850:]) == b"".join(blocks)
    file.position = 2000
    assert b"" == file.read(100)
    source.append(lines(500, 510))
    assert lines(500, 510) == file.read(100)


def test_a_collector_resumes_at_an_absolute_offset() -> None:
    """A new handle that reads at a remembered offset, still retained, goes on exactly there."""
    source = source_of(lines(0, 500), capacity=400)
    assert bytes(source.data[1801:]) == opened(source, 1801).read_all(64)


def test_an_empty_read_elsewhere_does_not_break_a_sequence() -> None:
    """A probe at the end of the file leaves the reads that follow on as they were."""
    source = source_of(lines(0, 500), capacity=400)
    file = opened(source)
    first = file.read(10)
    assert b"" == file.cursor.read(2000, 10)
    assert lines(400, 500) == first + file.read_all()


def test_a_stream_without_a_byte_is_empty_until_it_is_there() -> None:
    """A file that was opened before the first byte ends at once, and follows the stream from when it exists."""
    file = OpenFile(StreamCursor(None))
    assert b"" == file.read(100)
    file.cursor.attach(source_of(b"late\n"))
    assert b"late\n" == file.read(100)


def test_a_read_of_no_bytes_meets_no_end() -> None:
    """A read of size 0 changes nothing."""
    source = source_of(b"one\n")
    file = opened(source)
    assert b"" == file.read(0)
    assert b"on" == file.read(2)
    assert b"" == file.read(0)
    source.append(b"two\n")
    assert b"e\n" == file.read(100)


def test_the_position_is_in_the_stream() -> None:
    """A handle knows what was delivered last, also where file and stream offsets differ."""
    source = source_of(lines(0, 100), capacity=40)
    cursor = StreamCursor(source)
    assert 0 == cursor.position
    cursor.read(0, 4)
    assert 364 == cursor.position
    cursor.read(390, 4)
    assert 394 == cursor.position


def test_reading_backwards_is_noticed() -> None:
    """A handle that ever read before the end of its last read has gone back; one that skipped forward has not."""
    cursor = StreamCursor(source_of(lines(0, 100)))
    cursor.read(0, 4)
    cursor.read(100, 4)
    assert not cursor.went_back
    cursor.read(0, 4)
    cursor.read(4, 4)
    assert cursor.went_back


def test_a_writer_that_laps_each_read_is_kept_up_with() -> None:
    """However often the oldest bytes go while they are read, a reader gets on, at the start of a line."""
    source = source_of(lines(0, 100), capacity=400, slack=0)
    file = opened(source)
    file.cursor.polled()
    file.read(6)
    source.append(lines(100, 300))
    numbers = iter(range(300, 999))

    def write() -> None:
        n = next(numbers)
        source.append(lines(n, n + 20))

    source.before_read = write
    data = file.read(40)
    assert b"\n" == data[:1]
    seen = [int(line) for line in data.splitlines()[1:-1]]
    assert list(range(seen[0], seen[0] + len(seen))) == seen


def test_a_reader_that_never_gets_a_byte_says_so() -> None:
    """A stream that is overwritten whole at each of ten attempts is no end of file."""
    source = source_of(lines(0, 100), capacity=40, slack=0)
    source.before_read = lambda: source.append(lines(0, 100))
    cursor = StreamCursor(source)
    cursor.polled()
    with pytest.raises(Evicted):
        cursor.read(0, 10)
    source.before_read = lambda: None
    assert lines(91, 100) == opened(source).read_all()


def last_in_order(seen: bytes, written: list[bytes]) -> int:
    """Check that `seen` is lines in order, each whole or cut at its end; return the number of the last one."""
    last = -1
    for line in seen.split(b"\n")[:-1]:
        assert line != b""
        # Cut inside its number, it may be any that begins so.
        number = int(line[:6]) if b":" in line else last + 1
        while b":" not in line and not written[number].startswith(line):
            number += 1
        assert number > last
        assert written[number].startswith(line)
        last = number
    return last


@given(
    capacity=st.integers(1600, 4000),  # A sixteenth has the start of a line.
    slack=st.sampled_from([0, 1, 500]),
    longest=st.integers(0, 40),
    chunk=st.integers(1, 5000),
    rng=st.randoms(use_true_random=False),
)
def test_no_line_is_glued_repeated_or_out_of_place(
    capacity: int, slack: int, longest: int, chunk: int, rng: random.Random
) -> None:
    """Whatever is written before and during each read, a sequence is lines in order, to the newest one."""
    source = Source(capacity, slack)
    written: list[bytes] = []

    def write(most: int) -> None:
        for _ in range(rng.randint(0, most)):
            written.append(b"%06d:%s\n" % (len(written), b"x" * rng.randint(0, longest)))
            source.append(written[-1])

    write(200)
    file = opened(source)
    file.cursor.polled()
    source.before_read = lambda: write(3)
    seen = b""
    for _ in range(30):
        write(rng.choice((0, 0, 200)))
        end = len(source.data)
        data = file.read(chunk)
        seen += data
        assert chunk == len(data) or file.cursor.position >= end
    source.before_read = lambda: None
    seen += file.read_all(chunk)
    assert len(written) - 1 == last_in_order(seen, written)
    assert file.position == len(seen) <= len(source.data)


@given(
    capacity=st.integers(1, 300),
    steps=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 1200), st.integers(1, 200)), max_size=30),
)
def test_reads_that_do_not_follow_on_are_exact_where_nothing_was_evicted(
    capacity: int, steps: list[tuple[int, int, int]]
) -> None:
    """Beside what the last read gave and what follows on from it, retained bytes are found at their offsets."""
    rng = random.Random(1)  # noqa: S311 - no secret
    source = Source(capacity, slack=10)
    cursor = StreamCursor(source)
    cursor.polled()
    last = range(1)
    for written, offset, size in steps:
        source.append(bytes(rng.choices(b"ab\n", k=written)))
        data = cursor.read(offset, size)
        if offset not in last and source.snapshot().start <= offset:
            assert bytes(source.data[offset : offset + size]) == data
        if data:
            last = range(offset, offset + len(data) + 1)


@given(data=st.binary(max_size=600), capacity=st.integers(1, 700), size=st.integers(1, 100))
def test_what_is_retained_is_delivered_to_the_last_byte(data: bytes, capacity: int, size: int) -> None:
    """Reading a stream at rest from 0 on gives its retained bytes, less at most the part of a line at their head."""
    seen = opened(source_of(data, capacity)).read_all(size)
    retained = data[max(0, len(data) - capacity) :]
    assert retained.endswith(seen)
    left_out = retained[: len(retained) - len(seen)]
    assert b"\n" not in left_out[:-1]
    assert seen or not retained
