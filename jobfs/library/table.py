"""The table, as the program that has it sees it."""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVarTuple

from jobfs.control import spawn_of
from jobfs.engines.inprocess.leader import require_leader
from jobfs.errors import NoSuchJob
from jobfs.library.job import Feed, Finish, Job
from jobfs.library.streams import StreamReader
from jobfs.library.waiting import WaitAll
from jobfs.model import DEFAULT_CAPACITY, DEFAULT_GRACE, JobSpec, Writer
from jobfs.proc import own_umask
from jobfs.states import State
from jobfs.text import decode, with_variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from jobfs import job as inner
    from jobfs.control import Spawn
    from jobfs.engines.inprocess import InProcessEngine
    from jobfs.engines.inprocess.task import Task
    from jobfs.job import StreamView
    from jobfs.model import Function, JobInfo
    from jobfs.table import JobTable

Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a table is made of, for those who show it to others: see `mount.mounted`."""

    core: JobTable
    state: Path
    events: StreamView
    created_at: float


class Table:
    """The jobs of this program: async functions, processes, and jobs that the program feeds itself.

    For the thread that runs trio. Errors are of the `jobfs.errors` family; NoSuchJob, NameTaken and BadCommand among
    them are the caller's fault.
    """

    def __init__(self, parts: Parts, engine: InProcessEngine) -> None:
        """Made by `open_table`."""
        self.parts = parts
        self.require_open = engine.require_open
        self._core = parts.core
        self._engine = engine

    # Starting

    def start(  # noqa: PLR0913 - the options of a job, as for `spawn`
        self,
        function: Callable[[Task, *Ts], Awaitable[int | None]],
        *args: *Ts,
        name: str | None = None,
        command: str | None = None,
        stdin: bool = False,
        limit: int | str = DEFAULT_CAPACITY,
        timeout: float | str | None = None,
        grace: float | str = DEFAULT_GRACE,
    ) -> Job:
        """Starts the async `function(task, *args)` as a job, which is in the table at once, before its first step.

        It returns its exit code, 0 to 255, None for 0, or -N: as if signal N had ended it. What it raises makes it
        `failed:1`, with the traceback in its stderr, and is nobody else's affair; SystemExit is its exit code. A signal
        that would end a process cancels it: it is then `killed:N`. `command` is what `cmd` shows, the function's name
        by default; the other options are those of the verb `spawn`.
        """
        _require_function(function)
        options = {
            "name": name,
            "stdin": "pipe" if stdin else "none",
            "limit": limit,
            "timeout": timeout,
            "grace": grace,
        }
        return self._start_function(command or called(function), options, lambda task: function(task, *args))

    def register(  # noqa: PLR0913 - the options of a job, as for `spawn`
        self,
        command: str,
        *,
        name: str | None = None,
        stdin: bool = False,
        limit: int | str = DEFAULT_CAPACITY,
        process: int | None = None,
        stopped: bool = False,
    ) -> Feed:
        """A job that is in the table at once and that the program feeds itself: what it writes, and how it ends.

        `process` is the number of a child of this program that is the job, see `Task.add_process`: what stops it stops
        the job, and `stopped` says that this has happened already. To wait for it and to finish the job stays the
        caller's affair. Raises as `Task.add_process` does, and then there is no job.
        """
        if process is not None:
            require_leader(process)
        finish = Finish()
        options = {"name": name, "stdin": "pipe" if stdin else "none", "limit": limit}
        job = self._start_function(command, options, finish.wait, again=False)
        function = self._engine.function(job.id)
        if process is not None:
            try:
                function.follow(process)
            except OSError:  # no descriptor is left
                finish.finish(1)
                raise
        if stopped:
            function.stop()
        return Feed(function, job, finish)

    async def spawn(  # noqa: PLR0913 - the options of a job
        self,
        command: str | Sequence[str],
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | os.PathLike[str] = "none",
        limit: int | str = DEFAULT_CAPACITY,
        timeout: float | str | None = None,  # noqa: ASYNC109 - the job's, and not that of this call
        grace: float | str = DEFAULT_GRACE,
        nice: int | None = None,
        pty: bool = False,
        umask: int | None = None,
    ) -> Job:
        """Starts a process as a job: a str is a command line for /bin/sh, a sequence a program and its arguments.

        The options are those of the verb `spawn`: `env` is set beside this program's environment, `cwd` taken from its
        directory, `stdin` is `none`, `pipe` or a file's path, `limit` in bytes or as `64K`, `timeout` and `grace` in
        seconds or as `5m`. Its exec has happened when this returns; SpawnFailed where it has not.
        """
        words = {"cmd": command} if isinstance(command, str) else {"argv": list(command)}
        options = {
            "name": name,
            "cwd": None if cwd is None else os.fspath(cwd),
            "stdin": os.fspath(stdin),
            "limit": limit,
            "timeout": timeout,
            "grace": grace,
            "nice": nice,
            "pty": pty,
            "env": None if env is None else dict(env),
        }
        self._engine.require_open()
        asked = spawn_of(words | _given(options))
        spec = _spec(asked, own_umask() if umask is None else umask)
        return self._job(await self._core.spawn(spec, spec.environment, None))

    def _start_function(self, command: str, options: Mapping[str, object], run: Function, *, again: bool = True) -> Job:
        """`again`: whether it can be restarted."""
        self._engine.require_open()
        spec = _spec(spawn_of({"cmd": command} | _given(options)), own_umask(), run)
        known = spec if again else replace(spec, run=None)

        def start(job: int, _: JobSpec, environment: str) -> None:
            self._engine.spawn_nowait(job, spec, environment)

        return self._job(self._core.spawn_nowait(known, spec.environment, start))

    def _job(self, job: inner.Job) -> Job:
        return Job(self._core, job, self._job, self._engine.require_open)

    # Looking

    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        return [self._job(job) for job in self._core.jobs()]

    def __iter__(self) -> Iterator[Job]:
        """Every job there is now, oldest first."""
        return iter(self.jobs())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._core.jobs())

    def __contains__(self, job: int | str) -> bool:
        """Whether there is a job of that id or name."""
        return self._find(job) is not None

    def __getitem__(self, job: int | str) -> Job:
        """The job of that id or name; NoSuchJob where there is none."""
        found = self._find(job)
        if found is None:
            raise NoSuchJob(f"no such job: {job}")
        return found

    def get(self, job: int | str) -> Job | None:
        """The job of that id or name, if there is one."""
        return self._find(job)

    def _find(self, job: int | str) -> Job | None:
        found = self._core.get(job) if isinstance(job, int) else self._core.named(job)
        return None if found is None else self._job(found)

    def ids(self) -> list[int]:
        """The ids of all jobs, oldest first."""
        return [job.id for job in self._core.jobs()]

    def infos(self) -> list[JobInfo]:
        """All about every job, all of one moment; frozen."""
        return self._core.snapshots(self._core.jobs())

    @property
    def running_count(self) -> int:
        """How many jobs are `running`."""
        return sum(job.status.state is State.RUNNING for job in self._core.jobs())

    @property
    def last(self) -> Job | None:
        """The newest job."""
        newest = self._core.last(None)
        return None if newest is None else self._job(newest)

    @property
    def last_stopped(self) -> Job | None:
        """The one of the jobs that are `stopped` that was stopped last."""
        stopped = [job for job in self._core.jobs() if job.status.state is State.STOPPED]
        return self._job(max(stopped, key=lambda job: (job.changed_at, job.id))) if stopped else None

    @property
    def events(self) -> StreamReader:
        """What has happened, one JSON object a line, as the file `events` has it."""
        return StreamReader(self.parts.events, lambda: not self.parts.events.may_grow)

    # Waiting

    def wait_all(self, jobs: Iterable[Job] | None = None) -> AsyncIterator[Job]:
        """Gives each of `jobs`, all that there are now by default, when it has ended: in the order of their ends."""
        return WaitAll(self.jobs() if jobs is None else jobs)

    # Forgetting

    async def remove(self, *jobs: Job) -> None:
        """Forgets jobs that have ended, and their output; JobAlive, and nothing is changed, where one has not."""
        self._engine.require_open()
        await self._core.remove([job.inner for job in jobs])

    async def clean(self) -> None:
        """Forgets all jobs that have ended."""
        self._engine.require_open()
        await self._core.remove([job for job in self._core.jobs() if job.ended])

    async def prune(self, keep: int, keep_bytes: int = 1 << 62) -> None:
        """Forgets the oldest ended jobs, until at most `keep` are left, and at most `keep_bytes` of their output."""
        self._engine.require_open()
        await self._core.ended.prune(keep, keep_bytes)


def _require_function(function: object) -> None:
    if not callable(function):
        what = "the coroutine that it gave" if inspect.iscoroutine(function) else repr(function)
        raise TypeError(f"start takes a function, and its arguments after it, and not {what}")


def called(function: object) -> str:
    """What a function is called: without where it was defined, and without what it was given beforehand."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _spec(asked: Spawn, umask: int, run: Function | None = None) -> JobSpec:
    """What a job is to be that this program asks for: it has the program's directory, environment and umask."""
    options = asked.options
    own = decode(b"".join(b"%b=%b\0" % pair for pair in os.environb.items()))
    return JobSpec(
        cmd=asked.cmd,
        argv=asked.argv,
        directory=os.getcwd(),
        environment=with_variables(own, dict(options.env)),
        name=options.name,
        cwd=options.cwd,
        umask=umask,
        stdin=options.stdin,
        limit=DEFAULT_CAPACITY if options.limit is None else options.limit,
        timeout=options.timeout,
        grace=options.grace,
        nice=options.nice,
        pty=options.pty,
        function=run is not None,
        run=run,
        writer=_this_program(),
    )


def _this_program() -> Writer:
    return Writer(os.getpid(), os.geteuid(), os.getsid(0), os.path.basename(sys.argv[0] or sys.executable))
