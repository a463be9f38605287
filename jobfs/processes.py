"""The machine's processes, read from /proc in one pass, and which of them belong to which job.

Every process of a job descends from the supervisor, which is a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER):
what a job leaves behind becomes the supervisor's child. So a stranger that has a number by chance is never taken
for a job's. psutil would ask for the same fields file by file; a table of a thousand jobs wants one pass.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobfs import proc

if TYPE_CHECKING:
    from collections.abc import Mapping

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# A process amid its exec shows no environment for an instant; one that has none at all is rare.
_LOOKS = 3
_EXEC_TIME = 0.001  # seconds
# Looking at every process of the machine takes milliseconds; a table that is read again and again need not do it anew.
_KEPT = 0.1  # seconds
_PATIENCE = 0.25  # seconds that a look is waited for, which takes a tenth of that with a thousand processes
_ID_DIGITS = 18  # of an id; what has more is none


@dataclass(frozen=True, slots=True)
class Process:
    """One process as /proc/PID/stat has it (proc(5)); CPU in seconds, memory in bytes, start in clock ticks."""

    pid: int
    parent: int
    group: int
    session: int
    zombie: bool
    start: int
    cpu_user_s: float
    cpu_system_s: float
    rss_bytes: int


def read_process(pid: int) -> Process | None:
    """The process that has the number `pid` now, or None where there is none."""
    try:
        raw = proc.read(pid, "stat")
    except OSError:  # gone between the listing and the read (ENOENT, ESRCH)
        return None
    rest = raw[raw.rindex(b")") + 2 :].split()  # the name before it may hold anything, blanks and parentheses too
    return Process(
        pid=pid,
        parent=int(rest[1]),
        group=int(rest[2]),
        session=int(rest[3]),
        zombie=rest[0] in b"ZX",
        start=int(rest[19]),
        cpu_user_s=(int(rest[11]) + int(rest[13])) / _TICKS,
        cpu_system_s=(int(rest[12]) + int(rest[14])) / _TICKS,
        rss_bytes=int(rest[21]) * _PAGE,
    )


def all_processes() -> dict[int, Process]:
    """Every process there is, by its number."""
    found = map(read_process, proc.tasks())
    return {process.pid: process for process in found if process is not None}


class ProcessTable:
    """Which processes belong to which job, looked up in a thread: see `jobfs.proc`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "processes")
        self._found: dict[int, list[Process]] = {}
        self._listed: dict[int, Process] = {}
        self._listed_at = float("-inf")

    def members(self, leaders: Mapping[int, int], supervisor: int) -> dict[int, list[Process]]:
        """See `members`; where that takes too long, what was found the last time."""
        look = proc.Look(partial(self._look, dict(leaders), supervisor))
        try:
            self._found = self._thread.submit(look.run).result(_PATIENCE)
        except TimeoutError:
            look.abandon()
            self._thread.shutdown(wait=False)
            self._thread = ThreadPoolExecutor(1, "processes")
        return self._found

    def forget(self) -> None:
        """Something has ended: look anew."""
        self._listed_at = float("-inf")

    def _look(self, leaders: dict[int, int], supervisor: int) -> dict[int, list[Process]]:
        if time.monotonic() - self._listed_at > _KEPT:
            self._listed, self._listed_at = all_processes(), time.monotonic()
        return members(self._listed, leaders, supervisor)


def boot_id() -> str:
    """What tells this boot of the machine from every other (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def members(processes: Mapping[int, Process], leaders: Mapping[int, int], supervisor: int) -> dict[int, list[Process]]:
    """Which living processes belong to which job.

    `leaders` maps the number of each job's first process to the job's id, the newest job last where a number came
    again. A process belongs to the job of its nearest ancestor. One whose ancestors have gone belongs to the job in
    whose session it is, unless its environment names another one, for a session's number may have come again too; a
    daemon, which left its session, belongs to the job that its JOBFS_ID names. Jobs that `leaders` does not have may be
    in the answer too.
    """
    children: dict[int, list[Process]] = defaultdict(list)
    for process in processes.values():
        children[process.parent].append(process)
    found: dict[int, list[Process]] = defaultdict(list)
    todo: list[tuple[Process, int | None]] = [(child, None) for child in children[supervisor]]
    while todo:
        process, owner = todo.pop()
        if owner is None:
            owner = _owner(process, leaders)
        if owner is not None and not process.zombie:
            found[owner].append(process)
        todo.extend((child, owner) for child in children[process.pid])
    return found


def _owner(process: Process, leaders: Mapping[int, int]) -> int | None:
    """The job of a process that has no ancestor but the supervisor; it may be one that was not asked for."""
    in_session = leaders.get(process.session)
    if process.zombie or process.pid in leaders:
        return in_session
    named = _named_in_environment(process.pid)
    return in_session if named is None else named


def _named_in_environment(pid: int) -> int | None:
    """The job that the JOBFS_ID of a process names; None where it has none, or does not let us look."""
    raw = b""
    for _ in range(_LOOKS):
        try:
            raw = proc.read(pid, "environ")
        except OSError:
            return None
        if raw:
            break
        time.sleep(_EXEC_TIME)
    for entry in raw.split(b"\0"):
        if entry.startswith(b"JOBFS_ID="):
            text = entry[len(b"JOBFS_ID=") :]
            return int(text) if text.isdigit() and len(text) <= _ID_DIGITS else None
    return None
