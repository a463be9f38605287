"""What commands do to the table: whom they name, what a job inherits, and what is refused before anything is done."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from jobfs.commands import Commands
from jobfs.control import parse_line
from jobfs.errors import (
    AccessDenied,
    BadCommand,
    EngineGone,
    JobAlive,
    JobEnded,
    JobfsError,
    LineTooLong,
    NameTaken,
    NoSuchJob,
    NotFound,
    SpawnFailed,
)
from jobfs.model import DEFAULT_CAPACITY, JobSpec, Surroundings, Writer

if TYPE_CHECKING:
    from pathlib import Path

    from jobfs.job import Job
    from tests.unit.tables import Desk

ENVIRONMENT = "HOME=/root\0A=1\0"
READABLE = Surroundings("/src", directory_fd=7, environment=ENVIRONMENT, umask=0o027)
UNREADABLE = replace(READABLE, directory=None, directory_fd=None)
REMOVED = replace(UNREADABLE, directory_removed=True)


@dataclass
class From:
    """Where a command came from."""

    surroundings: Surroundings = READABLE
    writer: Writer = field(default_factory=lambda: Writer(50, 0, 5, "bash"))


class Opened:
    """The open file that commands are written to; the process that has it open is this one, where it is `known`."""

    def __init__(self, *, known: bool = True) -> None:
        self.known = known
        self.leased: list[int] = []
        self.asked_for: list[Writer] = []

    def holder(self, writer: Writer) -> int | None:
        """A pidfd of this process."""
        self.asked_for.append(writer)
        return os.pidfd_open(os.getpid()) if self.known else None

    def lease(self, job: Job) -> None:
        """The job is noted."""
        self.leased.append(job.id)


async def run(desk: Desk, line: str, origin: From | None = None, file: Opened | None = None) -> str:
    """Runs one line of `ctl` and gives its reply."""
    command = parse_line(line.encode("utf-8", "surrogateescape"))
    assert command is not None
    return await Commands(desk.table).run(command, origin or From(), file or Opened())


async def refused(desk: Desk, line: str, origin: From | None = None) -> JobfsError:
    """Runs one line of `ctl` that must fail; AssertionError where that touched a job."""
    before = _touched(desk)
    with pytest.raises(JobfsError) as caught:
        await run(desk, line, origin)
    assert before == _touched(desk)
    return caught.value


def _touched(desk: Desk) -> tuple[object, ...]:
    engine = desk.engine
    return (desk.ids(), [*engine.jobs], engine.signals[:], engine.ends[:], engine.forgotten[:], desk.stored())


def _spec(desk: Desk, job: int) -> JobSpec:
    return desk.engine.jobs[job].spec


# spawn


async def test_spawn_gives_the_new_id(desk: Desk) -> None:
    """The reply is the id, and the next one is another."""
    assert ["1", "2"] == [await run(desk, "spawn make"), await run(desk, "spawn make")]


async def test_a_job_inherits_what_its_writer_has(desk: Desk) -> None:
    """Directory, environment, umask and who asked are the writer's; all else is the contract's default."""
    await run(desk, "spawn make -j4")
    expected = JobSpec("make -j4", None, "/src", ENVIRONMENT, umask=0o027, writer=Writer(50, 0, 5, "bash"))
    assert expected == _spec(desk, 1)
    assert (DEFAULT_CAPACITY, 5.0, "none", None) == (expected.limit, expected.grace, expected.stdin, expected.timeout)
    assert 7 == desk.engine.jobs[1].directory
    assert f"{ENVIRONMENT}JOBFS_ID=1\0JOBFS_MOUNT=/v/jobs\0" == desk.engine.jobs[1].environment


async def test_options_are_what_the_job_is_given(desk: Desk) -> None:
    """Every option of the command reaches the engine."""
    await run(
        desk,
        "spawn --name x --cwd lib --env A=2 --env B=3 --stdin in --limit 64K --timeout 2m --grace 1 --nice 5 --pty"
        " -- a b",
    )
    assert JobSpec(
        cmd="a b",
        argv=None,
        directory="/src",
        environment="HOME=/root\0A=2\0B=3\0",
        name="x",
        cwd="lib",
        umask=0o027,
        stdin="in",
        limit=65536,
        timeout=120.0,
        grace=1.0,
        nice=5,
        pty=True,
        writer=Writer(50, 0, 5, "bash"),
    ) == _spec(desk, 1)


async def test_argv_needs_no_shell(desk: Desk) -> None:
    """The JSON form's `argv` stays a list."""
    await run(desk, '{"op": "spawn", "argv": ["ls", "a b"]}')
    assert (None, ("ls", "a b")) == (_spec(desk, 1).cmd, _spec(desk, 1).argv)


