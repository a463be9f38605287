"""The tree as a table: every file's name, mode, and how it is read and written. A new file is one row.

Inode numbers are computed: the root is 1, its own files follow, and job N has the numbers from N * 64 on, its directory
first. So nothing need be remembered for the kernel.
"""

from __future__ import annotations

import enum
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobfs import render
from jobfs.errors import MachineError
from jobfs.text import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.job import Job
    from jobfs.table import JobTable

ROOT = 1
SLOTS = 64  # inode numbers that a job has
NAME_SLOT = SLOTS - 1  # of the link that has a job's name


class Kind(enum.Enum):
    """How a file is served."""

    TEXT = "text"  # rendered when it is opened
    STATUS = "status"  # the same, and poll(2) tells when the job has ended
    WAIT = "wait"  # rendered when the job has ended, and so long read(2) waits
    STREAM = "stream"  # bytes of a bounded stream at absolute offsets
    FOLLOW = "follow"  # the same, and at their end read(2) waits for more
    CONTROL = "control"  # verbs in, replies out
    STDIN = "stdin"  # bytes to the job
    LINK = "link"


@dataclass(frozen=True, slots=True)
class RootFile:
    """A file of the root; `text` renders it."""

    name: bytes
    slot: int
    mode: int
    kind: Kind
    text: Callable[[JobTable], bytes] | None = None
    listed: bool = True


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file of a job: `text` renders it; once `settled` it never changes again, and the kernel may keep it.

    Of a stream both the time and the settling are told by its own state.
    """

    name: bytes
    slot: int
    mode: int
    kind: Kind
    text: Callable[[JobTable, Job], bytes] | None = None
    settled: Callable[[Job], bool] = lambda _: False
    mtime_ns: Callable[[Job], int] = lambda job: job.created_ns
    listed: bool = True


def _info(table: JobTable, job: Job) -> bytes:
    return render.info(table.snapshots([job])[0])


def _status(_: JobTable, job: Job) -> bytes:
    return render.status(job.status)


def _cmd(_: JobTable, job: Job) -> bytes:
    return render.cmd(job.spec.line)


def _env(table: JobTable, job: Job) -> bytes:
    _require_known(job)
    return encode(table.environment(job.id, job.spec.environment))


def _cwd(_: JobTable, job: Job) -> bytes:
    _require_known(job)
    return encode(job.spec.working_directory)


def _require_known(job: Job) -> None:
    if job.spec.recovered:
        msg = f"what job {job.id} was spawned with was lost with the database"
        raise MachineError(msg)


def _always(_: Job) -> bool:
    return True


def _ended(job: Job) -> bool:
    return job.ended


def _change(job: Job) -> int:
    return int(job.changed_at * 1e9)


R, RW = stat.S_IFREG | 0o400, stat.S_IFREG | 0o600
LINK = stat.S_IFLNK | 0o777

ROOT_FILES = (
    RootFile(b"ctl", 2, RW, Kind.CONTROL),
    RootFile(b"events", 3, R, Kind.STREAM),
    RootFile(b"table", 4, R, Kind.TEXT, lambda table: render.table(table.snapshots(table.jobs()))),
    RootFile(b"table.jsonl", 5, R, Kind.TEXT, lambda table: render.table_jsonl(table.snapshots(table.jobs()))),
    RootFile(b"last", 6, LINK, Kind.LINK),
)

JOB_FILES = (
    JobFile(b"cmd", 1, R, Kind.TEXT, _cmd, settled=_always),
    JobFile(b"status", 2, R, Kind.STATUS, _status, settled=_ended, mtime_ns=_change),
    JobFile(b"stdout", 3, R, Kind.STREAM),
    JobFile(b"stderr", 4, R, Kind.STREAM),
    JobFile(b"stdin", 5, RW, Kind.STDIN),
    JobFile(b"ctl", 6, RW, Kind.CONTROL),
    JobFile(b"info", 7, R, Kind.TEXT, _info, mtime_ns=_change),
    JobFile(b"wait", 8, R, Kind.WAIT, _status, mtime_ns=_change, listed=False),
    JobFile(b"follow", 9, R, Kind.FOLLOW, listed=False),
    JobFile(b"env", 10, R, Kind.TEXT, _env, settled=_always, listed=False),
    JobFile(b"cwd", 11, LINK, Kind.LINK, _cwd, settled=_always, listed=False),
)

ROOT_BY_NAME = {file.name: file for file in ROOT_FILES}
ROOT_BY_INODE = {file.slot: file for file in ROOT_FILES}
JOB_BY_NAME = {file.name: file for file in JOB_FILES}
JOB_BY_SLOT = {file.slot: file for file in JOB_FILES}


def job_inode(job: int, slot: int = 0) -> int:
    """The inode number of a job's file, or of its directory."""
    return job * SLOTS + slot


def job_of(inode: int) -> tuple[int, int]:
    """The job and the slot that an inode number stands for; job 0 is the root's."""
    return divmod(inode, SLOTS)


def job_name(name: bytes) -> int | None:
    """The id that a directory's name stands for, as /proc has it: digits without a leading zero."""
    return int(name) if name.isdigit() and not name.startswith(b"0") and len(name) < 18 else None  # noqa: PLR2004
