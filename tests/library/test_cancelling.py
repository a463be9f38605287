"""How a function is ended by others: what cancels it, and what it makes of that."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

import jobfs
from jobfs.engines.inprocess.output import Pause

if TYPE_CHECKING:
    from jobfs import Job, Table, Task


async def sleeps(_: Task) -> None:
    """Never ends by itself."""
    await trio.sleep_forever()


async def fails(error: BaseException) -> None:
    """Waits to be cancelled, and raises that instead."""
    try:
        await trio.sleep_forever()
    finally:
        raise error


async def blocked() -> None:
    """Returns when nothing moves any more by itself."""
    await trio.testing.wait_all_tasks_blocked()


async def test_kill_cancels(table: Table) -> None:
    """A function that sleeps is `killed:15`, and a later kill is told that it has ended."""
    job = table.start(sleeps)
    await blocked()
    await job.kill()
    assert "killed:15" == str(await job.wait())
    with pytest.raises(jobfs.JobEnded):
        await job.kill()
    assert "killed:15" == str(await job.end())


async def test_kill_before_the_first_step(table: Table) -> None:
    """The function is cancelled at its first checkpoint."""
    job = table.start(sleeps)
    assert "killed:15" == str(await job.end())


async def test_kill_reaches_nested_nurseries(table: Table) -> None:
    """Every task of the function is cancelled."""
    cancelled: list[int] = []

    async def sleep(number: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(number)

    async def nest(_: Task) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(sleep, 1)
            inner.start_soon(sleep, 2)
            await sleep(3)

    job = table.start(nest)
    await blocked()
    assert "killed:15" == str(await job.end())
    assert [1, 2, 3] == sorted(cancelled)


async def test_kill_reaches_a_write_of_a_stopped_job(table: Table) -> None:
    """Kill continues it first, as SIGCONT follows SIGTERM; nothing of what waited was written."""

    async def write(task: Task) -> None:
        await trio.lowlevel.checkpoint()
        await task.stdout.write(b"never")

    job = table.start(write)
    await job.stop()
    await blocked()
    assert "stopped" == str(job.status)
    assert "killed:15" == str(await job.end())
    assert b"" == job.stdout.snapshot().data


async def test_a_function_may_finish_all_the_same(table: Table) -> None:
    """One that catches its cancellation ends with the code that it returns."""

    async def finish(_: Task) -> int:
        with trio.CancelScope() as scope:
            await trio.sleep_forever()
        del scope
        return 0

    async def heed(_: Task) -> int:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return 7

    jobs = [table.start(finish), table.start(heed)]
    await blocked()
    assert ["killed:15", "failed:7"] == [str(await job.end()) for job in jobs]


async def test_cleaning_up_may_take_longer_than_the_grace(table: Table) -> None:
    """A function that shields itself is waited for; it is `killed:9` then, for SIGKILL came too."""
    cleaned = trio.Event()

    async def clean_up(task: Task) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await cleaned.wait()
                await task.stdout.write(b"clean")

    job = table.start(clean_up, grace=0)
    await blocked()
    await job.kill()
    await blocked()
    assert "running" == str(job.status)
    await job.kill(grace=1000)  # which changes nothing
    cleaned.set()
    assert "killed:9" == str(await job.wait())
    assert b"clean" == job.stdout.snapshot().data


async def test_an_error_while_cancelled_is_a_crash(table: Table) -> None:
    """It is `failed:1`, with the traceback, also where others of its tasks were cancelled."""

    async def alone(_: Task) -> None:
        await fails(ValueError("mine"))

    async def nested(_: Task) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, ValueError("mine"))
            nursery.start_soon(trio.sleep_forever)

    for function in (alone, nested):
        job = table.start(function)
        await blocked()
        assert "failed:1" == str(await job.end())
        said = job.stderr.snapshot().data
        assert [True, False] == [b"ValueError: mine" in said, b"sub-exceptions" in said]


async def test_the_signal_tells_how_it_was_killed(table: Table) -> None:
    """What would end a process cancels the function, and its number is in the status."""
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN + 1]
    jobs = [table.start(sleeps) for _ in numbers]
    await blocked()
    for job, number in zip(jobs, numbers, strict=True):
        await job.signal(number)
    assert [f"killed:{int(number)}" for number in numbers] == [str(await job.wait()) for job in jobs]


@pytest.mark.parametrize("number", [0, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT])
async def test_signals_that_end_no_process_change_nothing(table: Table, number: int) -> None:
    """Nor does signal 0, which only asks whether it is there."""
    job = table.start(sleeps)
    await blocked()
    await job.signal(number)
    await blocked()
    assert "running" == str(job.status)
    await job.end()
    with pytest.raises(jobfs.JobEnded):
        await job.signal(number)


@pytest.mark.parametrize("grace", [-1, float("nan")])
async def test_what_is_no_grace_period(table: Table, grace: float) -> None:
    """BadCommand, and the job goes on; for ever is one."""
    job = table.start(sleeps)
    for act in (job.kill, job.end):
        with pytest.raises(jobfs.BadCommand, match="is no number of seconds"):
            await act(grace)
    assert "running" == str(job.status)
    assert "killed:15" == str(await job.end(grace=float("inf")))


@pytest.mark.parametrize("number", [-1, 65, 999])
async def test_what_is_no_signal(table: Table, number: int) -> None:
    """BadCommand, and the job goes on."""
    job = table.start(sleeps)
    with pytest.raises(jobfs.BadCommand, match=f"{number} is no signal"):
        await job.signal(number)
    await blocked()
    assert "running" == str(job.status)


async def test_stopped_it_waits_when_it_writes(table: Table) -> None:
    """And at `checkpoint`, until it is continued; what it does between goes on."""
    steps: list[str] = []
    go_on = trio.Event()

    async def step(task: Task) -> None:
        await go_on.wait()
        steps.append("awake")
        with pytest.raises(trio.WouldBlock):
            task.stdout.write_nowait(b"no")
        steps.append(f"stopped {task.stopped}")
        await task.checkpoint()
        await task.stdout.write(b"yes")
        steps.append("written")

    job = table.start(step)
    await job.stop()
    await job.stop()
    go_on.set()
    await blocked()
    assert (["awake", "stopped True"], "stopped") == (steps, str(job.status))
    await job.cont()
    assert "done:0" == str(await job.wait())
    assert (["awake", "stopped True", "written"], b"yes") == (steps, job.stdout.snapshot().data)


async def test_stopped_again_at_once_it_goes_on_waiting() -> None:
    """Who waits while a job is stopped and has not had its turn before it is stopped again goes on waiting."""
    pause = Pause()
    went_on: list[bool] = []

    async def wait() -> None:
        await pause.wait_over()
        went_on.append(bool(pause))

    pause.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await blocked()
        pause.end()
        pause.begin()
        await blocked()
        assert [] == went_on
        pause.end()
    assert [False] == went_on


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU])
async def test_status_follows_the_signals(table: Table, number: int) -> None:
    """Whoever waits for a change learns of each."""
    job = table.start(sleeps)
    running = job.status
    changes: list[str] = []

    async def watch() -> None:
        status = running
        while not status.final:
            status = await job.wait_changed(status)
            changes.append(str(status))
        assert status == await job.wait_changed(status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await blocked()
        for sent in (number, signal.SIGCONT, signal.SIGTERM):
            await job.signal(sent)
            await blocked()
    assert ["stopped", "running", "killed:15"] == changes


async def test_a_terminating_signal_ends_a_stopped_function(table: Table) -> None:
    """It need not be continued for that."""
    job = table.start(sleeps)
    await job.stop()
    await job.signal(signal.SIGTERM)
    assert "killed:15" == str(await job.wait())


async def test_last_stopped(table: Table) -> None:
    """Of the jobs that are stopped, the one that was stopped last."""
    one, two, three = (table.start(sleeps) for _ in range(3))
    seen: list[Job | None] = [table.last_stopped]
    for act in (two.stop, one.stop, three.stop, one.cont, three.end):
        await act()
        seen.append(table.last_stopped)
    assert [None, two, one, three, three, two] == seen
