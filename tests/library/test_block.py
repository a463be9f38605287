"""The block that a table is opened in: what was started ends with it, and what happens in it gets out as it is."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

import jobfs
from jobfs.beside import beside
from jobfs.library import opening
from tests.mounted import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from jobfs import Job, Table, Task


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables in memory are kept."""
    place = tmp_path / "memory"
    place.mkdir()
    monkeypatch.setattr(opening, "TMPFS", place)
    return place


async def ends(task: Task) -> None:
    """Ends by itself."""
    await task.stdout.write(b"output")


async def sleeps(_: Task) -> None:
    """Never ends by itself."""
    await trio.sleep_forever()


async def crashes(_: Task) -> None:
    """Raises at once."""
    raise ValueError("the job's own")


async def cleans_up(task: Task) -> None:
    """Writes when it is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.01)
            await task.stdout.write(b"clean")


class Odd(BaseException):
    """An error of nobody's family."""


async def test_leaving_the_block_ends_every_job(memory: Path) -> None:
    """Functions, processes and feeds; nothing is left, no process, no file, no thread that waits."""
    threads = threading.active_count()
    async with jobfs.open_table() as table:
        done = table.start(ends)
        jobs = [table.start(sleeps), await table.spawn("exec sleep 1000"), table.register("feed").job]
        jobs.append(table.start(cleans_up))
        pid = jobs[1].pid
        assert pid is not None
        await done.wait()
    assert ["killed:15"] * 4 == [str(job.status) for job in jobs]
    assert ("done:0", "the table that it was in was closed") == (str(done.status), jobs[0].info().reason)
    assert [] == os.listdir(memory)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert threads >= threading.active_count() - 1  # trio keeps one for a while that started a process


async def test_a_function_may_finish_when_the_block_is_left() -> None:
    """It is waited for."""

    async def finish(_: Task) -> int:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return 7

    async with jobfs.open_table() as table:
        job = table.start(finish)
        await trio.testing.wait_all_tasks_blocked()
    assert "failed:7" == str(job.status)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3), Odd(), StopIteration()])
async def test_what_the_block_raises_gets_out_as_it_is(error: BaseException) -> None:
    """The very same, in no group, though a job crashed meanwhile; every job has ended by then."""
    jobs: list[Job] = []
    with pytest.raises(type(error)) as raised:  # noqa: PT012 - the block is what is tested
        async with jobfs.open_table() as table:
            jobs += [table.start(crashes), table.start(sleeps)]
            await jobs[0].wait()
            raise error
    assert error is raised.value
    assert ["failed:1", "killed:15"] == [str(job.status) for job in jobs]


async def test_a_group_gets_out_as_it_is() -> None:
    """What a nursery within the block raised is not taken apart."""
    group = BaseExceptionGroup("several", [ValueError(1), Odd(2)])
    with pytest.raises(BaseExceptionGroup) as raised:
        async with jobfs.open_table():
            raise group
    assert group is raised.value


async def test_return_break_and_continue() -> None:
    """They leave the block as any."""
    left: list[Job] = []

    async def by_return() -> str:
        async with jobfs.open_table() as table:
            left.append(table.start(sleeps))
            return "returned"

    assert "returned" == await by_return()
    for _ in range(2):
        async with jobfs.open_table() as table:
            left.append(table.start(sleeps))
            continue
    while True:
        async with jobfs.open_table() as table:
            left.append(table.start(sleeps))
            break
    assert ["killed:15"] * 4 == [str(job.status) for job in left]


async def test_a_cancellation_from_outside_is_delivered() -> None:
    """The block is left, jobs are `killed:15` and may clean up, and the scope knows that it has cancelled."""
    with trio.CancelScope() as scope:
        async with jobfs.open_table() as table:
            job, cleaning = table.start(sleeps), table.start(cleans_up)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert ["killed:15", "killed:15"] == [str(job.status), str(cleaning.status)]
    assert 5 == cleaning.stdout.state.written


async def test_a_deadline_around_the_block(autojump_clock: MockClock) -> None:
    """trio.fail_after raises trio.TooSlowError, as it does around anything."""
    jobs: list[Job] = []
    begun = autojump_clock.current_time()
    with pytest.raises(trio.TooSlowError):  # noqa: PT012 - the block is what is tested
        with trio.fail_after(10):
            async with jobfs.open_table() as table:
                jobs.append(table.start(sleeps))
                await trio.sleep_forever()
    assert ("killed:15", 10) == (str(jobs[0].status), int(autojump_clock.current_time() - begun))


async def test_a_block_that_is_cancelled_before_it_begins() -> None:
    """The cancellation is delivered at the first checkpoint."""
    begun = False
    with trio.CancelScope() as scope:
        scope.cancel()
        async with jobfs.open_table() as table:
            begun = True
            table.start(sleeps)
            await trio.lowlevel.checkpoint()
    assert (True, False) == (scope.cancelled_caught, begun)


