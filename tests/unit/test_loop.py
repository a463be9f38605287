"""The supervisor's loop: who is called back for what."""

from __future__ import annotations

import os
import select

from jobfs.supervisor.loop import Loop


def test_events_of_a_closed_descriptor_are_not_those_of_the_next_one_of_its_number() -> None:
    """What was ready in a round is not told to a file that got the number in the same round."""
    loop = Loop()
    told: list[tuple[str, int]] = []
    first, first_end = os.pipe()
    second, second_end = os.pipe()
    fresh, fresh_end = os.pipe()

    def called(name: str, events: int, other: int) -> None:
        told.append((name, events))
        loop.unwatch(other)
        os.dup2(fresh, other)
        loop.watch(other, lambda events: told.append(("new", events)))

    loop.watch(first, lambda events: called("first", events, second))
    loop.watch(second, lambda events: called("second", events, first))
    os.close(first_end)
    os.close(second_end)
    loop.run(lambda: bool(told))
    assert [select.EPOLLHUP] == [events for _, events in told]
    for number in (first, second, fresh, fresh_end):
        loop.unwatch(number)
        os.close(number)
