"""What one open `stdout`, `stderr` or `events` file remembers, so that plain `read`s make sense of a bounded stream.

Two kinds of offsets meet here. Stream offsets are absolute; file offsets are what the reader's system calls say. They
are the same until a read starts in evicted bytes: it is given the oldest retained line instead, and the reads that
follow on from it follow on in the stream, so that from there on the two differ. Such a run of reads is a sequence.
What the last read of it gave is found again by a program that goes back in that.
"""

from dataclasses import dataclass
from typing import Protocol

from jobfs.stream import Evicted, StreamState

LINE_SEARCH = 64 * 1024
"""How many bytes are searched for the start of a line before a sequence goes on inside one."""

_ATTEMPTS = 10


class StreamSource(Protocol):
    """A stream to read from; `RingReader` is one."""

    def snapshot(self) -> StreamState:
        """Return what the stream is now."""

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at exactly these stream offsets, short only at the end; raise Evicted where one is gone."""


class StreamCursor:
    """One open file of a stream. Not thread-safe: the reads of one open file come one at a time."""

    def __init__(self, source: StreamSource | None) -> None:
        """Read from `source`, or from an empty stream until there is one (see `attach`)."""
        self._source = source
        self._first_end: int | None = None  # Where the stream stood at the first read.
        self._live = False  # End of file was met, or the file polled: from then on it is the current end.
        self._next = 0  # File offset at which a read would follow on ...
        self._position = 0  # ... and the stream offset that it means,
        self._inside_line = False  # ... and whether the last byte delivered was not a newline.
        self._last = range(-1, -1)  # File offsets of what the last read gave, after a skip if there was one, ...
        self._shift = 0  # ... and what makes stream offsets of them.
        self._went_back = False

    @property
    def position(self) -> int:
        """Stream offset after the last byte delivered, 0 before the first: poll says POLLIN for bytes past it."""
        return self._position

    @property
    def went_back(self) -> bool:
        """Whether a read ever started before the end of the one before it; such a file polls as a regular one does."""
        return self._went_back

    def attach(self, source: StreamSource) -> None:
        """Read from `source` from now on: the stream of a file that was opened before its first byte."""
        self._source = source

    def told(self, size: int) -> None:
        """Note that somebody was told that the file has `size` bytes: reads get that far.

        A program that asks for the size and then reads up to it, as tail -f and less do, must not meet an end before.
        """
        if self._first_end is not None:
            self._first_end = max(self._first_end, size)

    def polled(self) -> None:
        """Note that the file was polled: from now on, end of file is the stream's current end."""
        self._live = True

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes for a read at file offset `offset`, fewer only at the end, none past it.

        Raises what the source raises, but Evicted only where the writer lapped the reader ten times in a row.
        """
        if size <= 0:
            return b""
        sequence = self._sequence_at(offset)
        data = b"" if self._source is None else self._fill(self._source, sequence, size)
        if not data:  # It has moved nothing: a probe at the end of the file does not break the sequence.
            self._live = True
            return data
        self._went_back = self._went_back or offset < self._next
        self._next = offset + len(data)
        self._position = sequence.position
        self._inside_line = sequence.inside_line
        self._last = range(self._next - sequence.taken, self._next)
        self._shift = self._position - self._next
        return data

    def _sequence_at(self, offset: int) -> "_Sequence":
        """Where a read at a file offset goes on or starts."""
        if offset == self._next:
            return _Sequence(self._position, self._inside_line)
        # Whoever reads a buffer and goes back to where its line ended, as bash and head do, goes back in what it got.
        return _Sequence(offset + (self._shift if offset in self._last else 0), inside_line=False)

    def _fill(self, source: StreamSource, sequence: "_Sequence", size: int) -> bytes:
        """Move the sequence on by `size` bytes, or to the end; a read that meets no eviction is one pass."""
        pieces: list[bytes] = []
        room = size
        attempt = 0
        state = source.snapshot()
        if self._first_end is None:
            self._first_end = state.written
        while room:
            end = state.written if self._live else self._first_end
            if end <= max(sequence.position, state.start):
                break
            try:
                if sequence.position < state.start:
                    piece = sequence.skip(source, state.start, end, attempt)
                else:
                    piece = sequence.take(source, min(room, end - sequence.position))
                    attempt = 0
            except Evicted:
                attempt += 1
                if attempt == _ATTEMPTS:
                    if pieces:
                        break
                    raise
                state = source.snapshot()
                continue
            pieces.append(piece)
            room -= len(piece)
        return b"".join(pieces)  # Of a single piece, this is the piece itself: nothing is copied.


@dataclass(slots=True)
class _Sequence:
    """A run of reads that follow on from each other, as far as it has come."""

    position: int
    """Stream offset of the next byte."""
    inside_line: bool
    """The last byte delivered was not a newline."""
    taken: int = 0
    """How many bytes were delivered since it last skipped."""

    def take(self, source: StreamSource, size: int) -> bytes:
        data = source.read(self.position, size)
        self.position += len(data)
        self.taken += len(data)
        self.inside_line = not data.endswith(b"\n")
        return data

    def skip(self, source: StreamSource, start: int, end: int, attempt: int) -> bytes:
        """Go to the oldest retained line, and return what is to be put before it."""
        # Where the writer was faster, go further in: to the newest half, quarter, eighth, and at last sixteenth, which
        # has nearly all of the stream between itself and the writer, and a line's start still.
        oldest = end - max(1, (end - start) >> min(max(0, attempt - 1), 4))
        # The byte before the oldest tells whether a line starts there. Evicted as it may be, a slack mostly has
        # it still: it is asked for once.
        before_oldest = 1 if oldest > start or attempt == 0 else 0
        self.position = _first_line(source, oldest, end, before_oldest)
        newline = b"\n" if self.inside_line else b""
        self.inside_line = False
        self.taken = 0
        return newline


def _first_line(source: StreamSource, oldest: int, end: int, before: int) -> int:
    """Return where the first line starts, looking from `before` bytes before `oldest` on; without one, `oldest`."""
    first = oldest - before
    window = source.read(first, min(LINE_SEARCH, end - first))
    line = first + window.find(b"\n") + 1
    return line if b"\n" in window and line < end else oldest
