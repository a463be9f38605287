"""Signals that a function takes itself, where they would have cancelled it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobfs import Table, Task


async def blocked() -> None:
    """Returns when nothing moves any more by itself."""
    await trio.testing.wait_all_tasks_blocked()


async def receive(task: Task, taken: list[int], signals: Sequence[int]) -> None:
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
    job = table.start(receive, taken, [*wanted, signal.SIGTERM])
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
        await receive(task, taken, [signal.SIGTERM])
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
        await trio.lowlevel.checkpoint()
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
