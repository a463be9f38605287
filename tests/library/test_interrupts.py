"""Ctrl-C: in a job, in the block, and while it is left."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

import jobfs

if TYPE_CHECKING:
    from jobfs import Job, Task

pytestmark = pytest.mark.usefixtures("interrupts")


async def sleeps(_: Task) -> None:
    """Never ends by itself."""
    await trio.sleep_forever()


async def interrupted(task: Task) -> None:
    """Is running when somebody types Ctrl-C."""
    await task.checkpoint()
    signal.raise_signal(signal.SIGINT)


async def raises_several(task: Task) -> None:
    """One of its tasks is interrupted, and another one fails of that."""

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("mine")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(interrupted, task)


def test_in_a_function() -> None:
    """It is `killed:2`, and the block ends with KeyboardInterrupt; the other jobs are ended as ever."""
    jobs: list[Job] = []

    async def main() -> None:
        async with jobfs.open_table() as table:
            jobs.extend([table.start(interrupted), table.start(sleeps)])
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert ["killed:2", "killed:15"] == [str(job.status) for job in jobs]


def test_in_a_nursery_of_a_function() -> None:
    """The same, out of the group, and what else was in that is in the job's stderr."""
    jobs: list[Job] = []
    said: list[bytes] = []

    async def main() -> None:
        async with jobfs.open_table() as table:
            jobs.append(table.start(raises_several))
            try:
                await trio.sleep_forever()
            finally:
                said.append(jobs[0].stderr.snapshot().data)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert ("killed:2", True) == (str(jobs[0].status), b"ValueError: mine" in said[0])


def test_in_the_block() -> None:
    """It gets out as KeyboardInterrupt, and the jobs are ended."""
    jobs: list[Job] = []

    async def main() -> None:
        async with jobfs.open_table() as table:
            jobs.append(table.start(sleeps))
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert "killed:15" == str(jobs[0].status)


def test_amid_what_runs_the_jobs() -> None:
    """It comes to the block, and not to the task that happens to run: no job is abandoned."""
    jobs: list[Job] = []

    async def interrupt() -> None:
        await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    async def main() -> None:
        async with jobfs.open_table() as table:
            jobs.extend([table.start(sleeps), await table.spawn("exec sleep 1000")])
            table._engine.start_soon(interrupt)  # noqa: SLF001 - where it must not matter
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert ["killed:15", "killed:15"] == [str(job.status) for job in jobs]


def test_a_second_one_while_jobs_are_ended() -> None:
    """It does not cut that short: the jobs have ended when the block is left."""
    jobs: list[Job] = []
    cleaned: list[bool] = []

    async def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)
        await trio.lowlevel.checkpoint()

    async def clean_up(_: Task) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                trio.lowlevel.spawn_system_task(interrupt)
                await trio.testing.wait_all_tasks_blocked()
                cleaned.append(True)

    async def main() -> None:
        async with jobfs.open_table() as table:
            jobs.append(table.start(clean_up))
            await trio.testing.wait_all_tasks_blocked()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert ([True], "killed:15") == (cleaned, str(jobs[0].status))
