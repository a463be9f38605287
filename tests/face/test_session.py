"""The session loop's lock and its wait: nobody is forgotten, whoever gives up or comes between."""

from __future__ import annotations

import os
import random
from collections import deque

import pytest
import trio
import trio.testing

from mount.session import RequestWait, SessionLock


async def test_a_free_lock_is_taken_without_yielding() -> None:
    """Taking and leaving a free lock lets no other task run."""
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    lock = SessionLock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(100):
            async with lock:
                pass
        assert [] == ran


async def test_who_waits_gets_the_lock_in_turn() -> None:
    """Each of those who wait has it once, in the order of their coming, and never two at a time."""
    lock = SessionLock()
    had: list[int] = []
    inside = 0

    async def wait(number: int) -> None:
        nonlocal inside
        async with lock:
            inside += 1
            assert 1 == inside
            had.append(number)
            await trio.lowlevel.checkpoint()
            inside -= 1

    async with trio.open_nursery() as nursery, lock:
        for number in range(5):
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
    assert [0, 1, 2, 3, 4] == had


async def test_a_holder_who_takes_it_back_at_once_starves_nobody() -> None:
    """One who was woken and finds the lock taken waits on, and is woken again."""
    lock = SessionLock()
    had: deque[str] = deque()

    async def wait() -> None:
        async with lock:
            had.append("waiter")

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        async with lock:  # before the one who was woken had a chance to run
            await trio.testing.wait_all_tasks_blocked()
            assert not had
    assert ["waiter"] == list(had)


@pytest.mark.parametrize("when", ["while it waits", "when it was woken", "when it was woken in vain"])
async def test_one_who_gives_up_costs_nobody_the_lock(when: str) -> None:
    """Whenever a waiter is cancelled, those behind it have their turn."""
    lock = SessionLock()
    had: list[str] = []
    scope = trio.CancelScope()

    async def wait(name: str, own: trio.CancelScope) -> None:
        with own:
            async with lock:
                had.append(name)
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(wait, "cancelled", scope)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait, "next", trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            if when == "while it waits":
                scope.cancel()
        if when != "while it waits":
            scope.cancel()
        if when == "when it was woken in vain":
            async with lock:
                await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(10):
            while "next" not in had:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("seed", range(20))
async def test_many_tasks_that_come_go_and_give_up_all_end(seed: int) -> None:
    """Whatever the order of taking, yielding and cancelling, there is never a lock that is free and waited for."""
    chance = random.Random(seed)  # noqa: S311 - a game of chance
    lock = SessionLock()
    inside = 0

    async def worker(scope: trio.CancelScope) -> None:
        nonlocal inside
        with scope:
            for _ in range(20):
                async with lock:
                    inside += 1
                    assert 1 == inside
                    try:
                        for _ in range(chance.randrange(3)):
                            await trio.lowlevel.checkpoint()
                    finally:
                        inside -= 1
                for _ in range(chance.randrange(3)):
                    await trio.lowlevel.checkpoint()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(10)]
            for scope in scopes:
                nursery.start_soon(worker, scope)
            for scope in scopes[:5]:
                for _ in range(chance.randrange(10)):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        async with lock:
            pass
    assert 0 == inside


async def test_a_request_that_is_there_is_taken_and_one_that_is_not_is_waited_for() -> None:
    """`wait_readable` returns when, and only when, there is something to read."""
    wait = RequestWait(lambda: None)
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        await wait.wait_readable(reader)
        os.read(reader, 1)
        returned: list[bool] = []

        async def waiter() -> None:
            await wait.wait_readable(reader)
            returned.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            await trio.testing.wait_all_tasks_blocked()
            assert [] == returned
            os.write(writer, b"y")
        assert [True] == returned
    finally:
        os.close(reader)
        os.close(writer)


async def test_other_tasks_have_their_turn_while_requests_keep_coming() -> None:
    """A reader that always finds the next request ready yields every so often."""
    wait = RequestWait(lambda: None)
    reader, writer = os.pipe()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    try:
        os.write(writer, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(1000):
                await wait.wait_readable(reader)
            nursery.cancel_scope.cancel()
    finally:
        os.close(reader)
        os.close(writer)
    assert 5 < turns < 100


async def test_a_waiter_can_be_cancelled() -> None:
    """Unmounting ends a wait for the next request."""
    wait = RequestWait(lambda: None)
    reader, writer = os.pipe()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait.wait_readable, reader)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    finally:
        os.close(reader)
        os.close(writer)
