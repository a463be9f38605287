"""The state of a program's table: found again by the next one, nobody else's, and never two's at a time."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import jobfs
from jobfs.errors import JobfsError
from jobfs.state import StateDirectory, StateUnusable, claim_for
from jobfs.store import Store
from tests.engine.inprocess import program, until
from tests.mounted import JOBFS, is_running

if TYPE_CHECKING:
    from jobfs import Task
    from tests.mounted import Mounted

AS_ROOT = os.geteuid() == 0
KILLED = """
import os, signal, sys, trio, jobfs
async def talk(task):
    await task.stdout.write(b"from the function\\n")
    await trio.sleep_forever()
async def main():
    async with jobfs.open_table(*sys.argv[1:]) as table:
        await (await table.spawn(["echo", "over"])).wait()
        table.start(talk, name="talker")
        job = await table.spawn("echo from the process; while echo; do sleep 0.01; done", name="writer")
        await job.stdout.wait_changed(20)
        await trio.sleep(0.1)  # for the end to be stored
        print(table.parts.state, job.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
trio.run(main)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a state is to be."""
    return tmp_path / "state"


def files(place: Path) -> dict[str, bytes]:
    """What is in a state, but for the lock, whose being there says nothing."""
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


async def test_the_next_program_finds_what_has_ended(place: Path) -> None:
    """With status, times, output and names; ids go on."""
    async with jobfs.open_table(place) as table:
        first = await table.spawn("echo out; echo err >&2; exit 3", name="first")
        await first.wait()
        before = first.info()
    async with jobfs.open_table(place) as table:
        found = table["first"]
        after = found.info()
        assert (1, "failed:3") == (found.id, str(found.status))
        assert (b"out\n", b"err\n") == (found.stdout.snapshot().data, found.stderr.snapshot().data)
        assert (before.created_at, before.started_at, before.ended_at) == (
            after.created_at,
            after.started_at,
            after.ended_at,
        )
        assert 2 == (await table.spawn("true")).id


async def test_ids_are_not_given_twice(place: Path) -> None:
    """Also where the job was removed."""
    async with jobfs.open_table(place) as table:
        job = await table.spawn("true")
        await job.wait()
        await job.remove()
    async with jobfs.open_table(place) as table:
        assert [] == table.ids()
        assert 2 == (await table.spawn("true")).id


async def test_what_the_block_ended_is_found_so(place: Path) -> None:
    """Functions too, with a reason."""
    async with jobfs.open_table(place) as table:
        await table.spawn(["sleep", "1000"])
        table.start(_for_ever)
    async with jobfs.open_table(place) as table:
        infos = table.infos()
        assert ["killed:15"] * 2 == [info.status.word for info in infos]
        assert all(info.reason == "the table that it was in was closed" for info in infos)


async def _for_ever(_: Task) -> None:
    await trio.sleep_forever()


async def test_jobs_of_a_program_that_was_killed_are_lost(place: Path) -> None:
    """With a reason, and what they had written; its processes end when they write, for nobody reads."""
    with program(KILLED, str(place)) as killed:
        said, _ = await trio.to_thread.run_sync(killed.communicate)
    assert -signal.SIGKILL == killed.returncode
    await until(lambda: not is_running(int(said.split()[1])))
    async with jobfs.open_table(place) as table:
        assert ["done:0", "lost", "lost"] == [str(job.status) for job in table]
        assert b"from the function\n" == table["talker"].stdout.snapshot().data
        assert table["writer"].stdout.snapshot().data.startswith(b"from the process\n")
        assert ["the program that had the table ended"] * 2 == [info.reason for info in table.infos()[1:]]
        assert all(job.stdout.state.closed for job in table)
        assert 4 == (await table.spawn("true")).id


async def test_a_function_of_an_earlier_program_cannot_be_restarted(place: Path) -> None:
    """The error says why; a process can be."""
    async with jobfs.open_table(place) as table:
        table.start(_for_ever, name="function")
        await (await table.spawn("exit 3", name="process")).wait()
    async with jobfs.open_table(place) as table:
        with pytest.raises(JobfsError, match="a function of a program that has ended"):
            await table["function"].restart()
        assert "failed:3" == str(await (await table["process"].restart()).wait())
        assert [1, 2, 4] == [job.id for job in table]


async def test_the_table_is_bounded(place: Path) -> None:
    """By `keep` and `keep_bytes`, also for what an earlier program had."""
    async with jobfs.open_table(place) as table:
        for _ in range(5):
            await (await table.spawn("head -c 100000 /dev/zero")).wait()
    async with jobfs.open_table(place, keep=3) as table:
        await (await table.spawn("true")).wait()
        await until(lambda: len(table) == 3)
    async with jobfs.open_table(place, keep_bytes=150_000) as table:
        await (await table.spawn("true")).wait()
        await until(lambda: sum(job.stdout.state.retained for job in table) <= 150_000)


# One at a time


async def test_one_has_a_state_at_a_time(place: Path) -> None:
    """Neither another program, nor another table of this one, and the sentence says so."""
    async with jobfs.open_table(place):
        with pytest.raises(StateUnusable, match="in use already"):
            async with jobfs.open_table(place):
                pass
        with program(
            "import sys, trio, jobfs; trio.run(jobfs.open_table(sys.argv[1]).__aenter__)", str(place)
        ) as other:
            assert other.stdin is not None
            await trio.to_thread.run_sync(other.communicate)
        assert 0 != other.returncode
    async with jobfs.open_table(place):
        pass


async def test_any_number_of_tables_can_be_open(place: Path) -> None:
    """Each has ids of its own, and ends what is its own."""
    async with jobfs.open_table(place) as one, jobfs.open_table() as two:
        kept = await one.spawn(["sleep", "1000"])
        async with jobfs.open_table() as three:
            jobs = [await table.spawn(["sleep", "1000"]) for table in (two, three)]
        assert [1, 1, 1] == [job.id for job in (kept, *jobs)]
        assert ["running", "running", "killed:15"] == [str(job.status) for job in (kept, *jobs)]


# Whose it is


@pytest.fixture
def daemons(place: Path) -> Path:
    """A state as a daemon makes it."""
    directory = StateDirectory(place)
    store = Store(place / "jobs.sqlite")
    claim_for("supervisor", store, place)
    (place / "jobs" / "records").touch()
    (place / "jobs" / ".7.stdout.new").touch()
    store.close()
    directory.leave()
    return place


async def _refused(place: Path) -> None:
    before = files(place)
    with pytest.raises(StateUnusable, match=r"that of a daemon: mount it with `jobfs mount`"):
        async with jobfs.open_table(place):
            pass
    assert before == files(place)


async def test_a_daemons_state_is_refused(daemons: Path) -> None:
    """And nothing is changed in it."""
    await _refused(daemons)


async def test_a_state_of_a_version_without_owners_is_a_daemons(daemons: Path) -> None:
    """No program could have had one."""
    with closing(sqlite3.connect(daemons / "jobs.sqlite", isolation_level=None)) as database:
        database.execute("DELETE FROM property WHERE name = 'owner'")
        database.execute("PRAGMA user_version = 3")
    await _refused(daemons)


async def test_a_daemons_state_whose_database_was_lost_is_refused(daemons: Path) -> None:
    """None is made in its place: the next daemon would take it for its own, and give ids again."""
    for path in daemons.glob("jobs.sqlite*"):
        path.unlink()
    await _refused(daemons)


@pytest.mark.mount
async def test_a_state_that_is_mounted_is_refused(jobs: Mounted) -> None:
    """Not only because it is in use."""
    with pytest.raises(StateUnusable, match="that of a daemon"):
        async with jobfs.open_table(jobs.state):
            pass


@pytest.mark.mount
async def test_a_daemon_refuses_the_state_of_a_program(place: Path, tmp_path: Path) -> None:
    """While that has it, and afterwards, and nothing is changed in it."""
    command = [JOBFS, "mount", "--state", str(place), str(tmp_path / "mount")]
    async with jobfs.open_table(place) as table:
        await (await table.spawn("true")).wait()
        done = await trio.run_process(command, capture_stderr=True, check=False)
        assert b"that of a program: see jobfs.open_table" in done.stderr
    before = files(place)
    done = await trio.run_process(command, capture_stderr=True, check=False)
    assert b"that of a program: see jobfs.open_table" in done.stderr
    assert before == files(place)
    assert not (tmp_path / "mount").exists()


async def test_a_place_that_is_not_private_is_refused(place: Path) -> None:
    """Others could have the program run what they like."""
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    with pytest.raises(StateUnusable, match="chmod 700"):
        async with jobfs.open_table(place):
            pass


async def test_a_place_that_cannot_be_written_is_refused(place: Path) -> None:
    """A file, or what is in /proc."""
    place.touch()
    for path in (place, Path("/proc/self/state")):
        with pytest.raises(StateUnusable):
            async with jobfs.open_table(path):
                pass


@pytest.mark.skipif(not AS_ROOT, reason="only root can give a directory away")
async def test_another_users_directory_is_refused(place: Path) -> None:
    """Also for root."""
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    with pytest.raises(StateUnusable, match="belongs to user 12345"):
        async with jobfs.open_table(place):
            pass


async def test_a_relative_state_is_taken_from_the_programs_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was when it was opened, wherever the program goes."""
    monkeypatch.chdir(tmp_path)
    async with jobfs.open_table("state") as table:
        monkeypatch.chdir("/")
        job = await table.spawn("echo here")
        await job.wait()
        assert b"here\n" == job.stdout.snapshot().data
    assert 0o700 == (tmp_path / "state").stat().st_mode & 0o777


# In memory


async def test_a_table_in_memory_leaves_nothing() -> None:
    """Its directory goes with the block."""
    async with jobfs.open_table() as table:
        place = table.parts.state
        await (await table.spawn("echo")).wait()
        assert place.is_dir()
    assert not place.exists()


async def test_what_a_killed_program_left_in_memory_the_next_one_removes() -> None:
    """At once; what is in use it leaves."""
    with program(KILLED) as killed:
        said, _ = await trio.to_thread.run_sync(killed.communicate)
    place = Path(said.split()[0])
    assert place.is_dir()
    async with jobfs.open_table() as one, jobfs.open_table() as two:
        assert not place.exists()
        assert one.parts.state.is_dir()
        assert two.parts.state.is_dir()


async def test_a_state_that_is_removed_meanwhile_does_not_end_the_program(place: Path) -> None:
    """Output is lost, and statuses are told all the same."""
    async with jobfs.open_table(place) as table:
        job = await table.spawn("read line; echo; exit 3", stdin="pipe")
        shutil.rmtree(place)
        with pytest.raises(JobfsError):
            await table.spawn("true")
        await job.write(b"go on\n")
        assert "failed:3" == str(await job.wait())
