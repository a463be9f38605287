"""Finding what is left of jobs whose supervisor was killed: their processes, and whoever holds their pipes.

A process is known again by its number, by when it was started, and by the boot; a pipe by its inode. Opened through
`/proc/PID/fd` of whoever holds it, the pipe goes on as if nothing had happened: the job itself can read it, so it was
never broken, and at worst somebody waits because it is full.

All this reads /proc of others, so it may hang: run it in a thread (see `jobfs.proc`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobfs import proc
from jobfs.processes import Stray, read_process
from jobfs.supervisor.wire import has_ended

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from jobfs.supervisor.wire import JobRecord


@dataclass(slots=True)
class Orphan:
    """A job to be adopted: its record, and what was found of it, for the caller to close."""

    record: JobRecord
    descriptors: dict[str, int] = field(default_factory=dict)


def is_orphan(record: JobRecord, boot: str) -> bool:
    """Whether a record that no supervisor knows is of a job that may live, or whose pipes somebody may hold."""
    return (
        record.get("boot_id") == boot
        and "pipes" in record
        and (not has_ended(record) or bool(record.get("open_streams")))
    )


def find(records: Iterable[JobRecord], kept: Mapping[int, Collection[str]]) -> list[Orphan]:
    """What is left of each job, but for what is `kept` of it already, by name."""
    orphans = [Orphan(record) for record in records]
    missing = {
        inode: (orphan, name)
        for orphan in orphans
        for name, inode in orphan.record["pipes"].items()
        if name not in kept.get(orphan.record["id"], ()) and not orphan.record.get("pty")
    }
    unknown = {
        inode: orphan for orphan in orphans if "pid" not in orphan.record for inode in orphan.record["pipes"].values()
    }
    if missing or unknown:
        for task in proc.tasks():
            if task == os.getpid():  # which keeps the other ends
                continue
            _look_at(task, missing, unknown)
    for orphan in orphans:
        if "pid" in orphan.record and "process" not in kept.get(orphan.record["id"], ()):
            _open_process(orphan)
    return orphans


def _look_at(task: int, missing: dict[int, tuple[Orphan, str]], unknown: dict[int, Orphan]) -> None:
    """Whether a process holds any of the pipes that are `missing`, or is of a job whose process is `unknown`."""
    try:
        names = proc.entries(task, "fd")
        held = {_inode(proc.link(task, f"fd/{name}")): name for name in names}
    except OSError:  # it has ended, or is another user's
        return
    for inode in held.keys() & unknown.keys():
        _note_process(unknown[inode], task)
    for inode in held.keys() & missing.keys():
        orphan, stream = missing[inode]
        fd = _open_pipe(task, held[inode], inode)
        if fd is not None:
            orphan.descriptors[stream] = fd
            del missing[inode]


def _inode(target: str) -> int:
    """The number of the pipe that a link of /proc/PID/fd names; 0 where it is none."""
    return int(target[len("pipe:[") : -1]) if target.startswith("pipe:[") else 0


def _open_pipe(task: int, name: str, inode: int) -> int | None:
    try:
        fd = os.open(f"/proc/{task}/fd/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if os.fstat(fd).st_ino != inode:  # it was closed meanwhile, or the number is another process's by now
        os.close(fd)
        return None
    return fd


def _note_process(orphan: Orphan, task: int) -> None:
    """The supervisor was killed before it could write down which process it had started: one that holds its pipe."""
    process = read_process(task)
    if process is None or "pid" in orphan.record:
        return
    first = orphan.record["start_window"][0]
    leader = process if process.pid == process.session else read_process(process.session)
    last = process.start if leader is None else leader.start
    if process.start >= first:
        orphan.record |= {"pid": process.session, "start_window": (first, last)}


def _open_process(orphan: Orphan) -> None:
    record = orphan.record
    try:
        pidfd = os.pidfd_open(record["pid"])
    except OSError:  # it has ended; or it is a thread's number by now
        return
    process = read_process(record["pid"])
    if process is not None and Stray(record["id"], record["pid"], *record["start_window"]).is_leader(process):
        orphan.descriptors["process"] = pidfd
    else:
        os.close(pidfd)
