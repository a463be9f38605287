"""Signals, ends, restarts and removals: what the verbs do, and the status words that follow."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mount

# Says when its traps are set, because a signal that comes before is not caught.
READY = "echo ready; while :; do sleep 0.02; done"


def lingering(jobs: Mounted, job: int) -> int:
    """How many processes of an ended job live on."""
    usage = jobs.info(job)["usage"]
    assert isinstance(usage, dict)
    return int(usage["lingering"])


@pytest.mark.parametrize(
    ("end", "word"),
    [("exit 0", "done:0"), ("exit 3", "failed:3"), ("exit 255", "failed:255"), ("kill -9 $$", "killed:9"),
     ("kill -USR1 $$", "killed:10"), ("kill -SEGV $$", "killed:11"), ("exec /no/such/program", "failed:127")],
)  # fmt: skip
def test_status_comes_from_the_wait_status(shared: Mounted, end: str, word: str) -> None:
    """The status word says how the process ended."""
    assert word == shared.until_ended(shared.spawn(end))


@pytest.mark.parametrize("name", ["-USR1", "-SIGUSR1", "-usr1", "-10", "-s USR1", "-s SIGUSR1", "-s 10"])
def test_signals_by_number_and_name(shared: Mounted, name: str) -> None:
    """A signal is named by number or name, with or without SIG, and is sent alone."""
    job = shared.spawn(f"trap 'echo caught; exit 6' USR1; trap 'exit 7' TERM; {READY}")
    shared.until_output(job, b"ready\n")
    shared.ctl(f"kill {name} {job}")
    assert "failed:6" == shared.until_closed(job)
    assert b"ready\ncaught\n" == shared.read(job)


@pytest.mark.parametrize("word", ["{}", "%{}", "named-{}"])
def test_jobs_by_id_percent_and_name(shared: Mounted, word: str) -> None:
    """A job is named by its id, by %id and by its name."""
    job = shared.spawn("sleep 1000")
    if word.startswith("named"):
        job = shared.spawn("--name named-x sleep 1000")
        word = "named-x"
    shared.ctl(f"kill -9 {word.format(job)}")
    assert "killed:9" == shared.until_ended(job)


def test_last_in_a_command_is_the_writers_own(shared: Mounted) -> None:
    """`last` in a command is the newest job of the writer's own session."""
    done = shared.sh("setsid -w bash -c 'echo spawn sleep 1000 > $J/ctl; readlink $J/last; echo kill -9 last > $J/ctl'")
    assert b"" == done.stderr
    assert "killed:9" == shared.until_ended(int(done.stdout))


def test_stop_and_cont(shared: Mounted) -> None:
    """`stop` and `cont` stop a job and let it go on, and its status tells."""
    # Without `exec` the shell would be in a vfork(2) now and then, where it stops only when its child goes on.
    job = shared.spawn("exec sleep 1000")
    for _ in range(2):
        shared.ctl(f"stop {job}")
        assert "stopped" == shared.until(job, "stopped")
        shared.ctl(f"cont {job}")
        assert "running" == shared.until(job, "running")


def test_stop_by_itself(shared: Mounted) -> None:
    """A job that stops itself is `stopped`."""
    job = shared.spawn("kill -STOP $$; exit 4")
    shared.until(job, "stopped")
    shared.ctl(f"cont {job}")
    assert "failed:4" == shared.until_ended(job)


def test_job_that_catches_term_is_done(shared: Mounted) -> None:
    """A job that catches SIGTERM and exits 0 is `done:0`."""
    job = shared.spawn(f"trap 'exit 0' TERM; {READY}")
    shared.until_output(job, b"ready\n")
    shared.ctl(f"kill {job}")
    assert "done:0" == shared.until_ended(job)


def test_kill_wakes_a_stopped_job(shared: Mounted, tmp_path: Path) -> None:
    """To end a job is SIGTERM and SIGCONT: one that is stopped ends too."""
    os.mkfifo(tmp_path / "fifo")  # opened for both, so that reading it waits without a child
    job = shared.spawn(f"trap 'exit 8' TERM; echo ready; read x <> {tmp_path}/fifo")
    shared.until_output(job, b"ready\n")
    shared.ctl(f"stop {job}")
    shared.until(job, "stopped")
    shared.ctl(f"kill {job}")
    assert "failed:8" == shared.until_ended(job)


def test_job_that_ignores_term_dies_after_its_grace(shared: Mounted) -> None:
    """A job that ignores SIGTERM is killed after its grace period; a second `kill` changes nothing."""
    job = shared.spawn(f"--grace 0.3 trap '' TERM; {READY}")
    shared.until_output(job, b"ready\n")
    shared.ctl(f"kill {job}\nkill {job}\n")
    assert "killed:9" == shared.until_ended(job)


def test_group_is_killed_also_when_the_leader_went_at_once(shared: Mounted) -> None:
    """After the grace period SIGKILL goes to all that is left of the group, also where the leader went at once."""
    job = shared.spawn("--grace 0.3 (trap '' TERM; echo ready; while :; do sleep 0.02; done) & wait")
    shared.until_output(job, b"ready\n")
    shared.ctl(f"kill {job}")
    assert "killed:15" == shared.until_ended(job)
    until(lambda: lingering(shared, job), lambda count: count == 0)


