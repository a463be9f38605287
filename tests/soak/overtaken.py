"""A reader that is overtaken all the time never gets a byte that was not at its offset, nor a line out of place.

    python tests/soak/overtaken.py [--seconds N | --bytes N] [--capacity N] [--directory DIR]

`seq` writes numbered records of 16 bytes as fast as it can, a process drains them into a stream, and this one reads: at
random offsets through a RingReader, and in sequence through a StreamCursor. Ends with 1 at the first wrong byte.
"""

import argparse
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jobfs.cursor import StreamCursor
from jobfs.stream import SLACK, EndOfPipe, Evicted, RingReader, RingWriter, grow_pipe

FIRST = 10**14  # Numbers of 15 digits, so that record N starts at byte 16 * N.
RECORD = 16
READ_SIZE = 64 * 1024
LIMIT = 256 * 1024


class Wrong(Exception):  # noqa: N818 - what is reported is the sentence
    """The reader was given what the writer did not write there."""


@dataclass
class Figures:
    """What happened, for people; wrong bytes end the run."""

    exact: int = 0
    evicted: int = 0
    lines: int = 0
    skips: int = 0


def expected(offset: int, size: int) -> bytes:
    """Return what `seq` writes at an offset."""
    first = offset // RECORD
    records = b"".join(b"%d\n" % (FIRST + n) for n in range(first, (offset + size) // RECORD + 1))
    return records[offset - first * RECORD :][:size]


def drain(pipe_fd: int, writer: RingWriter) -> None:
    """Drain a pipe to its end, as a supervisor does."""
    os.set_blocking(pipe_fd, False)
    with select.epoll() as poller:
        poller.register(pipe_fd, select.EPOLLIN)
        while True:
            poller.poll()
            try:
                if writer.drain(pipe_fd, LIMIT) == LIMIT:
                    grow_pipe(pipe_fd)
            except EndOfPipe:
                writer.close()
                return


@contextmanager
def writing(path: str, capacity: int, records: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run `seq` and the process that drains it; without `records` until it is terminated."""
    writer = RingWriter.create(path, capacity)
    last = "inf" if records is None else str(FIRST + records - 1)
    with subprocess.Popen(["seq", str(FIRST), last], stdout=subprocess.PIPE) as seq:
        assert seq.stdout is not None
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                drain(seq.stdout.fileno(), writer)
                status = 0
            finally:
                os._exit(status)
        seq.stdout.close()
        writer.detach()
        try:
            yield seq
        finally:
            seq.terminate()
            _, status = os.waitpid(pid, 0)
    if status != 0:
        raise Wrong(f"the writer ended with wait status {status}")


def read_anywhere(reader: RingReader, figures: Figures) -> None:
    """Read once at a random offset, mostly where the writer is about to write, and compare."""
    state = reader.snapshot()
    edge = max(0, state.written - state.capacity - SLACK)  # Nothing below it can be left.
    reach = random.choice((SLACK // 8, SLACK // 2, state.written - edge))  # noqa: S311 - no secret
    offset = random.randint(edge, min(edge + reach, state.written))  # noqa: S311 - no secret
    try:
        data = reader.read(offset, random.randint(1, 4 * READ_SIZE))  # noqa: S311 - no secret
    except Evicted:
        figures.evicted += 1
        return
    if expected(offset, len(data)) != data:
        raise Wrong(f"{len(data)} bytes at {offset} are not those that were written there")
    figures.exact += len(data)


class Follower:
    """Reads one open file from its beginning, as `tail -f` does, and checks the lines."""

    def __init__(self, reader: RingReader, figures: Figures) -> None:
        """Start at offset 0."""
        self._cursor = StreamCursor(reader)
        self._cursor.polled()
        self._figures = figures
        self._offset = 0
        self._rest = b""
        self._previous = FIRST - 1

    @property
    def position(self) -> int:
        """Stream offset after the last byte read."""
        return self._cursor.position

    def read(self) -> bool:
        """Read once; False at end of file."""
        data = self._cursor.read(self._offset, READ_SIZE)
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._check(line)
        self._figures.lines += len(lines)
        return bool(data)

    def _check(self, line: bytes) -> None:
        """Lines are records, in order; half a record is followed by a skip."""
        following = self._previous + 1
        if line == b"%d" % following:
            self._previous = following
            return
        self._figures.skips += 1
        if len(line) == RECORD - 1 and int(line) > following:
            self._previous = int(line)
        elif line and (b"%d" % following).startswith(line):
            self._previous = following  # The rest of it is gone for good: it must not come again.
        else:
            raise Wrong(f"the line {line!r} after the record {self._previous}")


def run(path: str, capacity: int, seconds: float, size: int | None) -> tuple[int, Figures]:
    """Return how many bytes were written, and what the reader met."""
    figures = Figures()
    deadline = time.monotonic() + seconds
    with writing(path, capacity, None if size is None else size // RECORD) as seq, RingReader.open(path) as reader:
        follower = Follower(reader, figures)
        while True:
            closed = reader.snapshot().closed
            read_anywhere(reader, figures)
            more = follower.read()
            if closed and not more:
                break
            if size is None and time.monotonic() > deadline:
                seq.terminate()
        written = reader.snapshot().written
    if follower.position != written:
        raise Wrong(f"the end is at {written}, and the reader found it at {follower.position}")
    return written, figures


def main() -> None:
    """Run, and print what happened."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--bytes", type=int, help="write so many instead, however long it takes")
    parser.add_argument("--capacity", type=int, default=256 * 1024)
    parser.add_argument("--directory", help="where the stream is (a temporary one)")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        try:
            written, figures = run(f"{directory}/stream", options.capacity, options.seconds, options.bytes)
        except Wrong as error:
            sys.exit(str(error))
    passed = time.monotonic() - began
    sys.stdout.write(
        f"{written} bytes written in {passed:.1f} s ({written / passed / 1e9:.2f} GB/s), capacity {options.capacity}\n"
        f"at random offsets: {figures.exact} bytes exact, {figures.evicted} reads evicted\n"
        f"in sequence: {figures.lines} lines in order, {figures.skips} skips\n"
    )


if __name__ == "__main__":
    main()
