"""The machine's processes, read from /proc in one pass, and which of them belong to which job.

Every process of a job descends from the supervisor, which is a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER):
what a job leaves behind becomes the supervisor's child. So a stranger that has a number by chance is never taken
for a job's. psutil would ask for the same fields file by file; a table of a thousand jobs wants one pass.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import struct
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobfs import proc
from jobfs.model import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# A process amid its exec shows no environment for an instant; one that has none at all is rare.
_LOOKS = 3
_EXEC_TIME = 0.001  # seconds
# Looking at every process of the machine takes milliseconds; a table that is read again and again need not do it anew.
_KEPT = 0.1  # seconds
_PATIENCE = 0.25  # seconds that a look is waited for, which takes a tenth of that with a thousand processes
# The kernel's include/uapi/linux/pidfd.h: a mask of what is asked and told, 52 bytes of what it is not asked for here,
# and the wait status, in the first version of its structure, of 64 bytes.
_PIDFD_INFO = struct.Struct("=Q52xi")
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11
_EXIT_CODE = 49  # the field's place in /proc/PID/stat, counted from the state
_STATE = re.compile(rb"^State:\s+(\S)", re.MULTILINE)
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


@dataclass(frozen=True, slots=True)
class Stray:
    """A job that an earlier supervisor started: the number of its process, and between which ticks that started."""

    job: int
    pid: int
    first: int
    last: int

    def is_leader(self, process: Process) -> bool:
        """Whether `process`, which has that number, is the job's, and no later one."""
        return self.first <= process.start <= self.last


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


def usage_of(processes: list[Process]) -> Usage:
    """What these use together."""
    return Usage(
        cpu_user_s=sum(process.cpu_user_s for process in processes),
        cpu_system_s=sum(process.cpu_system_s for process in processes),
        rss_bytes=sum(process.rss_bytes for process in processes),
        processes=len(processes),
    )


def max_rss_bytes(usage: resource.struct_rusage) -> int | None:
    """The most memory that a child that was reaped had; None where that is not known.

    The mark starts with this process's own, which the child was before its exec (getrusage(2): in KiB).
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage.ru_maxrss * 1024 if usage.ru_maxrss > own else None


class ProcessTable:
    """Which processes belong to which job, looked up in a thread: see `jobfs.proc`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "processes")
        self._found: dict[int, list[Process]] = {}
        self._listed: dict[int, Process] = {}
        self._listed_at = float("-inf")

    def members(
        self, leaders: Mapping[int, int], supervisor: int, strays: Iterable[Stray] = ()
    ) -> dict[int, list[Process]]:
        """See `members`; where that takes too long, what was found the last time."""
        look = proc.Look(partial(self._look, dict(leaders), supervisor, tuple(strays)))
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

    def _look(self, leaders: dict[int, int], supervisor: int, strays: tuple[Stray, ...]) -> dict[int, list[Process]]:
        if time.monotonic() - self._listed_at > _KEPT:
            self._listed, self._listed_at = all_processes(), time.monotonic()
        return members(self._listed, leaders, supervisor, strays)


def exit_status(pid: int, pidfd: int) -> int | None:
    """The wait status (wait(2)) of a process that ended and that is not our child; None where nobody tells.

    `pidfd` is its own. As long as its parent has not reaped it, /proc tells (proc(5), `exit_code`), and afterwards the
    kernel does from Linux 6.15 on (PIDFD_GET_INFO).
    """
    try:
        fields = proc.read(pid, "stat").rpartition(b")")[2].split()
        signal.pidfd_send_signal(pidfd, 0)  # so it was not reaped when that was read, and the number was its own
        return int(fields[_EXIT_CODE]) if fields[0] == b"Z" else None
    except OSError:
        pass
    info = bytearray(_PIDFD_INFO.size)
    _PIDFD_INFO.pack_into(info, 0, _PIDFD_INFO_EXIT, 0)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:  # an older kernel: ENOTTY, EINVAL; or it keeps nothing of a process that ended: ESRCH
        return None
    mask, status = _PIDFD_INFO.unpack(info)
    return int(status) if mask & _PIDFD_INFO_EXIT else None


def stop_state(pid: int) -> bool | None:
    """Whether a signal has stopped a process; None where it has ended. It never waits: see `jobfs.proc`."""
    try:
        status = proc.read(pid, "status")
    except OSError:
        return None
    match = _STATE.search(status)
    if match is None or match[1] in b"ZX":
        return None
    return match[1] in b"Tt"


def ticks() -> int:
    """Now, as a process that is started now has it in `start`."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS // 1_000_000_000


def boot_id() -> str:
    """What tells this boot of the machine from every other (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def members(
    processes: Mapping[int, Process],
    leaders: Mapping[int, int],
    supervisor: int,
    strays: Iterable[Stray] = (),
) -> dict[int, list[Process]]:
    """Which living processes belong to which job.

    `leaders` maps the number of each job's first process to the job's id, the newest job last where a number came
    again. A process belongs to the job of its nearest ancestor. One whose ancestors have gone belongs to the job in
    whose session it is, unless its environment names another one, for a session's number may have come again too; a
    daemon, which left its session, belongs to the job that its JOBFS_ID names. Jobs that `leaders` does not have may be
    in the answer too.

    `strays` are jobs that an earlier supervisor started, whose processes are nobody's whom we know: of those only the
    first one is known for sure, and who is in its session and has its JOBFS_ID.
    """
    children: dict[int, list[Process]] = defaultdict(list)
    for process in processes.values():
        children[process.parent].append(process)
    found: dict[int, list[Process]] = defaultdict(list)
    todo: list[tuple[Process, int | None]] = [(child, None) for child in children[supervisor]]
    todo += _astray(processes, strays)
    seen: set[int] = set()
    while todo:
        process, owner = todo.pop()
        if process.pid in seen:
            continue
        seen.add(process.pid)
        if owner is None:
            owner = _owner(process, leaders)
        if owner is not None and not process.zombie:
            found[owner].append(process)
        todo.extend((child, owner) for child in children[process.pid])
    return found


def _astray(processes: Mapping[int, Process], strays: Iterable[Stray]) -> Iterator[tuple[Process, int]]:
    """The processes that are known to be of jobs that an earlier supervisor started."""
    by_session = {stray.pid: stray for stray in strays}
    for process in processes.values() if by_session else ():
        stray = by_session.get(process.session)
        leader = processes.get(process.session)
        if stray is None or (leader is not None and not stray.is_leader(leader)):  # its number has come again
            continue
        if process is leader or _named_in_environment(process.pid) == stray.job:
            yield process, stray.job


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
