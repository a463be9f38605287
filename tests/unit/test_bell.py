"""Bells: who listens is called once, at the next ring."""

from __future__ import annotations

import trio
import trio.testing

from jobfs.bell import Bell


def test_who_listens_is_called_once() -> None:
    """A ring calls everybody, in the order of their coming; the next ring calls nobody of them."""
    bell, heard = Bell(), list[str]()
    bell.listen(lambda: heard.append("first"))
    bell.listen(lambda: heard.append("second"))
    bell.ring()
    bell.ring()
    assert ["first", "second"] == heard


def test_listening_twice_is_listening_once() -> None:
    """However often somebody says that they listen, they are called once."""
    bell, heard = Bell(), list[int]()

    class Listener:
        def call(self) -> None:
            heard.append(1)

    listener = Listener()
    bell.listen(listener.call)
    bell.listen(listener.call)  # another object, and the same method of the same listener
    bell.ring()
    assert [1] == heard


def test_who_listens_again_meanwhile_is_called_at_the_next_ring() -> None:
    """A listener that listens again when it is called does not keep the bell ringing."""
    bell, heard = Bell(), list[int]()

    def call() -> None:
        heard.append(1)
        bell.listen(call)

    bell.listen(call)
    bell.ring()
    assert [1] == heard
    bell.ring()
    assert [1, 1] == heard


def test_who_no_longer_listens_is_not_called() -> None:
    """`ignore` takes `listen` back; of one who does not listen, or was called already, it does nothing."""
    bell, heard = Bell(), list[int]()

    def call() -> None:
        heard.append(1)

    bell.ignore(call)
    bell.listen(call)
    bell.ignore(call)
    bell.ring()
    assert [] == heard


def test_a_bell_knows_whether_anybody_listens() -> None:
    """Until the ring."""
    bell = Bell()
    assert not bell
    bell.listen(lambda: None)
    assert bell
    bell.ring()
    assert not bell


async def test_every_task_that_waits_is_woken_by_a_ring() -> None:
    """`wait_rung` returns at the next ring, in each task that waits; a ring before that is no matter."""
    bell, woken = Bell(), list[int]()
    bell.ring()

    async def wait(number: int) -> None:
        await bell.wait_rung()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked()
        assert [] == woken
        bell.ring()
    assert [0, 1, 2] == sorted(woken)


async def test_a_task_that_gives_up_leaves_nothing_behind() -> None:
    """After a cancelled wait nobody listens any more."""
    bell = Bell()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bell.wait_rung()
    assert not bell
