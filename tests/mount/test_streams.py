"""Reading output with the programs that people read files with: live, ended and evicted streams."""

from __future__ import annotations

import mmap
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.mount

CAPACITY = 64 * 1024
LINES = 200_000
ALL = sum(len(f"{number}\n") for number in range(1, LINES + 1))
# Writes a numbered record of 16 bytes for ever, as fast as the shell's own tools can.
RECORDS = "seq -f %015.0f 1 1000000000"


@pytest.fixture
def evicted(shared: Mounted) -> int:
    """A job whose stdout has evicted most of what it wrote."""
    return shared.run(f"--limit 64K seq {LINES}")


@pytest.fixture
def live(shared: Mounted) -> Iterator[int]:
    """A job that writes for ever, as fast as it can, and has evicted already."""
    job = shared.spawn("--limit 1M yes")
    until(lambda: shared.file("stdout", job).stat().st_size, lambda size: size > 4 << 20)
    yield job
    shared.ctl(f"kill -9 {job}")


def gate(tmp_path: Path, name: str = "gate") -> Path:
    """A FIFO that a job can wait at, once."""
    fifo = tmp_path / name
    os.mkfifo(fifo)
    return fifo


# Ended streams


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ('cat "$1"', b"".join(b"%d\n" % number for number in range(1, 10_001))),
        ('tail -n 2 "$1"', b"9999\n10000\n"),
        ('tail -c 6 "$1"', b"10000\n"),
        ('head -n 2 "$1"', b"1\n2\n"),
        ('head -c 3 "$1"', b"1\n2"),
        ('wc -l < "$1"', b"10000\n"),
        ('wc -c "$1" | cut -d" " -f1', b"48894\n"),
        ('tac "$1" | head -n 1', b"10000\n"),
        ('grep -c 99 "$1"', b"280\n"),
        ('sed -n 5000p "$1"', b"5000\n"),
        ('cp "$1" copy; cmp copy "$1" && echo same', b"same\n"),
        ('dd if="$1" bs=1000 skip=48 status=none', b"22\n9823\n9824\n"),
        ('stat -c "%s %F" "$1"', b"48894 regular file\n"),
        ('sort -rn "$1" | head -n 1', b"10000\n"),
        ('cmp "$1" "$1" && echo same', b"same\n"),
    ],
)  # fmt: skip
def test_programs_read_an_ended_stream(shared: Mounted, tmp_path: Path, program: str, expected: bytes) -> None:
    """What a program makes of a file on a disk, it makes of the output of a job that has ended."""
    job = shared.run("seq 10000")
    done = shared.sh(program, str(shared.file("stdout", job)), cwd=tmp_path)
    assert b"" == done.stderr
    assert done.stdout.startswith(expected)


def test_stream_is_verbatim(shared: Mounted, tmp_path: Path) -> None:
    """A stream is the bytes that the job wrote, verbatim."""
    raw = bytes(range(256)) * 3000
    (tmp_path / "raw").write_bytes(raw)
    job = shared.run(f"cat {tmp_path}/raw; cat {tmp_path}/raw >&2")
    assert [raw, raw] == [shared.read(job, name) for name in ("stdout", "stderr")]


def test_empty_stream(shared: Mounted) -> None:
    """A job that wrote nothing has empty streams."""
    job = shared.run("true")
    assert (b"", 0, 0) == (
        shared.read(job),
        *(shared.file("stdout", job).stat()[6:7]),
        shared.file("stderr", job).stat().st_blocks,
    )


def test_ended_stream_can_be_mapped(shared: Mounted) -> None:
    """Once the stream is closed and nothing was evicted, it can be mapped with MAP_SHARED."""
    job = shared.run("seq 10000")
    with (
        shared.file("stdout", job).open("rb") as file,
        mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as seen,
    ):
        assert b"10000\n" == seen[-6:]
        assert file.read() == seen[:]


def test_reads_at_offsets(shared: Mounted) -> None:
    """Offset N is the N-th byte that the job wrote."""
    job = shared.run("seq 10000")
    whole = shared.read(job)
    fd = os.open(shared.file("stdout", job), os.O_RDONLY)
    try:
        for offset in (40_000, 7, 0, 48_890, 48_894, 100_000, 4095):
            assert whole[offset : offset + 100] == os.pread(fd, 100, offset)
    finally:
        os.close(fd)


# Live streams


