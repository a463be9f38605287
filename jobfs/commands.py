"""What the commands of `ctl` do to the table. Parsing is `control`'s; here the words meet the jobs."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from jobfs.control import Clean, Command, Cont, Eof, Kill, Remove, Restart, Spawn, Stop, Winsize
from jobfs.errors import (
    AccessDenied,
    BadCommand,
    JobEnded,
    LimitReached,
    LineTooLong,
    NameTaken,
    NotFound,
    SpawnFailed,
)
from jobfs.model import DEFAULT_CAPACITY, JobSpec
from jobfs.proc import NO_DESCRIPTOR
from jobfs.text import decode, with_variables

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobfs.job import Job
    from jobfs.model import Surroundings, Writer
    from jobfs.table import JobTable

_ENVIRONMENT_MAX = 8 * 1024 * 1024  # bytes of an --env-file; execve takes less
_FILE_READERS = trio.CapacityLimiter(8)  # threads that read them, of their own: some may hang for ever
_FILE_PATIENCE = 1.0  # seconds that reading an --env-file may take


class Origin(Protocol):
    """Where a command came from."""

    @property
    def writer(self) -> Writer:
        """The process that wrote it."""

    @property
    def surroundings(self) -> Surroundings:
        """What a job inherits from the writer."""


class OpenFile(Protocol):
    """The open `ctl` that a command was written to, which jobs may be leased on."""

    async def holder(self, writer: Writer) -> int | None:
        """A pidfd of the process that has it open, to be closed by the caller; None where that cannot be told.

        `writer` is who wrote the command.
        """

    def lease(self, job: Job) -> None:
        """The job is to be ended when the file is closed."""


class Commands:
    """Runs commands, one at a time for each caller, and gives what the reply says: `ok`, or the new ids."""

    def __init__(self, table: JobTable) -> None:
        self._table = table

    async def run(  # noqa: C901 - a case for each command
        self, command: Command, origin: Origin, file: OpenFile
    ) -> str:
        """Does what `command` says, or raises one of the `jobfs.errors` family and changes nothing."""
        match command:
            case Spawn():
                return await self._spawn(command, origin, file)
            case Clean():
                await self._table.remove([job for job in self._table.jobs() if job.ended])
            case Restart():
                return await self._restart(self._resolve(command.jobs, origin), origin, file)
            case Remove():
                await self._table.remove(self._resolve(command.jobs, origin))
            case Kill(signal=None):
                await _each(self._resolve(command.jobs, origin), self._table.end)
            case Kill(signal=int(number)):
                await self._signal(self._resolve(command.jobs, origin), number)
            case Stop():
                await self._signal(self._resolve(command.jobs, origin), signal.SIGSTOP)
            case Cont():
                await self._signal(self._resolve(command.jobs, origin), signal.SIGCONT)
            case Eof():
                await self._close_stdin(self._resolve(command.jobs, origin))
            case Winsize():
                await self._resize(self._resolve(command.jobs, origin), command.rows, command.columns)
        return "ok"

    def _resolve(self, words: tuple[str, ...], origin: Origin) -> list[Job]:
        found = {job.id: job for job in (self._table.resolve(word, origin.writer) for word in words)}
        return list(found.values())

    async def _signal(self, jobs: list[Job], number: int) -> None:
        await _each(jobs, lambda job: self._table.signal(job, number))

    async def _close_stdin(self, jobs: list[Job]) -> None:
        for job in jobs:
            if not job.spec.takes_input:
                msg = f"job {job.id} has no stdin to close: it was spawned without --stdin pipe or --pty"
                raise BadCommand(msg)
        await _each(jobs, self._table.close_stdin)

    async def _resize(self, jobs: list[Job], rows: int, columns: int) -> None:
        for job in jobs:
            if not job.spec.pty:
                msg = f"job {job.id} has no terminal: it was spawned without --pty"
                raise BadCommand(msg)
        await _each(jobs, lambda job: self._table.resize(job, rows, columns))

    async def _spawn(self, command: Spawn, origin: Origin, file: OpenFile) -> str:
        options = command.options
        self._table.check_name(options.name)
        around = origin.surroundings
        directory = _directory(command, around)
        environment = await self._environment(command, around, directory)
        spec = JobSpec(
            cmd=command.cmd,
            argv=command.argv,
            directory=directory,
            environment=with_variables(environment, dict(options.env)) if options.env else environment,
            name=options.name,
            cwd=options.cwd,
            umask=around.umask,
            stdin=options.stdin,
            limit=DEFAULT_CAPACITY if options.limit is None else options.limit,
            timeout=options.timeout,
            grace=options.grace,
            nice=options.nice,
            pty=options.pty,
            lease=options.lease,
            writer=origin.writer,
        )
        return str((await self._start(spec, around.directory_fd, file)).id)

    async def _restart(self, jobs: list[Job], origin: Origin, file: OpenFile) -> str:
        names: set[str] = set()
        for job in jobs:
            job.require_restartable()
            self._table.check_name(job.spec.name)
            if job.spec.name in names:
                msg = f"the name {job.spec.name} is of two of these jobs, and only one can have it"
                raise NameTaken(msg)
            if job.spec.name is not None:
                names.add(job.spec.name)
        specs = [replace(job.spec, writer=origin.writer) for job in jobs]
        return " ".join([str((await self._start(spec, None, file)).id) for spec in specs])

    async def _start(self, spec: JobSpec, directory: int | None, file: OpenFile) -> Job:
        if not spec.lease:
            return await self._spawned(spec, directory)
        holder = await file.holder(spec.writer)
        try:
            job = await self._spawned(spec, directory, holder)
        finally:
            if holder is not None:
                os.close(holder)
        file.lease(job)
        return job

    async def _spawned(self, spec: JobSpec, directory: int | None, holder: int | None = None) -> Job:
        try:
            return await self._table.spawn(spec, spec.environment, directory, holder)
        except SpawnFailed as error:
            if error.errno == errno.E2BIG:
                msg = "the command line and its environment are too long for execve"
                raise LineTooLong(msg) from error
            raise

    async def _environment(self, command: Spawn, around: Surroundings, directory: str) -> str:
        file = command.options.env_file
        if file is not None:
            return await _read_environment(Path(directory, file))
        if around.environment is None:
            msg = "the writer's environment cannot be read: give --env-file"
            raise AccessDenied(msg)
        return around.environment


def _directory(command: Spawn, around: Surroundings) -> str:
    """The directory from which the command's paths are read; an error where there is none and one is needed."""
    if around.directory is not None:
        return around.directory
    options = command.options
    stdin = None if options.stdin in ("none", "pipe") else options.stdin
    paths = (path for path in (options.cwd, stdin, options.env_file) if path is not None)
    if options.cwd is not None and all(path.startswith("/") for path in paths):
        return "/"
    if around.directory_removed:
        msg = "the writer's working directory was removed: give --cwd"
        raise NotFound(msg)
    msg = "the writer's working directory cannot be read: give --cwd"
    raise AccessDenied(msg)


