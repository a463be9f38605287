"""The frozen values that the rooms of jobfs hand to each other: what a job is to be, and what is known about it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobfs.engines.inprocess.task import Task
    from jobfs.states import Status
    from jobfs.stream import StreamState

    Function = Callable[[Task], Awaitable[int | None]]

STREAMS = ("stdout", "stderr")
DEFAULT_CAPACITY = 10 * 1024 * 1024  # bytes that a stream keeps
DEFAULT_GRACE = 5.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True, slots=True)
class Writer:
    """Who wrote a command: what `spawned_by` tells, and what EPERM and `last` are decided by."""

    pid: int | None = None
    uid: int | None = None
    session: int | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job is to be. A restart runs the same again, so nothing in it refers to the moment.

    `directory` is the writer's working directory, from which relative paths of the command are read; `cwd` what was
    asked for beside it. `environment` is as the kernel shows it: `NAME=value` entries, NUL-terminated. Of a job that
    was `recovered` after the database was lost, the beginning of its command line is all that is known.

    A `function` is an async function of the program that has the table; `cmd` is what it is called, and `run` is it,
    which no database keeps: None once the program that had it has ended.
    """

    cmd: str | None
    argv: tuple[str, ...] | None
    directory: str
    environment: str
    name: str | None = None
    cwd: str | None = None
    umask: int = 0o022
    stdin: str = "none"
    limit: int = DEFAULT_CAPACITY
    timeout: float | None = None
    grace: float = DEFAULT_GRACE
    nice: int | None = None
    pty: bool = False
    lease: bool = False
    recovered: bool = False
    function: bool = False
    run: Function | None = field(default=None, compare=False, repr=False)
    writer: Writer = field(default_factory=Writer)

    @property
    def takes_input(self) -> bool:
        """Whether what is written to its `stdin` reaches it."""
        return self.pty or self.stdin == "pipe"

    @property
    def words(self) -> list[str]:
        """What is executed: `argv`, or the shell with `cmd`."""
        return list(self.argv) if self.argv is not None else ["/bin/sh", "-c", self.cmd or ""]

    @property
    def working_directory(self) -> str:
        """Where the job starts, as a path."""
        return str(Path(self.directory, self.cwd or ""))

    @property
    def line(self) -> str:
        """The command line, as a person would type it."""
        return self.cmd if self.cmd is not None else shlex.join(self.argv or ())


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a job inherits from the process that wrote the command, read while that process waits in its write.

    None is what the kernel does not show. `directory_fd` is an open descriptor of the directory (a path may mean
    another place in another mount namespace); whoever made this value closes it.
    """

    directory: str | None = None
    directory_removed: bool = False
    directory_fd: int | None = None
    environment: str | None = None
    umask: int = 0o022


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job has used: seconds, bytes, and counts of processes. None: not known."""

    cpu_user_s: float | None = None
    cpu_system_s: float | None = None
    rss_bytes: int | None = None
    max_rss_bytes: int | None = None
    processes: int | None = None
    lingering: int | None = None


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A snapshot of one job, as everything that is rendered is made from."""

    id: int
    spec: JobSpec
    status: Status
    pid: int | None
    reason: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    elapsed: float | None
    changed_at: float
    stdout: StreamState
    stderr: StreamState
    usage: Usage
