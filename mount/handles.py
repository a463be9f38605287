"""What an open file remembers: text as it was rendered, a place in a stream, or a conversation with `ctl`.

A handle holds its job, so that a file of a job that was removed reads on until it is closed.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Protocol

import pyfuse3
import trio

from jobfs.control_file import ControlFile
from jobfs.cursor import StreamCursor
from jobfs.errors import JobfsError, NotPermitted
from jobfs.stream import Evicted
from mount.caller import Caller, File, find_writer, has_open

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.commands import Commands
    from jobfs.control_file import Batch, Step
    from jobfs.stream import RingReader
    from jobfs.table import JobTable


# How often a read that a writer at full speed overtakes begins anew, ten times each, before it says try again.
_OVERTAKEN = 10


class Handle(Protocol):
    """An open file. Offsets and sizes are bytes; errors are of the `jobfs.errors` family, or OSError."""

    async def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on."""

    async def write(self, offset: int, data: bytes) -> int:
        """How many bytes of `data` were taken."""

    async def flush(self) -> None:
        """Somebody closed a descriptor of it."""

    async def release(self) -> None:
        """Nobody has it open any more."""


class ReadOnly:
    """What most files do with what they are not for."""

    async def write(self, offset: int, data: bytes) -> int:
        """It was not opened for writing."""
        del offset, data
        raise pyfuse3.FUSEError(errno.EBADF)

    async def flush(self) -> None:
        """Nothing is kept back."""

    async def release(self) -> None:
        """Nothing is held."""


class TextHandle(ReadOnly):
    """A rendered file: what it said when it was opened, and anew for each read from its beginning, as in /proc."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._text = render()
        self._fresh = True

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`."""
        if offset == 0 and not self._fresh:
            self._text = self._render()
        self._fresh = False
        return self._text[offset : offset + size]


class StreamHandle(ReadOnly):
    """A stream: the reads of one open file, see `StreamCursor`."""

    def __init__(self, open_reader: Callable[[], RingReader | None]) -> None:
        self._open_reader = open_reader
        self._reader = open_reader()
        self._cursor = StreamCursor(self._reader)

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`."""
        if self._reader is None:
            self._reader = self._open_reader()
            if self._reader is not None:
                self._cursor.attach(self._reader)
        for _ in range(_OVERTAKEN):
            try:
                return self._cursor.read(offset, size)
            except Evicted:  # the job writes faster than this process gets to read
                await trio.lowlevel.checkpoint()
        raise pyfuse3.FUSEError(errno.EAGAIN)

    async def release(self) -> None:
        """See `Handle`."""
        if self._reader is not None:
            self._reader.close()


class StdinHandle:
    """The job's stdin: reading gives end of file, and nobody listens to what is written."""

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`."""
        del offset, size
        return b""

    async def write(self, offset: int, data: bytes) -> int:
        """The job was spawned without `--stdin pipe`."""
        del offset, data
        raise BrokenPipeError(errno.EPIPE, "the job's stdin is not a pipe")

    async def flush(self) -> None:
        """Nothing is kept back."""

    async def release(self) -> None:
        """Nothing is held."""


class ControlHandle:
    """An open `ctl`: runs what is written, and gives the replies."""

    def __init__(
        self, table: JobTable, commands: Commands, node: File, opener: tuple[int, int], job: int | None
    ) -> None:
        self._table = table
        self._commands = commands
        self._node = node
        self._opener_task, self._opener_uid = opener
        self._file: ControlFile[Caller] = ControlFile(job=None if job is None else str(job))
        self._last_writer: Caller | None = None
        self._reported: JobfsError | None = None  # the error of a short write, which its retry is given

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`. What was not terminated is run first; its error is a reply as any other."""
        with contextlib.suppress(JobfsError):
            await self._run_rest(self._file.finish)
        return self._file.read(offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        """See `Handle`. Runs the commands that `data` completes, in order, before it returns."""
        caller = await find_writer(self._opener_task, self._node)
        try:
            self._check(caller)
            batch = self._file.receive(offset, data, caller)
            taken = await self._run(batch)
            if self._file.pending:
                self._keep(caller)
        except JobfsError as error:
            if error is not self._reported:
                self._table.report_error(error)
            raise
        finally:
            if caller is not self._last_writer:
                caller.close()
            if not self._file.pending:
                self._forget_writer()
        return taken

    async def flush(self) -> None:
        """See `Handle`. The opener's own close runs what was not terminated; a child's exit does not."""
        if self._file.pending and not has_open(self._opener_task, self._node):
            await self._run_rest(self._file.finish_on_close)

    async def release(self) -> None:
        """See `Handle`."""
        with contextlib.suppress(JobfsError):  # nobody is left to be told; `events` was
            await self._run_rest(self._file.finish_on_close)
        self._forget_writer()

    def _check(self, caller: Caller) -> None:
        if caller.writer.uid is not None and caller.writer.uid != self._opener_uid:
            msg = f"the file was opened by user {self._opener_uid}, and user {caller.writer.uid} may not write to it"
            raise NotPermitted(msg)

    async def _run(self, batch: Batch[Caller]) -> int:
        for step in batch.steps:
            try:
                reply = await self._commands.run(step.command, step.writer)
            except JobfsError as error:
                taken = self._file.failed(step, error)
                self._table.report_error(error)
                self._reported = error
                return taken
            self._file.succeeded(reply)
        return self._file.commit(batch)

    async def _run_rest(self, finish: Callable[[], Step[Caller] | None]) -> None:
        writer, self._last_writer = self._last_writer, None  # a write meanwhile must not close it
        try:
            step = finish()
            if step is not None:
                try:
                    reply = await self._commands.run(step.command, step.writer)
                except JobfsError as error:
                    self._file.failed(step, error)
                else:
                    self._file.succeeded(reply)
        except JobfsError as error:
            self._table.report_error(error)
            raise
        finally:
            if writer is not None:
                writer.close()

    def _keep(self, caller: Caller) -> None:
        """An unterminated line may be run when its writer has gone: what the job inherits is read now."""
        self._forget_writer()
        _ = caller.surroundings
        self._last_writer = caller

    def _forget_writer(self) -> None:
        if self._last_writer is not None:
            self._last_writer.close()
            self._last_writer = None