async def _read_environment(path: Path) -> str:
    """The entries of a file as `env -0` writes it, read in a thread: it may be a file of this very mount, or hang."""
    with trio.move_on_after(_FILE_PATIENCE):
        try:
            raw = await trio.to_thread.run_sync(_read_file, path, abandon_on_cancel=True, limiter=_FILE_READERS)
        except OSError as error:
            msg = f"cannot read --env-file {path}: {error.strerror}"
            if error.errno in NO_DESCRIPTOR:
                raise LimitReached(msg) from error
            raise SpawnFailed(msg, error.errno or errno.EIO) from error
        entries = [entry for entry in raw.split(b"\0") if entry]
        bad = next((entry for entry in entries if b"=" not in entry), None)
        if bad is not None:
            msg = f"--env-file {path} has an entry without =: {decode(bad[:40])!r}"
            raise BadCommand(msg)
        return decode(b"".join(entry + b"\0" for entry in entries))
    msg = f"--env-file {path} cannot be read: its file system does not answer"
    raise LimitReached(msg)


def _read_file(path: Path) -> bytes:
    # O_NONBLOCK: a FIFO that nobody writes to must not hold the command up. What one writes is waited for.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        os.set_blocking(file.fileno(), True)
        raw = file.read(_ENVIRONMENT_MAX + 1)
    if len(raw) > _ENVIRONMENT_MAX:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return raw


async def _each(jobs: list[Job], action: Callable[[Job], Awaitable[None]]) -> None:
    """Does `action` for each; JobEnded only where every one of them has ended."""
    over: JobEnded | None = None
    reached = False
    for job in jobs:
        try:
            await action(job)
            reached = True
        except JobEnded:
            over = JobEnded(f"job {job.id} has ended")
    if over is not None and not reached:
        raise over
