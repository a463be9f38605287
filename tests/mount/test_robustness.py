"""Bad input, hanging file systems and busy neighbours: what must not disturb the daemon, the jobs, or anybody else."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, frozen, until

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.mount

WRITES = 3000
# What real commands are made of, so that random text gets past the first word. Nothing in it, however it is put
# together, spawns a job, names the witness, or its session's last.
WORDS = b"""kill stop cont eof rm restart frobnicate --name --cwd --env --limit --timeout --nice --stdin -- --pty -9 -s
    x = 999999 %0 %888888 nobody 10M 5s / ' " \\ $( ` { } "op": "kill" "jobs":[777777] [ ] , null 1e999 # """.split()
WORDS += [b"spawn --colour", b"\xff\xfe", b"\x1b[2J", b"\n", b"\n", b"\n\n", b"\r\n", b"\0", b" ", b"\t"]


def noise(seed: int) -> bytes:
    """Bytes of no good sense, the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - a game of chance
    if chance.random() < 0.3:
        raw = chance.randbytes(chance.randrange(1, 200))
    else:
        raw = b" ".join(chance.choices(WORDS, k=chance.randrange(1, 12)))
    return raw * chance.choice([1, 1, 1, 1, 50])


def errno_of(action: Callable[[], object]) -> int:
    """The errno that `action` fails with; 0 where it does not."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


def test_random_writes_harm_nobody(jobs: Mounted) -> None:
    """Whatever bytes are written to ctl, the answer is an errno and a sentence, the daemon lives, no job is touched."""
    witness = jobs.spawn("--name witness echo alive; exec sleep 1000")
    jobs.until_output(witness, b"alive\n")
    daemon, before = jobs.daemon, jobs.info(witness)
    answers = set()
    for start in range(0, WRITES, 20):
        fd = os.open(jobs.file("ctl"), os.O_RDWR)
        answers |= {errno_of(partial(os.write, fd, noise(seed))) for seed in range(start, start + 20)}
        replies = os.read(fd, 1 << 20).splitlines() if start % 40 else []
        answers.add(errno_of(partial(os.close, fd)))
        assert [] == [line for line in replies if line != b"ok" and not line.startswith(b"error: ")]
    assert set() == answers - {0, errno.EINVAL, errno.ENOENT, errno.ESRCH}
    assert (daemon, "running") == (jobs.daemon, jobs.status(witness))
    same = ("id", "name", "cmd", "pid", "started_at", "stdout")
    assert [before[key] for key in same] == [jobs.info(witness)[key] for key in same]
    assert "Traceback" not in jobs.log()


def test_random_spawns_harm_nobody(jobs: Mounted) -> None:
    """Commands of no good sense as JSON are refused or run, and each has one reply."""
    chance = random.Random(1)  # noqa: S311 - a game of chance
    keys = ["cmd", "argv", "name", "cwd", "env", "limit", "timeout", "grace", "nice", "stdin", "jobs", "x"]
    values = [
        None,
        True,
        0,
        -1,
        1e308,
        "",
        "true",
        "\0",
        "\x1b",
        "x" * 300,
        [],
        ["true"],
        [1],
        {},
        {"A": "b"},
        {"A": 1},
    ]
    for _ in range(500):
        request = {"op": "spawn"} | {chance.choice(keys): chance.choice(values) for _ in range(chance.randrange(4))}
        reply = jobs.ask(json.dumps(request))
        assert reply.isdigit() or reply.startswith("error: "), (request, reply)
        assert "\n" not in reply
    assert "Traceback" not in jobs.log()
    assert "failed:5" == jobs.until_ended(jobs.spawn("exit 5"))


# File systems that hang


