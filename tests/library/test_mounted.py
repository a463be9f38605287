"""A program's own table as files: the tree on a real mount, by real programs, and how the mount comes and goes."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pyfuse3
import pytest
import trio
import trio.lowlevel

import jobfs
import mount
from jobfs.mountinfo import mounts
from mount import MountpointUnusable, mountpoint
from tests.engine.inprocess import children, descriptors, program, until
from tests.inotify import Told, Watcher
from tests.mounted import JOBFS, PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from jobfs import Job, Table, Task

pytestmark = pytest.mark.mount


@pytest.fixture
async def table() -> AsyncIterator[Table]:
    """An open table, in memory."""
    async with jobfs.open_table() as it:
        yield it


@pytest.fixture
async def shown(table: Table, tmp_path: Path) -> AsyncIterator[Path]:
    """Where it is mounted."""
    async with mount.mounted(table, tmp_path / "jobs") as point:
        yield point


def is_mounted(point: Path) -> bool:
    """Whether anything is."""
    return any(it.point == point for it in mounts())


async def sh(script: str, place: Path, *, check: bool = True) -> str:
    """What a shell says that stands in `place`; it does not stay there."""
    done = await trio.run_process(
        ["sh", "-c", script],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd="/",
        env={**os.environ, "J": str(place)},
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.decode() if check else done.stderr.decode()


async def run(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a program, to whatever end."""
    return await trio.run_process(words, capture_stdout=True, capture_stderr=True, check=False)


async def talk(task: Task) -> int:
    """A function that says two lines and waits to be told how to end."""
    await task.stdout.write(b'{"n": 1}\n')
    await task.stderr.write(b"problem\n")
    return int(await task.stdin.receive_some(100) or b"9")


async def wait(_: Task) -> None:
    """A function that waits for ever."""
    await trio.sleep_forever()


async def in_thread(ask: Callable[[], object]) -> object:
    """What nobody may ask in the thread that runs trio."""
    return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)


# The tree


async def test_the_tree_is_that_of_every_mount(table: Table, shown: Path) -> None:
    """Functions and processes have the same files; `info` tells which is which."""
    function = table.start(talk, name="talk", stdin=True)
    process = await table.spawn("echo hello")
    await process.wait()
    assert "1\n2\nctl\nevents\nlast\ntable\ntable.jsonl\ntalk\n" == await sh("LC_ALL=C ls $J", shown)
    assert '{"n": 1}\nproblem\nhello\ntalk\nrunning\n' == await sh(
        "cd $J; cat 1/stdout talk/stderr 2/stdout 1/cmd 1/status", shown
    )
    infos = [json.loads(line) for line in (await sh("cat $J/table.jsonl", shown)).splitlines()]
    assert [True, False] == [info["function"] for info in infos]
    assert await sh("readlink $J/talk $J/last", shown) == "1\n2\n"
    await sh("echo 3 > $J/1/stdin", shown)
    assert "failed:3\n" == await sh("cat $J/1/wait", shown)
    assert "failed:3" == str(function.status)


async def test_verbs_work_on_functions(table: Table, shown: Path) -> None:
    """Each as on a process."""
    job = table.start(wait, name="waits")
    await sh("echo stop waits > $J/ctl; cat $J/waits/status | grep stopped", shown)
    await sh("echo cont > $J/1/ctl; cat $J/waits/status | grep running", shown)
    assert "Device or resource busy" in await sh("/bin/echo rm 1 > $J/ctl", shown, check=False)
    assert "Device or resource busy" in await sh("/bin/echo restart 1 > $J/ctl", shown, check=False)
    await sh("echo kill waits > $J/ctl", shown)
    assert "killed:15\n" == await sh("cat $J/1/wait", shown)
    assert "2\n" == await sh("exec 3<>$J/ctl; echo restart 1 >&3; head -n1 <&3", shown)
    await sh("echo kill -9 2 > $J/ctl", shown)
    assert "killed:9" == str(await table[2].wait())
    await sh("rmdir $J/1; echo rm 2 > $J/ctl", shown)
    assert [] == table.jobs()
    assert job.ended


async def test_end_of_file_is_told_to_a_function(table: Table, shown: Path) -> None:
    """By `eof`; it has no terminal to be resized."""
    job = table.start(talk, stdin=True)
    await sh("echo eof 1 > $J/ctl", shown)
    assert "failed:9" == str(await job.wait())


