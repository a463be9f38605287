"""The programs of `examples/` do on a real mount what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobfs.client import Client
from tests.mounted import PATIENCE, Mounted, until

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.mount

EXAMPLES = Path(__file__).parents[2] / "examples"
OF_THE_CLIENT = ["build_farm.py", "progress_bar.py"]


def command(name: str, words: Sequence[str]) -> list[str]:
    """What a user types."""
    return [sys.executable, str(EXAMPLES / name), *words]


def environment(mounted: Mounted) -> dict[str, str]:
    """That of a user with a narrow terminal."""
    return {**mounted.environment, "COLUMNS": "28"}


def run(mounted: Mounted, name: str, *words: str) -> tuple[int, str, str]:
    """Runs an example; gives its exit status and what it printed, to stdout and to stderr."""
    done = subprocess.run(
        command(name, words),
        env=environment(mounted),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def interrupt(mounted: Mounted, name: str, *words: str, when: str) -> tuple[int, str]:
    """Runs an example and presses Ctrl-C when a job of it has the output `when`; gives its exit status and output."""
    client = Client(mounted.path)
    before = client.jobs()
    process = subprocess.Popen(
        command(name, words),
        env=environment(mounted),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        # Who was started with it ignored, as in the background of a script, could not be interrupted.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    with process:
        until(lambda: [job for job in client.jobs() if job not in before and when.encode() in job.read()])
        until(lambda: "poll" in Path(f"/proc/{process.pid}/wchan").read_text() or _waits_for_a_thread(process.pid))
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said.decode()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help_says_what_it_does(shared: Mounted, name: str) -> None:
    """Every example has `--help`."""
    status, said, complaint = run(shared, name, "--help")
    assert (0, "") == (status, complaint)
    assert said.startswith(f"usage: {name}")


@pytest.mark.parametrize("name", OF_THE_CLIENT)
def test_without_a_mount_it_says_so(shared: Mounted, name: str) -> None:
    """One sentence, and exit status 1."""
    done = subprocess.run(
        command(name, []),
        env={**shared.environment, "JOBFS_MOUNT": str(shared.place)},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (1, f"{name.removesuffix('.py')}: jobfs is not mounted at {shared.place}\n") == (
        done.returncode,
        done.stderr.decode(),
    )


# progress_bar.py


def test_the_bar_grows_with_the_percentages(shared: Mounted, tmp_path: Path) -> None:
    """It is drawn for what the job printed last, and ends full, with the job's status."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    line = f"printf '  50%%'; read x < {gate}; printf '\\r 100%%'"
    process = subprocess.Popen(command("progress_bar.py", [line]), env=environment(shared), stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        half = b"\r[##########..........]  50%"
        assert half == process.stdout.read(len(half))
        gate.write_text("go\n")
        said = process.stdout.read().decode()
    assert re.fullmatch(r"\r\[#{20}\] 100%\njob \d+: done:0\n", said)
    assert 0 == process.returncode


def test_the_demonstration_goes_from_0_to_100(shared: Mounted) -> None:
    """Without a command there is something to see."""
    status, said, _ = run(shared, "progress_bar.py")
    assert (0, "100%") == (status, re.findall(r"\d+%", said)[-1])


def test_a_job_that_fails_fails_the_bar(shared: Mounted) -> None:
    """The exit status is 1, and the job's status is printed; also where it prints no percentage."""
    status, said, _ = run(shared, "progress_bar.py", "exit 3")
    assert 1 == status
    assert re.fullmatch(r"\njob \d+: failed:3\n", said)


def test_an_interrupted_bar_leaves_the_job(shared: Mounted) -> None:
    """Ctrl-C ends the program and not the job, and it says how to look at it."""
    status, said = interrupt(shared, "progress_bar.py", "echo 7%; exec sleep 1000", when="7%")
    job = Client(shared.path).job(int(re.findall(r"job (\d+) goes on", said)[0]))
    assert (130, "running") == (status, job.status)
    job.kill()


# build_farm.py


def test_a_farm_runs_all_and_says_how_each_ended(shared: Mounted) -> None:
    """A line for each job, then the summary; 0 where all succeeded."""
    status, said, _ = run(shared, "build_farm.py", "--at-once", "2", *(f"echo {n}" for n in range(5)))
    *lines, summary = said.splitlines()
    assert 0 == status
    assert [f"echo {n}" for n in range(5)] == sorted(line.split("  ")[-1] for line in lines)
    assert all(re.match(r"job \d+: done:0 ", line) for line in lines)
    assert re.fullmatch(r"5 of 5 succeeded in \d+\.\ds", summary)


def test_the_demonstration_is_ten_jobs(shared: Mounted) -> None:
    """Without commands there is something to see."""
    status, said, _ = run(shared, "build_farm.py")
    assert (0, 11) == (status, said.count("\n"))


def test_a_farm_with_a_failure_fails(shared: Mounted) -> None:
    """The others run all the same, and the exit status is 1."""
    status, said, _ = run(shared, "build_farm.py", "true", "exit 3", "true")
    assert 1 == status
    assert re.search(r"^job \d+: failed:3 .* exit 3$", said, re.MULTILINE)
    assert "2 of 3 succeeded" in said


def test_a_farm_runs_so_many_at_a_time(jobs: Mounted) -> None:
    """As many as it was told run at once, and never more, as the events have it."""
    commands = ["sleep 0.1"] * 8
    assert 0 == run(jobs, "build_farm.py", "--at-once", "3", *commands)[0]
    running = most = 0
    for event in Client(jobs.path).events():
        running += {"started": 1, "ended": -1}[event["event"]]
        most = max(most, running)
    assert 3 == most


def test_an_interrupted_farm_ends_its_jobs(jobs: Mounted) -> None:
    """Ctrl-C ends those that run, and the others are never begun."""
    commands = ["echo begun; exec sleep 1000"] * 5
    status, said = interrupt(jobs, "build_farm.py", "--at-once", "2", *commands, when="begun")
    assert (130, "interrupted: what ran was ended\n") == (status, said)
    assert {"killed:15"} == {job.wait(PATIENCE) for job in Client(jobs.path).jobs()}
    assert len(Client(jobs.path).jobs()) <= 2


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_a_farm_of_nobody_is_refused(shared: Mounted, number: str) -> None:
    """It takes one at least to build."""
    status, _, complaint = run(shared, "build_farm.py", "--at-once", number)
    assert 2 == status
    assert "--at-once" in complaint


def _waits_for_a_thread(pid: int) -> bool:
    return "futex" in Path(f"/proc/{pid}/wchan").read_text()
