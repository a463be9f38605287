"""Which processes belong to which job, and what is read of a process."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.processes import Process, all_processes, boot_id, members, read_process

# Beyond PID_MAX_LIMIT (2^22), so that no real process has the number.
SUPERVISOR = 5_000_000
STRANGER = 6_000_000


def _process(pid: int, parent: int, session: int, *, zombie: bool = False) -> Process:
    return Process(pid, parent, session, session, zombie, 0, 0.0, 0.0, 0)


def _found(
    processes: list[Process], leaders: dict[int, int], named: Callable[[int], int | None] = lambda _: None
) -> dict[int, list[int]]:
    """Job by job its processes' numbers; `named` says what stands in a process's environment."""
    with patch("jobfs.processes._named_in_environment", named):
        found = members({process.pid: process for process in processes}, leaders, SUPERVISOR)
    return {job: sorted(process.pid for process in those) for job, those in found.items() if those}


@dataclass
class Machine:
    """A history of forks, new sessions and deaths; `jobs` says by pid whose each process really is."""

    processes: dict[int, Process]
    jobs: dict[int, int | None]
    leaders: dict[int, int]

    def expected(self) -> dict[int, list[int]]:
        """Job by job its living processes' numbers."""
        found: dict[int, list[int]] = {}
        for pid, process in sorted(self.processes.items()):
            job = self.jobs[pid]
            if job is not None and not process.zombie:
                found.setdefault(job, []).append(pid)
        return found


@st.composite
def machines(draw: st.DrawFn, *, new_sessions: bool) -> Machine:
    """Any machine with a supervisor, its jobs and strangers, of which some may be in a session numbered as a job's."""
    it = Machine({}, {STRANGER: None}, {})
    it.processes[STRANGER] = _process(STRANGER, 1, STRANGER)
    for number in range(draw(st.integers(0, 14))):
        pid = SUPERVISOR + 1 + number
        parent = draw(st.sampled_from([SUPERVISOR, *it.processes]))
        if parent == SUPERVISOR:
            it.leaders[pid] = it.jobs[pid] = len(it.leaders) + 1
            it.processes[pid] = _process(pid, parent, pid)
            continue
        it.jobs[pid] = it.jobs[parent]
        session = it.processes[parent].session
        if new_sessions and draw(st.booleans()):
            session = pid
        if it.jobs[pid] is None:
            session = draw(st.sampled_from([session, *it.leaders]))
        it.processes[pid] = _process(pid, parent, session)
    for pid in draw(st.lists(st.sampled_from(sorted(it.processes)), unique=True)):
        _die(it, pid, zombie=draw(st.booleans()))
    return it


def _die(machine: Machine, pid: int, *, zombie: bool) -> None:
    """Its children become the supervisor's or, a stranger's, init's."""
    heir = 1 if machine.jobs[pid] is None else SUPERVISOR
    for child in list(machine.processes.values()):
        if child.parent == pid:
            machine.processes[child.pid] = replace(child, parent=heir)
    if zombie:
        machine.processes[pid] = replace(machine.processes[pid], zombie=True)
    else:
        del machine.processes[pid]


@given(machines(new_sessions=True))
def test_every_process_belongs_to_the_job_that_it_descends_from(machine: Machine) -> None:
    """Whatever forked, made a session of its own and died, each living process is its job's, and no stranger is."""
    named = {pid: job for pid, job in machine.jobs.items() if pid not in machine.leaders}
    assert machine.expected() == _found([*machine.processes.values()], machine.leaders, named.get)


@given(machines(new_sessions=False))
def test_who_stays_in_its_session_needs_no_environment(machine: Machine) -> None:
    """A process that is still in its job's session is known although its environment cannot be read."""
    assert machine.expected() == _found([*machine.processes.values()], machine.leaders)