def test_output_is_readable_at_once(shared: Mounted, tmp_path: Path) -> None:
    """What the job wrote is readable while it lives, and the file grows as it writes."""
    fifo = gate(tmp_path)
    job = shared.spawn(f"echo one; read x < {fifo}; echo two; exec sleep 1000")
    assert b"one\n" == shared.until_output(job, b"one\n")
    assert 4 == shared.file("stdout", job).stat().st_size
    with shared.file("stdout", job).open("rb", buffering=0) as file:
        assert [b"one\n", b""] == [file.read(100), file.read(100)]
        fifo.write_text("go\n")
        assert b"two\n" == until(lambda: file.read(100))


def test_a_final_byte_is_read_by_who_had_met_the_end(shared: Mounted, tmp_path: Path) -> None:
    """A reader that has met the end reads on from there when more was written, also after the job's end."""
    fifo = gate(tmp_path)
    job = shared.spawn(f"read x < {fifo}; echo late")
    with shared.file("stdout", job).open("rb", buffering=0) as file:
        assert b"" == file.read(100)
        fifo.write_text("go\n")
        shared.until_ended(job)
        assert b"late\n" == file.read(100)


@pytest.mark.parametrize(
    "program", ["cat", "head -c 20000000", "wc -c", "grep -c y", "tail -n 3", "dd status=none if="]
)
def test_program_ends_on_a_running_yes(shared: Mounted, live: int, program: str) -> None:
    """End of file is where the stream stood at the first read, so that programs end on a job that writes for ever."""
    name = str(shared.file("stdout", live))
    done = shared.sh(
        f'{program}"$1" | head -c 1000000' if program.endswith("=") else f'{program} "$1" | tail -c 4', name
    )
    assert (0, b"") == (done.returncode, done.stderr)
    assert done.stdout


