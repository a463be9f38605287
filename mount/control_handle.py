"""An open `ctl`: a conversation of commands and replies, and the leases that end with it."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from jobfs.control_file import ControlFile
from jobfs.errors import JobEnded, JobfsError, LimitReached, MachineError, NotPermitted
from jobfs.proc import NO_DESCRIPTOR
from mount.caller import find_writer, has_open, holder_of, is_without_thread, look
from mount.handles import AS_ON_DISK

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.commands import Commands
    from jobfs.control_file import Batch, Step
    from jobfs.job import Job
    from jobfs.model import Writer
    from jobfs.table import JobTable
    from mount.caller import Caller
    from mount.handles import Opened, Wake

# Why a job with a lease was ended.
_LEASE_OVER = "the file it was spawned on was closed"


class ControlHandle:
    """An open `ctl`: runs what is written, and gives the replies."""

    def __init__(self, table: JobTable, commands: Commands, opened: Opened, job: int | None) -> None:
        self._table = table
        self._commands = commands
        self._node = opened.file
        self._opener_task, self._opener_uid = opened.task, opened.uid
        self._file: ControlFile[Caller] = ControlFile(job=None if job is None else str(job))
        self._last_writer: Caller | None = None
        self._reported: JobfsError | None = None  # the error of a short write, which its retry is given
        self._leased: list[Job] = []

    async def read(self, offset: int, size: int) -> bytes:
        """See `Handle`. What was not terminated is run first; its error is a reply as any other."""
        with contextlib.suppress(JobfsError):
            await self._run_rest(self._file.finish)
        return self._file.read(offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        """See `Handle`. Runs the commands that `data` completes, in order, before it returns."""
        try:
            caller = await find_writer(self._opener_task, self._node)
        except LimitReached as error:
            self._table.report_error(error)
            raise
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

    def poll(self, wake: Wake | None) -> int:
        """See `Handle`. It takes commands and gives replies at any time."""
        del wake
        return AS_ON_DISK

    async def flush(self) -> None:
        """See `Handle`. The opener's own close runs what was not terminated; a child's exit does not."""
        # Where that cannot be told (None) the line is left to `release`: run now, it might be half of one.
        if self._file.pending and await self._opener_has_it() is False:
            await self._run_rest(self._file.finish_on_close)

    async def _opener_has_it(self) -> bool | None:
        try:
            return await look(partial(has_open, self._opener_task, self._node))
        except LimitReached:
            return None

    async def release(self) -> None:
        """See `Handle`."""
        with contextlib.suppress(JobfsError):  # nobody is left to be told; `events` was
            await self._run_rest(self._file.finish_on_close)
        self._forget_writer()
        for job in self._leased:
            await self._end_lease(job)

    async def holder(self, writer: Writer) -> int | None:
        """See `OpenFile`."""
        return await look(partial(holder_of, self._opener_task, self._node, writer.pid))

    def lease(self, job: Job) -> None:
        """See `OpenFile`."""
        self._leased = [*(other for other in self._leased if not other.ended), job]

    async def _end_lease(self, job: Job) -> None:
        if job.ended:
            return
        try:
            await self._table.end(job, _LEASE_OVER)
        except JobEnded:
            pass
        except JobfsError as error:
            self._table.report_error(error)

    def _check(self, caller: Caller) -> None:
        if caller.writer.uid is not None and caller.writer.uid != self._opener_uid:
            msg = f"the file was opened by user {self._opener_uid}, and user {caller.writer.uid} may not write to it"
            raise NotPermitted(msg)

    async def _run(self, batch: Batch[Caller]) -> int:
        for step in batch.steps:
            try:
                reply = await self._do(step)
            except JobfsError as error:
                taken = self._file.failed(step, error)
                self._table.report_error(error)
                self._reported = error
                return taken
            self._file.succeeded(reply)
        return self._file.commit(batch)

    async def _do(self, step: Step[Caller]) -> str:
        """Runs one command. What the daemon lacks is an error of that one: those before it have been run."""
        try:
            return await self._commands.run(step.command, step.writer, self)
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                msg = "the daemon has no descriptor left"
                raise LimitReached(msg) from error
            msg = f"the daemon failed: {error}"
            raise MachineError(msg) from error
        except RuntimeError as error:
            if not is_without_thread(error):
                raise
            msg = "the daemon can start no thread"
            raise LimitReached(msg) from error

    async def _run_rest(self, finish: Callable[[], Step[Caller] | None]) -> None:
        writer, self._last_writer = self._last_writer, None  # a write meanwhile must not close it
        try:
            step = finish()
            if step is not None:
                try:
                    reply = await self._do(step)
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
