"""How jobs come into the mount and go from it, by the mkdir(2) and rmdir(2) of the mount's own client."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, cast

import pyfuse3
import pytest
import trio
import trio.testing

from jobfs.engines.base import Ended, Started
from jobfs.errors import LimitReached
from jobfs.model import JobSpec
from jobfs.states import Event
from mount.tree import ROOT, job_inode
from tests.face.faces import Context, Face, ScriptedOwn, errno_of

if TYPE_CHECKING:
    from tests.unit.tables import Desk

OWN = cast("pyfuse3.RequestContext", Context(ScriptedOwn.TASK, os.getuid()))


@pytest.fixture
def own() -> ScriptedOwn:
    """The client, which does nothing by itself."""
    return ScriptedOwn()


@pytest.fixture
async def shown(desk: Desk, own: ScriptedOwn) -> Face:
    """A table whose jobs appear by that client."""
    face = Face(desk, own)
    desk.table.face = face.kernel
    return face


async def make(face: Face, job: int) -> pyfuse3.EntryAttributes:
    """The client's mkdir(2) reaches the daemon."""
    return await face.operations.mkdir(ROOT, str(job).encode(), 0o700, OWN)


async def test_nobody_finds_a_job_before_its_directory_is_made(shown: Face, own: ScriptedOwn) -> None:
    """The spawn returns when it is; then everybody finds it. It is begun to be made while the job starts."""
    shown.desk.engine.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shown.desk.spawn)
        await trio.testing.wait_all_tasks_blocked()
        assert [1] == [job for job, _ in own.begun]
        shown.desk.engine.start()
        await trio.testing.wait_all_tasks_blocked()
        assert shown.desk.table.get(1) is not None
        assert errno.ENOENT == await errno_of(lambda: shown.find("1"))
        assert job_inode(1) == (await make(shown, 1)).st_ino
    assert job_inode(1) == (await shown.find("1")).st_ino
    assert [1] == [job for job, _ in own.begun]


async def test_only_the_own_client_makes_directories_and_only_of_jobs_that_come(shown: Face) -> None:
    """EACCES for everybody else; EAGAIN where no job is on its way."""
    mkdir = shown.operations.mkdir
    assert errno.EACCES == await errno_of(lambda: mkdir(ROOT, b"1", 0o700, shown.context))
    assert errno.EACCES == await errno_of(lambda: mkdir(ROOT, b"x", 0o700, OWN))
    assert errno.EACCES == await errno_of(lambda: mkdir(job_inode(1), b"1", 0o700, OWN))
    assert errno.EAGAIN == await errno_of(lambda: make(shown, 1))


