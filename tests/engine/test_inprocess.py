"""Processes that are children of the program itself: how they are started, and how they end."""

from __future__ import annotations

import errno
import os
import signal
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trio.testing

import jobfs
from jobfs.engines.inprocess import process
from jobfs.engines.inprocess.starting import start
from jobfs.errors import JobEnded, JobfsError, SpawnFailed, StdinClosed
from tests.engine.inprocess import children, descriptors, output_of, until, until_written
from tests.mounted import is_running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jobfs import Job, Table
    from jobfs.engines.inprocess.launch import Streams
    from jobfs.engines.inprocess.leader import Leader
    from jobfs.model import JobSpec
    from jobfs.processes import Process

AS_ROOT = os.geteuid() == 0
BIG = 1 << 20  # bytes, more than a pipe holds


@pytest.fixture
async def table() -> AsyncIterator[Table]:
    """An open table, in memory."""
    async with jobfs.open_table() as it:
        yield it


# How it is started


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", "done:0"),
        ("exit 7", "failed:7"),
        ("kill -9 $$", "killed:9"),
        (["sh", "-c", "exit 255"], "failed:255"),
        (["true"], "done:0"),
    ],
)
async def test_the_status_is_that_of_the_process(table: Table, command: str | list[str], status: str) -> None:
    """Of the shell for a command line, of the program itself for its words."""
    assert status == str(await (await table.spawn(command)).wait())


async def test_words_reach_the_program_as_they_are(table: Table) -> None:
    """No shell looks at them."""
    assert b"$HOME|* |\xff|" == await output_of(table, ["printf", "%s|", "$HOME", "* ", "\udcff"])