@pytest.mark.parametrize("option", ["--cwd {}/1", "--stdin {}/1/stdout", "--cwd / --stdin {}/table"])
def test_hanging_file_system_stops_nobody_else(jobs: Mounted, hanging: Mounted, option: str) -> None:
    """A job whose chdir or open hangs on a bad file system stops no other job's output and no other command."""
    hanging.spawn("true")
    writer = jobs.spawn("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
    with frozen(hanging.daemon):
        stuck = jobs.spawn(f"{option.format(hanging.path)} echo went through")
        size = jobs.file("stdout", writer).stat().st_size
        until(lambda: jobs.file("stdout", writer).stat().st_size, lambda now: now > size + 50)
        other = jobs.run("echo hello")
        assert (b"hello\n", "done:0", "running") == (jobs.read(other), jobs.status(other), jobs.status(stuck))
        jobs.ctl(f"kill -9 {writer}")
        assert "killed:9" == jobs.until_ended(writer)
    assert "done:0" == jobs.until_closed(stuck)
    assert b"went through\n" == jobs.read(stuck)


def test_job_that_hangs_on_its_way_can_be_killed(jobs: Mounted, hanging: Mounted) -> None:
    """A job that hangs on its way to exec is killed when its grace period is over, and never runs."""
    hanging.spawn("true")
    with frozen(hanging.daemon):
        stuck = jobs.spawn(f"--cwd {hanging.path}/1 --grace 0.1 echo went through")
        jobs.ctl(f"kill {stuck}")
        assert "killed:9" == jobs.until_ended(stuck)
    assert b"" == jobs.read(stuck)


def test_missing_directory_that_shows_late_is_told(jobs: Mounted, hanging: Mounted) -> None:
    """A job whose chdir fails after its spawn was answered never started: `cancelled`, and `info` says why."""
    with frozen(hanging.daemon):
        stuck = jobs.spawn(f"--cwd {hanging.path}/4711 echo went through")
    assert "cancelled" == jobs.until_ended(stuck)
    assert "No such file or directory" in str(jobs.info(stuck)["reason"])


def test_env_file_that_hangs_does_not_stop_readers(jobs: Mounted, hanging: Mounted) -> None:
    """While an `--env-file` cannot be read, files are read as before; when it can, the job is spawned."""
    hanging.run("true")
    job = jobs.run("echo hello")
    with frozen(hanging.daemon):
        line = f"spawn --env-file {hanging.path}/1/env true\n"
        script = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
        writer = subprocess.Popen([sys.executable, "-c", script, jobs.file("ctl"), line], stderr=subprocess.PIPE)
        until(lambda: Path(f"/proc/{writer.pid}/wchan").read_text(), lambda place: place == "request_wait_answer")
        assert (b"hello\n", "done:0") == (jobs.read(job), jobs.status(job))
        assert "hello" in jobs.file("table").read_text()
    assert (b"", 0) == (writer.communicate()[1], writer.returncode)
    assert job + 1 == int(os.readlink(jobs.path / "last"))


def test_writer_elsewhere_is_not_taken_for_the_writer_here(jobs: Mounted, hanging: Mounted) -> None:
    """A process that waits in a write to another mount's `ctl` is never taken for one that writes to this one's."""
    with hanging.file("ctl").open("wb") as elsewhere:
        words = ["bash", "-c", "read go; echo spawn true"]
        waiting = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=elsewhere, cwd="/usr")
    with frozen(hanging.daemon):
        assert waiting.stdin is not None
        waiting.stdin.write(b"go\n")
        waiting.stdin.close()
        until(lambda: Path(f"/proc/{waiting.pid}/wchan").read_text(), lambda place: place == "request_wait_answer")
        # The opener has gone, so that the writer must be looked for among all processes.
        script = "(exec 3> $J/ctl; (cd /usr/bin; sleep 0.05; /bin/echo 'spawn --name here pwd' >&3) &)"
        assert b"" == jobs.sh(script).stderr
        job = int(until(lambda: jobs.sh("readlink $J/here").stdout))
        jobs.until_closed(job)
    assert 0 == waiting.wait()
    assert b"/usr/bin\n" == jobs.read(job)


def test_damaged_stream_is_an_error_of_its_reader_only(jobs: Mounted) -> None:
    """A stream whose file on the disk was damaged is EIO for who reads it; everything else works as before."""
    damaged, sound = jobs.spawn("echo damaged"), jobs.spawn("echo sound")
    jobs.until_ended(damaged)
    jobs.until_closed(sound)
    (ring,) = (path for path in (jobs.state / "jobs").rglob("*stdout") if b"damaged" in path.read_bytes())
    ring.write_bytes(b"x" * 10_000)
    assert errno.EIO == errno_of(partial(jobs.read, damaged))
    assert (b"sound\n", "done:0") == (jobs.read(sound), jobs.status(damaged))
    jobs.ctl(f"rm {damaged}")


# Many at once


def test_many_jobs_end_with_right_statuses(jobs: Mounted) -> None:
    """Hundreds of jobs, spawned as fast as ctl takes them, end with the right statuses, and no zombie is left."""
    count = 400
    jobs.ctl("".join(f"spawn exit {number % 3}\n" for number in range(count)))
    until(lambda: jobs.file("table.jsonl").read_text(), lambda table: '"running"' not in table)
    statuses = [json.loads(line)["status"] for line in jobs.file("table.jsonl").read_text().splitlines()]
    assert [("done:0", "failed:1", "failed:2")[number % 3] for number in range(count)] == statuses


def test_no_descriptor_is_leaked(jobs: Mounted) -> None:
    """Neither daemon nor supervisor keeps a descriptor of jobs that came and went."""

    def held() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (jobs.daemon, jobs.supervisor)]

    def cycle() -> None:
        for job in [jobs.spawn(f"--cwd / seq {number}") for number in range(20)]:
            jobs.until_closed(job)
            jobs.read(job)
            jobs.ask("kill nobody")
        jobs.ctl("clean")

    cycle()
    before = held()
    cycle()
    # The daemon opens some for what it does meanwhile, such as storing; they go again.
    until(held, lambda now: now <= before)