async def test_a_directory_that_comes_before_its_job_waits_for_it(shown: Face) -> None:
    """The mkdir is held until the job has come, for that is soon."""
    shown.desk.engine.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shown.desk.spawn)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(make, shown, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert errno.ENOENT == await errno_of(lambda: shown.find("1"))
        shown.desk.engine.start()
    assert job_inode(1) == (await shown.find("1")).st_ino


@pytest.mark.parametrize("answered", ["before the job has come", "after it has"])
async def test_a_directory_that_cannot_wait_for_its_job_is_made_again(
    shown: Face, own: ScriptedOwn, answered: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The root is locked while mkdir is held: so it is EAGAIN after a while, and begun anew when the job has come."""
    shown.desk.engine.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shown.desk.spawn)
        await trio.testing.wait_all_tasks_blocked()
        began = autojump_clock.current_time()
        assert errno.EAGAIN == await errno_of(lambda: make(shown, 1))
        assert autojump_clock.current_time() - began <= 0.1
        if answered == "before the job has come":
            own.begun[0][1].settle(["make 1: try again"])
            shown.desk.engine.start()
        else:
            shown.desk.engine.start()
            await trio.testing.wait_all_tasks_blocked()
            own.begun[0][1].settle(["make 1: try again"])
        await trio.testing.wait_all_tasks_blocked()
        assert [1, 1] == [job for job, _ in own.begun]
        await make(shown, 1)
    assert job_inode(1) == (await shown.find("1")).st_ino


async def test_a_spawn_that_fails_leaves_nothing(shown: Face, own: ScriptedOwn) -> None:
    """No directory, no name, and the mkdir that was begun is refused."""
    shown.desk.engine.fail(LimitReached("too many"))
    with pytest.raises(LimitReached):
        await shown.desk.spawn(name="build")
    assert [1] == [job for job, _ in own.begun]
    assert errno.EAGAIN == await errno_of(lambda: make(shown, 1))
    for name in ("1", "build", "last"):
        assert errno.ENOENT == await errno_of(lambda name=name: shown.find(name))  # type: ignore[misc]


async def test_a_failure_ends_the_wait_of_a_directory_that_came_early(shown: Face) -> None:
    """The mkdir is answered when it is known that no job comes."""
    shown.desk.engine.hold()
    answers: list[int] = []

    async def try_to_make() -> None:
        answers.append(await errno_of(lambda: make(shown, 1)))

    async def try_to_spawn() -> None:
        with pytest.raises(LimitReached):
            await shown.desk.spawn()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(try_to_spawn)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(try_to_make)
        await trio.testing.wait_all_tasks_blocked()
        shown.desk.engine.fail(LimitReached("too many"))
        shown.desk.engine.start()
    assert [errno.EAGAIN] == answers


async def test_jobs_come_also_where_there_is_no_own_client(shown: Face, own: ScriptedOwn) -> None:
    """Watchers are not told; everybody else finds the job at once."""
    own.gone = True
    job = await shown.desk.spawn()
    assert job_inode(job.id) == (await shown.find("1")).st_ino


async def test_an_own_client_that_ends_meanwhile_holds_up_no_spawn(shown: Face, own: ScriptedOwn) -> None:
    """Neither one that goes nor one that never answers."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shown.desk.spawn)
        await trio.testing.wait_all_tasks_blocked()
        own.gone = True
        own.begun[0][1].settle(None)
    assert job_inode(1) == (await shown.find("1")).st_ino


async def test_an_own_client_that_never_answers_holds_up_no_spawn_for_long(
    shown: Face, autojump_clock: trio.testing.MockClock
) -> None:
    """After a while the job is shown all the same."""
    job = await shown.desk.spawn()
    assert autojump_clock.current_time() <= 2
    assert job_inode(job.id) == (await shown.find("1")).st_ino


async def ended_jobs(shown: Face, own: ScriptedOwn, count: int) -> None:
    """Jobs that are there and have ended."""
    own.gone = True
    await shown.desk.ended(*[0] * count)
    own.gone = False


async def test_removed_jobs_are_taken_away_by_the_own_client(shown: Face, own: ScriptedOwn) -> None:
    """All that one command removes, before it returns."""
    await ended_jobs(shown, own, 3)
    await shown.desk.table.remove(shown.desk.table.jobs()[:2])
    assert [1, 2] == own.removed


async def test_what_rmdir_removes_the_kernel_forgets_by_itself(shown: Face, own: ScriptedOwn) -> None:
    """The own client would wait for the lock that the caller has."""
    await ended_jobs(shown, own, 1)
    await shown.operations.rmdir(ROOT, b"1", shown.context)
    assert [] == own.removed


async def test_a_job_that_is_going_is_found_by_the_own_client_alone(shown: Face, own: ScriptedOwn) -> None:
    """Its rmdir must find the directory; nobody else does."""
    await ended_jobs(shown, own, 1)
    found: list[int] = []

    class Going(ScriptedOwn):
        async def remove(self, jobs: object) -> None:
            del jobs
            found.append((await shown.operations.lookup(ROOT, b"1", OWN)).st_ino)
            found.append(await errno_of(lambda: shown.operations.lookup(ROOT, b"1", shown.context)))
            await shown.operations.rmdir(ROOT, b"1", OWN)

    own.remove = Going().remove  # type: ignore[method-assign]
    await shown.desk.table.remove(shown.desk.table.jobs())
    assert [job_inode(1), errno.ENOENT] == found
    assert errno.ENOENT == await errno_of(lambda: shown.operations.lookup(ROOT, b"1", OWN))


async def test_what_was_removed_without_an_own_client_is_taken_away_by_the_next_one(
    shown: Face, own: ScriptedOwn
) -> None:
    """The removal does not wait for it."""
    await ended_jobs(shown, own, 2)
    own.gone = True
    await shown.desk.table.remove(shown.desk.table.jobs())
    assert errno.ENOENT == await errno_of(lambda: shown.find("1"))
    own.came.ring()
    await trio.testing.wait_all_tasks_blocked()
    assert [] == own.removed  # that one has ended at once
    own.gone = False
    own.came.ring()
    await trio.testing.wait_all_tasks_blocked()
    assert [1, 2] == own.removed


def come(face: Face, count: int) -> list[int]:
    """Starts jobs that take no time to be started."""

    def start(job: int, _: JobSpec, __: str) -> None:
        desk.table.take(Started(job, time.time(), time.monotonic(), None, "function"))

    desk = face.desk
    face.kernel.mounted = True
    spec = JobSpec("true", None, "/", "")
    return [desk.table.spawn_nowait(spec, "", start).id for _ in range(count)]


async def test_a_job_that_nobody_expected_is_found_at_once(shown: Face, own: ScriptedOwn) -> None:
    """But not by the client, before it has made the directory: it could not make it."""
    (job,) = come(shown, 1)
    assert [job] == [number for number, _ in own.begun]
    lookup = shown.operations.lookup
    assert errno.ENOENT == await errno_of(lambda: lookup(ROOT, b"1", OWN))
    assert job_inode(job) == (await make(shown, job)).st_ino
    assert job_inode(job) == (await lookup(ROOT, b"1", OWN)).st_ino


async def test_a_directory_that_somebody_has_found_is_not_made(shown: Face) -> None:
    """They may stand in it."""
    (job,) = come(shown, 1)
    assert job_inode(job) == (await shown.find("1")).st_ino
    assert job_inode(job) == (await shown.operations.lookup(ROOT, b"1", OWN)).st_ino


async def test_directories_of_many_jobs_are_made_some_at_a_time(shown: Face, own: ScriptedOwn) -> None:
    """What the client is asked fits into its socket; the next follow as it answers, but for those that have gone."""
    jobs = come(shown, 200)
    assert len(own.begun) < len(jobs)
    last = shown.desk.table.get(jobs[-1])
    assert last is not None
    shown.desk.table.take(Ended(last.id, Event.EXIT_ZERO, 0, time.time(), 0.1))
    shown.kernel.mounted = False  # there is no kernel to be told of the removal
    await shown.desk.table.remove([last])
    answered = 0
    while answered < len(own.begun):
        own.begun[answered][1].settle([])
        answered += 1
    assert jobs[:-1] == [number for number, _ in own.begun]