async def test_a_taken_name_is_refused(desk: Desk) -> None:
    """EEXIST, before anything else is looked at."""
    await run(desk, "spawn --name x true")
    error = await refused(desk, "spawn --name x true", From(Surroundings()))
    assert (NameTaken, errno.EEXIST) == (type(error), error.errno)


@pytest.mark.parametrize(
    ("around", "kind", "number"),
    [(UNREADABLE, AccessDenied, errno.EACCES), (REMOVED, NotFound, errno.ENOENT)],
)
@pytest.mark.parametrize(
    "options",
    [
        "",
        "--cwd lib",
        "--cwd none",
        "--cwd pipe",
        "--stdin /dev/null",
        "--cwd / --stdin in",
        "--cwd / --env-file env",
        "--cwd / --env-file none",
    ],
)
async def test_what_is_relative_needs_a_directory(
    desk: Desk, around: Surroundings, kind: type[JobfsError], number: int, options: str
) -> None:
    """Without a readable working directory it is EACCES, without one that is there ENOENT."""
    error = await refused(desk, f"spawn {options} true", From(around))
    assert (kind, number) == (type(error), error.errno)


@pytest.mark.parametrize("around", [UNREADABLE, REMOVED])
@pytest.mark.parametrize("options", ["", "--stdin none", "--stdin /dev/null", "--env-file /dev/null"])
async def test_with_absolute_paths_no_directory_is_needed(desk: Desk, around: Surroundings, options: str) -> None:
    """`--cwd` says where, and nothing else is relative."""
    await run(desk, f"spawn --cwd /srv {options} true", From(around))
    assert "/srv" == _spec(desk, 1).working_directory


async def test_an_environment_that_cannot_be_read_is_refused(desk: Desk) -> None:
    """EACCES, and the sentence says what helps."""
    error = await refused(desk, "spawn true", From(replace(READABLE, environment=None)))
    assert errno.EACCES == error.errno
    assert "--env-file" in str(error)


async def test_an_environment_comes_from_a_file(desk: Desk, tmp_path: Path) -> None:
    """`--env-file` stands instead of the writer's environment, `--env` goes before both."""
    (tmp_path / "env").write_bytes(b"A=\xff\n\0B=b=b\0C=old")
    around = replace(READABLE, directory=str(tmp_path), environment=None)
    await run(desk, "spawn --env-file env --env C=new true", From(around))
    assert "A=\udcff\n\0B=b=b\0C=new\0" == _spec(desk, 1).environment


@pytest.mark.parametrize(
    ("content", "kind", "number"),
    [
        (None, SpawnFailed, errno.ENOENT),
        (b"A=1\0B\0", BadCommand, errno.EINVAL),
        (b"A=" + b"x" * (8 << 20), SpawnFailed, errno.E2BIG),
    ],
)
async def test_a_bad_environment_file_is_refused(
    desk: Desk, tmp_path: Path, content: bytes | None, kind: type[JobfsError], number: int
) -> None:
    """A file that is not there, has an entry without `=`, or is larger than any environment starts nothing."""
    if content is not None:
        (tmp_path / "env").write_bytes(content)
    error = await refused(desk, f"spawn --env-file {tmp_path}/env true")
    assert isinstance(error, kind)
    assert number == error.errno
    assert "env" in str(error)


async def test_a_directory_is_no_environment_file_and_leaves_no_descriptor(desk: Desk, tmp_path: Path) -> None:
    """EISDIR, however often it is tried, costs nothing."""
    await refused(desk, f"spawn --env-file {tmp_path} true")  # what a first thread opens stays open
    before = os.listdir("/proc/self/fd")
    error = await refused(desk, f"spawn --env-file {tmp_path} true")
    assert (errno.EISDIR, before) == (error.errno, os.listdir("/proc/self/fd"))


async def test_a_pipe_that_nobody_writes_to_is_an_empty_environment(desk: Desk, tmp_path: Path) -> None:
    """A FIFO without a writer does not hold the command up."""
    os.mkfifo(tmp_path / "env")
    await run(desk, f"spawn --env-file {tmp_path}/env true")
    assert "" == _spec(desk, 1).environment


