"""`--pty`, `winsize` and `eof`, as files and commands have them."""

from __future__ import annotations

import errno
import json
import os

import pytest

from tests.mounted import Mounted

pytestmark = pytest.mark.mount

WAITS = 'trap "stty size" WINCH; echo ready; while :; do sleep 0.02; done'


def errno_of(jobs: Mounted, text: str, job: int | None = None) -> int:
    """What writing `text` to a `ctl` fails with; AssertionError where it does not."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what is looked at
        jobs.ctl(text, job)
    return caught.value.errno or -1


def test_a_job_with_a_terminal(shared: Mounted) -> None:
    """Both outputs arrive in stdout, and stderr stays empty and is closed, while the job runs too."""
    job = shared.spawn("--pty test -t 0 && test -t 1 && tty && stty size >&2; sleep 1000")
    said = shared.until_output(job, b"24 80\r\n")
    assert said.startswith(b"/dev/pts/")
    stderr = shared.info(job)["stderr"]
    assert isinstance(stderr, dict)
    assert ("running", True, 0, b"") == (
        shared.status(job),
        stderr["closed"],
        stderr["written"],
        shared.read(job, "stderr"),
    )
    shared.ctl("kill -9", job)


def test_the_size_is_set_by_either_ctl_and_in_json(shared: Mounted) -> None:
    """The job hears of each change."""
    job = shared.spawn(f"--pty {WAITS}")
    shared.until_output(job, b"ready\r\n")
    shared.ctl(f"winsize 30 100 {job}")
    shared.until_output(job, b"30 100\r\n")
    shared.ctl("winsize 31 101", job)
    shared.until_output(job, b"31 101\r\n")
    assert "ok" == shared.ask(json.dumps({"op": "winsize", "rows": 32, "cols": 102, "jobs": [job]}))
    shared.until_output(job, b"32 102\r\n")
    shared.ctl("kill -9", job)
    shared.until_ended(job)
    assert errno.ESRCH == errno_of(shared, f"winsize 30 100 {job}")


def test_a_job_without_a_terminal_or_pipe_is_einval(shared: Mounted) -> None:
    """With a sentence that says what it lacks."""
    job = shared.spawn("sleep 1000")
    for verb, lacks in (("winsize 24 80", "terminal"), ("eof", "stdin")):
        assert errno.EINVAL == errno_of(shared, f"{verb} {job}")
        assert f"job {job} has no {lacks}" in shared.ask(f"{verb} {job}")
    shared.ctl("kill -9", job)


def test_eof_ends_a_job_that_reads_a_pipe(shared: Mounted) -> None:
    """Also in its own ctl; then it has ended, and that is ESRCH."""
    first, second = shared.spawn("--stdin pipe wc -c"), shared.spawn("--stdin pipe wc -c")
    assert ["running", "running"] == [shared.status(first), shared.status(second)]
    shared.ctl(f"eof {first}")
    shared.ctl("eof", second)
    assert ["done:0", "done:0"] == [shared.until_closed(job) for job in (first, second)]
    assert errno.ESRCH == errno_of(shared, f"eof {first} {second}")


def test_eof_is_typed_into_a_terminal(shared: Mounted) -> None:
    """A program that reads it meets end of file."""
    job = shared.spawn("--pty echo ready; cat; echo end")
    shared.until_output(job, b"ready\r\n")
    shared.ctl(f"eof {job}")
    assert "done:0" == shared.until_closed(job)
    assert shared.read(job).endswith(b"end\r\n")


def test_restart_keeps_terminal_and_pipe(jobs: Mounted) -> None:
    """After a new mount on the same state, too."""
    terminal, pipe = jobs.run("--pty tty"), jobs.spawn("--stdin pipe cat")
    jobs.ctl(f"eof {pipe}")
    jobs.until_ended(pipe)
    jobs.umount()
    jobs.mount()
    again, reader = int(jobs.ask(f"restart {terminal}")), int(jobs.ask(f"restart {pipe}"))
    jobs.until_closed(again)
    assert (True, "running") == (jobs.read(again).startswith(b"/dev/pts/"), jobs.status(reader))
    jobs.ctl(f"eof {reader}")
    assert "done:0" == jobs.until_ended(reader)


def test_a_terminal_outlives_the_daemon(jobs: Mounted) -> None:
    """What is written to it meanwhile is there afterwards."""
    gate = jobs.place / "gate"
    os.mkfifo(gate)
    job = jobs.spawn(f"--pty echo before; read go < {gate}; echo after")
    jobs.until_output(job, b"before\r\n")
    jobs.umount()
    gate.write_text("go\n")
    jobs.mount()
    jobs.until_closed(job)
    assert b"before\r\nafter\r\n" == jobs.read(job)


def test_the_command_spawns_with_a_terminal_or_a_pipe(shared: Mounted) -> None:
    """`jobfs spawn --pty` and `--stdin pipe`."""
    job = int(shared.jobfs("spawn", "--pty", "test -t 0 && echo yes").stdout)
    shared.until_closed(job)
    assert b"yes\r\n" == shared.read(job)
    job = int(shared.jobfs("spawn", "--stdin", "pipe", "wc -c").stdout)
    assert "running" == shared.status(job)
    shared.ctl(f"eof {job}")
    shared.until_closed(job)
    assert b"0\n" == shared.read(job)
