"""A job, as the program that has the table sees it."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from jobfs.engines.inprocess.outcome import outcome_of
from jobfs.engines.inprocess.task import Task
from jobfs.errors import BadCommand, JobEnded
from jobfs.library.streams import StreamReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs import job as inner
    from jobfs.engines.inprocess.function import FunctionJob
    from jobfs.model import JobInfo
    from jobfs.states import Status
    from jobfs.table import JobTable

_PIECE = 64 * 1024  # bytes, which a pipe takes at once: what it does not take is copied to be offered again


class Job:
    """A job in a table. What it was stays to be seen when it was removed.

    Methods that ask for something raise one of the `jobfs.errors` family: JobEnded where the job has ended and left
    nothing behind.
    """

    def __init__(
        self, table: JobTable, job: inner.Job, wrap: Callable[[inner.Job], Job], require_open: Callable[[], None]
    ) -> None:
        """Made by the table; `inner` is the job as that has it."""
        self._table = table
        self.inner = job
        self._wrap = wrap
        self._require_open = require_open

    def __repr__(self) -> str:
        """For people who look for mistakes."""
        return f"<Job {self.id} {self.status}: {self.command}>"

    def __eq__(self, other: object) -> bool:
        """Whether it is the same job of the same table."""
        return isinstance(other, Job) and other.inner is self.inner

    def __hash__(self) -> int:
        """As equality has it."""
        return hash(id(self.inner))

    # Looking

    @property
    def id(self) -> int:
        """Its number: the name of its directory, too."""
        return self.inner.id

    @property
    def name(self) -> str | None:
        """The name that it was given."""
        return self.inner.spec.name

    @property
    def command(self) -> str:
        """Its command line, or what its function is called."""
        return self.inner.spec.line

    @property
    def status(self) -> Status:
        """How it stands; `str` of it is the status word."""
        return self.inner.status

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.inner.ended

    @property
    def pid(self) -> int | None:
        """The number of its process; None for a function."""
        return self.inner.pid

    @property
    def stdout(self) -> StreamReader:
        """What it writes."""
        return StreamReader(self.inner.streams["stdout"], lambda: self.inner.ended)

    @property
    def stderr(self) -> StreamReader:
        """What it writes to its error output; of a job with a terminal that comes out of `stdout`."""
        return StreamReader(self.inner.streams["stderr"], lambda: self.inner.ended)

    def info(self) -> JobInfo:
        """All about it, at this moment; frozen."""
        return self._table.snapshots([self.inner])[0]

    # Waiting

    async def wait(self) -> Status:
        """Waits until it has ended and gives its status: all that its process wrote is readable then."""
        await trio.lowlevel.checkpoint()
        while not self.inner.ended:
            await self.inner.bell.wait_rung()
        return self.inner.status

    def wait_nowait(self) -> Status:
        """Its final status; trio.WouldBlock where it has not ended."""
        if not self.inner.ended:
            raise trio.WouldBlock
        return self.inner.status

    async def wait_changed(self, status: Status) -> Status:
        """Waits until its status is another one than `status`, and gives that."""
        await trio.lowlevel.checkpoint()
        while self.inner.status == status and not self.inner.ended:
            await self.inner.bell.wait_rung()
        return self.inner.status

    # Acting

    async def signal(self, number: int) -> None:
        """Sends a signal to its process group, or to all groups of a function, which is cancelled by what ends one.

        0 only asks whether anybody is there. BadCommand for what is no signal.
        """
        if not 0 <= number <= signal.SIGRTMAX:
            raise BadCommand(f"{number} is no signal")
        await self._table.signal(self.inner, number)

    async def stop(self) -> None:
        """SIGSTOP: its processes stop; a function waits at its next `write` or `checkpoint`."""
        await self.signal(signal.SIGSTOP)

    async def cont(self) -> None:
        """SIGCONT: it goes on."""
        await self.signal(signal.SIGCONT)

    async def kill(self, grace: float | None = None) -> None:
        """Begins to end it, or what it left behind: SIGTERM, and SIGKILL after `grace` seconds, of its own by default.

        A function is cancelled. Returns when that is on its way; a second time changes nothing. BadCommand for a
        `grace` that is negative.
        """
        if grace is not None and not grace >= 0:  # which NaN is not either
            raise BadCommand(f"grace: {grace} is no number of seconds")
        await self._table.end(self.inner, None, grace)

    async def end(self, grace: float | None = None) -> Status:
        """Ends it, as `kill`, and waits until it has; gives its status. One that has ended already is fine."""
        if not self.inner.ended:
            with suppress(JobEnded):  # in this very moment
                await self.kill(grace)
        return await self.wait()

    async def write(self, data: bytes) -> None:
        """Writes all of `data` to its stdin, and waits while its pipe is full.

        Raises StdinClosed where nobody reads it. Where that, or a cancellation, comes amid it, a part was written.
        """
        stdin = self._table.stdin(self.inner)
        await stdin.open()
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            while piece:
                piece = piece[await stdin.write_some(piece) :]

    async def close_stdin(self) -> None:
        """It reads end of file, after what was written."""
        await self._table.close_stdin(self.inner)

    async def resize(self, rows: int, columns: int) -> None:
        """Sets the size of its terminal."""
        await self._table.resize(self.inner, rows, columns)

    async def restart(self) -> Job:
        """Starts it again, the same, under a new id; JobAlive where it has not ended.

        MachineError where nobody knows how: it was fed, or a function of an earlier program.
        """
        self.inner.require_restartable()
        self._require_open()
        return self._wrap(await self._table.spawn(self.inner.spec, self.inner.spec.environment, None))

    async def remove(self) -> None:
        """Forgets it, and its output; JobAlive where it has not ended."""
        self._require_open()
        await self._table.remove([self.inner])


class Feed(Task):
    """A job that the program feeds itself: the writing ends of its streams, and a way to finish it.

    It can be killed as any: then it has ended, writing raises trio.ClosedResourceError, and `job.wait` tells.
    """

    def __init__(self, function: FunctionJob, job: Job, finish: Finish) -> None:
        """Made by the table."""
        super().__init__(function, job.name)
        self.job = job
        """The job, as others see it."""
        self._finish = finish

    async def finish(self, code: int = 0) -> None:
        """Ends the job with that exit code, or -N: as if signal N had ended it; returns when it has ended.

        Raises ValueError or TypeError for what is no exit code, and JobEnded where it has ended or is about to.
        """
        self._finish.finish(code)
        await self.job.wait()

    def finish_nowait(self, code: int = 0) -> None:
        """As `finish`, and does not wait."""
        self._finish.finish(code)


class Finish:
    """How a job will end that the program feeds itself."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._known = trio.Event()
        self._over = False

    def finish(self, code: int) -> None:
        """It ends with that."""
        outcome_of(code)
        if self._over or self._known.is_set():
            raise JobEnded("the job has ended, or is about to")
        self._code = code
        self._known.set()

    async def wait(self, _: Task) -> int | None:
        """The function that such a job is."""
        try:
            await self._known.wait()
        finally:
            self._over = True
        return self._code
