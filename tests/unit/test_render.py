"""What the files say about a job."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs import render
from jobfs.model import JobInfo, JobSpec, Usage, Writer
from jobfs.states import Status
from jobfs.stream import StreamState, damaged, empty
from jobfs.text import decode

SPEC = JobSpec("make all", None, "/src", "HOME=/root\0", name="build", cwd="lib", writer=Writer(7, 0, 5, "bash"))
# The contract's `info` section, in its order.
INFO = [
    *("id", "name", "status", "cmd", "argv", "cwd", "pid", "pgid", "exit_code", "signal", "reason"),
    *("created_at", "started_at", "ended_at", "elapsed_s", "stdout", "stderr", "usage", "spawned_by", "recovered"),
    "function",
]
STREAM = ["written", "retained", "dropped", "capacity", "closed", "problem"]
USAGE = ["cpu_user_s", "cpu_system_s", "rss_bytes", "max_rss_bytes", "processes", "lingering"]
SPAWNED_BY = ["pid", "uid", "session", "command"]


def _job(status: str = "running", spec: JobSpec = SPEC, *, id_: int = 3, elapsed: float | None = 1.23456) -> JobInfo:
    return JobInfo(
        id=id_,
        spec=spec,
        status=Status.parse(status),
        pid=100,
        reason=None,
        created_at=1.0,
        started_at=2.0,
        ended_at=None,
        elapsed=elapsed,
        changed_at=2.0,
        stdout=StreamState(written=30, start=10, closed=False, mtime_ns=0, capacity=20),
        stderr=empty(20),
        usage=Usage(0.5, 0.25, 4096, None, 1, 0),
    )


def _said(job: JobInfo) -> dict[str, object]:
    said: dict[str, object] = json.loads(render.info(job))
    return said


@pytest.mark.parametrize("word", ["queued", "running", "done:0", "failed:3", "killed:9", "lost"])
def test_status_is_the_word_and_a_newline(word: str) -> None:
    """`status` says one word of the contract."""
    assert f"{word}\n".encode() == render.status(Status.parse(word))


def test_cmd_is_the_command_line_and_a_newline() -> None:
    """`cmd` says the command line and nothing else, text of any script as it is."""
    assert "echo 'ä'; ls\n".encode() == render.cmd("echo 'ä'; ls")


def test_info_has_the_keys_of_the_contract() -> None:
    """Every key is there, in the contract's order, whether or not it applies."""
    said = json.loads(render.info(_job()))
    assert [INFO, STREAM, STREAM, USAGE, SPAWNED_BY] == [
        list(part) for part in (said, said["stdout"], said["stderr"], said["usage"], said["spawned_by"])
    ]


def test_info_says_what_is_known() -> None:
    """Values come from the snapshot: times in UTC, sizes in bytes, the directory with what `--cwd` asked for."""
    assert {
        "id": 3,
        "name": "build",
        "status": "running",
        "cmd": "make all",
        "argv": None,
        "cwd": "/src/lib",
        "pid": 100,
        "pgid": 100,
        "exit_code": None,
        "signal": None,
        "reason": None,
        "created_at": "1970-01-01T00:00:01.000Z",
        "started_at": "1970-01-01T00:00:02.000Z",
        "ended_at": None,
        "elapsed_s": 1.235,
        "stdout": {"written": 30, "retained": 20, "dropped": 10, "capacity": 20, "closed": False, "problem": None},
        "stderr": {"written": 0, "retained": 0, "dropped": 0, "capacity": 20, "closed": False, "problem": None},
        "usage": dict(zip(USAGE, [0.5, 0.25, 4096, None, 1, 0], strict=True)),
        "spawned_by": {"pid": 7, "uid": 0, "session": 5, "command": "bash"},
        "recovered": False,
        "function": False,
    } == _said(_job())


@pytest.mark.parametrize(
    ("word", "code", "number"),
    [("running", None, None), ("done:0", 0, None), ("failed:3", 3, None), ("killed:9", None, 9), ("lost", None, None)],
)
def test_an_exit_code_and_a_signal_exclude_each_other(word: str, code: int | None, number: int | None) -> None:
    """`exit_code` is of a job that exited, `signal` of one that a signal ended, and each is null else."""
    said = _said(_job(word))
    assert (code, number) == (said["exit_code"], said["signal"])


