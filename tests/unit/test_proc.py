"""Looking at other processes with patience: what hangs is left out, for as long as it hangs."""

from __future__ import annotations

import os
import threading

import pytest

from jobfs import proc

ME = os.getpid()


def test_what_a_look_hangs_in_nobody_else_touches() -> None:
    """Until the thread has come back; then it is looked at again."""
    inside, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        proc.touch(ME)
        inside.set()
        go_on.wait()

    look = proc.Look(hang)
    thread = threading.Thread(target=look.run)
    thread.start()
    inside.wait()
    look.abandon()
    with pytest.raises(ProcessLookupError):
        proc.read(ME, "status")
    go_on.set()
    thread.join()
    assert proc.read(ME, "status")


def test_a_look_that_came_back_as_it_was_abandoned_leaves_nothing_behind() -> None:
    """Its last process is not taken for one that hangs."""
    look = proc.Look(lambda: proc.read(ME, "status"))
    assert look.run()
    look.abandon()
    assert proc.read(ME, "status")


def test_an_abandoned_look_ends_with_its_next_reading() -> None:
    """Nobody waits for what it would find."""
    look = proc.Look(lambda: proc.read(ME, "status"))
    look.abandon()
    with pytest.raises(ProcessLookupError):
        look.run()


def test_a_process_in_which_a_look_hangs_is_passed_over() -> None:
    """What is found of the others comes in time."""
    go_on = threading.Event()

    def found() -> list[int]:
        numbers = []
        for number in (ME, os.getppid()):
            try:
                proc.touch(number)
            except ProcessLookupError:
                continue
            if number == ME:
                go_on.wait()
            numbers.append(number)
        return numbers

    assert [os.getppid()] == proc.patiently(found, 0.05)
    go_on.set()


def test_looks_that_all_hang_are_given_up() -> None:
    """Who asks is told so."""
    go_on = threading.Event()
    with pytest.raises(TimeoutError):
        proc.patiently(go_on.wait, 0.01)
    go_on.set()
