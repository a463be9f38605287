"""A daemon or a supervisor that is out of descriptors: who asks gets EAGAIN, nothing is half, and later all is well."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import kill
from tests.mounted import JOBFS, Mounted, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.mount

ROOM = range(7)  # descriptors that are left, so that it runs out at each of the places where it takes one
COMMANDS = (
    "spawn {}",
    "spawn --cwd / --stdin pipe {}",
    "spawn --pty {}",
    "spawn --lease {}",
    "spawn --env-file {env} {}",
)


@contextmanager
def room_for(pids: list[int], descriptors: int) -> Iterator[None]:
    """Lets processes open that many descriptors more, and no more."""
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    try:
        for pid, (_, hard) in limits.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + descriptors, hard))
        yield
    finally:
        for pid, limit in limits.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


def starving(jobs: Mounted, who: str) -> list[int]:
    """The processes that are to run out."""
    processes = {"daemon": jobs.daemon, "supervisor": jobs.supervisor}
    return [pid for name, pid in processes.items() if pid is not None and who in (name, "both")]


def met(action: Callable[[], object]) -> object:
    """What an action gives, or the name of the errno that it raises."""
    try:
        return action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def command(jobs: Mounted, line: str) -> str:
    """Writes one command; gives its reply, or the name of the errno."""
    fd = os.open(jobs.file("ctl"), os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, line.encode() + b"\n")
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)


@pytest.mark.parametrize("who", ["daemon", "supervisor", "both"])
def test_a_spawn_happens_or_is_refused(jobs: Mounted, tmp_path: Path, who: str) -> None:
    """Out of descriptors each spawn gives an id and runs once, or EAGAIN and never; other jobs go on."""
    mark, environment = tmp_path / "mark", tmp_path / "environment"
    environment.write_bytes(b"PATH=/usr/bin:/bin\0")
    running = jobs.spawn("--stdin pipe cat")
    told: dict[str, str] = {}
    for room in ROOM:
        with room_for(starving(jobs, who), room):
            for number, text in enumerate(COMMANDS):
                tag = f"{room}.{number}"
                line = text.format(f"echo {tag} >> {mark}; exec sleep 0", env=environment)
                told[tag] = str(met(partial(command, jobs, line)))
    assert {"EAGAIN"} >= {answer for answer in told.values() if not answer.isdigit()}, told
    assert "EAGAIN" in told.values()
    spawned = {tag: int(answer) for tag, answer in told.items() if answer.isdigit()}
    for tag, job in spawned.items():
        word = jobs.until_ended(job)
        assert word == "done:0" or (".3" in tag and word.startswith("killed:")), (tag, word)  # a lease that was let go
    ran = mark.read_text().split() if mark.exists() else []
    assert (len(ran), set()) == (len(set(ran)), set(ran) - spawned.keys())
    assert {tag for tag in spawned if ".3" not in tag} <= set(ran)
    assert {running, *spawned.values()} == {int(name) for name in os.listdir(jobs.path) if name.isdigit()}
    jobs.file("stdin", running).write_text("heard\n")
    jobs.until_output(running, b"heard\n")
    assert "Traceback" not in jobs.log()


def test_files_read_right_or_are_refused(jobs: Mounted) -> None:
    """Out of descriptors a file of the mount gives what it holds, or EAGAIN, and never something else."""
    job = jobs.run("seq 100000")
    files = ["stdout", "stderr", "status", "cmd", "env"]
    whole = {name: jobs.read(job, name) for name in files}
    listed = sorted(os.listdir(jobs.path))
    for room in ROOM:
        with room_for(starving(jobs, "daemon"), room):
            for name in files:
                assert met(partial(jobs.read, job, name)) in (whole[name], "EAGAIN")
            assert met(lambda: sorted(os.listdir(jobs.path))) in (listed, "EAGAIN")
    assert whole == {name: jobs.read(job, name) for name in files}


def test_what_happens_meanwhile_is_known_later(jobs: Mounted, tmp_path: Path) -> None:
    """Jobs that write and end while the daemon has no descriptor are told rightly when it has some again."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job = jobs.spawn(f"read go < {gate}; seq 1000; exit 7")
    os.listdir(jobs.file("", job))  # from now on the kernel is told of its changes
    with room_for(starving(jobs, "daemon"), 0):
        gate.write_text("go\n")
        assert "failed:7" == jobs.until_ended(job)
    assert b"".join(b"%d\n" % number for number in range(1, 1001)) == jobs.read(job)
    until(lambda: jobs.info(job)["stdout"], lambda stream: isinstance(stream, dict) and stream["closed"])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting elsewhere takes root")
def test_other_mounts_come_and_go_meanwhile(jobs: Mounted, tmp_path: Path) -> None:
    """A daemon without a descriptor that looks whether its mount is still there serves on."""
    daemon = jobs.daemon
    with room_for(starving(jobs, "daemon"), 0):
        subprocess.run(["mount", "-t", "tmpfs", "jobfs-test", str(tmp_path)], check=True)
        subprocess.run(["umount", str(tmp_path)], check=True)
        jobs.file("status", 1).exists()
    assert 1 == jobs.spawn("true")
    assert daemon == jobs.daemon
    assert "Traceback" not in jobs.log()


def test_no_line_of_a_write_is_run_twice(jobs: Mounted, tmp_path: Path) -> None:
    """Of several lines in one write that runs out amid them, each is run once, however often the writer tries again."""
    mark = tmp_path / "mark"
    lines = [f"spawn --lease echo {number} >> {mark}; sleep 1000" for number in range(12)]
    text = "".join(f"{line}\n" for line in lines).encode()
    fd = os.open(jobs.file("ctl"), os.O_RDWR | os.O_CLOEXEC)
    try:
        with room_for(starving(jobs, "supervisor"), 30):
            while text:
                written = met(partial(os.write, fd, text))
                assert isinstance(written, int) or written == "EAGAIN"
                if not isinstance(written, int):
                    break
                text = text[written:]
        while text:
            text = text[os.write(fd, text) :]
        until(lambda: mark.read_text().split() if mark.exists() else [], lambda ran: len(ran) >= len(lines))
        assert sorted(map(str, range(12))) == sorted(mark.read_text().split())
    finally:
        os.close(fd)


def test_jobs_have_the_limit_that_the_daemon_was_given(tmp_path: Path) -> None:
    """What the daemon and the supervisor raise for themselves is not the jobs'; nor is it after another supervisor."""
    mounted = Mounted()
    try:
        command = f"ulimit -S -n 999; exec {JOBFS} mount --state {mounted.state} {mounted.path}"
        subprocess.run(["sh", "-c", command], env=mounted.environment, check=True, cwd=tmp_path, capture_output=True)
        mounted.note_processes()
        assert b"999\n" == mounted.read(mounted.run("ulimit -S -n"))
        kill(mounted.supervisor)
        assert b"999\n" == mounted.read(mounted.run("ulimit -S -n"))
    finally:
        mounted.finish()
