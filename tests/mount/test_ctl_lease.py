"""`--lease`: a job is ended when the open file that it was spawned on is closed, by whatever cause."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, is_running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount

CLOSED = "the file it was spawned on was closed"
PASSED = "the process that held its lease ended"
# Opens ctl, writes each line that it reads, and says the reply. `child`: has a child do the writing.
HOLDER = """
import os, subprocess, sys
ctl = os.open(sys.argv[1], os.O_RDWR)
for line in sys.stdin:
    if sys.argv[2] == 'child':
        subprocess.run(['sh', '-c', 'printf "%s" "$1" >&3', 'sh', line], pass_fds=[3], check=True)
    else:
        os.write(ctl, line.encode())
    print(os.read(ctl, 4096).decode(), end='', flush=True)
"""


class Holder:
    """A process that has `ctl` open, and writes what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, line: str) -> str:
        """Has it write a line; gives the reply."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().removesuffix("\n")

    def spawn(self, line: str) -> int:
        """Has it spawn a job; gives the id."""
        return int(self.ask(f"spawn {line}"))

    def end(self, number: int = signal.SIGKILL) -> None:
        """It is ended by a signal."""
        self.process.send_signal(number)
        self.process.wait()

    def close(self) -> None:
        """It meets end of file, and exits."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def holding(jobs: Mounted, *, writer: str = "own") -> Iterator[Holder]:
    """A process that has the root's `ctl` open as its descriptor 3."""
    command = [sys.executable, "-c", HOLDER, str(jobs.file("ctl")), writer]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Holder(process)
        finally:
            if process.poll() is None:
                process.kill()


def end_of(jobs: Mounted, job: int) -> tuple[str, object]:
    """How a job ends, and why."""
    return jobs.until_ended(job), jobs.info(job)["reason"]


@pytest.mark.parametrize("writer", ["own", "child"])
def test_a_leased_job_ends_when_its_file_is_closed(shared: Mounted, writer: str) -> None:
    """By its holder's exit; who wrote the command does not matter, nor that the writer went."""
    with holding(shared, writer=writer) as holder:
        job, other = holder.spawn("--lease sleep 1000"), holder.spawn("sleep 1000")
        assert "running" == shared.status(job)
        holder.close()
        assert ("killed:15", CLOSED) == end_of(shared, job)
    assert "running" == shared.status(other)
    shared.ctl(f"kill -9 {other}")


def test_a_leased_job_ends_when_its_holder_is_killed(shared: Mounted) -> None:
    """The kernel closes the file; SIGKILL follows for a job that ignores SIGTERM."""
    with holding(shared) as holder:
        job = holder.spawn("--lease --grace 0.2 trap '' TERM; echo ready; while :; do sleep 0.02; done")
        shared.until_output(job, b"ready\n")
        holder.end()
        assert ("killed:9", CLOSED) == end_of(shared, job)


def test_a_file_that_a_child_has_too_is_not_closed(shared: Mounted) -> None:
    """The lease lives as long as anybody has the open file."""
    fd = os.open(shared.file("ctl"), os.O_RDWR)
    os.write(fd, b"spawn --lease sleep 1000\n")
    job = int(os.read(fd, 100))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[fd]) as child:
        os.close(fd)
        assert "running" == shared.status(job)
        child.communicate()
    assert ("killed:15", CLOSED) == end_of(shared, job)


def test_echo_closes_the_file_at_once(shared: Mounted) -> None:
    """A redirection's file is closed when the command is over."""
    done = shared.sh("echo 'spawn --lease sleep 1000' > $J/ctl; readlink $J/last")
    assert ("killed:15", CLOSED) == end_of(shared, int(done.stdout))


def test_a_restart_is_leased_on_the_file_that_it_is_written_to(shared: Mounted) -> None:
    """The first run's file was closed long ago."""
    with holding(shared) as first:
        job = first.spawn("--lease sleep 1000")
        first.close()
        shared.until_ended(job)
    with holding(shared) as second:
        again = int(second.ask(f"restart {job}"))
        assert "running" == shared.status(again)
        second.end()
        assert ("killed:15", CLOSED) == end_of(shared, again)


@pytest.mark.parametrize("writer", ["own", "child"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lease_passes_to_the_process_that_opened_the_file(jobs: Mounted, number: int, writer: str) -> None:
    """Where the daemon is killed, or unmounts while the file is open: the job lives until that process ends."""
    with holding(jobs, writer=writer) as holder:
        job = holder.spawn("--lease sleep 1000")
        pid = jobs.info(job)["pid"]
        assert isinstance(pid, int)
        daemon = jobs.daemon
        assert daemon is not None
        os.kill(daemon, number)
        until(lambda: not is_running(daemon))
        assert is_running(pid)
        jobs.mount()
        assert "running" == jobs.status(job)
        holder.end()
        assert ("killed:15", PASSED) == end_of(jobs, job)


def test_a_lease_ends_while_no_daemon_is_there(jobs: Mounted) -> None:
    """The next mount tells how."""
    with holding(jobs) as holder:
        job = holder.spawn("--lease sleep 1000")
        pid = jobs.info(job)["pid"]
        assert isinstance(pid, int)
        daemon = jobs.daemon
        assert daemon is not None
        os.kill(daemon, signal.SIGKILL)
        until(lambda: not is_running(daemon))
        holder.end()
        until(lambda: not is_running(pid))
    jobs.mount()
    assert ("killed:15", PASSED) == end_of(jobs, job)


def test_a_file_that_was_closed_before_the_daemon_went_is_over(jobs: Mounted) -> None:
    """What was ended is ended, and what has no lease lives on."""
    with holding(jobs) as holder:
        job, other = holder.spawn("--lease sleep 1000"), holder.spawn("sleep 1000")
        holder.close()
        assert ("killed:15", CLOSED) == end_of(jobs, job)
    daemon = jobs.daemon
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    until(lambda: not is_running(daemon))
    jobs.mount()
    assert ("killed:15", "running") == (jobs.status(job), jobs.status(other))