async def test_a_pipe_is_read_to_its_end(desk: Desk) -> None:
    """What a slow writer puts into a pipe is the environment, whole, once it has closed."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"A=1\0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, desk, f"spawn --env-file /proc/{os.getpid()}/fd/{reader} true")
            await trio.testing.wait_all_tasks_blocked(0.01)
            os.write(writer, b"B=2\0")
            os.close(writer)
    finally:
        os.close(reader)
    assert "A=1\0B=2\0" == _spec(desk, 1).environment


async def test_a_line_too_long_for_execve_is_told_as_such(desk: Desk) -> None:
    """E2BIG of the engine is an error of the line."""
    desk.engine.fail(SpawnFailed("cannot execute", errno.E2BIG))
    error = await refused(desk, "spawn true")
    assert (LineTooLong, errno.E2BIG) == (type(error), error.errno)


async def test_an_exec_that_fails_is_the_errors_own(desk: Desk) -> None:
    """Another errno of exec or chdir comes through."""
    desk.engine.fail(SpawnFailed("cannot chdir", errno.EACCES))
    assert errno.EACCES == (await refused(desk, "spawn true")).errno


# Whom a command names


@pytest.mark.parametrize("verb", ["kill", "kill -9", "stop", "cont", "rm", "restart"])
@pytest.mark.parametrize("words", ["1 7", "7 1", "1 nobody", "1 %7"])
async def test_jobs_are_looked_up_before_anything_is_done(desk: Desk, verb: str, words: str) -> None:
    """One word that means nobody is ENOENT, and no other job is touched."""
    (job,) = await desk.ended(0)
    desk.engine.jobs[job.id].lingering = 1
    error = await refused(desk, f"{verb} {words}")
    assert (NoSuchJob, errno.ENOENT) == (type(error), error.errno)


async def test_a_job_may_be_called_in_many_ways_and_is_touched_once(desk: Desk) -> None:
    """An id, `%id`, a name and `last` can be the same job."""
    await run(desk, "spawn --name x true")
    assert "ok" == await run(desk, "kill -s USR1 1 %1 x last")
    assert [(1, signal.SIGUSR1)] == desk.engine.signals


async def test_last_is_of_the_writers_own_session(desk: Desk) -> None:
    """A command's `last` never means another session's job."""
    await run(desk, "spawn true")
    await run(desk, "spawn true", From(writer=Writer(60, 0, 6, "zsh")))
    await run(desk, "kill -1 last")
    assert [(1, 1)] == desk.engine.signals
    assert errno.ENOENT == (await refused(desk, "kill last", From(writer=Writer(70, 0, 7, "sh")))).errno


# kill, stop, cont


@pytest.mark.parametrize(
    ("line", "signals", "ends"),
    [
        ("kill 1 2", [], [(1, 5.0), (2, 0.5)]),
        ("kill -9 1 2", [(1, 9), (2, 9)], []),
        ("stop 1 2", [(1, signal.SIGSTOP), (2, signal.SIGSTOP)], []),
        ("cont 1 2", [(1, signal.SIGCONT), (2, signal.SIGCONT)], []),
    ],
)
async def test_each_job_is_signalled(
    desk: Desk, line: str, signals: list[tuple[int, int]], ends: list[tuple[int, float]]
) -> None:
    """Every job gets the signal, or is ended after its own grace period."""
    await run(desk, "spawn true")
    await run(desk, "spawn --grace 0.5 true")
    assert "ok" == await run(desk, line)
    assert (signals, ends) == (desk.engine.signals, desk.engine.ends)


@pytest.mark.parametrize("verb", ["kill", "kill -9", "stop", "cont"])
async def test_esrch_only_where_all_have_ended(desk: Desk, verb: str) -> None:
    """One job that lives is enough, wherever it stands."""
    await desk.ended(0, 0)
    error = await refused(desk, f"{verb} 1 2")
    assert (JobEnded, errno.ESRCH) == (type(error), error.errno)
    assert "2 has ended" in str(error)
    await run(desk, "spawn true")
    assert ["ok"] * 3 == [await run(desk, f"{verb} {words}") for words in ("1 3 2", "3 1", "2 3")]
    assert {3} == {job for job, _ in [*desk.engine.signals, *desk.engine.ends]}


async def test_what_an_ended_job_left_behind_is_ended(desk: Desk) -> None:
    """`kill` of an ended job that has lingering processes is no ESRCH."""
    await run(desk, "spawn true")
    desk.engine.exit(1, lingering=1)
    assert "ok" == await run(desk, "kill 1")
    assert [(1, 5.0)] == desk.engine.ends


async def test_another_error_is_not_taken_for_an_end(desk: Desk) -> None:
    """Where the engine is gone nothing is known to have ended."""
    await run(desk, "spawn true")
    desk.engine.fail(EngineGone("gone"))
    assert errno.EIO == (await refused(desk, "kill 1")).errno


# rm, clean, restart


@pytest.mark.parametrize("verb", ["rm", "restart"])
async def test_a_job_that_is_alive_is_busy(desk: Desk, verb: str) -> None:
    """EBUSY for a running and a stopped one, and the ended ones named with it are left alone."""
    await desk.ended(0)
    await run(desk, "spawn true")
    for happen in (desk.engine.stop, desk.engine.cont):
        happen(2)
        error = await refused(desk, f"{verb} 1 2")
        assert (JobAlive, errno.EBUSY) == (type(error), error.errno)


async def test_rm_forgets_and_clean_forgets_all_that_have_ended(desk: Desk) -> None:
    """What was removed is ENOENT from then on; who lives stays."""
    await desk.ended(0, 3, 4)
    await run(desk, "spawn true")
    assert "ok" == await run(desk, "rm 2")
    assert [1, 3, 4] == desk.ids()
    assert ["ok", "ok"] == [await run(desk, "clean"), await run(desk, "clean")]
    assert [4] == desk.ids()
    assert errno.ENOENT == (await refused(desk, "rm 1")).errno


async def test_restart_runs_the_same_again_and_takes_the_name(desk: Desk) -> None:
    """The new job has the old one's everything but its id and who asked for it; the old one stays what it was."""
    await run(desk, "spawn --name x --env B=2 --cwd lib --limit 64K --timeout 9 --nice 3 make")
    desk.engine.exit(1, 3)
    again = From(UNREADABLE, Writer(60, 0, 6, "zsh"))
    assert "2" == await run(desk, "restart x", again)
    assert replace(_spec(desk, 1), writer=again.writer) == _spec(desk, 2)
    assert desk.engine.jobs[2].directory is None
    assert f"{ENVIRONMENT}B=2\0JOBFS_ID=2\0JOBFS_MOUNT=/v/jobs\0" == desk.engine.jobs[2].environment
    assert {"x": 2} == {name: job.id for name, job in desk.table.names().items()}
    assert ["failed:3", "running"] == [job.status.word for job in desk.table.jobs()]


