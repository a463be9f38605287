"""What the options of `spawn` do, in both spellings."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mount


def spawn_json(jobs: Mounted, **request: object) -> int:
    """Spawns through the JSON form, waits for the end, and gives the id."""
    reply = jobs.ask(json.dumps({"op": "spawn", **request}))
    assert reply.isdigit(), reply
    jobs.until_closed(int(reply))
    return int(reply)


def test_json_argv_runs_without_a_shell(shared: Mounted) -> None:
    """`argv` is run as it stands, without a shell."""
    job = spawn_json(shared, argv=["printf", "%s|", "$HOME", "a b", "", "c\nd"])
    assert b"$HOME|a b||c\nd|" == shared.read(job)
    assert ["printf", "%s|", "$HOME", "a b", "", "c\nd"] == shared.info(job)["argv"]


def test_json_keys_are_the_options(shared: Mounted, tmp_path: Path) -> None:
    """The JSON form's other keys are the options' names."""
    job = spawn_json(
        shared,
        cmd="pwd; echo $A $B; nice; read x; echo $x",
        name="keys",
        cwd=str(tmp_path),
        env={"A": "1", "B": "2 3"},
        nice=5,
        limit="64K",
        stdin="/proc/sys/kernel/ostype",
        timeout=60,
        grace="2s",
    )
    assert f"{tmp_path}\n1 2 3\n5\nLinux\n" == shared.read(job).decode()
    stdout = shared.info(job)["stdout"]
    assert isinstance(stdout, dict)
    assert ("keys", 65536) == (shared.info(job)["name"], stdout["capacity"])


def test_command_line_is_verbatim(shared: Mounted) -> None:
    """The command line runs from its first word to the end of the line verbatim; `--` ends the options."""
    job = shared.run("""-- printf '%s\\n' "a  b" '--name' # the end """)
    assert b"a  b\n--name\n" == shared.read(job)


def test_cwd(shared: Mounted, tmp_path: Path) -> None:
    """`--cwd` is where the job starts, and is read from the writer's own directory; it is quoted as in sh."""
    (tmp_path / "a b").mkdir()
    done = shared.sh("""echo 'spawn --name there --cwd "a b" pwd' > $J/ctl; readlink $J/there""", cwd=tmp_path)
    job = int(done.stdout)
    shared.until_closed(job)
    assert f"{tmp_path}/a b\n" == shared.read(job).decode()
    assert f"{tmp_path}/a b" == shared.info(job)["cwd"]


def test_env_adds_to_the_writers(shared: Mounted) -> None:
    """`--env` may be repeated, and stands beside and before what the writer has."""
    script = "A=old B=kept /bin/echo 'spawn --name e --env A=new --env C= echo \"$A $B [${C-unset}]\"' > $J/ctl"
    assert b"" == shared.sh(script).stderr
    assert b"new kept []\n" == shared.until_output(int(os.readlink(shared.path / "e")), b"\n")


def test_env_file_replaces_the_writers(shared: Mounted, tmp_path: Path) -> None:
    """`--env-file` is the environment instead of the writer's, as `env -0` writes it."""
    (tmp_path / "env").write_bytes(b"PATH=/usr/bin:/bin\0A=one\ntwo\0")
    job = shared.run(f"--env-file {tmp_path}/env --env B=2 env -0")
    shells = (b"PWD=", b"_=", b"SHLVL=", b"OLDPWD=")
    given = {entry for entry in shared.read(job).split(b"\0") if not entry.startswith(shells)}
    expected = {f"JOBFS_ID={job}", f"JOBFS_MOUNT={shared.path}", "PATH=/usr/bin:/bin", "A=one\ntwo", "B=2", ""}
    assert {entry.encode() for entry in expected} == given