def test_cat_of_a_running_yes_has_what_is_retained(shared: Mounted, live: int) -> None:
    """`cat` of a live stream prints what is retained, whole lines of it."""
    output = shared.sh('cat "$1"', str(shared.file("stdout", live))).stdout
    assert (b"y\n" * (len(output) // 2), True) == (output, len(output) <= (1 << 20) + CAPACITY * 32)


class Tail:
    """A `tail` that runs beside the test, and what it has printed."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(["tail", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def lines(self, count: int) -> list[bytes]:
        """The next lines that it prints."""
        assert self._process.stdout is not None
        return [self._process.stdout.readline() for _ in range(count)]

    def stop(self) -> bytes:
        """Ends it, and gives the rest of what it printed."""
        self._process.terminate()
        return self._process.communicate()[0]


@pytest.mark.parametrize("options", [("-f",), ("-F",), ("-s", "0.1", "-n", "5", "-f"), ("-s", "0.1", "-n", "+1", "-f")])
def test_tail_follows_a_live_stream(shared: Mounted, tmp_path: Path, options: tuple[str, ...]) -> None:
    """`tail -f` and `tail -F` print each line once, also what comes after they have met the end."""
    gates = [gate(tmp_path, name) for name in ("one", "two")]
    job = shared.spawn(f"echo one; read x < {gates[0]}; echo two; read x < {gates[1]}; echo three")
    shared.until_output(job, b"one\n")
    tail = Tail(*options, str(shared.file("stdout", job)))
    try:
        assert [b"one\n"] == tail.lines(1)
        gates[0].write_text("go\n")
        assert [b"two\n"] == tail.lines(1)
        gates[1].write_text("go\n")
        assert [b"three\n"] == tail.lines(1)
    finally:
        assert b"" == tail.stop()


def test_tail_begins_near_the_end(shared: Mounted) -> None:
    """`tail -n 5 -f` begins with the last five lines."""
    job = shared.spawn("seq 50000; exec sleep 1000")
    shared.until_output(job, b"\n50000\n")
    tail = Tail("-n", "5", "-f", str(shared.file("stdout", job)))
    assert [b"%d\n" % number for number in range(49_996, 50_001)] == tail.lines(5)
    tail.stop()


def test_tail_of_a_job_that_outruns_it_goes_forward(shared: Mounted) -> None:
    """`tail -f` of a job that outruns it skips, never stops and never goes back."""
    job = shared.spawn(f"--limit 64K {RECORDS}")
    tail = Tail("-s", "0.05", "-f", str(shared.file("stdout", job)))
    try:
        seen = [line for line in tail.lines(60_000) if len(line) == 16]
    finally:
        tail.stop()
        shared.ctl(f"kill -9 {job}")
    numbers = [int(line) for line in seen]
    assert numbers == sorted(set(numbers))


# Evicted streams


def test_evicted_sizes(shared: Mounted, evicted: int) -> None:
    """`st_size` counts what was ever written, and `st_blocks` what is retained."""
    status = shared.file("stdout", evicted).stat()
    assert (ALL, CAPACITY // 512) == (status.st_size, status.st_blocks)
    done = shared.sh('du --block-size=1 "$1" | cut -f1; du -b "$1" | cut -f1', str(shared.file("stdout", evicted)))
    assert f"{CAPACITY}\n{ALL}\n" == done.stdout.decode()


@pytest.mark.parametrize(
    "program",
    [
        'cat "$1"',
        'cp "$1" copy; cat copy',
        'dd if="$1" bs=777 status=none',
        'cat < "$1"',
        'while read -r line; do echo "$line"; done < "$1"',  # it reads a buffer, and seeks back to the line's end
        '{ head -n 3; cat; } < "$1"',  # likewise
    ],
)
def test_evicted_stream_is_read_from_its_oldest_line(
    shared: Mounted, evicted: int, tmp_path: Path, program: str
) -> None:
    """A read that starts in evicted bytes starts at the oldest retained line, and the reads after it follow on."""
    done = shared.sh(program, str(shared.file("stdout", evicted)), cwd=tmp_path)
    numbers = [int(line) for line in done.stdout.splitlines()]
    assert list(range(numbers[0], LINES + 1)) == numbers
    assert CAPACITY - 7 < len(done.stdout) <= CAPACITY


def test_evicted_stream_keeps_its_offsets(shared: Mounted, evicted: int) -> None:
    """Offsets of retained bytes are what they were: a collector that keeps one resumes."""
    fd = os.open(shared.file("stdout", evicted), os.O_RDONLY)
    try:
        assert b"199999\n200000\n" == os.pread(fd, 1000, ALL - 14)
        assert b"" == os.pread(fd, 1000, ALL)
    finally:
        os.close(fd)


def test_tail_of_an_evicted_stream(shared: Mounted, evicted: int) -> None:
    """`tail` and `wc` of an evicted stream print what is retained at its end."""
    name = str(shared.file("stdout", evicted))
    assert b"199999\n200000\n" == shared.sh('tail -n 2 "$1"', name).stdout
    assert b"200000\n" == shared.sh('tail -c 7 "$1"', name).stdout


def test_records_through_an_eviction(shared: Mounted) -> None:
    """A reader that is overtaken meets records in order, none twice, and no halves glued together."""
    job = shared.spawn(f"--limit 64K {RECORDS}")
    numbers: list[int] = []
    try:
        with shared.file("stdout", job).open("rb", buffering=0) as file:
            rest = b""
            until(lambda: shared.file("stdout", job).stat().st_size, lambda size: size > 10 * CAPACITY)
            while len(numbers) < 50_000:
                chunk = rest + (file.read(5000) or b"")
                *lines, rest = chunk.split(b"\n")
                numbers += [int(line) for line in lines if len(line) == 15]
                assert all(len(line) <= 15 for line in lines)
    finally:
        shared.ctl(f"kill -9 {job}")
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - numbers[0] >= len(numbers) - 1


def test_disk_stays_within_its_bounds(jobs: Mounted) -> None:
    """The disk that is held for a stream stays within its capacity and 1 MiB, at full speed of the writer."""

    def held() -> int:
        return sum(path.stat().st_blocks * 512 for path in (jobs.state / "jobs").iterdir())

    before = held()
    job = jobs.spawn("--limit 1M yes")
    stdout = jobs.file("stdout", job)
    most = 0
    while stdout.stat().st_size < 64 << 20:
        most = max(most, held() - before)
    assert 1 << 20 <= most <= 2 << 20


def test_stderr_and_stdout_are_apart(shared: Mounted) -> None:
    """`stdout` and `stderr` are streams of their own, each with its own capacity."""
    job = shared.run("--limit 4096 seq 5000; echo oops >&2")
    assert (b"oops\n", b"5000\n") == (shared.read(job, "stderr"), shared.read(job)[-5:])
    assert 0 == shared.info(job)["stderr"]["dropped"]  # type: ignore[index]


# The kernel's cache


def test_closed_stream_is_not_stale(shared: Mounted, tmp_path: Path) -> None:
    """Who read a stream while it lived and reads it again after its end sees all of it."""
    fifo = gate(tmp_path)
    job = shared.spawn(f"seq 3000; read x < {fifo}; seq 3001 6000")
    shared.until_output(job, b"\n3000\n")
    fifo.write_text("go\n")
    shared.until_closed(job)
    assert b"".join(b"%d\n" % number for number in range(1, 6001)) == shared.read(job)
    assert len(shared.read(job)) == shared.file("stdout", job).stat().st_size
