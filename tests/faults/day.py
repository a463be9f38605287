"""A day in fast motion: many short jobs, one after the other, through one daemon, and what that leaves behind."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from tests.faults.audit import descriptors
from tests.mounted import until

if TYPE_CHECKING:
    from tests.mounted import Mounted

BATCH = 100  # jobs that are spawned before it is waited for their ends; less than the table keeps
_GROWTH = 1.2
_REPLIES = 1 << 16


@dataclass(slots=True)
class Measured:
    """What daemon and supervisor had after so many jobs: bytes of memory for themselves alone (USS), and descriptors.

    USS and not RSS, of which a good part are libraries that all programs share: they would hide what grows.
    """

    jobs: int
    memory: tuple[int, ...]
    descriptors: tuple[int, ...]


@dataclass(slots=True)
class Day:
    """What was measured, and how many jobs were spawned a second by a write each, and by a write of `BATCH`."""

    measured: list[Measured] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=lambda: {1: 0.0, BATCH: 0.0})
    jobs: dict[int, int] = field(default_factory=lambda: {1: 0, BATCH: 0})

    def __str__(self) -> str:
        """For people."""
        rates = [f"{self.jobs[each] / self.seconds[each]:.0f} a second, {each} a write" for each in self.jobs]
        lines = [
            f"after {now.jobs} jobs: USS {' and '.join(f'{size / 1e6:.1f} MB' for size in now.memory)},"
            f" {' and '.join(map(str, now.descriptors))} descriptors (daemon and supervisor)"
            for now in self.measured
        ]
        return "\n".join([*lines, f"spawned and ended: {'; '.join(rates)}"])


def pass_by(jobs: Mounted, count: int, every: int) -> Day:
    """Runs `count` jobs, and measures after each `every`; AssertionError where one ends otherwise than it should."""
    day = Day()
    for start in range(0, count, BATCH):
        each = (1, BATCH)[start // BATCH % 2]
        began = time.monotonic()
        codes = [number % 256 for number in range(start, start + BATCH)]
        ids = _spawn(jobs, codes, each)
        for job, code in zip(ids, codes, strict=True):
            ended = jobs.until_ended(job)
            if ended != (f"failed:{code}" if code else "done:0"):
                msg = f"job {job} exited with {code}, and is {ended}"
                raise AssertionError(msg)
        day.seconds[each] += time.monotonic() - began
        day.jobs[each] += BATCH
        if (start + BATCH) % every == 0:
            day.measured.append(_measure(jobs, start + BATCH, day.measured))
    return day


def grown(day: Day) -> list[str]:
    """What is more at the end than at the first measurement: descriptors, or memory by a fifth; a sentence for each."""
    first, last = day.measured[0], day.measured[-1]
    found = []
    if last.descriptors != first.descriptors:
        found.append(f"{first.descriptors} descriptors became {last.descriptors}")
    if any(now > _GROWTH * before for before, now in zip(first.memory, last.memory, strict=True)):
        found.append(f"{first.memory} bytes of memory became {last.memory}")
    return found


def _spawn(jobs: Mounted, codes: list[int], each: int) -> list[int]:
    """Spawns a job for each exit status, so many with one write; every tenth writes something."""
    lines = [b"spawn %sexit %d\n" % (b"" if code % 10 else b"echo $JOBFS_ID; ", code) for code in codes]
    fd = os.open(jobs.file("ctl"), os.O_RDWR | os.O_CLOEXEC)
    try:
        for at in range(0, len(lines), each):
            os.write(fd, b"".join(lines[at : at + each]))
        return [int(reply) for reply in os.read(fd, _REPLIES).split()]
    finally:
        os.close(fd)


def _measure(jobs: Mounted, count: int, before: list[Measured]) -> Measured:
    """Once nothing is going on any more: every job is reaped, and what was open for the last ones is closed again."""
    until(lambda: psutil.Process(jobs.supervisor).children(), lambda children: not children)
    with suppress(AssertionError):  # then there are more, which is what is to be measured
        until(lambda: _open_files(jobs), lambda now: not before or now == before[0].descriptors)
    memory = [psutil.Process(pid).memory_full_info().uss for pid in (jobs.daemon, jobs.supervisor)]
    return Measured(count, tuple(memory), _open_files(jobs))


def _open_files(jobs: Mounted) -> tuple[int, ...]:
    return tuple(descriptors(pid).total() for pid in (jobs.daemon, jobs.supervisor))
