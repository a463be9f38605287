"""Which requests are answered for a process that wants out, and which processes may sleep behind others."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from mount import pending
from mount.caller import File
from mount.pending import Process, Waiting, process_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WAIT, FOLLOW = File(72, 1, "0:1"), File(73, 1, "0:1")


class Machine:
    """Made-up processes by their tasks: those that wait for an answer, and what each has open."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.waiting: set[Process] = set()
        self.open: dict[Process, set[File]] = {}

    def process(self, *tasks: int, files: Iterable[File] = (), waits: bool = False) -> Process:
        """Adds a process."""
        it = Process(tasks)
        self.processes.append(it)
        self.open[it] = set(files)
        if waits:
            self.waiting.add(it)
        return it

    def process_of(self, task: int) -> Process | None:
        """Stands for the function of that name."""
        return next((it for it in self.processes if task in it.tasks), None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine without processes."""
    it = Machine()
    monkeypatch.setattr(pending, "process_of", it.process_of)
    monkeypatch.setattr(pending, "_processes", lambda: iter(it.processes))
    monkeypatch.setattr(Process, "waits", property(lambda process: process in it.waiting))
    monkeypatch.setattr(Process, "has_open", lambda process, file: file in it.open[process])
    return it


@pytest.fixture
def wanting(monkeypatch: pytest.MonkeyPatch) -> set[Process]:
    """Those that want out; the test adds them."""
    them: set[Process] = set()
    monkeypatch.setattr(Process, "wants_out", property(lambda process: process in them))
    return them


# Who is answered


def test_an_opener_that_wants_out_is_answered_and_nobody_else(machine: Machine, wanting: set[Process]) -> None:
    """Each of several readers of one file, who opened it themselves, is answered alone."""
    wanting.add(machine.process(10, files=[WAIT], waits=True))
    machine.process(20, files=[WAIT], waits=True)
    requests = [Waiting(WAIT, 10), Waiting(WAIT, 20)]
    assert {requests[0]} == pending.interrupted(requests)


def test_a_reader_that_waits_by_several_requests_gets_out_of_all(machine: Machine, wanting: set[Process]) -> None:
    """Of a process with several threads any one may be meant: each asks again if it was not."""
    wanting.add(machine.process(10, 11, files=[WAIT, FOLLOW], waits=True))
    requests = [Waiting(WAIT, 10), Waiting(FOLLOW, 11)]
    assert set(requests) == pending.interrupted(requests)


def test_a_reader_that_inherited_its_file_is_answered(machine: Machine, wanting: set[Process]) -> None:
    """Its shell opened the file and waits for no answer: so the request is its heir's."""
    machine.process(10, files=[WAIT])
    wanting.add(machine.process(30, files=[WAIT], waits=True))
    machine.process(20, files=[WAIT], waits=True)
    requests = [Waiting(WAIT, 10), Waiting(WAIT, 20)]
    assert {requests[0]} == pending.interrupted(requests)


def test_a_reader_whose_shell_has_gone_is_answered(machine: Machine, wanting: set[Process]) -> None:
    """The opener may have ended since."""
    wanting.add(machine.process(30, files=[WAIT], waits=True))
    machine.process(20, files=[WAIT], waits=True)
    requests = [Waiting(WAIT, 10), Waiting(WAIT, 20)]
    assert {requests[0]} == pending.interrupted(requests)


def test_who_sleeps_behind_others_has_them_answered(machine: Machine, wanting: set[Process]) -> None:
    """Whose requests they are all wait themselves: one of them is in its way, and nothing tells which."""
    machine.process(10, files=[WAIT], waits=True)
    machine.process(20, files=[WAIT], waits=True)
    wanting.add(machine.process(30, files=[WAIT]))
    requests = [Waiting(WAIT, 10), Waiting(WAIT, 20), Waiting(FOLLOW, 20)]
    assert set(requests[:2]) == pending.interrupted(requests)


def test_who_wants_out_of_something_else_has_nobody_answered(machine: Machine, wanting: set[Process]) -> None:
    """A process that has none of the files open waits for another file system."""
    machine.process(10, files=[WAIT], waits=True)
    wanting.add(machine.process(30, files=[File(72, 2, "0:2")], waits=True))
    assert set() == pending.interrupted([Waiting(WAIT, 10)])


def test_while_nobody_wants_out_nobody_is_answered(machine: Machine, wanting: set[Process]) -> None:
    """An interrupt that is over is no matter."""
    machine.process(10, files=[WAIT], waits=True)
    assert not wanting
    assert set() == pending.interrupted([Waiting(WAIT, 10)])


def test_a_suspect_that_wants_out_has_the_one_before_it_answered(machine: Machine, wanting: set[Process]) -> None:
    """Looked at as it is now, with the threads that it has by then; one that has gone is no matter."""
    machine.process(10, files=[WAIT], waits=True)
    machine.process(30, 31, files=[WAIT])
    wanting.add(Process((30, 31)))
    suspects = {Process((30,)): {WAIT}, Process((40,)): {WAIT}}
    requests = [Waiting(WAIT, 10), Waiting(FOLLOW, 10)]
    assert {requests[0]} == pending.interrupted_behind(suspects, requests)


# Who may sleep behind


def test_single_readers_are_no_suspects(machine: Machine) -> None:
    """Who opened a file, has one thread and waits can neither ask twice nor have passed the file on."""
    machine.process(10, files=[WAIT], waits=True)
    assert {} == pending.suspects([Waiting(WAIT, 10)])


def test_who_shares_a_file_is_a_suspect_and_so_is_its_opener(machine: Machine) -> None:
    """Either may sleep behind the other."""
    opener = machine.process(10, files=[WAIT], waits=True)
    heir = machine.process(30, files=[WAIT])
    machine.process(40, files=[FOLLOW])
    assert {opener: {WAIT}, heir: {WAIT}} == pending.suspects([Waiting(WAIT, 10)])


def test_a_reader_with_several_threads_is_a_suspect(machine: Machine) -> None:
    """One thread of it may sleep behind another one."""
    opener = machine.process(10, 11, files=[WAIT], waits=True)
    assert {opener: {WAIT}} == pending.suspects([Waiting(WAIT, 10)])


# What /proc tells


def test_a_process_is_known_by_each_of_its_tasks() -> None:
    """By the number of a thread the whole process is found, and nothing by that of one that is gone."""
    known: list[int] = []
    runs, go_on = threading.Event(), threading.Event()

    def run() -> None:
        known.append(threading.get_native_id())
        runs.set()
        go_on.wait()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        runs.wait()
        found = process_of(known[0])
        assert found is not None
        assert {os.getpid(), known[0]} <= set(found.tasks)
    finally:
        go_on.set()
        thread.join()
    assert process_of(2**22 + 1) is None  # past the largest number that there can be (proc(5), pid_max)


def test_who_runs_wants_nothing_and_has_open_what_it_has() -> None:
    """Read from /proc: the calling process is not interrupted, and waits for nobody's answer."""
    process = process_of(os.getpid())
    assert process is not None
    assert not process.wants_out
    assert not process.waits
    with open(os.devnull, "rb") as file:
        (mount,) = _lines(f"/proc/self/fdinfo/{file.fileno()}", "mnt_id")
        assert process.has_open(File(os.fstat(file.fileno()).st_ino, mount, ""))
        assert not process.has_open(File(1 << 60, mount, ""))


def _lines(path: str, key: str) -> Iterator[int]:
    with open(path, encoding="ascii") as said:
        yield from (int(line.split()[1]) for line in said if line.startswith(f"{key}:"))