async def test_a_process_has_the_programs_directory_and_environment(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And beside that what it was asked to have, and its own id; no mount, where there is none."""
    monkeypatch.setenv("OUTER", "1")
    monkeypatch.setenv("BOTH", "1")
    monkeypatch.delenv("JOBFS_MOUNT", raising=False)
    said = await output_of(
        table, 'echo "$OUTER $BOTH $INNER $JOBFS_ID ${JOBFS_MOUNT-none}"; pwd', {"BOTH": "2", "INNER": "3"}
    )
    assert f"1 2 3 1 none\n{os.getcwd()}\n".encode() == said


@pytest.mark.parametrize("options", [{}, {"pty": True}, {"nice": 1}])
async def test_the_environment_is_exact(table: Table, options: dict[str, bool | int]) -> None:
    """Nothing is added or lost on the way to exec, by an interpreter in between for one."""
    job = await table.spawn(["cat", "/proc/self/environ"], env={"ODD": "a=b\nc"}, **options)  # type: ignore[arg-type]
    await job.wait()
    said = job.stdout.snapshot().data.replace(b"\r\n", b"\n").split(b"\0")
    expected = {**os.environb, b"ODD": b"a=b\nc", b"JOBFS_ID": b"1"}
    assert sorted(b"%b=%b" % pair for pair in expected.items()) == sorted(filter(None, said))


@pytest.mark.parametrize("options", [{}, {"pty": True}, {"nice": 1}])
async def test_a_process_has_no_descriptors_but_its_own(table: Table, options: dict[str, bool | int]) -> None:
    """The standard three, and the one that it lists them by; none that this program left inheritable."""
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)  # noqa: FBT003 - its signature
    try:
        job = await table.spawn(["ls", "/proc/self/fd"], **options)  # type: ignore[arg-type]
        await job.wait()
    finally:
        os.close(leaked)
    assert [b"0", b"1", b"2", b"3"] == job.stdout.snapshot().data.split()


@pytest.mark.parametrize("options", [{}, {"pty": True}, {"nice": 1}])
async def test_a_process_ignores_and_blocks_no_signals(table: Table, options: dict[str, bool | int]) -> None:
    """Whatever this program does with its own."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        job = await table.spawn(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], **options)  # type: ignore[arg-type]
        await job.wait()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        signal.signal(signal.SIGUSR1, before)
    libc_s = 1 << 32 - 1 | 1 << 33 - 1  # it lets nobody set these right
    masks = [int(line.split()[1], 16) & ~libc_s for line in job.stdout.snapshot().data.splitlines()]
    assert [0, 0] == masks


async def test_a_process_leads_a_session(table: Table) -> None:
    """And a group, which signals go to."""
    pid, group, session = (await output_of(table, "exec cut -d' ' -f1,5,6 /proc/self/stat")).split()
    assert pid == group == session


async def test_its_directory_is_taken_from_the_programs(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cwd`, absolute or not; and so is a file that is its stdin, wherever the process itself is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "text").write_bytes(b"from the file\n")
    absolute = await table.spawn(["pwd"], cwd=tmp_path / "below")
    relative = await table.spawn("pwd; cat", cwd="below", stdin="text")
    await absolute.wait()
    await relative.wait()
    inside = str(tmp_path / "below").encode()
    assert inside + b"\n" == absolute.stdout.snapshot().data
    assert inside + b"\nfrom the file\n" == relative.stdout.snapshot().data


async def test_the_umask_is_the_programs_or_another_one(table: Table, tmp_path: Path) -> None:
    """And the program's own is not touched."""
    own = os.umask(0o027)
    try:
        for name, umask in (("own", None), ("other", 0o077)):
            await (await table.spawn(["touch", name], cwd=tmp_path, umask=umask)).wait()
        assert 0o027 == os.umask(0o027)
    finally:
        os.umask(own)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("own", "other")]
    assert [0o640, 0o600] == modes


async def test_a_process_reads_nothing_where_nothing_else_is_said(table: Table) -> None:
    """Its stdin is at its end."""
    assert b"0\n" == await output_of(table, "wc -c")


async def test_a_process_reads_what_is_written_to_its_stdin(table: Table) -> None:
    """More than its pipe holds, until end of file; then nobody can write any more."""
    job = await table.spawn(["wc", "-c"], stdin="pipe")
    await job.write(b"x" * BIG)
    await job.close_stdin()
    assert ("done:0", b"%d\n" % BIG) == (str(await job.wait()), job.stdout.snapshot().data)
    with pytest.raises(StdinClosed):
        await job.write(b"x")


async def test_the_program_is_found_by_the_jobs_own_path(table: Table, tmp_path: Path) -> None:
    """Not by that of this program."""
    (tmp_path / "odd-program").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "odd-program").chmod(0o755)
    with pytest.raises(SpawnFailed):
        await table.spawn(["odd-program"])
    assert b"found\n" == await output_of(table, ["odd-program"], {"PATH": f"{tmp_path}:/usr/bin:/bin"})


async def test_niceness_is_set(table: Table) -> None:
    """Beside that of this program."""
    job = await table.spawn(["nice"], nice=7)
    await job.wait()
    assert b"7\n" == job.stdout.snapshot().data


@pytest.mark.skipif(AS_ROOT, reason="root may have any niceness")
async def test_a_niceness_that_is_refused_is_an_error(table: Table) -> None:
    """And nothing ran."""
    with pytest.raises(JobfsError) as raised:
        await table.spawn(["true"], nice=-5)
    assert (errno.EACCES, 0) == (raised.value.errno, len(table))


# What fails


def failures(place: Path) -> dict[str, tuple[list[str], dict[str, str], int]]:
    """What cannot be started: words, options, and the error's number."""
    (place / "no-format").write_text("no program\n")
    (place / "no-format").chmod(0o755)
    (place / "data").write_text("")
    return {
        "no such program": (["/no/such/program"], {}, errno.ENOENT),
        "no such program on the PATH": (["no-such-program"], {}, errno.ENOENT),
        "an empty name": ([""], {}, errno.ENOENT),
        "no program": ([str(place / "data")], {}, errno.EACCES),
        "a directory": ([str(place)], {}, errno.EACCES),
        "no known format": ([str(place / "no-format")], {}, errno.ENOEXEC),
        "too long": (["true", "x" * (1 << 20)], {}, errno.E2BIG),
        "no such directory": (["true"], {"cwd": "/no/such/directory"}, errno.ENOENT),
        "a directory that is none": (["true"], {"cwd": str(place / "data")}, errno.ENOTDIR),
        "no such stdin": (["true"], {"stdin": "/no/such/file"}, errno.ENOENT),
        "a NUL": (["true", "a\0b"], {}, errno.EINVAL),
        "a NUL in the directory": (["true"], {"cwd": "a\0b"}, errno.EINVAL),
        "a NUL in the stdin": (["true"], {"stdin": "a\0b"}, errno.EINVAL),
    }


@pytest.mark.parametrize("options", [{}, {"pty": True}, {"nice": 1}])
async def test_what_cannot_be_started_is_no_job(table: Table, tmp_path: Path, options: dict[str, bool | int]) -> None:
    """An error of the family with the right number; no job, no name, no zombie and no descriptor is left."""
    await (await table.spawn(["true"])).wait()
    await until(lambda: not children())
    before = descriptors()
    for what, (words, more, number) in failures(tmp_path).items():
        with pytest.raises(JobfsError) as raised:
            await table.spawn(words, name="name", **more, **options)  # type: ignore[arg-type]
        assert (what, number) == (what, raised.value.errno)
    assert (1, set(), before) == (len(table), children(), descriptors())


async def test_a_failure_names_what_was_at_fault(table: Table) -> None:
    """The directory, the file that was to be read, or the program."""
    for words, more, named in (
        (["true"], {"cwd": "/no/such/directory"}, "/no/such/directory"),
        (["true"], {"stdin": "/no/such/file"}, "/no/such/file"),
        (["no-such-program"], {}, "no-such-program"),
    ):
        with pytest.raises(SpawnFailed, match=named):
            await table.spawn(words, **more)  # type: ignore[arg-type]


@pytest.mark.skipif(AS_ROOT, reason="root may enter any directory")
async def test_a_directory_that_may_not_be_entered_is_an_error(table: Table, tmp_path: Path) -> None:
    """EACCES."""
    (tmp_path / "shut").mkdir(mode=0)
    with pytest.raises(JobfsError) as raised:
        await table.spawn(["true"], cwd=tmp_path / "shut")
    assert errno.EACCES == raised.value.errno


async def test_a_spawn_can_be_given_up(table: Table, tmp_path: Path) -> None:
    """One that hangs, in opening its stdin for one. Nothing is left: no job, no name, no descriptor, no process."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = descriptors()
    with trio.move_on_after(0.05) as scope:
        await table.spawn(["touch", str(tmp_path / "ran")], stdin=fifo, name="name")
    assert scope.cancelled_caught
    assert (0, set()) == (len(table), children())
    os.close(os.open(fifo, os.O_WRONLY))  # what hung goes on
    await until(lambda: descriptors() == before)
    assert not (tmp_path / "ran").exists()
    await table.spawn(["true"], name="name")


async def test_a_spawn_for_which_there_is_no_thread_leaves_nothing(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job, no name, no descriptor."""

    async def refuse(*_: object, **__: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", refuse)
        with pytest.raises(RuntimeError):
            await table.spawn(["true"], name="name")
    assert (before, 0) == (descriptors(), len(table))
    await table.spawn(["true"], name="name")


async def test_a_spawn_that_was_given_up_is_not_found_by_the_next_program(tmp_path: Path) -> None:
    """There never was such a job."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with jobfs.open_table(tmp_path / "state") as table:
        with trio.move_on_after(0.05):
            await table.spawn(["true"], stdin=fifo)
        os.close(os.open(fifo, os.O_WRONLY))
    async with jobfs.open_table(tmp_path / "state") as table:
        assert [] == table.ids()


async def test_a_spawn_that_is_given_up_at_once_leaves_its_name(table: Table) -> None:
    """Also where it has not begun."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await table.spawn(["true"], name="name")
    job = await table.spawn(["true"], name="name")
    assert [job.id] == table.ids()


async def test_a_spawn_that_hangs_as_the_table_is_closed_fails(tmp_path: Path) -> None:
    """The block can be left; who waits for the spawn elsewhere gets an error."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    errors: list[str] = []

    async def spawn(table: Table) -> None:
        try:
            await table.spawn(["true"], stdin=fifo)
        except JobfsError as error:
            errors.append(str(error))

    async with trio.open_nursery() as nursery, jobfs.open_table() as table:
        nursery.start_soon(spawn, table)
        await trio.testing.wait_all_tasks_blocked(0.05)
    os.close(os.open(fifo, os.O_WRONLY))
    assert ["the table is closed"] == errors


async def test_a_process_whose_exec_happens_as_the_table_is_closed_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is too late to give it up: it is a job as any."""
    executed = trio.Event()
    jobs: list[Job] = []

    async def start_late(
        spec: JobSpec, environment: str, directory: int | None, streams: Streams, members: Callable[[], list[Process]]
    ) -> Leader:
        leader = await start(spec, environment, directory, streams, members)
        executed.set()
        for _ in range(10):
            await trio.lowlevel.cancel_shielded_checkpoint()
        return leader

    async def spawn(table: Table) -> None:
        jobs.append(await table.spawn(["sleep", "1000"]))

    monkeypatch.setattr(process, "start", start_late)
    async with trio.open_nursery() as nursery, jobfs.open_table() as table:
        nursery.start_soon(spawn, table)
        await executed.wait()
    assert ["killed:15"] == [str(job.status) for job in jobs]
    assert set() == children()


# How it ends


async def test_all_that_a_process_wrote_is_readable_when_it_has_ended(table: Table) -> None:
    """In five hundred short lives one after the other, and of a last write that is larger than the pipe."""
    for number in range(500):
        assert b"%d\n" % number == await output_of(table, ["echo", str(number)])
    assert BIG == len(await output_of(table, f"head -c {BIG} /dev/zero"))


async def test_errors_are_a_stream_of_their_own(table: Table) -> None:
    """Each keeps its own."""
    job = await table.spawn("echo out; echo err >&2")
    await job.wait()
    assert (b"out\n", b"err\n") == (job.stdout.snapshot().data, job.stderr.snapshot().data)


async def test_a_stream_keeps_the_newest_bytes(table: Table) -> None:
    """Its capacity bounds what is kept, at any speed, and all are counted."""
    job = await table.spawn(["yes"], limit="64K")
    await until_written(job, 64 * BIG)
    await job.end()
    state = job.stdout.state
    assert state.closed
    assert state.retained <= 64 * 1024 <= state.written == state.retained + state.dropped


async def test_a_timeout_ends_a_process(table: Table) -> None:
    """And the reason says so."""
    job = await table.spawn(["sleep", "1000"], timeout=0.05)
    assert "killed:15" == str(await job.wait())
    assert "timeout" in (job.info().reason or "")


async def test_what_ignores_sigterm_is_killed_after_its_grace_period(table: Table) -> None:
    """The whole group, not only the process itself."""
    job = await table.spawn("trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000", grace=0.05)
    child = int(await until_written(job))
    assert "killed:9" == str(await job.end())
    await until(lambda: not is_running(child))


async def test_a_stopped_process_can_be_ended(table: Table) -> None:
    """SIGTERM alone would not be heard."""
    job = await table.spawn(["sleep", "1000"])
    await job.stop()
    assert "stopped" == str(await job.wait_changed(job.status))
    assert "killed:15" == str(await job.end())


async def test_a_process_is_stopped_and_continued(table: Table) -> None:
    """By the table, and by anybody else."""
    job = await table.spawn(["sleep", "1000"])
    assert job.pid is not None
    for stop, cont in (
        (job.stop, job.cont),
        (lambda: _send(job.pid, signal.SIGSTOP), lambda: _send(job.pid, signal.SIGCONT)),
    ):
        await stop()
        assert "stopped" == str(await job.wait_changed(job.status))
        await cont()
        assert "running" == str(await job.wait_changed(job.status))


async def _send(pid: int | None, number: int) -> None:
    assert pid is not None
    os.kill(pid, number)
    await trio.lowlevel.checkpoint()


async def test_a_process_that_has_gone_takes_no_signals(table: Table) -> None:
    """JobEnded; to resize what has no terminal is another mistake."""
    job = await table.spawn(["cat"], stdin="pipe")
    with pytest.raises(JobfsError) as raised:
        await job.resize(10, 20)
    assert errno.ENOTTY == raised.value.errno
    await job.end()
    for ask in (job.stop, job.kill, job.close_stdin, lambda: job.resize(10, 20)):
        with pytest.raises(JobEnded):
            await ask()


# What it leaves behind


async def test_what_a_process_leaves_behind_goes_on_and_can_be_ended(table: Table) -> None:
    """It is counted, what it writes is kept, and its stream closes when it is gone; a kill of the job ends it."""
    job = await table.spawn("sh -c 'trap \"echo over; exit\" TERM; echo $$; while :; do sleep 0.01; done' &")
    await job.wait()
    child = int(await until_written(job))
    assert (job.info().usage.lingering or 0) >= 1
    assert not job.stdout.state.closed
    await job.kill()
    await until(lambda: job.stdout.state.closed)
    assert b"%d\nover\n" % child == job.stdout.snapshot().data
    assert not is_running(child)
    with pytest.raises(JobEnded):
        await job.kill()


async def test_processes_are_counted(table: Table) -> None:
    """With their memory."""
    job = await table.spawn("sleep 1000 & echo; wait")
    await until_written(job)
    usage = job.info().usage
    assert 2 == usage.processes
    assert (usage.rss_bytes or 0) > 0


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("output", ["", ">/dev/null 2>&1"])
async def test_nothing_is_left_when_the_block_is(removed: bool, output: str) -> None:  # noqa: FBT001 - parametrized
    """Neither what a job left behind that has ended, nor of one that was removed, though it does not heed SIGTERM."""
    async with jobfs.open_table() as table:
        left = "trap '' TERM; while :; do sleep 0.01; done"
        job = await table.spawn(f'sh -c "{left}" {output} & echo $!', grace=0.05)
        await job.wait()
        child = int(job.stdout.snapshot().data)
        if removed:
            await job.remove()
            another = await table.spawn(["true"])
            await another.wait()
            await another.remove()
        assert is_running(child)
    assert not is_running(child)


async def test_what_runs_is_ended_with_the_block() -> None:
    """Also what is stopped, and what ignores SIGTERM."""
    async with jobfs.open_table() as table:
        jobs = [await table.spawn(["sleep", "1000"]) for _ in range(3)]
        await jobs[0].stop()
        jobs.append(await table.spawn("trap '' TERM; echo; while :; do sleep 0.01; done", grace=0.05))
        await until_written(jobs[-1])
    assert ["killed:15"] * 3 + ["killed:9"] == [str(job.status) for job in jobs]
    assert set() == children()


async def test_a_group_that_hides_whose_it_is_is_ended_with_the_block() -> None:
    """It has an environment of its own, and so no JOBFS_ID; the group is the job's all the same."""
    async with jobfs.open_table() as table:
        job = await table.spawn(
            "env -i sh -c 'trap \"\" TERM; while :; do /bin/sleep 0.01; done' & echo $!; wait", grace=0.05
        )
        child = int(await until_written(job))
    await until(lambda: not is_running(child))


async def test_descriptors_are_not_used_up(table: Table) -> None:
    """A thousand ended jobs have none open."""
    await output_of(table, "true")
    before = len(descriptors())
    for _ in range(100):
        await (await table.spawn(["true"], stdin="pipe")).wait()
    await until(lambda: len(descriptors()) <= before)


# Beside others in the program


async def test_a_process_that_somebody_else_reaps_never_seems_to_have_succeeded(table: Table) -> None:
    """How it ended is told by the kernel, or is not known."""
    job = await table.spawn(["sleep", "1000"])
    assert job.pid is not None
    os.kill(job.pid, signal.SIGKILL)
    os.waitpid(job.pid, 0)  # noqa: ASYNC222 - it takes no time
    assert str(await job.wait()) in ("killed:9", "lost")
    assert (str(job.status) == "lost") == (job.info().reason is not None)


async def test_a_program_may_ignore_its_children(table: Table) -> None:
    """SIGCHLD ignored: the kernel reaps them. No job seems to have succeeded that has not."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        jobs = [await table.spawn("exit 3") for _ in range(20)]
        statuses = {str(await job.wait()) for job in jobs}
        waits = await output_of(table, "sleep 0.01 & wait $!; echo $?")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert statuses <= {"failed:3", "lost"}
    assert b"0\n" == waits


async def test_a_program_may_reap_all_its_children_in_a_thread(table: Table) -> None:
    """As some do that are process number 1. A status is the real one, or lost."""
    over = trio.Event()

    def reap() -> None:
        while not over.is_set():
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, reap)
        jobs = [await table.spawn("exit 3") for _ in range(50)]
        statuses = {str(await job.wait()) for job in jobs}
        over.set()
    assert statuses <= {"failed:3", "lost"}


async def test_the_programs_own_processes_are_left_alone() -> None:
    """They are not reaped, signalled, counted or ended with the table."""
    async with trio.open_nursery() as nursery:
        async with jobfs.open_table() as table:
            own = await nursery.start(trio.run_process, ["sleep", "1000"])
            job = await table.spawn(["sleep", "1000"])
            assert 1 == job.info().usage.processes
            await job.end()
        assert own.poll() is None
        nursery.cancel_scope.cancel()


async def test_a_closed_table_starts_nothing() -> None:
    """An error of the family, at once."""
    async with jobfs.open_table() as table:
        pass
    with pytest.raises(JobfsError):
        await table.spawn(["true"])
