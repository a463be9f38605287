"""What is done to a mount while it is under load, and the rounds in which that is done and audited.

A fault leaves the mount served; the load goes on all the while. Each round ends with the audit, and then with nothing
left: no job, no file, no descriptor more than before the first.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from jobfs.supervisor import JOBS, RECORDS
from jobfs.supervisor.records import read_records
from tests.faults.audit import LIVING, descriptors, findings, observe, table
from tests.faults.load import Away, Load
from tests.faults.plans import exits
from tests.mounted import JOBFS, PATIENCE, Mounted, is_running, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.plans import Plan

_ROUND = 10  # faults before an audit
_BETWEEN = 0.4  # seconds between two faults at most
_STARTING = 0.5  # seconds that a daemon takes to start, or somewhat more
_LINES = 20  # commands in one write
_PIECES = (64, 512, 2038, 4096)  # bytes; fish, tcsh and bash write so many at once
_SHOWN = 20  # findings
_LOG_SHOWN = 2000  # characters

chance = random.Random()  # noqa: S311 - a game of chance

Fault: TypeAlias = "Callable[[Load], float | None]"


@dataclass(slots=True)
class Figures:
    """What was done, and how long the mount was away each time, in seconds."""

    counts: Counter[str] = field(default_factory=Counter)
    away: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        """For people."""
        said = [f"{name}: {number}" for name, number in sorted(self.counts.items())]
        if self.away:
            said.append(
                f"mount back after {statistics.median(self.away):.2f} s (median), {max(self.away):.2f} s (most)"
            )
        return ", ".join(said)


def under_load(jobs: Mounted, place: Path, faults: list[Fault], times: int, *, unwatched: bool = False) -> Figures:
    """Does one of `faults` after the other to a mount under load, `times` in all; AssertionError where an audit fails.

    `unwatched`: see `Truth`. A fault gives how long the mount was away, in seconds, where that means something.
    """
    figures = Figures()
    before = _quiet(jobs)
    for begin in range(0, times, _ROUND):
        marks = place / str(begin)
        marks.mkdir()
        with Load(jobs, marks, unwatched=unwatched) as load:
            for number in range(begin, min(begin + _ROUND, times)):
                time.sleep(chance.uniform(0, _BETWEEN))
                fault = faults[number % len(faults)]
                figures.counts[fault.__name__] += 1
                if (away := fault(load)) is not None:
                    figures.away.append(away)
            time.sleep(chance.uniform(0, _BETWEEN))
            load.stop()
            _audit(jobs, load)
            figures.counts += load.figures()
        _clear(jobs)
        until(lambda: _open_files(jobs) - before, lambda more: not more)
    return figures


def _audit(jobs: Mounted, load: Load) -> None:
    if found := findings(load.truth(), observe(jobs)):
        raise AssertionError("\n".join([f"{len(found)} findings:", *found[:_SHOWN], jobs.log()[-_LOG_SHOWN:]]))


def _quiet(jobs: Mounted) -> Counter[str]:
    """What daemon and supervisor have open when nothing is going on, after something was."""
    for _ in range(3):
        jobs.run("echo out; echo err >&2")
    _clear(jobs)
    return _open_files(jobs)


def _open_files(jobs: Mounted) -> Counter[str]:
    both = {"the daemon": jobs.daemon, "the supervisor": jobs.supervisor}
    return Counter({f"{who}, {what}": n for who, pid in both.items() for what, n in descriptors(pid).items()})


def _clear(jobs: Mounted) -> None:
    """Ends and forgets every job; nothing is left of them then."""
    if living := [str(info["id"]) for info in table(jobs) if info["status"] in LIVING]:
        jobs.ctl(f"kill -9 {' '.join(living)}")
    until(lambda: [info for info in table(jobs) if not _over(info)], lambda left: not left)
    jobs.ctl("clean")
    assert [] == table(jobs)
    assert set() == until(lambda: {*os.listdir(jobs.state / JOBS)} - {RECORDS}, lambda left: not left)
    assert {} == read_records(str(jobs.state / JOBS / RECORDS))


def _over(info: dict[str, object]) -> bool:
    streams = (info["stdout"], info["stderr"])
    return info["status"] not in LIVING and all(isinstance(stream, dict) and stream["closed"] for stream in streams)


# Faults


def kill(*pids: int | None) -> None:
    """Ends processes as a crash does, all before the first is waited for."""
    wanted = [pid for pid in pids if pid is not None]
    for pid in wanted:
        os.kill(pid, signal.SIGKILL)
    until(lambda: any(map(is_running, wanted)), lambda running: not running)


def daemon_killed(load: Load) -> float:
    """SIGKILL to the daemon, and a new mount; how long that took."""
    began = time.monotonic()
    kill(load.jobs.daemon)
    load.jobs.mount()
    return time.monotonic() - began


def daemon_killed_as_it_starts(load: Load) -> None:
    """SIGKILL to the daemon, to the next one at any moment of its start, and a new mount."""
    jobs, before = load.jobs, load.jobs.daemon
    kill(before)
    command = [JOBFS, "mount", "--state", str(jobs.state), *jobs.options, str(jobs.path)]
    with subprocess.Popen(command, env=jobs.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        time.sleep(chance.uniform(0, _STARTING))
        jobs.note_processes()
        if jobs.daemon != before:
            kill(jobs.daemon)
    if jobs.daemon == before or not is_running(jobs.daemon or 0):
        jobs.mount()


def supervisor_killed(load: Load) -> float:
    """SIGKILL to the supervisor, for which the daemon starts another; how long it took until that was there."""
    began, before = time.monotonic(), load.jobs.supervisor
    kill(before)
    load.supervisor_killed.append((began, time.monotonic()))
    until(lambda: load.jobs.supervisor, lambda now: now not in (before, None))
    load.jobs.note_processes()
    return time.monotonic() - began


def both_killed(load: Load) -> float:
    """SIGKILL to daemon and supervisor at once, and a new mount; how long that took."""
    began = time.monotonic()
    kill(load.jobs.daemon, load.jobs.supervisor)
    load.jobs.mount()
    return time.monotonic() - began


def daemon_frozen(load: Load) -> None:
    """SIGSTOP to the daemon, and after a while SIGCONT."""
    _freeze(load.jobs.daemon)


def supervisor_frozen(load: Load) -> None:
    """SIGSTOP to the supervisor, and after a while SIGCONT."""
    _freeze(load.jobs.supervisor)


def _freeze(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(chance.uniform(1, 3))  # nothing may be started meanwhile: that would close files of the mount
    finally:
        os.kill(pid, signal.SIGCONT)


# In the middle of a write


def killed_amid_writes(jobs: Mounted, place: Path, times: int) -> Figures:
    """Kills the daemon around a write of several commands, `times` times, and audits.

    Every second write is made in pieces, as shells and small buffers make them.
    """
    figures = Figures()
    with Load(jobs, place, writers=0) as load:
        began = time.monotonic()
        load.spawn([exits(chance) for _ in range(_LINES)])
        whole = time.monotonic() - began  # what it takes on this machine now
        for number in range(times):
            plans = [exits(chance) for _ in range(_LINES)]
            piece = chance.choice(_PIECES) if number % 2 else None
            writer = threading.Thread(target=_spawn_regardless, args=(load, plans, piece), daemon=True)
            writer.start()
            time.sleep(chance.uniform(0, whole))
            figures.away.append(daemon_killed(load))
            writer.join(PATIENCE)
        load.stop()
        _audit(jobs, load)
        figures.counts += load.figures()
    _clear(jobs)
    return figures


def _spawn_regardless(load: Load, plans: list[Plan], piece: int | None) -> None:
    with suppress(Away):
        load.spawn(plans, piece)