async def test_restart_of_several_gives_each_id(desk: Desk) -> None:
    """The reply has the new ids in the order in which the jobs were named."""
    await desk.ended(0, 0)
    assert "3 4" == await run(desk, "restart 2 1")


async def test_restart_where_another_job_has_the_name_now_is_refused(desk: Desk) -> None:
    """EEXIST while the name's holder is alive."""
    await run(desk, "spawn --name x true")
    desk.engine.exit(1)
    await run(desk, "spawn --name x true")
    error = await refused(desk, "restart 1")
    assert (NameTaken, errno.EEXIST) == (type(error), error.errno)


async def test_restart_of_two_jobs_of_one_name_starts_neither(desk: Desk) -> None:
    """The second would find the name taken by the first: that is known before anything is done."""
    for job in (1, 2):
        await run(desk, "spawn --name x true")
        desk.engine.exit(job)
    error = await refused(desk, "restart 1 2")
    assert (NameTaken, errno.EEXIST) == (type(error), error.errno)


# eof


async def test_eof_closes_the_stdin_of_each_job(desk: Desk) -> None:
    """Every job named reads end of file, and a second eof is fine."""
    for _ in range(2):
        await run(desk, "spawn --stdin pipe cat")
    assert "ok" == await run(desk, "eof 1 2")
    assert "ok" == await run(desk, "eof 1")
    assert [1, 2, 1] == desk.engine.eofs


async def test_eof_of_a_job_that_reads_no_pipe_is_refused(desk: Desk) -> None:
    """EINVAL and a sentence that names the job; the other jobs named are left as they are."""
    await run(desk, "spawn --stdin pipe cat")
    await run(desk, "spawn cat")
    error = await refused(desk, "eof 1 2")
    assert (BadCommand, errno.EINVAL) == (type(error), error.errno)
    assert "job 2 has no stdin to close: it was spawned without --stdin pipe or --pty" == str(error)
    assert [] == desk.engine.eofs


async def test_eof_fails_only_where_every_job_has_ended(desk: Desk) -> None:
    """ESRCH, as for the other verbs."""
    for _ in range(2):
        await run(desk, "spawn --stdin pipe cat")
    desk.engine.exit(1)
    assert "ok" == await run(desk, "eof 1 2")
    desk.engine.exit(2)
    error = await refused(desk, "eof 1 2")
    assert (JobEnded, errno.ESRCH) == (type(error), error.errno)
    assert [2] == desk.engine.eofs