async def test_a_spawn_has_the_surroundings_of_who_wrote_it(table: Table, shown: Path, tmp_path: Path) -> None:
    """Not those of this program; and it knows the mount."""
    (tmp_path / "there").mkdir()
    script = f"cd {tmp_path}/there; umask 027; WHO=writer /bin/echo 'spawn echo $WHO $JOBFS_MOUNT; pwd; umask' > $J/ctl"
    await sh(script, shown)
    job = table[1]
    await job.wait()
    assert f"writer {shown}\n{tmp_path}/there\n0027\n".encode() == job.stdout.snapshot().data


async def test_a_lease_ends_the_job_with_its_holder(table: Table, shown: Path) -> None:
    """When the file it was spawned on is closed."""
    await sh("exec 3<>$J/ctl; echo 'spawn --lease -- exec sleep 1000' >&3; cat $J/1/status | grep running", shown)
    assert "killed:15" == str(await table[1].wait())


async def test_only_jobs_of_a_mounted_table_know_the_mount(table: Table, tmp_path: Path) -> None:
    """JOBFS_MOUNT is there as long as it is."""
    said: list[bytes] = []

    async def look() -> None:
        job = await table.spawn('echo "${JOBFS_MOUNT-none}"')
        await job.wait()
        said.append(job.stdout.snapshot().data)

    await look()
    async with mount.mounted(table, tmp_path / "jobs"):
        await look()
    await look()
    assert [b"none\n", f"{tmp_path}/jobs\n".encode(), b"none\n"] == said


async def test_a_job_is_there_as_soon_as_it_was_started(table: Table, shown: Path) -> None:
    """A thread that is told of it finds it, however often."""

    def look(number: int) -> str:
        return (shown / str(number) / "status").read_text()

    for _ in range(300):
        job = table.start(wait)
        assert "running\n" == await in_thread(partial(look, job.id))
    assert 302 <= len(str(await sh("ls $J", shown)).split())


async def test_watchers_hear_of_every_function(table: Table, shown: Path) -> None:
    """Also of a thousand that are started at once; of a removal they hear too."""
    watcher = await trio.to_thread.run_sync(Watcher, shown)
    with watcher:
        jobs = [table.start(wait) for _ in range(1000)]
        expected = {Told("jobs", "IN_CREATE|IN_ISDIR", str(job.id)) for job in jobs}
        await in_thread(lambda: watcher.until(lambda told: expected <= set(told)))
        await jobs[0].end()
        await jobs[0].remove()
        await in_thread(lambda: watcher.until_told("IN_DELETE|IN_ISDIR", "jobs", "1"))


async def test_output_is_followed(table: Table, shown: Path) -> None:
    """By tail, by `follow`, and by poll."""
    feed = table.register("feed", name="feed")
    feed.stdout.write_nowait(b"one\n")
    said: list[str] = []

    async def follow(script: str) -> None:
        said.append(await sh(script, shown))

    def poll() -> int:
        with open(shown / "feed" / "stdout", "rb") as file:
            file.read()
            asked = select.poll()
            asked.register(file, select.POLLIN)
            events = asked.poll(PATIENCE * 1000)
            return events[0][1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, "cat $J/feed/follow")
        nursery.start_soon(follow, "tail -n +1 -f $J/feed/stdout | head -n2")
        polled: list[object] = []

        async def wait_polled() -> None:
            polled.append(await in_thread(poll))

        nursery.start_soon(wait_polled)
        await trio.sleep(0.1)
        await feed.stdout.write(b"two\n")
        await until(lambda: len(said) == 1)
        await feed.finish()
    assert ["one\ntwo\n", "one\ntwo\n"] == said
    assert polled[0] in (select.POLLIN, select.POLLIN | select.POLLHUP, select.POLLHUP)  # it may have asked late


async def test_an_ended_stream_can_be_mapped(table: Table, shown: Path) -> None:
    """It is a file then as any other."""
    feed = table.register("feed")
    feed.stdout.write_nowait(b"mapped")
    await feed.finish()
    script = "import mmap, sys; f = open(sys.argv[1]); print(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:].decode())"
    assert "mapped\n" == await sh(f'{sys.executable} -c "{script}" $J/1/stdout', shown)


