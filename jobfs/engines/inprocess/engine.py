"""The engine itself: which jobs there are, and what is asked of each."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs import proc
from jobfs.beside import undisturbed_nursery
from jobfs.engines.base import Closed, Ended, News, Trace
from jobfs.engines.failures import failure
from jobfs.engines.inprocess.function import FunctionJob
from jobfs.engines.inprocess.process import ProcessJob
from jobfs.errors import EngineGone, JobEnded, LimitReached, MachineError, StdinClosed
from jobfs.model import STREAMS, Usage
from jobfs.processes import Process, ProcessTable, all_processes, members, usage_of
from jobfs.states import Event
from jobfs.stream import RingReader, StreamDamaged
from jobfs.supervisor import job_file
from jobfs.supervisor.signals import signal_processes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from jobfs.beside import Undisturbed
    from jobfs.model import JobSpec
    from jobfs.processes import Stray

log = logging.getLogger(__name__)

# How often it is looked at whether processes are stopped, which nobody tells, in seconds.
_LOOK = 0.25
# How often it is looked whether what a job left behind has ended, which was told to, in seconds.
_LOOK_AGAIN = 0.05
# Seconds until the streams of jobs are closed of which nobody is left that could be seen to hold them.
_LAST_BYTES = 0.25
# Seconds that killed processes have to be gone. They take milliseconds, but for one that waits for a bad disk.
_DYING = 1.0
# Removed jobs after which it is looked of which of them anything is left.
_FORGOTTEN = 1000
# The number of no process: nothing of these jobs descends from a supervisor.
_NOBODY = -1
_STREAM = re.compile(rf"([1-9][0-9]{{0,17}})\.({'|'.join(STREAMS)})")
_CLOSED = "the table is closed"
_OVER = "the table that it was in was closed"
_LOST = "the program that had the table ended"


class InProcessEngine:
    """Runs jobs as children of this program, and async functions beside them, as long as `run` runs.

    Jobs end with it: `close` ends what is left. If the program is killed, its processes are on their own.
    """

    def __init__(self, directory: Path) -> None:
        """`directory`: where the ring files of the jobs' output are made."""
        self._directory = directory
        self._jobs: dict[int, ProcessJob | FunctionJob] = {}
        self._tell: Callable[[News], None] | None = None
        self._nursery: Undisturbed | None = None
        self._processes = ProcessTable()
        self._forgotten: dict[int, ProcessJob | FunctionJob] = {}  # of which something may be left
        self._forgotten_at_most = _FORGOTTEN
        self._lingering: set[int] = set()  # ended jobs whose remains are being ended
        self._starting: set[trio.CancelScope] = set()  # what is on its way to exec
        self.closing = False  # see `Host`
        self._closed = trio.Event()
        self._over = trio.Event()  # `run` has ended
        self._interrupted = trio.Event()
        self._thread = threading.get_ident()

    # Its life

    @trio.lowlevel.enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the jobs until `close` has ended them all; a cancellation does not reach them, `close` does."""
        try:
            with trio.CancelScope(shield=True):
                async with undisturbed_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._look_for_stops)
                    task_status.started()
                    await self._closed.wait()
                    nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._over.set()

    async def wait_interrupted(self) -> None:
        """Raises KeyboardInterrupt when one came in a job's function; else it waits for ever.

        Have it run where that is to end the program's own work. The job is `killed:2` by then.
        """
        await self._interrupted.wait()
        raise KeyboardInterrupt

    async def close(self) -> None:
        """Ends all jobs and what they left behind, each as `end` does, and returns when nothing is left of them.

        Call it also where the program is being cancelled, with a shield. A function that does not heed its cancellation
        is waited for.
        """
        self.closing = True
        for scope in self._starting:
            scope.cancel()
        while self._starting:  # they give up at once, but for one whose exec has just happened: that one is a job
            await trio.lowlevel.checkpoint()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_over, nursery.cancel_scope)
                await self._end_all([*self._jobs.values(), *self._forgotten.values()])
                nursery.cancel_scope.cancel()
        finally:
            self._closed.set()

    async def _cancel_when_over(self, scope: trio.CancelScope) -> None:
        """A mistake of ours has ended `run`: nobody tells of ends any more."""
        await self._over.wait()
        for job in self._jobs.values():
            for leader in job.leaders:
                with suppress(OSError):
                    leader.signal(signal.SIGKILL)
        scope.cancel()

    async def _end_all(self, jobs: list[ProcessJob | FunctionJob]) -> None:
        for job in jobs:
            with suppress(OSError, EngineGone):
                job.end(job.spec.grace, _OVER)
        for job in jobs:
            await job.finished.wait()
        await self._end_all_that_lingers(jobs)
        await self._end_groups([job for job in jobs if not job.over.is_set()])
        with trio.move_on_after(_LAST_BYTES):
            for job in jobs:
                await job.over.wait()
        for job in jobs:
            job.close()

    @staticmethod
    async def _end_groups(jobs: list[ProcessJob | FunctionJob]) -> None:
        """After the longest grace period, kills what is left of their groups, whose environment may not tell of it."""
        leaders = [leader for job in jobs for leader in job.leaders]
        with trio.move_on_after(max((job.spec.grace for job in jobs), default=0)):
            while any(leader.group_runs for leader in leaders):  # noqa: ASYNC110 - nobody is told of the end of a group
                await trio.sleep(_LOOK_AGAIN)
        for leader in leaders:
            with suppress(OSError):
                leader.signal(signal.SIGKILL)

    async def _end_all_that_lingers(self, jobs: list[ProcessJob | FunctionJob]) -> None:
        strays = [stray for job in jobs for stray in job.strays]
        left = members(proc.patiently(all_processes), {}, _NOBODY, strays) if strays else {}
        graces = {job.job: job.spec.grace for job in jobs}
        for job, processes in left.items():
            self._begin_to_end_lingering(job, processes, graces[job])
        while self._lingering:  # noqa: ASYNC110 - nobody is told of the end of a process that is no child
            await trio.sleep(_LOOK_AGAIN)

    async def _look_for_stops(self) -> None:
        while True:
            await trio.sleep(_LOOK)
            for job in list(self._jobs.values()):
                job.look()

    # What it is to its jobs: see `Host`

    def tell(self, news: News) -> None:
        """See `Host`."""
        if isinstance(news, Ended):
            self._processes.forget()  # what it left behind is lingering from now on: look anew
        if self._tell is not None:
            self._tell(news)

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        """See `Host`."""
        if self._nursery is None:
            raise EngineGone(_CLOSED)
        self._nursery.start_soon(function)

    def path(self, job: int, name: str) -> str:
        """See `Host`."""
        return job_file(str(self._directory), job, name)

    def members(self, job: int) -> list[Process]:
        """See `Host`."""
        return members(proc.patiently(all_processes), {}, _NOBODY, self._strays_of(job)).get(job, [])

    def _strays_of(self, job: int) -> list[Stray]:
        known = self._jobs.get(job) or self._forgotten.get(job)
        return [] if known is None else known.strays

    # The protocol

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`. Needs `run` to be running already."""
        await trio.lowlevel.checkpoint()
        self._tell = tell
        news: list[News] = []
        for job in alive:
            known = self._jobs.get(job)
            if known is not None:
                known.unwatch()
                news += known.story
            else:
                news.append(Ended(job, Event.LOSE, None, time.time(), None, _LOST))
        news += [
            Closed(job, known.open_streams)
            for job, known in self._jobs.items()
            if job not in alive and known.ended is not None
        ]
        return news

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`. A lease is its caller's affair as long as this program lives, and no longer."""
        del holder
        if spec.function:
            await trio.lowlevel.checkpoint()
            self.spawn_nowait(job, spec, environment)
            return
        self.require_open()
        with _translated("make its pipes"):
            process = ProcessJob(self, job, spec)
        with trio.CancelScope() as scope:
            self._starting.add(scope)
            try:
                started = await process.start(environment, directory)
            except trio.Cancelled:
                self.tell(Ended(job, Event.CANCEL, None, time.time(), None))
                raise
            finally:
                self._starting.discard(scope)
            self._jobs[job] = process
            self.tell(started)
        if scope.cancelled_caught:
            raise MachineError(_CLOSED)

    def spawn_nowait(self, job: int, spec: JobSpec, environment: str) -> None:
        """Starts a job that is a function; `Started` is told before this returns, and before its first step."""
        self.require_open()
        if spec.run is None:
            raise MachineError(
                f"{spec.line} cannot be run again: it was fed, or a function of a program that has ended"
            )
        with _translated("make its pipe"):
            function = FunctionJob(self, job, spec, environment)
        self._jobs[job] = function
        self.tell(function.started)
        self.start_soon(partial(self._run_function, function))

    async def _run_function(self, function: FunctionJob) -> None:
        try:
            await function.run()
        except* KeyboardInterrupt:
            self._interrupted.set()

    def function(self, job: int) -> FunctionJob:
        """A job that `spawn_nowait` has started."""
        found = self._jobs[job]
        assert isinstance(found, FunctionJob)
        return found

    async def signal(self, job: int, handle: str, number: int) -> None:
        """See `Engine`."""
        del handle
        await trio.lowlevel.checkpoint()
        known = self._known(job)
        with _translated("signal it"):
            if known.ended is None:
                known.signal(number)
            elif not signal_processes(self.members(job), number):
                raise JobEnded("nothing is left of it")

    async def end(self, job: int, handle: str, grace: float, reason: str | None = None) -> None:
        """See `Engine`."""
        del handle
        await trio.lowlevel.checkpoint()
        known = self._known(job)
        with _translated("end it"):
            if known.ended is None:
                known.end(grace, reason)
            else:
                self._end_lingering(job, grace)

    def _end_lingering(self, job: int, grace: float) -> None:
        left = self.members(job)
        if not left:
            raise JobEnded("nothing is left of it")
        self._begin_to_end_lingering(job, left, grace)

    def _begin_to_end_lingering(self, job: int, left: list[Process], grace: float) -> None:
        if job in self._lingering:
            return
        self._lingering.add(job)
        for number in (signal.SIGTERM, signal.SIGCONT):
            signal_processes(left, number)
        self.start_soon(partial(self._kill_lingering, job, grace))

    async def _kill_lingering(self, job: int, grace: float) -> None:
        try:
            if not await self._wait_lingering_ended(job, grace):
                signal_processes(self.members(job), signal.SIGKILL)
                await self._wait_lingering_ended(job, _DYING)
        except OSError as error:  # no descriptor is left, for one: no reason for the engine, and all jobs, to end
            log.warning("what job %d left behind cannot be looked at, and is left: %s", job, error)
        finally:
            self._lingering.discard(job)

    async def _wait_lingering_ended(self, job: int, seconds: float) -> bool:
        """Whether all that it left behind ends in that time."""
        with trio.move_on_after(seconds):
            while self.members(job):  # noqa: ASYNC110 - nobody is told of the end of a process that is no child
                await trio.sleep(_LOOK_AGAIN)
            return True
        return False

    async def open_stdin(self, job: int) -> int:
        """See `Engine`."""
        await trio.lowlevel.checkpoint()
        known = self._jobs.get(job)
        if known is None or known.gone:
            raise StdinClosed("nobody reads its stdin any more")
        with _translated("open its stdin"):
            return known.open_stdin()

    async def close_stdin(self, job: int) -> None:
        """See `Engine`."""
        await trio.lowlevel.checkpoint()
        try:
            with _translated("close its stdin"):
                self._known(job).close_stdin()
        except LimitReached as error:
            raise LimitReached("its terminal takes nothing more: the job does not read it") from error

    async def resize(self, job: int, rows: int, columns: int) -> None:
        """See `Engine`."""
        await trio.lowlevel.checkpoint()
        with _translated("resize it"):
            self._known(job).resize(rows, columns)

    async def acknowledge(self, jobs: Iterable[int]) -> None:
        """See `Engine`. The ends are known as long as the jobs are."""
        del jobs
        await trio.lowlevel.checkpoint()

    def known(self) -> Mapping[int, Trace]:
        """See `Engine`."""
        streams = filter(None, map(_STREAM.fullmatch, os.listdir(self._directory)))
        found = {int(match[1]): Trace() for match in streams}
        return found | {job: _trace(known) for job, known in self._jobs.items()}

    async def forget(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        for job in jobs:
            known = self._jobs.pop(job, None)
            if known is not None:
                known.forget()
                if not known.over.is_set() or known.strays:
                    self._forgotten[job] = known
            for name in STREAMS:
                with suppress(OSError):  # most have not written to both streams
                    os.unlink(self.path(job, name))
        if len(self._forgotten) > self._forgotten_at_most:
            self._drop_forgotten()
        await trio.lowlevel.checkpoint()

    def _drop_forgotten(self) -> None:
        """Drops those removed jobs of which nothing is left."""
        strays = [stray for job in self._forgotten.values() for stray in job.strays]
        left = members(proc.patiently(all_processes), {}, _NOBODY, strays)
        self._forgotten = {
            number: job for number, job in self._forgotten.items() if number in left or not job.over.is_set()
        }
        self._forgotten_at_most = len(self._forgotten) + _FORGOTTEN

    def open_stream(self, job: int, name: str) -> RingReader | None:
        """See `Engine`."""
        try:
            return RingReader.open(self.path(job, name))
        except FileNotFoundError:
            if not self._directory.exists():
                raise StreamDamaged("it was removed, with the state") from None
            return None

    def watch(self, job: int, name: str, past: int) -> None:
        """See `Engine`."""
        known = self._jobs.get(job)
        if known is not None:
            known.watch(name, past)

    def usage(self, handles: Mapping[int, str]) -> Mapping[int, Usage]:
        """See `Engine`. Of a function its processes are counted."""
        strays = [stray for job in handles for stray in self._strays_of(job)]
        found = self._processes.members({}, _NOBODY, strays) if strays else {}
        return {job: usage_of(found.get(job, [])) for job in handles}

    def _known(self, job: int) -> ProcessJob | FunctionJob:
        known = self._jobs.get(job)
        if known is None:
            raise JobEnded("nothing is left of it")
        return known

    def require_open(self) -> None:
        """MachineError where it takes no more jobs; EngineGone would say that another one may come.

        RuntimeError in another thread than its own: neither trio nor SQLite could be used there.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError("a table is for the thread that runs trio: use trio.from_thread, or jobfs.sync")
        if self._nursery is None or self.closing:
            raise MachineError(_CLOSED)


def _trace(known: ProcessJob | FunctionJob) -> Trace:
    spec = known.spec
    return Trace(spec.line, known.started.started_at, spec.limit, spec.pty, may_live=known.ended is None)


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """What a system call fails with becomes an error of the family."""
    try:
        yield
    except OSError as error:
        raise failure(error.errno or errno.EIO, doing) from error
