"""How a function is ended by others: what cancels it, and what it makes of that."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

import jobfs

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
        await trio.sleep(0)
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

    job = table.start(clean_up, grace=0.01)
    await blocked()
    await job.kill()
    await trio.sleep(0.05)
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


async def test_stopped_again_at_once_it_goes_on_waiting(table: Table) -> None:
    """A SIGCONT and a SIGSTOP that come together let nothing through."""

    async def write(task: Task) -> None:
        await task.stdout.write(b"through")

    job = table.start(write)
    await job.stop()
    await blocked()
    async with trio.open_nursery() as nursery:  # both in one tick: each asks after one checkpoint
        nursery.start_soon(job.cont)
        nursery.start_soon(job.stop)
    await blocked()
    if str(job.status) == "running":  # trio runs the tasks of a tick in any order
        assert b"through" == job.stdout.snapshot().data
    else:
        assert b"" == job.stdout.snapshot().data
    await job.end()


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


async def receive(task: Task, taken: list[int], *signals: int) -> None:
    """Takes signals until SIGTERM comes."""
    with task.open_signal_receiver(*signals) as received:
        async for number in received:
            taken.append(number)
            if number == signal.SIGTERM:
                return


async def test_a_receiver_takes_signals(table: Table) -> None:
    """They don't cancel, SIGCONT and SIGCHLD come too; SIGTERM is how `kill` asks, and the function finishes."""
    taken: list[int] = []
    wanted = [signal.SIGUSR1, signal.SIGCONT, signal.SIGCHLD, signal.SIGTSTP]
    job = table.start(receive, taken, *wanted, signal.SIGTERM)
    await blocked()
    for number in wanted:
        await job.signal(number)
    await blocked()
    assert (wanted, "running") == (taken, str(job.status))
    assert "done:0" == str(await job.end())
    assert signal.SIGTERM == taken[4]


async def test_sigkill_follows_after_the_grace_period(table: Table) -> None:
    """A function that receives SIGTERM and does not end is cancelled then."""
    taken: list[int] = []

    async def linger(task: Task) -> None:
        await receive(task, taken, signal.SIGTERM)
        await trio.sleep_forever()

    job = table.start(linger)
    await blocked()
    assert "killed:9" == str(await job.end(grace=0.01))
    assert [signal.SIGTERM] == taken


async def test_after_the_block_a_signal_cancels_again(table: Table) -> None:
    """The receiver is gone."""

    async def receive_one(task: Task) -> None:
        with task.open_signal_receiver(signal.SIGUSR1) as received:
            await anext(received)
        await trio.sleep_forever()

    job = table.start(receive_one)
    await blocked()
    await job.signal(signal.SIGUSR1)
    await blocked()
    assert "running" == str(job.status)
    await job.signal(signal.SIGUSR1)
    assert "killed:10" == str(await job.wait())


async def test_receivers_can_be_nested(table: Table) -> None:
    """The inner one has the signal until its block is left."""
    outer_took: list[int] = []

    async def nest(task: Task) -> None:
        with task.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as outer:
            with task.open_signal_receiver(signal.SIGUSR1) as inner:
                assert signal.SIGUSR1 == await anext(inner)
                outer_took.append(await anext(outer))
            outer_took.append(await anext(outer))

    job = table.start(nest)
    await blocked()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        await job.signal(number)
        await blocked()
    assert "done:0" == str(await job.wait())
    assert [signal.SIGUSR2, signal.SIGUSR1] == outer_took


async def test_receivers_of_several_tasks_may_end_in_any_order(table: Table) -> None:
    """The one that was opened first and is left first does not take the other's signals away."""
    took: list[str] = []
    first_over = trio.Event()

    async def first(task: Task) -> None:
        with task.open_signal_receiver(signal.SIGUSR1):
            await blocked()
        first_over.set()

    async def second(task: Task) -> None:
        await trio.sleep(0)
        with task.open_signal_receiver(signal.SIGUSR1) as received:
            await first_over.wait()
            took.append(f"second {await anext(received)}")

    async def both(task: Task) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first, task)
            nursery.start_soon(second, task)

    job = table.start(both)
    await first_over.wait()
    await blocked()
    await job.signal(signal.SIGUSR1)
    assert "done:0" == str(await job.wait())
    assert ["second 10"] == took


async def test_a_receiver_that_takes_nothing_holds_up_nobody(table: Table) -> None:
    """Signals past those that wait are dropped, as the kernel merges them."""

    async def ignore(task: Task) -> None:
        with task.open_signal_receiver(signal.SIGUSR1):
            await trio.sleep_forever()

    job = table.start(ignore)
    await blocked()
    for _ in range(200):
        await job.signal(signal.SIGUSR1)
    assert "running" == str(job.status)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_what_cannot_be_received(table: Table, number: int) -> None:
    """ValueError, as no process can catch them."""

    async def receive_it(task: Task) -> None:
        with pytest.raises(ValueError, match="cannot be received"), task.open_signal_receiver(number):
            pass
        await trio.lowlevel.checkpoint()

    assert "done:0" == str(await table.start(receive_it).wait())


async def test_last_stopped(table: Table) -> None:
    """Of the jobs that are stopped, the one that was stopped last."""
    one, two, three = (table.start(sleeps) for _ in range(3))
    seen: list[Job | None] = [table.last_stopped]
    for act in (two.stop, one.stop, three.stop, one.cont, three.end):
        await act()
        seen.append(table.last_stopped)
    assert [None, two, one, three, three, two] == seen
