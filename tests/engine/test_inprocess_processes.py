"""Processes that a function runs as parts of its job."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import jobfs
from jobfs.engines.inprocess import starting
from jobfs.engines.inprocess.launch import launch
from jobfs.errors import JobEnded, SpawnFailed
from tests.engine.inprocess import children, descriptors, until, until_written
from tests.mounted import is_running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from jobfs import Table, Task
    from jobfs.engines.inprocess.launch import Streams
    from jobfs.model import JobSpec


@pytest.fixture
async def table() -> AsyncIterator[Table]:
    """An open table, in memory."""
    async with jobfs.open_table() as it:
        yield it


def running(command: str) -> Callable[[Task], Awaitable[int]]:
    """A function that runs a command line and ends as that does."""

    async def run(task: Task) -> int:
        return await task.run_process(command)

    return run


@pytest.mark.parametrize(
    ("command", "status"), [("true", "done:0"), ("exit 3", "failed:3"), ("kill -9 $$", "killed:9")]
)
async def test_a_function_learns_how_its_process_ended(table: Table, command: str, status: str) -> None:
    """Its exit code, or minus the signal's number."""
    assert status == str(await table.start(running(command)).wait())


async def test_what_processes_write_is_in_order_with_what_the_function_writes(table: Table) -> None:
    """All that a process wrote is in the streams when it has ended."""

    async def talk(task: Task) -> None:
        for number in range(50):
            await task.stdout.write(b"%d\n" % (2 * number))
            await task.run_process(["echo", str(2 * number + 1)])
        await task.run_process("echo problem >&2")

    job = table.start(talk)
    await job.wait()
    assert b"".join(b"%d\n" % number for number in range(100)) == job.stdout.snapshot().data
    assert b"problem\n" == job.stderr.snapshot().data


async def test_a_process_of_a_function_has_its_surroundings(table: Table, tmp_path: Path) -> None:
    """The id, a directory and variables of its own."""

    async def look(task: Task) -> int:
        return await task.run_process('echo "$JOBFS_ID $MORE"; pwd', cwd=tmp_path, env={"MORE": "more"})

    job = table.start(look)
    await job.wait()
    assert f"1 more\n{tmp_path}\n".encode() == job.stdout.snapshot().data


async def test_a_process_that_cannot_be_started_is_an_error_in_the_function(table: Table) -> None:
    """And nothing is left of it."""
    await table.start(running("true")).wait()
    before = descriptors()

    async def fail(task: Task) -> None:
        with pytest.raises(SpawnFailed):
            await task.run_process(["/no/such/program"])

    assert "done:0" == str(await table.start(fail).wait())
    await until(lambda: descriptors() <= before)
    assert set() == children()


async def test_a_function_that_is_ended_ends_its_process(table: Table) -> None:
    """SIGTERM, and the function is over when the process is."""
    job = table.start(running("echo; exec sleep 1000"))
    await until_written(job)
    assert "killed:15" == str(await job.end())
    assert set() == children()


async def test_a_process_that_does_not_heed_is_killed_after_the_grace_period(table: Table) -> None:
    """With its whole group."""
    job = table.start(running("trap '' TERM; sleep 1000 & echo $!; while :; do sleep 0.01; done"), grace=0.05)
    child = int(await until_written(job))
    assert str(await job.end()) in ("killed:15", "killed:9")
    await until(lambda: not is_running(child))
    assert set() == children()


async def test_a_function_may_cancel_its_process_itself(table: Table) -> None:
    """It goes on when that has ended."""

    async def impatient(task: Task) -> int:
        with trio.move_on_after(0.05):
            await task.run_process(["sleep", "1000"])
        return 4 if not children() else 5

    assert "failed:4" == str(await table.start(impatient).wait())


async def test_a_process_is_stopped_with_its_job(table: Table) -> None:
    """And goes on with it."""
    job = table.start(running("echo $$; exec sleep 1000"))
    process = int(await until_written(job))

    def state() -> str:
        with open(f"/proc/{process}/stat", encoding="ascii") as stat:
            return stat.read().split()[2]

    await job.stop()
    await until(lambda: state() == "T")
    assert "stopped" == str(job.status)
    await job.cont()
    await until(lambda: state() == "S")
    assert "running" == str(job.status)


