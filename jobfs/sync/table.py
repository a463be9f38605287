"""The table, as any thread of the program that has it sees it, and how it is opened."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVarTuple

from jobfs.library import opening
from jobfs.library.table import called
from jobfs.model import DEFAULT_CAPACITY, DEFAULT_GRACE
from jobfs.sync.job import Feed, Job
from jobfs.sync.portal import Items, Portal
from jobfs.sync.streams import StreamReader
from jobfs.sync.task import Task, run_in_thread

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from jobfs.library import job, table
    from jobfs.model import JobInfo

Ts = TypeVarTuple("Ts")


@contextmanager
def open_table(
    state: str | os.PathLike[str] | None = None, *, keep: int = 1000, keep_bytes: int = 1 << 30
) -> Iterator[Table]:
    """A job table in this process, without a daemon; trio runs in a thread of its own as long as the block lasts.

    `state` is a directory that jobs and output are kept in and found again by the next one who opens it; without it
    they are kept in memory (tmpfs) as long as the table is open. The `keep` newest ended jobs stay, as far as their
    output is not more than `keep_bytes`.

    When the block is left, however that is, every job is ended as by `kill`, and what it left behind too, and waited
    for; so nothing of what was started is left. Raises StateUnusable, StateDamaged or OSError where the state cannot be
    had.
    """
    with Portal.opened(partial(opening.open_table, state, keep=keep, keep_bytes=keep_bytes)) as (portal, inner):
        yield Table(portal, inner)


class Table:
    """The jobs of this program: functions, processes, and jobs that the program feeds itself.

    For any thread. Errors are of the `jobfs.errors` family; NoSuchJob, NameTaken and BadCommand among them are the
    caller's fault, EngineGone says that the table is closed.
    """

    def __init__(self, portal: Portal, inner: table.Table) -> None:
        """Made by `open_table`. The table proper, and the way to its thread, are for `mount.mounted_sync`."""
        self.portal = portal
        self.inner = inner

    # Starting

    def start(  # noqa: PLR0913 - the options of a job, as for `spawn`
        self,
        function: Callable[[Task, *Ts], int | None],
        *args: *Ts,
        name: str | None = None,
        command: str | None = None,
        stdin: bool = False,
        limit: int | str = DEFAULT_CAPACITY,
        timeout: float | str | None = None,
        grace: float | str = DEFAULT_GRACE,
    ) -> Job:
        """Starts `function(task, *args)` in a thread, as a job, which is in the table at once, before its first step.

        It returns its exit code, 0 to 255, None for 0, or -N: as if signal N had ended it. What it raises makes it
        `failed:1`, with the traceback in its stderr, and is nobody else's affair; SystemExit is its exit code. A signal
        that would end a process raises Cancelled in it, at its next `checkpoint` or `write`, or where it waits for
        something of this table: it is then `killed:N`. A thread cannot be made to end: a function that comes to none of
        these goes on, and is waited for. `command` is what `cmd` shows, the function's name by default; the other
        options are those of the verb `spawn`.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError("start takes a function that runs in a thread: an async one is for jobfs.open_table")
        start = partial(
            self.inner.start,
            partial(run_in_thread, self.portal, function, args),
            name=name,
            command=command or called(function),
            stdin=stdin,
            limit=limit,
            timeout=timeout,
            grace=grace,
        )
        return self._job(self.portal.act(start))

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
        caller's affair.
        """
        options = partial(self.inner.register, command, name=name, stdin=stdin, limit=limit)
        return Feed(self.portal, self.portal.act(lambda: options(process=process, stopped=stopped)))

    def spawn(  # noqa: PLR0913 - the options of a job
        self,
        command: str | Sequence[str],
        *,
        name: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | os.PathLike[str] = "none",
        limit: int | str = DEFAULT_CAPACITY,
        timeout: float | str | None = None,
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
        options = partial(self.inner.spawn, command, name=name, cwd=cwd, env=env, stdin=stdin, limit=limit)
        spawn = partial(options, timeout=timeout, grace=grace, nice=nice, pty=pty, umask=umask)
        return self._job(self.portal.wait(spawn))

    def _job(self, inner: job.Job) -> Job:
        return Job(self.portal, inner)

    def _perhaps(self, inner: job.Job | None) -> Job | None:
        return None if inner is None else self._job(inner)

    # Looking

    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        return [self._job(job) for job in self.portal.ask(self.inner.jobs)]

    def __iter__(self) -> Iterator[Job]:
        """Every job there is now, oldest first."""
        return iter(self.jobs())

    def __len__(self) -> int:
        """How many there are."""
        return self.portal.ask(lambda: len(self.inner))

    def __contains__(self, job: int | str) -> bool:
        """Whether there is a job of that id or name."""
        return self.portal.ask(lambda: job in self.inner)

    def __getitem__(self, job: int | str) -> Job:
        """The job of that id or name; NoSuchJob where there is none."""
        return self._job(self.portal.ask(lambda: self.inner[job]))

    def get(self, job: int | str) -> Job | None:
        """The job of that id or name, if there is one."""
        return self._perhaps(self.portal.ask(lambda: self.inner.get(job)))

    def ids(self) -> list[int]:
        """The ids of all jobs, oldest first."""
        return self.portal.ask(self.inner.ids)

    def infos(self) -> list[JobInfo]:
        """All about every job, all of one moment; frozen."""
        return self.portal.ask(self.inner.infos)

    @property
    def running_count(self) -> int:
        """How many jobs are `running`."""
        return self.portal.ask(lambda: self.inner.running_count)

    @property
    def last(self) -> Job | None:
        """The newest job."""
        return self._perhaps(self.portal.ask(lambda: self.inner.last))

    @property
    def last_stopped(self) -> Job | None:
        """The one of the jobs that are `stopped` that was stopped last."""
        return self._perhaps(self.portal.ask(lambda: self.inner.last_stopped))

    @property
    def events(self) -> StreamReader:
        """What has happened, one JSON object a line, as the file `events` has it."""
        return StreamReader(self.portal, self.inner.events)

    # Waiting

    def wait_all(self, jobs: Iterable[Job] | None = None) -> Iterator[Job]:
        """Gives each of `jobs`, all that there are now by default, when it has ended: in the order of their ends."""
        wanted = None if jobs is None else [job.inner for job in jobs]
        return map(self._job, Items(self.portal, self.portal.ask(lambda: self.inner.wait_all(wanted))))

    # Forgetting

    def remove(self, *jobs: Job) -> None:
        """Forgets jobs that have ended, and their output; JobAlive, and nothing is changed, where one has not."""
        self.portal.wait(partial(self.inner.remove, *(job.inner for job in jobs)))

    def clean(self) -> None:
        """Forgets all jobs that have ended."""
        self.portal.wait(self.inner.clean)

    def prune(self, keep: int, keep_bytes: int = 1 << 62) -> None:
        """Forgets the oldest ended jobs, until at most `keep` are left, and at most `keep_bytes` of their output."""
        self.portal.wait(partial(self.inner.prune, keep, keep_bytes))