async def test_who_is_blocked_can_be_interrupted(table: Table, shown: Path) -> None:
    """SIGINT ends a cat that waits."""
    table.start(wait)
    process = await trio.lowlevel.open_process(["cat", str(shown / "1" / "wait")], stdout=subprocess.DEVNULL)
    await until(lambda: _is_blocked(process.pid))
    process.send_signal(signal.SIGINT)
    assert -signal.SIGINT == await process.wait()


def _is_blocked(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan", encoding="ascii") as wchan:
        return wchan.read() == "request_wait_answer"


async def test_a_busy_program_only_delays(table: Table, shown: Path) -> None:
    """What is asked while its loop is busy is answered afterwards."""
    job = await table.spawn("echo done")
    await job.wait()
    over = False

    async def be_busy() -> None:
        while not over:
            time.sleep(0.1)  # noqa: ASYNC251 - as a program should not
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_busy)
        assert "done\ndone:0\n" == await sh("cat $J/1/stdout $J/1/wait", shown)
        over = True


async def test_a_process_may_stand_in_the_mount_and_have_files_of_it_open(table: Table, shown: Path) -> None:
    """What the program has open there does not keep it from starting processes."""
    table.start(talk, stdin=True)
    with await trio.to_thread.run_sync(open, shown / "1" / "stdout") as file:
        job = await table.spawn("pwd; cat stdout", cwd=shown / "1")
        await job.wait()
        await trio.to_thread.run_sync(file.close)
    assert f'{shown}/1\n{{"n": 1}}\n'.encode() == job.stdout.snapshot().data


# How it comes