async def test_a_process_that_is_started_while_the_job_is_stopped_waits(table: Table) -> None:
    """The function waits at `run_process`, and nothing runs meanwhile."""
    begin = trio.Event()

    async def late(task: Task) -> int:
        await begin.wait()
        return await task.run_process(["true"])

    job = table.start(late)
    await job.stop()
    begin.set()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert set() == children()
    await job.cont()
    assert "done:0" == str(await job.wait())


async def test_any_number_of_processes_can_be_run_in_one_job(table: Table) -> None:
    """One after the other; none uses up a descriptor."""
    counts: list[int] = []

    async def many(task: Task) -> None:
        for _ in range(300):
            await task.run_process(["true"])
            counts.append(len(descriptors()))

    assert "done:0" == str(await table.start(many).wait())
    assert max(counts[10:]) <= max(counts[:10])


async def test_a_background_process_outlives_the_one_that_started_it(table: Table) -> None:
    """It is counted while the function goes on, lingers when that has ended, and is ended with the table."""
    go_on = trio.Event()

    async def leave(task: Task) -> None:
        await task.run_process("sleep 1000 & echo $!")
        await go_on.wait()

    job = table.start(leave)
    child = int(await until_written(job))
    await until(lambda: not children())
    assert 1 == job.info().usage.processes
    go_on.set()
    await job.wait()
    assert 1 == job.info().usage.lingering
    await job.kill()
    await until(lambda: not is_running(child))


async def test_background_processes_end_with_the_block() -> None:
    """Though the function has ended long before."""
    async with jobfs.open_table() as table:
        job = table.start(running("sleep 1000 >/dev/null 2>&1 & echo $!"))
        await job.wait()
        child = int(job.stdout.snapshot().data)
        assert is_running(child)
    assert not is_running(child)


async def test_a_process_that_was_started_by_other_means_is_signalled_with_the_job(table: Table) -> None:
    """Twice added is once; to wait for it stays its parent's affair."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:  # noqa: ASYNC220 - a user's

        async def adopt(task: Task) -> None:
            task.add_process(process.pid)
            task.add_process(process.pid)
            await trio.sleep_forever()

        job = table.start(adopt)
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == job.info().usage.processes
        assert "killed:15" == str(await job.end())
        assert -signal.SIGTERM == await trio.to_thread.run_sync(process.wait)


async def test_only_children_that_lead_a_group_can_be_added(table: Table) -> None:
    """Others might be signalled with strangers."""
    with subprocess.Popen(["sleep", "1000"]) as process:  # noqa: ASYNC220 - likewise
        job = table.register("feed")
        for pid, error in ((process.pid, PermissionError), (os.getpid(), ProcessLookupError), (1, ProcessLookupError)):
            with pytest.raises(error):
                job.add_process(pid)
        process.kill()


async def test_a_process_in_flight_is_given_up_with_its_function(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs that nobody waits for."""
    monkeypatch.chdir("/")

    async def hurry(task: Task) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await task.run_process(["sleep", "1000"])

    assert "done:0" == str(await table.start(hurry).wait())
    await until(lambda: not children())


async def test_a_process_that_outlives_its_job_is_waited_for_all_the_same(table: Table) -> None:
    """It was run for a feed by another task, and nothing else of the job is left."""
    feed = table.register("feed")
    codes: list[int] = []

    async def run() -> None:
        codes.append(await feed.run_process("exec >&- 2>&-; exec sleep 1000"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: feed.job.info().usage.processes)
        await feed.finish()
        await until(lambda: feed.job.stdout.state.closed and feed.job.stderr.state.closed)
        for child in children():
            os.kill(child, signal.SIGKILL)
    assert [-9] == codes


async def test_a_process_that_is_started_as_its_job_ends_is_given_up(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks of the program may run one for a feed: that is their error, and no other job's affair."""
    feed = table.register("feed")
    await feed.stdout.write(b"output")
    errors: list[JobEnded] = []
    ended = threading.Event()

    def launch_late(
        spec: JobSpec, environment: str, directory: int | None, streams: Streams, is_wanted: Callable[[], bool]
    ) -> int:
        ended.wait()
        return launch(spec, environment, directory, streams, is_wanted)

    monkeypatch.setattr(starting, "launch", launch_late)

    async def run() -> None:
        try:
            await feed.run_process(["sleep", "1000"])
        except JobEnded as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        await feed.finish()
        ended.set()
    assert 1 == len(errors)
    await until(lambda: not children())
    assert "done:0" == str(await table.start(running("true")).wait())
