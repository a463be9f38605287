"""The number of a job's process is taken by another process: that one is never signalled.

Which number the next process gets can be said by who may write to ns_last_pid (proc(5)): root.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import kill
from tests.mounted import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mounted import Mounted

_LAST = Path("/proc/sys/kernel/ns_last_pid")
_TRIES = 200

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may choose numbers")]


class Stranger:
    """A process that is nobody's job, leads its own session as a job does, and notes every signal that it gets."""

    def __init__(self, number: int, place: Path) -> None:
        """Makes it with the process number `number`, which is free; AssertionError where it cannot be had."""
        self._signals = place / f"signals-{number}"
        self._signals.touch()
        traps = " ".join(f"trap 'echo {name} >> {self._signals}' {name};" for name in ("TERM", "CONT", "USR1", "HUP"))
        for _ in range(_TRIES):
            _LAST.write_text(str(number - 1))
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"{traps} echo; while :; do sleep 0.01; done"],
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            if self.process.pid == number:
                assert self.process.stdout is not None
                self.process.stdout.readline()
                return
            self.end()  # somebody else was faster
        raise AssertionError(f"{number} was not to be had")

    def untouched(self) -> bool:
        """Whether it runs, and never got a signal."""
        return self.process.poll() is None and not self._signals.read_text()

    def end(self) -> None:
        """Ends it."""
        self.process.kill()
        with self.process:
            pass


@pytest.fixture
def strangers() -> Iterator[list[Stranger]]:
    """Those that a test makes, ended afterwards."""
    made: list[Stranger] = []
    yield made
    for stranger in made:
        stranger.end()


def number_of(jobs: Mounted, job: int) -> int:
    """The process number that a job has, or had."""
    pid = jobs.info(job)["pid"]
    assert isinstance(pid, int)
    return pid


def is_free(number: int) -> bool:
    """Whether no process has that number, not even one that waits to be reaped."""
    return not Path(f"/proc/{number}").exists()


def refusal(jobs: Mounted, line: str) -> int:
    """What a command fails with; 0 where it does not."""
    try:
        jobs.ctl(line)
    except OSError as error:
        return error.errno or 0
    return 0


def assert_beyond_reach(jobs: Mounted, job: int) -> None:
    """Every command that would signal the job is refused: nothing is left of it."""
    for command in ("kill", "kill -9", "kill -USR1", "stop", "cont"):
        # EAGAIN: who wrote could not be looked at in time, on a busy machine.
        number = until(lambda: refusal(jobs, f"{command} {job}"), lambda number: number != errno.EAGAIN)  # noqa: B023
        assert errno.ESRCH == number, command


def test_nobody_who_has_the_number_of_an_ended_job_is_signalled(
    jobs: Mounted, tmp_path: Path, strangers: list[Stranger]
) -> None:
    """Whatever is asked for the job: nothing is left of it."""
    job = jobs.run("exit 3")
    strangers.append(Stranger(number_of(jobs, job), tmp_path))
    assert_beyond_reach(jobs, job)
    assert "failed:3" == jobs.status(job)
    jobs.umount()
    jobs.mount()
    assert_beyond_reach(jobs, job)
    assert strangers[0].untouched()


def test_nobody_who_has_the_number_of_a_job_that_left_something_behind_is_signalled(
    jobs: Mounted, tmp_path: Path, strangers: list[Stranger]
) -> None:
    """What the job left in another session is ended; who has its own number by now is not."""
    job = jobs.spawn("setsid sleep 1000 & exit 3")
    jobs.until_ended(job)
    until(lambda: is_free(number_of(jobs, job)))
    strangers.append(Stranger(number_of(jobs, job), tmp_path))
    until(lambda: jobs.info(job)["usage"], lambda usage: isinstance(usage, dict) and usage["lingering"] == 1)
    assert "ok" == jobs.ask(f"kill {job}")
    jobs.until_closed(job)
    assert strangers[0].untouched()


@pytest.mark.parametrize("also_the_daemon", [False, True])
def test_nobody_is_taken_for_a_job_whose_supervisor_was_killed(
    jobs: Mounted, tmp_path: Path, strangers: list[Stranger], *, also_the_daemon: bool
) -> None:
    """A job that ended while nobody watched is not found again in another process that has its number."""
    jobs.note_processes()
    job = jobs.spawn("exec sleep 1000")
    number = number_of(jobs, job)
    supervisor, daemon = jobs.supervisor, jobs.daemon
    assert supervisor is not None
    assert daemon is not None
    if also_the_daemon:
        kill(daemon)
    os.kill(supervisor, signal.SIGSTOP)  # so that nobody reaps the job, and then
    os.kill(number, signal.SIGKILL)
    kill(supervisor)
    until(lambda: is_free(number))  # who inherits it does
    strangers.append(Stranger(number, tmp_path))
    if also_the_daemon:
        jobs.mount()
    assert jobs.until_ended(job) in ("killed:9", "lost")
    jobs.note_processes()
    assert_beyond_reach(jobs, job)
    assert strangers[0].untouched()