async def test_a_program_that_may_not_mount_is_told_so(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By that error, which is in no group, and the directory that was made goes."""

    def refuse(*_: object) -> NoReturn:
        raise RuntimeError("fuse_session_mount failed")

    monkeypatch.setattr(pyfuse3, "init", refuse)
    with pytest.raises(MountpointUnusable, match="/dev/fuse"):
        async with mount.mounted(table, tmp_path / "jobs"):
            pass
    assert not (tmp_path / "jobs").exists()


async def test_a_mount_that_cannot_be_looked_at_is_taken_away(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no descriptor is left, for one: there is no mount that nobody serves, and another one can be had."""

    def fail(_: int) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(mountpoint, "beneath", fail)
        with pytest.raises(OSError, match="Too many open files"):
            async with mount.mounted(table, tmp_path / "jobs"):
                pass
    assert not is_mounted(tmp_path / "jobs")
    async with mount.mounted(table, tmp_path / "jobs") as point:
        assert is_mounted(point)


async def test_a_directory_that_was_made_is_removed(table: Table, tmp_path: Path) -> None:
    """And those above it; one that was there stays."""
    (tmp_path / "there").mkdir()
    for point in (tmp_path / "a" / "b" / "jobs", tmp_path / "there"):
        async with mount.mounted(table, point) as shown:
            assert (point, True) == (shown, is_mounted(point))
        assert not is_mounted(point)
    assert ["there"] == os.listdir(tmp_path)


@pytest.mark.parametrize("path", ["jobs", "link/jobs", "there/../jobs", "./jobs/", "to-jobs"])
async def test_the_directory_may_be_given_in_any_way(
    path: str, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the program's, through links; it is unmounted all the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "to-jobs").symlink_to("there/jobs")
    meant = (tmp_path / path).resolve()
    async with mount.mounted(table, path) as shown:
        assert (True, meant) == (is_mounted(shown), shown)
        assert "ctl" in (await sh("ls $J", shown)).split()
    assert not is_mounted(shown)
    assert not shown.exists()


async def test_a_directory_with_something_in_it_is_refused(table: Table, tmp_path: Path) -> None:
    """It would be hidden. The table is as it was."""
    (tmp_path / "file").touch()
    with pytest.raises(MountpointUnusable, match="not empty"):
        async with mount.mounted(table, tmp_path):
            pass
    assert "done:0" == str(await (await table.spawn("true")).wait())


async def test_a_program_has_one_mount_at_a_time(shown: Path, tmp_path: Path) -> None:
    """The second is refused, here and elsewhere, and the first stays."""
    async with jobfs.open_table() as other:
        for directory in (shown, tmp_path / "other"):
            with pytest.raises(MountpointUnusable):
                async with mount.mounted(other, directory):
                    pass
        assert not (tmp_path / "other").exists()
    assert "0\n" == await sh("wc -l < $J/table.jsonl", shown)


async def test_a_table_can_be_mounted_again(table: Table, tmp_path: Path) -> None:
    """At the same place, and at another one, any number of times, and nothing adds up."""
    before: set[tuple[str, str]] = set()
    for number in range(6):
        table.start(wait)
        async with mount.mounted(table, tmp_path / ("a" if number % 2 else "b")) as point:
            assert f"{number + 1}\n" == await sh("wc -l < $J/table.jsonl", point)
        if number == 2:
            before = descriptors()
    assert descriptors() <= before
    assert set() == children()


async def test_a_spawn_may_be_on_its_way_as_the_table_is_mounted(table: Table, tmp_path: Path) -> None:
    """And as it is unmounted: it comes all the same."""
    jobs: list[Job] = []

    async def spawn() -> None:
        for _ in range(30):
            jobs.append(await table.spawn("true"))  # noqa: PERF401 - one after the other

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spawn)
        while len(jobs) < 30:
            async with mount.mounted(table, tmp_path / "jobs"):
                await trio.sleep(0.02)
    assert ["done:0"] * 30 == [str(await job.wait()) for job in jobs]


# How it goes


async def test_jobs_go_on_when_it_is_unmounted(table: Table, tmp_path: Path) -> None:
    """Both kinds."""
    async with mount.mounted(table, tmp_path / "jobs") as point:
        jobs = [table.start(wait), await table.spawn(["sleep", "1000"])]
        await sh("echo 'spawn sleep 1000' > $J/ctl", point)
    assert ["running"] * 3 == [str(job.status) for job in table]
    assert jobs == table.jobs()[:2]


async def test_who_is_blocked_is_woken_when_it_is_unmounted(table: Table, tmp_path: Path) -> None:
    """With ENOTCONN."""
    found: list[int | None] = []

    def read(path: Path) -> None:
        file = os.open(path, os.O_RDONLY)
        try:
            os.read(file, 100)
        except OSError as error:
            found.append(error.errno)
        with suppress(OSError):  # there is nobody any more to be told
            os.close(file)

    async with trio.open_nursery() as nursery, mount.mounted(table, tmp_path / "jobs") as point:
        table.start(wait)
        for name in ("wait", "follow"):
            nursery.start_soon(trio.to_thread.run_sync, read, point / "1" / name)
        await trio.sleep(0.1)
    assert [errno.ENOTCONN] * 2 == found
    assert not is_mounted(point)


async def test_it_is_unmounted_though_somebody_stands_in_it(table: Table, tmp_path: Path) -> None:
    """Who does gets ENOTCONN."""
    table.start(wait)
    async with mount.mounted(table, tmp_path / "jobs") as point:
        process = await trio.lowlevel.open_process(
            ["sh", "-c", "read go; exec ls"], cwd=point / "1", stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
    assert not is_mounted(point)
    assert process.stdin is not None
    assert process.stderr is not None
    await process.stdin.send_all(b"go\n")
    said = b"".join([bytes(piece) async for piece in process.stderr])  # ls writes it in pieces
    await process.wait()
    assert b"not connected" in said


async def test_what_the_body_raises_gets_out_as_it_is(table: Table, tmp_path: Path) -> None:
    """And it is unmounted."""
    with pytest.raises(ZeroDivisionError):
        async with mount.mounted(table, tmp_path / "jobs"):
            raise ZeroDivisionError
    assert not (tmp_path / "jobs").exists()


async def test_a_cancelled_body_is_unmounted(table: Table, tmp_path: Path) -> None:
    """And the cancellation goes on."""
    with trio.CancelScope() as scope:
        async with mount.mounted(table, tmp_path / "jobs"):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not (tmp_path / "jobs").exists()


async def test_it_ends_with_the_table_though_a_stop_was_asked_through_it(tmp_path: Path) -> None:
    """The whole block can be left while verbs come in."""
    over = False

    async def ask(point: Path) -> None:
        while not over:
            await sh("echo 'spawn sleep 1000' > $J/ctl", point, check=False)

    async with trio.open_nursery() as nursery, jobfs.open_table() as table:
        async with mount.mounted(table, tmp_path / "jobs") as point:
            nursery.start_soon(ask, point)
            await until(lambda: len(table) > 2)
        over = True
    assert all(job.ended for job in table)


@pytest.mark.parametrize("command", [["fusermount3", "-u"], ["umount"], ["umount", "-l"], [JOBFS, "umount"]])
async def test_the_block_goes_on_when_somebody_unmounts(command: list[str], table: Table, tmp_path: Path) -> None:
    """The program is not ended, nor its jobs; the table is not mounted any more, and can be again."""
    if command[0] == "umount" and os.geteuid() != 0:
        pytest.skip("only root unmounts like that")
    async with mount.mounted(table, tmp_path / "jobs") as point:
        job = await table.spawn(["sleep", "1000"])
        with trio.fail_after(PATIENCE):  # the mount's own client may be amid a touch
            while (done := await run(*command, str(point))).returncode != 0:
                assert b"busy" in done.stderr
        assert not is_mounted(point)
        assert "running" == str(job.status)
        await until(lambda: not table.parts.core.mount)
        async with mount.mounted(table, tmp_path / "jobs") as again:
            assert "running\n" == await sh("cat $J/1/status", again)


@pytest.mark.parametrize("words", [["mount"], ["mount", "--replace"], ["upgrade"]])
async def test_no_daemon_takes_a_programs_place(words: list[str], table: Table, shown: Path, tmp_path: Path) -> None:
    """It is refused in a sentence, and the program goes on as if nothing had been."""
    job = await table.spawn(["sleep", "1000"])
    state = [] if words == ["upgrade"] else ["--state", str(tmp_path / "state")]
    done = await run(JOBFS, *words, *state, str(shown))
    assert 0 != done.returncode
    assert b"already" in done.stderr or b"program" in done.stderr
    done = await run(JOBFS, *words, str(shown))
    assert 0 != done.returncode
    assert ("running\n", "running") == (await sh("cat $J/1/status", shown), str(job.status))


# A program that is killed

SHOWN = """
import os, signal, sys, trio, jobfs, mount
async def main():
    async with jobfs.open_table() as table, mount.mounted(table, sys.argv[1]) as point:
        await table.spawn("while echo; do sleep 0.01; done")
        print(table.parts.state, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
trio.run(main)
"""


def left_by_a_killed_program(point: Path) -> Path:
    """Leaves a dead mount at `point`; gives the state that it showed."""
    with program(SHOWN, str(point)) as killed:
        assert killed.stdout is not None
        state = killed.stdout.readline().strip()
        killed.kill()
    assert is_mounted(point)
    return Path(state)


async def test_a_dead_mount_is_cleaned_by_the_next_program(table: Table, tmp_path: Path) -> None:
    """As if it had not been there."""
    await trio.to_thread.run_sync(left_by_a_killed_program, tmp_path / "jobs")
    async with mount.mounted(table, tmp_path / "jobs") as point:
        assert "0\n" == await sh("wc -l < $J/table.jsonl", point)
    assert not is_mounted(point)


async def test_a_dead_mount_is_cleaned_by_the_next_daemon(tmp_path: Path) -> None:
    """Which has its own state, and not that of the program, also where that is gone."""
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    for gone in (False, True):
        state = await trio.to_thread.run_sync(left_by_a_killed_program, tmp_path / "jobs")
        if gone:
            async with jobfs.open_table():  # removes what was left in memory
                assert not state.exists()
        for words in (["mount"], ["umount", "--end-jobs"]):
            await trio.run_process([JOBFS, *words, str(tmp_path / "jobs")], env=environment, stdout=subprocess.DEVNULL)
        assert (tmp_path / "jobfs" / "jobs.sqlite").exists()


async def test_an_interrupt_ends_a_program_and_its_mount(tmp_path: Path) -> None:
    """Ctrl-C. Nothing is left."""
    with program(SHOWN, str(tmp_path / "jobs")) as interrupted:
        assert interrupted.stdout is not None
        state = Path(await trio.to_thread.run_sync(interrupted.stdout.readline))
        interrupted.send_signal(signal.SIGINT)
        await trio.to_thread.run_sync(interrupted.communicate)
    assert not is_mounted(tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()
    assert not state.exists()