def test_counts_of_a_damaged_stream_are_not_known() -> None:
    """They are null, and a sentence says why; what is wrong with a sound one stands beside its counts."""
    job = _job()
    said = json.loads(
        render.info(replace(job, stdout=damaged(20, "damaged: cut"), stderr=empty(20)._replace(problem="it waits")))
    )
    nothing = {"written": None, "retained": None, "dropped": None}
    assert {**nothing, "capacity": 20, "closed": False, "problem": "damaged: cut"} == said["stdout"]
    assert (0, "it waits") == (said["stderr"]["written"], said["stderr"]["problem"])


def test_what_a_recovered_job_was_to_be_is_not_made_up() -> None:
    """Its line is the one on record; where it started nobody knows."""
    said = _said(_job(spec=JobSpec("make", None, "", "", stdin="pipe", recovered=True)))
    assert ("make", None, None, True) == (said["cmd"], said["argv"], said["cwd"], said["recovered"])


def test_argv_is_told_as_it_was_given() -> None:
    """`argv` is the list, and `cmd` the line that a person would type for it."""
    said = _said(_job(spec=JobSpec(None, ("ls", "a b"), "/", "")))
    assert (["ls", "a b"], "ls 'a b'") == (said["argv"], said["cmd"])


@given(st.binary(min_size=1).map(decode), st.booleans())
def test_no_file_sends_a_control_character_of_the_command_line(line: str, as_argv: bool) -> None:  # noqa: FBT001
    """Of any command line, `cmd`, `info` and both tables are one line for one job, without control characters."""
    spec = JobSpec(None, (line,), "/", "") if as_argv else JobSpec(line, None, "/", "")
    job = _job(spec=spec)
    said = [render.cmd(spec.line), render.info(job), render.table_jsonl([job]), render.table([job]).split(b"\n", 1)[1]]
    for text in said:
        assert text.endswith(b"\n")
        assert [] == re.findall(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text[:-1].decode())


@given(st.binary(min_size=1).map(decode))
def test_info_gives_the_command_line_back(line: str) -> None:
    """A program that parses `info` has the command line as it was, bytes that are not UTF-8 too."""
    assert line == _said(_job(spec=JobSpec(line, None, "/", "")))["cmd"]


def test_table_jsonl_has_one_info_a_line() -> None:
    """`table.jsonl` is what the jobs' `info` files say, one after the other."""
    jobs = [_job(), _job("done:0", id_=12)]
    assert b"".join(map(render.info, jobs)) == render.table_jsonl(jobs)
    assert b"" == render.table_jsonl([])


def test_the_table_is_aligned() -> None:
    """Columns start below their headings; a job without a name has a dash; the command comes last."""
    jobs = [_job(), _job("killed:15", JobSpec("sleep 9\n:", None, "/", ""), id_=1234, elapsed=None)]
    assert [
        "ID    STATUS     ELAPSED  NAME   COMMAND",
        "3     running    1.2s     build  make all",
        "1234  killed:15  -        -      sleep 9\\n:",
    ] == render.table(jobs).decode().splitlines()


def test_an_empty_table_is_its_heading() -> None:
    """Without a job there is the heading, so that a person sees what is meant."""
    assert b"ID  STATUS  ELAPSED  NAME  COMMAND\n" == render.table([])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.0s"),
        (0.44, "0.4s"),
        (9.94, "9.9s"),
        (9.96, "9.9s"),
        (10.0, "10s"),
        (59.99, "59s"),
        (60.0, "1m00s"),
        (185.0, "3m05s"),
        (3599.9, "59m59s"),
        (3600.0, "1h00m"),
        (7620.0, "2h07m"),
        (86399.0, "23h59m"),
        (86400.0, "1d00h"),
        (273600.0, "3d04h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, text: str) -> None:
    """A span of time is cut to what a person wants to know, and never says 60 of a unit."""
    assert text == render.duration(seconds)


def test_an_event_is_one_line_with_its_time_first() -> None:
    """A line of `events` is JSON on its own, ASCII, and says when and what."""
    line = render.event(1.5, "ended", {"id": 3, "name": None, "reason": "it\n\x1b"})
    assert line.endswith(b"\n")
    assert line[:-1].decode().isprintable()
    expected = {"at": "1970-01-01T00:00:01.500Z", "event": "ended", "id": 3, "name": None, "reason": "it\n\x1b"}
    assert expected == json.loads(line)
