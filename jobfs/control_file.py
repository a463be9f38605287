"""What one open `ctl` file remembers: the line that is not finished, what was refused, and the replies not yet read.

It decides which commands a write runs, and what write(2), close(2) and read(2) answer; it runs nothing itself. The
caller runs the steps of a batch one after another and reports each: `succeeded`, or `failed` and then no more of them;
after the last one, `commit`. Offsets are those that the kernel sends: one file offset, moved by reads and writes alike.

A write that fails is as if it had not been, with one exception. The line that earlier writes began is dropped with it,
for else its beginning could be run with another end, or its end, which writers send again, as a command of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from jobfs.control import MAX_LINE, USAGE, Command, parse_line
from jobfs.errors import BadCommand, JobfsError, LineTooLong
from jobfs.text import encode, printable

__all__ = ["MAX_LINE", "MAX_REPLIES", "Batch", "ControlFile", "Step"]

MAX_REPLIES = 1 << 20
"""How many bytes of replies are kept; past it the oldest go, whole lines of them."""

# A writer whose buffer of whole blocks was flushed at its end has most likely been cut short: buffers are 512, 4096 ...
_BLOCK = 512

# How many refused writes are known again; a writer sends the same one twice, and several may share the open file.
_REFUSED = 4

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Step(Generic[W]):
    """A command to run, and who wrote it.

    Its line begins in the write's data at `start` (0 also where earlier writes began it) and `end` is just past its
    newline. Both are 0 for a line that was taken without one.
    """

    command: Command
    writer: W
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """What one write asks for: `steps`, in order. The rest is what `ControlFile` needs to answer for it."""

    steps: tuple[Step[W], ...]
    offset: int
    data: bytes
    writer: W
    resumes: bool


@dataclass(slots=True)
class _Unterminated(Generic[W]):
    """A line whose newline has not come, who wrote last, and how many bytes that was."""

    text: bytearray
    writer: W
    written: int


@dataclass(slots=True)
class _Refusal:
    """A write that failed and may be sent again: where it began, how, and what it is told."""

    offset: int
    beginning: bytes
    error: JobfsError
    reply_read: bool = False


class ControlFile(Generic[W]):
    """One open `ctl`: the root's, or with `job` that job's own. `W` stands for whoever writes.

    `max_line` bounds, in bytes, a line and what is kept of an unfinished one.
    """

    def __init__(self, *, job: str | None = None, max_line: int = MAX_LINE) -> None:
        self._job = job
        self._max_line = max_line
        self._written = False
        self._unterminated: _Unterminated[W] | None = None
        self._batch: Batch[W] | None = None
        self._refused: deque[_Refusal] = deque(maxlen=_REFUSED)
        self._retry: tuple[bytes, JobfsError] | None = None
        self._failed: tuple[int, bytes] | None = None
        self._discarding = False
        self._replies = _Replies()

    def receive(self, offset: int, data: bytes, writer: W) -> Batch[W]:
        """The commands that a write of `data` at `offset` completes, all of them parsed.

        Raises what the write is to fail with; then none of them is to be run and nothing of the write is kept.
        A write of a line that is too long fails with LineTooLong, and so do all writes from there up to and including
        the first that ends with a newline: what they bring is, or may be, the rest of that line.
        """
        if data:
            self._written = True
            self._replies.written_at(offset)
            if self._discarding:
                raise self._discard(offset, data)
            self._refuse_again(offset, data)
            self._try_again(offset, data)
        steps = self._parse(offset, data, writer)
        batch = Batch(steps, offset, data, writer, resumes=self.pending and b"\n" in data)
        if batch.resumes:
            # From here on the line is the batch's: a read or close meanwhile must not take its beginning for a command.
            self._unterminated = None
        self._batch = batch
        return batch

    def succeeded(self, reply: str) -> None:
        """Queue the reply of a step that ran, a line without its newline."""
        self._replies.add(reply)

    def failed(self, step: Step[W], error: JobfsError) -> int:
        """Queue the reply of a step that failed, and give the count of bytes that the write returns: a short write.

        Raises `error` instead where no command of the write came before. The steps after it are not to be run. Where
        the write was short, its writer's next write is the retry of the rest, and `receive` gives it the error once.
        """
        self._replies.add_error(error)
        if not step.end or self._batch is None:  # it came from `finish`, and no write answers for it
            raise error
        batch, self._batch = self._batch, None
        if step is batch.steps[0]:
            if batch.resumes:
                self._remember(batch.offset, _first_line(batch.data), error)
            else:
                self._failed = (batch.offset, batch.data[: step.end])
            raise error
        self._refused.clear()
        self._retry = (batch.data[step.start : step.end], error)
        return step.start

    def commit(self, batch: Batch[W]) -> int:
        """Keep what follows the batch's last newline, all its steps having run; gives what the write returns."""
        self._batch = None
        if not batch.data:
            return 0
        self._refused.clear()
        rest = batch.data[batch.data.rfind(b"\n") + 1 :]
        if self._unterminated is not None:
            self._unterminated.text += rest
            self._unterminated.writer = batch.writer
            self._unterminated.written = len(batch.data)
        elif rest:
            self._unterminated = _Unterminated(bytearray(rest), batch.writer, len(batch.data))
        return len(batch.data)

    @property
    def pending(self) -> bool:
        """Whether an unterminated line is waiting for its newline, a read, or the close."""
        return self._unterminated is not None

    def finish(self) -> Step[W] | None:
        """Take the unterminated line, to run it before a read; None where there is none or it says nothing.

        Raises BadCommand where it does not parse. That error and a later one of the step are replies too.
        """
        return self._take_unterminated(closing=False)

    def finish_on_close(self) -> Step[W] | None:
        """Take the unterminated line as `finish` does, when the one who opened the file closes it.

        Where the last write filled a number of whole blocks, the line was most likely cut short: BadCommand.
        """
        return self._take_unterminated(closing=True)

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes of replies not read yet, or of those read last where `offset` lies in them.

        Empty at the end. A file that was never written gives the usage text. What is unterminated is not run by this:
        `finish` comes first.
        """
        if not self._written:
            return USAGE.encode()[offset : offset + size]
        for refusal in self._refused:
            refusal.reply_read = True
        self._failed = None
        return self._replies.read(offset, size)

    def _parse(self, offset: int, data: bytes, writer: W) -> tuple[Step[W], ...]:
        # The tail first: whatever else is wrong with the write, what follows a line too long is the rest of it.
        tail = len(data) - (data.rfind(b"\n") + 1)
        if self._unterminated and b"\n" not in data:
            tail += len(self._unterminated.text)
        if tail > self._max_line:
            raise self._refuse(offset, data, len(data), self._too_long())
        steps = []
        begun = bytes(self._unterminated.text) if self._unterminated and b"\n" in data else b""
        start = 0
        while end := data.find(b"\n", start) + 1:
            try:
                command = self._parse_line(begun + data[start : end - 1])
            except JobfsError as error:
                raise self._refuse(offset, data, end, error) from None
            if command is not None:
                steps.append(Step(command, writer, start, end))
            begun = b""
            start = end
        return tuple(steps)

    def _parse_line(self, line: bytes) -> Command | None:
        if len(line) > self._max_line:
            raise self._too_long()
        return parse_line(line, job=self._job)

    def _too_long(self) -> LineTooLong:
        return LineTooLong(f"a line is longer than {self._max_line} bytes; it is dropped")

    def _refuse(self, offset: int, data: bytes, end: int, error: JobfsError) -> JobfsError:
        """Give up the write because of its line that ends at `end`, and what earlier writes began; gives the error."""
        self._replies.add_error(error)
        self._discarding = isinstance(error, LineTooLong) and not data.endswith(b"\n")
        # What must not be run when it comes again is the end of a line that earlier writes began. Without such a line
        # any writer may send the same again, and gets the same errors; only the reply would be one too many.
        self._remember(offset, _first_line(data) if self.pending else data[:end], error)
        self._unterminated = None
        return error

    def _discard(self, offset: int, data: bytes) -> JobfsError:
        """Drop the write, which starts with the rest of a line that was too long; gives the error."""
        error = self._too_long()
        self._discarding = not data.endswith(b"\n")
        self._remember(offset, _first_line(data), error)
        return error

    def _remember(self, offset: int, beginning: bytes, error: JobfsError) -> None:
        # A beginning without a newline is a line too long; `_discarding` sees to what follows it.
        if beginning.endswith(b"\n"):
            self._refused.append(_Refusal(offset, beginning, error))

    def _refuse_again(self, offset: int, data: bytes) -> None:
        """Raise the error of an earlier write, if this is its retry.

        The rest of a short write gets its error once: who still tries then wants it run. A write that was refused
        gets its error for as long as it comes again, until another write is taken.
        """
        retry, self._retry = self._retry, None
        if retry is not None and data.startswith(retry[0]):
            raise retry[1].with_traceback(None)
        for refusal in self._refused:
            if offset == refusal.offset and data.startswith(refusal.beginning):
                if refusal.reply_read:
                    # Who has read the reply and writes the same again waits for another one.
                    self._replies.add_error(refusal.error)
                    refusal.reply_read = False
                raise refusal.error.with_traceback(None)

    def _try_again(self, offset: int, data: bytes) -> None:
        """Take back the reply to a failed command that its writer sends again before it has read that reply.

        ksh93 and Python's writer do so by themselves, and would find a reply too many. It is run each time, because it
        may work now, and the reply is the last try's.
        """
        failed, self._failed = self._failed, None
        if failed is not None and failed[0] == offset and data.startswith(failed[1]):
            self._replies.take_back()

    def _take_unterminated(self, *, closing: bool) -> Step[W] | None:
        line, self._unterminated = self._unterminated, None
        if line is None:
            return None
        try:
            if closing and line.written % _BLOCK == 0:
                raise BadCommand(
                    "the last line has no newline and looks cut short: "
                    f"the last write filled whole blocks of {_BLOCK} bytes; it is dropped"
                )
            command = self._parse_line(bytes(line.text))
        except JobfsError as error:
            self._replies.add_error(error)
            raise
        return None if command is None else Step(command, line.writer, 0, 0)


class _Replies:
    """The replies as one text: what the last reads delivered, which can be read again, and then what is unread."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._unread = 0  # index in the text
        self._base = 0  # the file offset of the text's first byte, while some of it was delivered

    def add(self, reply: str) -> None:
        self._text += encode(printable(reply)) + b"\n"
        if len(self._text) > MAX_REPLIES:
            cut = self._text.find(b"\n", len(self._text) - MAX_REPLIES - 1) + 1
            del self._text[:cut]
            self._base += cut
            self._unread = max(0, self._unread - cut)

    def add_error(self, error: JobfsError) -> None:
        self.add(f"error: {error}")

    def take_back(self) -> None:
        """Forget the last reply, which nobody has read of."""
        del self._text[self._text.rfind(b"\n", 0, -1) + 1 :]

    def written_at(self, offset: int) -> None:
        """Forget what was delivered, up to where a reader seeked back if the write's offset says that one did."""
        if self._base < offset < self._base + self._unread:
            self._unread = offset - self._base
        del self._text[: self._unread]
        self._unread = 0

    def read(self, offset: int, size: int) -> bytes:
        if self._base <= offset < self._base + self._unread:
            self._unread = offset - self._base
        elif offset != self._base + self._unread:
            del self._text[: self._unread]
            self._unread = 0
        if not self._unread:
            self._base = offset
        chunk = bytes(self._text[self._unread : self._unread + size])
        self._unread += len(chunk)
        return chunk


def _first_line(data: bytes) -> bytes:
    """`data` up to and including its first newline; empty if it has none."""
    return data[: data.find(b"\n") + 1]