def test_signal_goes_to_the_whole_group(shared: Mounted) -> None:
    """A signal goes to the job's whole process group."""
    job = shared.spawn("sleep 1000 | sleep 1000; sleep 1000")
    until(lambda: shared.info(job)["usage"], lambda usage: isinstance(usage, dict) and usage["processes"] == 3)
    shared.ctl(f"kill -9 {job}")
    assert "killed:9" == shared.until_ended(job)
    # The others were signalled with their leader, but each dies in its own time.
    until(lambda: lingering(shared, job), lambda count: count == 0)


def test_kill_of_an_ended_job_ends_what_lingers(shared: Mounted) -> None:
    """`kill` of an ended job that left something running ends that, and its status stays what it was."""
    job = shared.spawn("--grace 0.3 setsid sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.02; done' & exit 2")
    shared.until(job, "failed:2")
    shared.until_output(job, b"ready\n")
    assert 0 < lingering(shared, job)
    shared.ctl(f"kill {job}")
    until(lambda: lingering(shared, job), lambda count: count == 0)
    assert "failed:2" == shared.status(job)


def test_output_of_descendants_counts(shared: Mounted) -> None:
    """Output of descendants counts as the job's as long as they hold its pipe, also after it has ended."""
    job = shared.spawn("(trap 'echo later; exit' USR1; echo ready; while :; do sleep 0.02; done) & exit 0")
    shared.until(job, "done:0")
    shared.until_output(job, b"ready\n")
    shared.ctl(f"kill -USR1 {job}")
    shared.until_closed(job)
    assert b"ready\nlater\n" == shared.read(job)


def test_final_status_means_that_all_output_is_readable(shared: Mounted) -> None:
    """When a status is final, all that the job's own process wrote is readable."""
    for _ in range(20):
        job = shared.spawn("seq 20000")
        shared.until_ended(job)
        assert b"20000\n" == shared.read(job)[-6:]


def test_kill_does_not_wait(shared: Mounted) -> None:
    """`kill` returns when the signal is sent, not when the job has died."""
    job = shared.spawn(f"--grace 1h trap '' TERM; {READY}")
    shared.until_output(job, b"ready\n")
    shared.ctl(f"kill {job}")
    assert "running" == shared.status(job)
    shared.ctl(f"kill -9 {job}")
    shared.until(job, "killed:9")


def test_nothing_waits_for_the_grace_of_a_group_that_is_gone(jobs: Mounted) -> None:
    """Once all of an ended job's group has gone, nobody waits for its grace period to end."""
    job = jobs.spawn("--grace 1h sleep 1000")
    jobs.ctl(f"kill {job}")
    jobs.until(job, "killed:15")
    supervisor = jobs.supervisor
    jobs.umount()
    until(lambda: os.path.exists(f"/proc/{supervisor}/exe"), lambda there: not there)


def test_restart_spawns_the_same_again(shared: Mounted) -> None:
    """`restart` spawns an ended job again, the same, under a new id."""
    first = shared.run("--cwd /usr --env A=1 --name again --limit 64K echo $A; pwd; exit 3")
    second = int(shared.ask(f"restart {first}"))
    shared.until_closed(second)
    assert (b"1\n/usr\n", "failed:3") == (shared.read(second), shared.status(second))
    assert second > first
    assert str(second) == os.readlink(shared.path / "again")
    same = ("cmd", "cwd", "name")
    assert [shared.info(first)[key] for key in same] == [shared.info(second)[key] for key in same]


def test_rm_and_clean(jobs: Mounted) -> None:
    """`rm` forgets the jobs that are named, `clean` all that have ended, and live ones stay."""
    ended = [jobs.run("true") for _ in range(4)]
    alive = jobs.spawn("sleep 1000")
    jobs.ctl(f"rm {ended[0]} %{ended[1]}")
    assert [3, 4, 5] == sorted(int(name) for name in os.listdir(jobs.path) if name.isdigit())
    jobs.ctl("clean")
    assert [alive] == [int(name) for name in os.listdir(jobs.path) if name.isdigit()]
    kept = jobs.state / "jobs"
    until(lambda: {name.partition(".")[0] for name in os.listdir(kept)} & set("1234"), lambda left: not left)


def test_what_lingers_of_a_removed_job_is_not_harmed(shared: Mounted) -> None:
    """What lingers of a removed job writes into nothing and is not harmed."""
    job = shared.spawn("(trap 'exit 0' TERM; while :; do echo still here; sleep 0.01; done) & echo $!; exit 0")
    shared.until(job, "done:0")
    pid = int(shared.until_output(job, b"\n").split()[0])
    shared.ctl(f"rm {job}")
    try:
        # It goes on through more writes than a pipe that nobody reads would take a failure of.
        before = _written(pid)
        until(lambda: _written(pid), lambda written: written > before + 50)
    finally:
        os.kill(pid, signal.SIGTERM)
    until(lambda: os.path.exists(f"/proc/{pid}/exe"), lambda there: not there)


def _written(pid: int) -> int:
    """How many bytes a process has written in all."""
    with open(f"/proc/{pid}/io", encoding="ascii") as counts:
        return next(int(line.split()[1]) for line in counts if line.startswith("wchar"))