async def test_a_cancellation_that_comes_while_jobs_are_ended() -> None:
    """It does not cut that short, and is delivered afterwards."""
    with trio.CancelScope() as scope:
        async with jobfs.open_table() as table:
            table.start(cleans_up)
            job = table.start(cancels, scope)
            await trio.testing.wait_all_tasks_blocked()
    assert (True, "killed:15") == (scope.cancelled_caught, str(job.status))


async def cancels(_: Task, scope: trio.CancelScope) -> None:
    """Cancels that, when it is itself cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        scope.cancel()


async def test_an_error_is_not_lost_to_a_cancellation() -> None:
    """What the block has raised gets out, though it is being cancelled from outside by then."""
    error = ValueError("mine")
    with trio.CancelScope() as scope, pytest.raises(ValueError, match="mine") as raised:  # noqa: PT012 - likewise
        async with jobfs.open_table() as table:
            table.start(cancels, scope)
            await trio.testing.wait_all_tasks_blocked()
            raise error
    assert error is raised.value


async def test_a_cancellation_within_the_block_stays_there() -> None:
    """A scope of the block's own is none of the jobs' affair."""
    async with jobfs.open_table() as table:
        job = table.start(sleeps)
        with trio.move_on_after(0) as scope:
            await job.wait()
        assert (True, "running") == (scope.cancelled_caught, str(job.status))


async def test_blocks_can_be_nested() -> None:
    """The inner one ends its own jobs."""
    with trio.CancelScope() as scope:
        async with jobfs.open_table() as outer:
            one = outer.start(sleeps)
            async with jobfs.open_table() as inner:
                two = inner.start(sleeps)
            assert ("running", "killed:15") == (str(one.status), str(two.status))
            async with jobfs.open_table() as inner:
                three = inner.start(sleeps)
                scope.cancel()
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert ["killed:15", "killed:15"] == [str(one.status), str(three.status)]


async def test_a_state_that_cannot_be_had(tmp_path: Path, memory: Path) -> None:
    """An error of the family, before anything was made; the next one is fine."""
    (tmp_path / "file").write_text("")
    with pytest.raises(jobfs.StateUnusable):
        async with jobfs.open_table(tmp_path / "file"):
            pass
    async with jobfs.open_table(tmp_path / "state"):
        with pytest.raises(jobfs.StateUnusable):
            async with jobfs.open_table(tmp_path / "state"):
                pass
    async with jobfs.open_table(tmp_path / "state"):
        pass
    assert [] == os.listdir(memory)


async def test_what_killed_programs_left_in_memory_is_removed(memory: Path) -> None:
    """Also where they were killed before they had locked it; not what was made just now, or is another's."""
    prefix = f"jobfs-table-{os.geteuid()}-"
    for name in (f"{prefix}old", f"{prefix}new", "jobfs-table-x"):
        (memory / name).mkdir()
    for name in (f"{prefix}old", "jobfs-table-x"):
        os.utime(memory / name, (1, 1))
    async with jobfs.open_table() as table:
        os.utime(table.parts.state, (1, 1))
        async with jobfs.open_table():
            assert table.parts.state.exists()
            assert not (memory / f"{prefix}old").exists()
    assert {f"{prefix}new", "jobfs-table-x"} == set(os.listdir(memory))


async def test_jobs_start_no_others_while_the_table_closes() -> None:
    """A function that tries so when it is cancelled gets an error; what was on its way to exec is ended."""
    errors: list[str] = []

    async def start_others(_: Task, table: Table) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    table.start(sleeps)
                except jobfs.JobfsError as error:
                    errors.append(str(error))
                try:
                    await table.spawn("true")
                except jobfs.JobfsError as error:
                    errors.append(str(error))

    async def spawn(table: Table) -> None:
        with suppress(jobfs.JobfsError):  # it was not started any more
            await table.spawn("exec sleep 1000")

    async with trio.open_nursery() as nursery, jobfs.open_table() as table:
        table.start(start_others, table)
        nursery.start_soon(spawn, table)
        await trio.testing.wait_all_tasks_blocked()
    assert ["the table is closed"] * 2 == errors
    assert {"killed:15"} == {str(job.status) for job in table}


async def test_a_task_beside_a_block_that_fails_ends_it() -> None:
    """What it raises gets out as it is, and together with what the block raises, in a group, where that does."""

    async def fail() -> None:
        raise Odd("beside")

    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    with pytest.raises(Odd):  # noqa: PT012 - the block is what is tested
        async with beside(nothing) as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012 - the block is what is tested
        async with beside(nothing) as nursery:
            nursery.start_soon(fail)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("the block")
    assert [Odd, ValueError] == [type(error) for error in raised.value.exceptions]
    with pytest.raises(Odd):
        async with beside(fail):
            pass


async def test_who_waits_to_be_reaped_by_others_is_not_waited_for() -> None:
    """What a process left behind and that has ended is nobody's to kill, though nobody may ever reap it."""
    async with jobfs.open_table() as table:
        job = await table.spawn("sleep 1000 & sleep 1000", grace=PATIENCE)
    assert "killed:15" == str(job.status)