@given(machines(new_sessions=True))
def test_nobody_is_given_to_another_job(machine: Machine) -> None:
    """Where environments cannot be read a daemon may be missed, but is never taken for another job's."""
    for job, pids in _found([*machine.processes.values()], machine.leaders).items():
        assert {job} == {machine.jobs[pid] for pid in pids}


def test_a_stranger_with_a_jobs_number_is_not_the_jobs() -> None:
    """A process that does not descend from the supervisor is nobody's, whatever its numbers and environment say."""
    strangers = [_process(STRANGER, 1, STRANGER), _process(STRANGER + 1, STRANGER, STRANGER)]
    assert {} == _found(strangers, {STRANGER: 1}, lambda _: 1)


def test_a_daemon_is_known_by_its_environment() -> None:
    """A process that left its session and whose parent went belongs to the job that its JOBFS_ID names."""
    daemon = _process(10, SUPERVISOR, 10)
    child = _process(11, 10, 11)
    assert {4: [10, 11]} == _found([daemon, child], {9: 4}, {10: 4}.get)


def test_a_session_number_that_came_again_misleads_nobody() -> None:
    """What an ended job left behind in a session is its own, also after a newer job got the session's number."""
    left, leader, child = _process(12, SUPERVISOR, 9), _process(9, SUPERVISOR, 9), _process(13, 9, 9)
    assert {1: [12], 2: [9, 13]} == _found([left, leader, child], {9: 2}, {12: 1, 13: 1}.get)


def test_a_zombie_is_no_process_of_a_job_and_its_children_are() -> None:
    """Who has ended does not count; who descends from it does."""
    assert {1: [11]} == _found([_process(10, SUPERVISOR, 10, zombie=True), _process(11, 10, 10)], {10: 1})


def test_a_process_is_read_as_it_is() -> None:
    """Parent, group, session and memory of this very process are those that the system calls give."""
    me = read_process(os.getpid())
    assert me is not None
    assert (os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)) == (me.pid, me.parent, me.group, me.session)
    assert not me.zombie
    assert me.rss_bytes > 1 << 20
    assert me in [
        replace(it, cpu_user_s=me.cpu_user_s, cpu_system_s=me.cpu_system_s, rss_bytes=me.rss_bytes)
        for it in all_processes().values()
    ]


def test_a_name_that_looks_like_the_rest_is_read_over() -> None:
    """A process may call itself what it likes, parentheses, blanks and states too."""
    file = Path("/proc/self/comm")
    name = file.read_bytes()
    try:
        file.write_bytes(b"a) Z 1 (b) 2")
        me = read_process(os.getpid())
    finally:
        file.write_bytes(name.rstrip(b"\n"))
    assert me is not None
    assert (False, os.getppid()) == (me.zombie, me.parent)


def test_one_that_ended_is_a_zombie_until_it_is_reaped_and_then_nobody() -> None:
    """A process that has ended is told apart from one that lives, and from none."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ended = read_process(pid)
    os.waitpid(pid, 0)
    assert ended is not None
    assert ended.zombie
    assert read_process(pid) is None


@pytest.mark.parametrize(("variable", "job"), [("JOBFS_ID=7", 7), ("JOBFS_ID=x", None), ("JOBFS_ID_=7", None)])
def test_the_environment_of_a_living_process_is_read(variable: str, job: int | None) -> None:
    """A real daemon's JOBFS_ID is found, and what only looks like one is not."""
    name, _, value = variable.partition("=")
    reader, writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_CLOSE, writer)]
    pid = os.posix_spawn("/bin/cat", ["cat"], {"A": "b", name: value}, file_actions=actions)
    try:
        daemon = replace(_process(pid, SUPERVISOR, pid))
        found = members({pid: daemon}, {1: 7}, SUPERVISOR)
        assert ({} if job is None else {job: [daemon]}) == found
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_the_boot_has_one_id() -> None:
    """Within one boot the answer stays, and it is no line."""
    assert boot_id() == boot_id() == boot_id().strip() != ""