async def test_eof_of_a_terminal_leaves_it_open(desk: Desk) -> None:
    """End of file is typed, and more can be written after it."""
    await run(desk, "spawn --pty cat")
    job = desk.table.jobs()[0]
    await desk.table.stdin(job).open()
    assert "ok" == await run(desk, "eof 1")
    assert ([1], False) == (desk.engine.eofs, desk.table.stdin(job).closed)
    await desk.table.stdin(job).write_some(b"more")


# winsize


async def test_winsize_sets_the_size_of_each_terminal(desk: Desk) -> None:
    """Rows first, as in struct winsize and stty(1)."""
    for _ in range(2):
        await run(desk, "spawn --pty top")
    assert "ok" == await run(desk, "winsize 40 120 1 2")
    assert [(1, 40, 120), (2, 40, 120)] == desk.engine.sizes


async def test_winsize_of_a_job_without_a_terminal_is_refused(desk: Desk) -> None:
    """EINVAL and a sentence that names the job; no other job named is changed."""
    await run(desk, "spawn --pty top")
    await run(desk, "spawn --stdin pipe top")
    error = await refused(desk, "winsize 40 120 1 2")
    assert (BadCommand, errno.EINVAL) == (type(error), error.errno)
    assert "job 2 has no terminal: it was spawned without --pty" == str(error)
    assert [] == desk.engine.sizes


async def test_winsize_fails_only_where_every_job_has_ended(desk: Desk) -> None:
    """ESRCH, as for the other verbs."""
    for _ in range(2):
        await run(desk, "spawn --pty top")
    desk.engine.exit(1)
    assert "ok" == await run(desk, "winsize 40 120 1 2")
    desk.engine.exit(2)
    assert errno.ESRCH == (await refused(desk, "winsize 40 120 1 2")).errno


async def test_the_stderr_of_a_job_with_a_terminal_is_closed(desk: Desk) -> None:
    """From its start: nothing is ever written to it."""
    await run(desk, "spawn --pty top")
    info = desk.info(desk.table.jobs()[0])
    assert (False, True, 0) == (info.stdout.closed, info.stderr.closed, info.stderr.written)


async def test_restart_keeps_pipe_and_terminal(desk: Desk) -> None:
    """A job that is restarted reads what its first run could read."""
    await run(desk, "spawn --pty top")
    await run(desk, "spawn --stdin pipe cat")
    for job in (1, 2):
        desk.engine.exit(job)
    await run(desk, "restart 1 2")
    assert [(True, "none"), (False, "pipe")] == [(_spec(desk, job).pty, _spec(desk, job).stdin) for job in (3, 4)]


# Leases


async def test_a_lease_is_on_the_file_that_the_spawn_was_written_to(desk: Desk) -> None:
    """The engine is told who holds it, by a pidfd that is closed when it has been sent."""
    before = len(os.listdir("/proc/self/fd"))
    file = Opened()
    await run(desk, "spawn --lease make", file=file)
    await run(desk, "spawn make", file=file)
    assert ([1], [Writer(50, 0, 5, "bash")]) == (file.leased, file.asked_for)
    assert [(True, True), (False, False)] == [
        (fake.spec.lease, fake.holder is not None) for fake in desk.engine.jobs.values()
    ]
    assert before == len(os.listdir("/proc/self/fd"))


async def test_a_lease_whose_holder_is_not_known_is_one_all_the_same(desk: Desk) -> None:
    """The file's closing tells."""
    file = Opened(known=False)
    await run(desk, "spawn --lease make", file=file)
    assert ([1], None) == (file.leased, desk.engine.jobs[1].holder)


async def test_a_spawn_that_fails_is_leased_on_nothing(desk: Desk) -> None:
    """And leaves no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    file = Opened()
    desk.engine.fail(SpawnFailed("cannot run make", errno.ENOENT))
    with pytest.raises(SpawnFailed):
        await run(desk, "spawn --lease make", file=file)
    assert ([], before) == (file.leased, len(os.listdir("/proc/self/fd")))


async def test_a_restart_is_leased_on_the_file_that_it_was_written_to(desk: Desk) -> None:
    """Not on the one of the first run, which may be closed by now."""
    first, second = Opened(), Opened()
    await run(desk, "spawn --lease make", file=first)
    desk.engine.exit(1)
    assert "2" == await run(desk, "restart 1", file=second)
    assert ([1], [2], True) == (first.leased, second.leased, desk.engine.jobs[2].holder is not None)