def test_env_file_of_another_job(shared: Mounted) -> None:
    """`--env-file` may be another job's `env`, in this very mount; its id is not taken over."""
    first = shared.run("--env SECRET=passed true")
    job = shared.run(f"--env-file {shared.path}/{first}/env echo $SECRET $JOBFS_ID")
    assert f"passed {job}\n" == shared.read(job).decode()


def test_env_file_that_is_a_fifo_holds_up_nobody(shared: Mounted, tmp_path: Path) -> None:
    """An `--env-file` that nobody writes to is no reason to wait."""
    os.mkfifo(tmp_path / "fifo")
    job = shared.run(f"--env-file {tmp_path}/fifo echo hello")
    assert b"hello\n" == shared.read(job)


def test_stdin_from_a_file(shared: Mounted, tmp_path: Path) -> None:
    """`--stdin FILE` is read from there, its path from the writer's directory; `none` is the default."""
    (tmp_path / "input").write_text("one\ntwo\n")
    done = shared.sh("echo 'spawn --name in --stdin input wc -l' > $J/ctl; readlink $J/in", cwd=tmp_path)
    assert b"2\n" == shared.until_output(int(done.stdout), b"\n")
    assert b"0\n" == shared.read(shared.run("--stdin none wc -c"))


def test_stdin_from_another_job(shared: Mounted) -> None:
    """`--stdin` may be another job's stdout, in this very mount."""
    first = shared.run("seq 1000")
    job = shared.run(f"--stdin {shared.path}/{first}/stdout wc -l")
    assert b"1000\n" == shared.read(job)


def test_limit_bounds_each_stream(shared: Mounted) -> None:
    """`--limit` bounds what a stream keeps, and `info` counts what was evicted."""
    job = shared.run("--limit 64K seq 100000")
    stdout = shared.info(job)["stdout"]
    assert isinstance(stdout, dict)
    size = sum(len(f"{number}\n") for number in range(1, 100_001))
    assert (size, 65536, size - 65536, 65536) == tuple(
        stdout[key] for key in ("written", "retained", "dropped", "capacity")
    )


def test_nice(shared: Mounted) -> None:
    """`--nice N` is the job's niceness; a negative one is attached or stands as a word."""
    assert b"7\n" == shared.read(shared.run("--nice 7 nice"))
    if os.geteuid() == 0:
        assert b"-5\n" == shared.read(shared.run("--nice=-5 nice"))


def test_timeout_ends_the_job(shared: Mounted) -> None:
    """When its timeout is over a job is ended, and `info` says why."""
    job = shared.spawn("--timeout 0.2 sleep 1000")
    assert "killed:15" == shared.until_ended(job)
    assert "timeout" in str(shared.info(job)["reason"])


def test_timeout_then_grace(shared: Mounted) -> None:
    """A job that ignores SIGTERM is killed when its grace period after the timeout is over."""
    job = shared.spawn("--timeout 0.2 --grace 0.2 trap '' TERM; while :; do sleep 0.05; done")
    assert "killed:9" == shared.until_ended(job)


def test_job_that_ends_in_time_knows_no_timeout(shared: Mounted) -> None:
    """A timeout that is not reached leaves no trace."""
    job = shared.run("--timeout 1h --grace 1h exit 3")
    assert ("failed:3", None) == (shared.status(job), shared.info(job)["reason"])


def test_name_leads_to_the_job_at_once(shared: Mounted) -> None:
    """A job that was given a name can be named in the next command."""
    shared.ctl("spawn --name quick sleep 1000\nkill -9 quick\n")
    assert "killed:9" == until(lambda: (shared.path / "quick" / "status").read_text().strip(), lambda s: s != "running")


def test_pipeline_and_quotes_are_the_shells(shared: Mounted) -> None:
    """A command line is run by /bin/sh, pipelines, redirections and all."""
    job = shared.run("for x in a b; do echo $x; done | tr a-z A-Z; echo oops >&2; exit 5")
    assert (b"A\nB\n", b"oops\n", "failed:5") == (shared.read(job), shared.read(job, "stderr"), shared.status(job))
