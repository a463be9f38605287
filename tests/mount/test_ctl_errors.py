"""What a write to `ctl` fails with, what its reply says, and what was run then."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.mount

SYNTAX = {
    "unknown verb": "frobnicate 1",
    "shell syntax": "ls -l > /tmp/x",
    "no job": "kill",
    "not a job": "kill ../1",
    "leading zero": "kill 007",
    "unknown signal": "kill -FOO 1",
    "signal too large": "kill -99 1",
    "signal zero": "kill -0 1",
    "no command": "spawn",
    "only blanks": "spawn   \t ",
    "unknown option": "spawn --colour red true",
    "option without value": "spawn --name",
    "option twice": "spawn --name a --name b true",
    "bad size": "spawn --limit 10Q true",
    "bad duration": "spawn --timeout soon true",
    "bad niceness": "spawn --nice 99 true",
    "bad variable": "spawn --env NOVALUE true",
    "reserved name": "spawn --name table true",
    "reserved prefix": "spawn --name by-user true",
    "number as name": "spawn --name 12 true",
    "open quote": "spawn --name 'x true",
    "broken JSON": '{"op": "spawn"',
    "JSON without op": '{"cmd": "true"}',
    "JSON of another shape": '{"op": "spawn", "cmd": ["true"]}',
    "JSON with an unknown key": '{"op": "spawn", "cmd": "true", "colour": "red"}',
    "JSON with a NUL": '{"op": "spawn", "cmd": "true\\u0000"}',
    "JSON list": '["spawn"]',
    "word after clean": "clean 1",
    "size without jobs": "winsize 24 80",
    "size that is none": "winsize 24 0 1",
    "lease with a value": "spawn --lease=yes true",
    "pty with a value": "spawn --pty=yes true",
}


def refused(jobs: Mounted, text: str | bytes, job: int | None = None) -> tuple[int, str]:
    """The errno of writing `text`, and the reply; the errno is 0 where it is taken."""
    raw = text if isinstance(text, bytes) else text.encode()
    fd = os.open(jobs.file("ctl", job), os.O_RDWR)
    try:
        number = 0
        try:
            os.write(fd, raw + b"\n")
        except OSError as error:
            number = error.errno or -1
        return number, os.read(fd, 100_000).decode()
    finally:
        os.close(fd)


@pytest.mark.parametrize("line", SYNTAX.values(), ids=SYNTAX)
def test_what_does_not_parse_is_einval(shared: Mounted, line: str) -> None:
    """A word, option, key, signal or JSON that does not parse is EINVAL, with a sentence, and runs nothing."""
    before = os.listdir(shared.path)
    number, reply = refused(shared, line)
    assert (errno.EINVAL, True, 1) == (number, reply.startswith("error: "), reply.count("\n"))
    assert before == os.listdir(shared.path)


def test_nul_is_refused(shared: Mounted) -> None:
    """Any byte but NUL may stand in a command line."""
    assert errno.EINVAL == refused(shared, b"spawn true\0")[0]


@pytest.mark.parametrize("verb", ["kill", "kill -9", "stop", "cont", "eof", "winsize 1 1", "rm", "restart"])
@pytest.mark.parametrize("word", ["999999", "%999999", "nobody"])
def test_no_such_job_is_enoent(shared: Mounted, verb: str, word: str) -> None:
    """A job that is not there is ENOENT, and the reply names the word."""
    assert (errno.ENOENT, f"error: no such job: {word.removeprefix('%')}\n") == refused(shared, f"{verb} {word}")


def test_last_without_a_job_of_the_session_is_enoent(jobs: Mounted) -> None:
    """`last` in a command is of the writer's own session, else ENOENT: nobody kills another session's job by chance."""
    job = jobs.spawn("sleep 1000")
    done = jobs.sh("setsid -w bash -c 'echo kill last > $J/ctl'")
    assert b"No such file or directory" in done.stderr
    assert "running" == jobs.status(job)


@pytest.mark.parametrize("verb", ["kill", "kill -9", "stop", "cont"])
def test_signal_to_an_ended_job_is_esrch(shared: Mounted, verb: str) -> None:
    """ESRCH says that every job named has ended."""
    one, two = shared.run("true"), shared.run("false")
    assert errno.ESRCH == refused(shared, f"{verb} {one} {two}")[0]


def test_signal_reaches_those_that_live(shared: Mounted) -> None:
    """A signal to several jobs of which some have ended reaches the others, and is no error."""
    ended, alive = shared.run("true"), shared.spawn("sleep 1000")
    assert (0, "ok\n") == refused(shared, f"kill -9 {ended} {alive}")
    assert "killed:9" == shared.until_ended(alive)


@pytest.mark.parametrize("verb", ["rm", "restart"])
def test_live_job_is_ebusy(shared: Mounted, verb: str) -> None:
    """`rm` and `restart` of a live job are EBUSY, and of a list with a live one in it nothing is done."""
    ended, alive = shared.run("true"), shared.spawn("sleep 1000")
    before = sorted(os.listdir(shared.path))
    assert errno.EBUSY == refused(shared, f"{verb} {ended} {alive}")[0]
    assert before == sorted(os.listdir(shared.path))


def test_jobs_are_looked_up_before_anything_is_done(shared: Mounted) -> None:
    """A command that names a job that is not there does nothing to the others."""
    job = shared.spawn("sleep 1000")
    assert errno.ENOENT == refused(shared, f"kill -9 {job} 999999")[0]
    assert "running" == shared.status(job)


def test_taken_name_is_eexist(shared: Mounted) -> None:
    """A name is taken only as long as its holder is alive."""
    holder = shared.spawn("--name holder sleep 1000")
    assert errno.EEXIST == refused(shared, "spawn --name holder true")[0]
    shared.ctl(f"kill -9 {holder}")
    shared.until_ended(holder)
    assert str(shared.spawn("--name holder true")) == os.readlink(shared.path / "holder")


def test_missing_program_is_enoent(shared: Mounted) -> None:
    """An `argv[0]` that is not found is ENOENT, and no job is left of it."""
    before = sorted(os.listdir(shared.path))
    number, reply = refused(shared, json.dumps({"op": "spawn", "argv": ["no-such-program"]}))
    assert (errno.ENOENT, True) == (number, "no-such-program" in reply)
    assert before == sorted(os.listdir(shared.path))


def test_program_that_may_not_be_run_is_eacces(shared: Mounted) -> None:
    """EACCES is as execve has it."""
    assert errno.EACCES == refused(shared, json.dumps({"op": "spawn", "argv": ["/etc/passwd"]}))[0]


def test_missing_directory_is_enoent(shared: Mounted) -> None:
    """A `--cwd` or `--stdin` that is not there is ENOENT, and the reply names it."""
    for option in ("cwd", "stdin"):
        number, reply = refused(shared, f"spawn --{option} /nowhere/at-all true")
        assert (errno.ENOENT, True) == (number, "/nowhere/at-all" in reply)


def test_arguments_too_long_for_execve_are_e2big(shared: Mounted) -> None:
    """A command line that is too long for execve is E2BIG, and no job is left of it."""
    before = sorted(os.listdir(shared.path))
    assert errno.E2BIG == refused(shared, "spawn true #" + "x" * 200_000)[0]
    assert before == sorted(os.listdir(shared.path))


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_other_user_with_an_inherited_descriptor_is_eperm(shared: Mounted) -> None:
    """A write by another user than the one who opened the file is EPERM, and runs nothing."""
    before = sorted(os.listdir(shared.path))
    script = "exec setpriv --reuid 65534 --regid 65534 --clear-groups /bin/echo 'spawn id' 1<>$J/ctl"
    done = shared.sh(script, cwd=shared.path.parent.parent)
    assert b"Operation not permitted" in done.stderr
    assert before == sorted(os.listdir(shared.path))


def test_error_of_a_closed_shell_stands_in_events(jobs: Mounted) -> None:
    """The last errors stand in `events`, for those whose shell shows only the errno."""
    done = jobs.sh("echo 'kill nobody' > $J/ctl")
    assert (1, True) == (done.returncode, b"No such file or directory" in done.stderr)
    event = json.loads(jobs.file("events").read_text().splitlines()[-1])
    assert ("error", errno.ENOENT, "no such job: nobody") == (event["event"], event["errno"], event["error"])


# What was run, and what not


def test_syntax_error_anywhere_runs_nothing(shared: Mounted) -> None:
    """A write with a syntax error anywhere in it runs nothing."""
    number, reply = refused(shared, "spawn --name before true\nspawn --nonsense true\nspawn --name after true")
    assert (errno.EINVAL, 1, True) == (number, reply.count("\n"), "--nonsense" in reply)
    assert (False, False) == tuple(os.path.lexists(shared.path / name) for name in ("before", "after"))


def test_line_that_fails_makes_a_short_write(shared: Mounted) -> None:
    """If line k fails when it is run, the write returns the bytes before it, and the retry of the rest its errno."""
    first, bad, rest = (f"spawn --name short-{n} true\n" for n in (1, 2, 3))
    bad = "kill 999999\n"
    text = (first + bad + rest).encode()
    fd = os.open(shared.file("ctl"), os.O_RDWR)
    try:
        written = os.write(fd, text)
        assert len(first) == written
        with pytest.raises(FileNotFoundError):
            os.write(fd, text[written:])
        assert ["error: no such job: 999999"] == os.read(fd, 1000).decode().splitlines()[1:]
    finally:
        os.close(fd)
    assert (True, False) == tuple(os.path.lexists(shared.path / name) for name in ("short-1", "short-3"))


def test_error_of_a_short_write_stands_in_events_once(jobs: Mounted) -> None:
    """A command that was refused stands in `events` once, also where its writer tried again what a short write left."""
    text = b"spawn true\nkill 999999\n"
    fd = os.open(jobs.file("ctl"), os.O_WRONLY)
    try:
        for number in (1, 2):
            assert 11 == os.write(fd, text)
            with pytest.raises(FileNotFoundError):
                os.write(fd, text[11:])
            events = map(json.loads, jobs.file("events").read_text().splitlines())
            assert number == sum(event["event"] == "error" for event in events)
    finally:
        os.close(fd)


def test_error_leaves_the_file_usable(shared: Mounted) -> None:
    """After an error the same open file takes further commands."""
    fd = os.open(shared.file("ctl"), os.O_RDWR)
    try:
        for _ in range(3):
            with pytest.raises(OSError, match="Invalid"):
                os.write(fd, b"nonsense\n")
            os.write(fd, b"spawn true\n")
        replies = os.read(fd, 10_000).decode().splitlines()
    finally:
        os.close(fd)
    assert [False, True] * 3 == [reply.isdigit() for reply in replies]


@pytest.mark.parametrize(
    ("line", "reply"),
    [(b"kill 999999", b"error: no such job: 999999\n"), (b"nonsense", b"error: 'nonsense' is no comm")],
)
def test_error_of_an_unterminated_line_is_its_reply(shared: Mounted, line: bytes, reply: bytes) -> None:
    """A read that runs an unterminated line gives its error as the reply, and does not fail with it."""
    fd = os.open(shared.file("ctl"), os.O_RDWR)
    try:
        os.write(fd, line)
        assert os.read(fd, 1000).startswith(reply)
        assert b"" == os.read(fd, 1000)
    finally:
        os.close(fd)


def test_job_ctl_takes_the_verbs_without_an_id(shared: Mounted) -> None:
    """A job's own `ctl` takes the root's verbs without the job's id, and no others."""
    job = shared.spawn("exec sleep 1000")
    for line, status in (("stop", "stopped"), ("cont", "running"), ("kill -9", "killed:9")):
        assert (0, "ok\n") == refused(shared, line, job)
        shared.until(job, status)
    for line in ("spawn true", "clean", "kill 1", '{"op": "kill"}'):
        assert errno.EINVAL == refused(shared, line, job)[0]
    number, reply = refused(shared, "restart", job)
    assert (0, True) == (number, reply.strip().isdigit())
    shared.ctl("rm", job)
    assert not shared.file("", job).exists()


def test_two_writers_do_not_mix(shared: Mounted) -> None:
    """Lines of many writers at once are all run, none of them mixed with another."""
    script = 'for n in $(seq 20); do echo "spawn --name w-$1-$n echo $1 $n" > $J/ctl || exit 1; done'
    environment = {**os.environ, "J": str(shared.path)}
    writers = [subprocess.Popen(["bash", "-c", script, "sh", str(number)], env=environment) for number in range(4)]
    assert [0] * 4 == [writer.wait() for writer in writers]
    for number in range(4):
        for n in (1, 20):
            assert f"echo {number} {n}\n" == (shared.path / f"w-{number}-{n}" / "cmd").read_text()
