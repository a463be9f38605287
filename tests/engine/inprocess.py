"""What the tests of the in-process engine share: running a job to its end, and programs with a table of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.mounted import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobfs import Job, Table

ROOT = Path(__file__).parents[2]
_LOOK_AGAIN = 0.005  # seconds


async def output_of(table: Table, command: str | Sequence[str], env: Mapping[str, str] | None = None) -> bytes:
    """What a process writes to its stdout, all of it."""
    job = await table.spawn(command, env=env)
    await job.wait()
    return job.stdout.snapshot().data


async def until(holds: Callable[[], object]) -> None:
    """Looks until it `holds`; AssertionError where it never does."""
    with trio.move_on_after(PATIENCE):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(_LOOK_AGAIN)
        return
    raise AssertionError("waited in vain")


async def until_written(job: Job, count: int = 1) -> bytes:
    """Waits until a job has written `count` bytes to its stdout; gives all."""
    with trio.fail_after(PATIENCE):
        await job.stdout.wait_changed(count - 1)
    return job.stdout.snapshot().data


def descriptors() -> set[tuple[str, str]]:
    """What this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # the one that the directory was listed by
            continue
    return found


def children() -> set[int]:
    """The numbers of this process's children, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= set(map(int, (task / "children").read_text().split()))
        except OSError:  # a thread that has ended
            continue
    return found


def program(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts a Python program that knows jobfs, and whose output is read by the caller."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
