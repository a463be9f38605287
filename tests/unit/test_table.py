"""The job table on a scripted engine: names, news, events, and what is kept."""

from __future__ import annotations

import errno
import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobfs.engines.base import Closed, Continued, Ended, News, Started, Stopped
from jobfs.engines.fake import FakeEngine
from jobfs.errors import (
    EngineGone,
    JobAlive,
    JobEnded,
    JobfsError,
    LimitReached,
    NameTaken,
    NoSuchJob,
    NotPermitted,
    SpawnFailed,
    StateFull,
)
from jobfs.model import Writer
from jobfs.states import Event
from jobfs.store import Store
from jobfs.stream import StreamDamaged
from jobfs.text import with_variables
from tests.unit.tables import Desk, desk_in, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from jobfs.job import Job
    from jobfs.model import JobSpec
    from jobfs.store import Row
    from jobfs.stream import RingReader

MINE, OTHERS = Writer(session=1), Writer(session=2)


class Face:
    """Notes what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[list[int], int | None]] = []

    def expect(self, job: int) -> None:
        """See `jobfs.face.Face`."""

    async def appeared(self, job: int) -> None:
        """See `jobfs.face.Face`."""

    def came(self, job: int) -> None:
        """See `Face`; no job of these tests comes like that."""
        raise NotImplementedError(job)

    def failed(self, job: int) -> None:
        """See `jobfs.face.Face`."""

    async def removed(self, jobs: list[Job], *, by_rmdir: int | None) -> None:
        """See `jobfs.face.Face`."""
        self.told.append(([job.id for job in jobs], by_rmdir))


# Spawning


async def test_a_job_that_was_spawned_runs(desk: Desk) -> None:
    """It is in the table, running, with its process and the environment it was given."""
    job = await desk.spawn("make", environment="A=b\0JOBFS_ID=99\0")
    assert [job] == desk.table.jobs()
    assert ("running", 1001) == (job.status.word, job.pid)
    assert "A=b\0JOBFS_ID=1\0JOBFS_MOUNT=/v/jobs\0" == desk.engine.jobs[1].environment
    assert job is desk.table.get(1)
    assert 1 in desk.table


@pytest.mark.parametrize("error", [SpawnFailed("cannot chdir", errno.ENOENT), EngineGone("gone"), LimitReached("full")])
async def test_a_spawn_that_fails_changes_nothing(desk: Desk, error: JobfsError) -> None:
    """The error is the engine's, and no job, name, row or event is left; only the id is used up."""
    before = desk.table.version
    desk.engine.fail(error)
    with pytest.raises(type(error)):
        await desk.spawn(name="build")
    desk.engine.fail(None)
    assert ([], {}, {}, [], before) == (
        desk.table.jobs(),
        desk.stored(),
        dict(desk.table.names()),
        desk.events(),
        desk.table.version,
    )
    assert 2 == (await desk.spawn(name="build")).id


async def test_a_job_on_its_way_to_exec_is_not_shown(desk: Desk) -> None:
    """A directory appears with a job that runs, not before."""
    desk.engine.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.spawn)
        await wait_all_tasks_blocked()
        assert ([], {1: "queued"}) == (desk.table.jobs(), desk.stored())
        desk.engine.start()
    assert [1] == desk.ids()


async def test_jobs_stand_in_the_order_of_their_ids(desk: Desk) -> None:
    """A job whose exec took long stands where its id says, and is not taken for the newest."""
    desk.engine.hold()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(desk.spawn)
            await wait_all_tasks_blocked()
        for job in (2, 3, 1):
            desk.engine.start(job)
            await wait_all_tasks_blocked()
    assert [1, 2, 3] == desk.ids()
    assert desk.table.get(3) is desk.table.last(None)


# Names


async def test_a_name_is_its_holders_as_long_as_that_lives(desk: Desk) -> None:
    """A second job of the name is refused while the first is alive, and has it afterwards."""
    first = await desk.spawn(name="build")
    with pytest.raises(NameTaken, match="build"):
        await desk.spawn(name="build")
    assert {"build": first} == desk.table.names()
    desk.engine.exit(first.id)
    assert first is desk.table.named("build")
    second = await desk.spawn(name="build")
    assert {"build": second} == desk.table.names()


async def test_a_stopped_holder_is_alive(desk: Desk) -> None:
    """A job that is stopped keeps its name."""
    first = await desk.spawn(name="build")
    desk.engine.stop(first.id)
    with pytest.raises(NameTaken):
        await desk.spawn(name="build")


async def test_a_name_is_taken_already_on_the_way_to_exec(desk: Desk) -> None:
    """Of two spawns at a time with one name, the second is refused."""
    desk.engine.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: desk.spawn(name="build"))
        await wait_all_tasks_blocked()
        with pytest.raises(NameTaken):
            await desk.spawn(name="build")
        desk.engine.start()
    assert [1] == desk.ids()


async def test_a_name_goes_with_its_newest_holder(desk: Desk) -> None:
    """When the holder is removed the name is nobody's, also not an older job's that once had it."""
    older, newer = await desk.spawn(name="x"), None
    desk.engine.exit(older.id)
    newer = await desk.spawn(name="x")
    desk.engine.exit(newer.id)
    await desk.table.remove([newer])
    assert {} == desk.table.names()
    assert [older] == desk.table.jobs()


async def test_the_removal_of_an_older_holder_leaves_the_name(desk: Desk) -> None:
    """A name stays with its newest holder when a former one is removed."""
    older = await desk.spawn(name="x")
    desk.engine.exit(older.id)
    newer = await desk.spawn(name="x")
    await desk.table.remove([older])
    assert {"x": newer} == desk.table.names()


async def test_names_survive_a_restart(desk: Desk) -> None:
    """After a restart a name is still its newest holder's."""
    first = await desk.spawn(name="x")
    desk.engine.exit(first.id)
    await desk.spawn(name="x")
    await desk.restart()
    assert {"x": 2} == {name: job.id for name, job in desk.table.names().items()}


# Words


async def test_last_is_the_newest_job_of_ones_own_session(desk: Desk) -> None:
    """The link prefers the reader's session; a command's word means that session alone."""
    mine, others = await desk.spawn(writer=MINE), await desk.spawn(writer=OTHERS)
    assert [mine, others, others, others] == [desk.table.last(session) for session in (1, 2, 3, None)]
    assert mine is desk.table.resolve("last", MINE)
    for stranger in (Writer(session=3), Writer()):
        with pytest.raises(NoSuchJob, match="last"):
            desk.table.resolve("last", stranger)


async def test_without_a_job_there_is_no_last(desk: Desk) -> None:
    """An empty table has no newest job, whoever asks."""
    assert [None, None] == [desk.table.last(1), desk.table.last(None)]


async def test_a_job_without_a_session_is_nobodys_last(desk: Desk) -> None:
    """A writer whose session is not known does not find other such writers' jobs."""
    await desk.spawn(writer=Writer())
    assert desk.table.newest(None) is None


async def test_last_moves_back_when_the_newest_is_removed(desk: Desk) -> None:
    """`last` is the newest of the jobs that are there."""
    first, second = await desk.ended(0, 0)
    await desk.table.remove([second])
    assert first is desk.table.last(None)


async def test_a_word_is_an_id_or_a_name(desk: Desk) -> None:
    """Each finds its job, and what finds none is named in the error."""
    job = await desk.spawn(name="build")
    assert [job, job] == [desk.table.resolve(word, MINE) for word in ("1", "build")]
    for word in ("2", "make"):
        with pytest.raises(NoSuchJob, match=f"no such job: {word}"):
            desk.table.resolve(word, MINE)


# News


async def test_stopped_and_continued_are_shown(desk: Desk) -> None:
    """The status follows what happens to the process."""
    job = await desk.spawn()
    words = []
    for happen in (desk.engine.stop, desk.engine.stop, desk.engine.cont, desk.engine.cont):
        happen(job.id)
        words.append(job.status.word)
    assert ["stopped", "stopped", "running", "running"] == words


@pytest.mark.parametrize(
    ("event", "code", "word"),
    [
        (Event.EXIT_ZERO, 0, "done:0"),
        (Event.EXIT_NONZERO, 3, "failed:3"),
        (Event.SIGNAL, 9, "killed:9"),
        (Event.LOSE, None, "lost"),
        (Event.CANCEL, None, "cancelled"),
    ],
)
async def test_an_end_is_noted_with_all_that_belongs_to_it(
    desk: Desk, event: Event, code: int | None, word: str
) -> None:
    """Status, reason, time and usage are those that the engine told."""
    job = await desk.spawn()
    desk.table.take(Ended(job.id, event, code, 5.0, 2.5, "so", frozenset(), 0.5, 0.25, 4096))
    info = desk.info(job)
    assert (word, "so", 5.0, 2.5) == (info.status.word, info.reason, info.ended_at, info.elapsed)
    assert (0.5, 0.25, None, 4096) == (
        info.usage.cpu_user_s,
        info.usage.cpu_system_s,
        info.usage.rss_bytes and None,
        info.usage.max_rss_bytes,
    )


async def test_an_end_is_told_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """A final status never changes: what is told afterwards is logged, and nothing is published."""
    (job,) = await desk.ended(3)
    before, events = desk.info(job), desk.events()
    with caplog.at_level(logging.WARNING):
        for news in (
            Ended(1, Event.SIGNAL, 9, 9.0, 9.0, "late"),
            Ended(1, Event.LOSE, None, 9.0, None),
            Stopped(1),
            Continued(1),
        ):
            desk.table.take(news)
    assert (before.status, before.ended_at, before.reason, events) == (
        job.status,
        job.ended_at,
        job.reason,
        desk.events(),
    )
    assert 4 == len(caplog.records)


@pytest.mark.parametrize(
    "news",
    [
        Started(7, 1.0, 1.0, 5, "h"),
        Stopped(7),
        Continued(7),
        Ended(7, Event.EXIT_ZERO, 0, 1.0, 1.0),
        Closed(7, frozenset()),
    ],
)
async def test_news_of_an_unknown_job_change_nothing(desk: Desk, news: News, caplog: pytest.LogCaptureFixture) -> None:
    """A job that was removed meanwhile may still be told of."""
    await desk.spawn()
    before = (desk.ids(), desk.table.version, desk.events())
    desk.table.take(news)
    assert before == (desk.ids(), desk.table.version, desk.events())
    assert [] == caplog.records


async def test_elapsed_stands_still_when_a_job_has_ended(desk: Desk) -> None:
    """A running job's time grows from zero, and an ended one's is what the engine measured."""
    job = await desk.spawn()
    running = desk.info(job).elapsed
    assert running is not None
    assert 0 <= running
    desk.table.take(Ended(job.id, Event.EXIT_ZERO, 0, 5.0, 77.5))
    assert 77.5 == desk.info(job).elapsed


async def test_what_is_left_behind_is_counted_as_lingering(desk: Desk) -> None:
    """An ended job's processes linger, a living one's do not."""
    alive, over = await desk.spawn(), await desk.spawn()
    desk.engine.exit(over.id, lingering=2)
    counted = [(info.usage.processes, info.usage.lingering) for info in desk.table.snapshots([alive, over])]
    assert [(1, 0), (2, 2)] == counted


async def test_the_version_rises_with_every_change(desk: Desk) -> None:
    """What was rendered at one version is right as long as that version is."""
    seen = [desk.table.version]
    job = await desk.spawn()
    seen.append(desk.table.version)
    for happen in (desk.engine.stop, desk.engine.cont, desk.engine.exit):
        happen(job.id)
        seen.append(desk.table.version)
    await desk.table.remove([job])
    seen.append(desk.table.version)
    assert sorted(set(seen)) == seen


# Streams


async def test_output_is_counted_as_it_comes(desk: Desk) -> None:
    """A stream without a byte is empty and open; what is written shows at once."""
    job = await desk.spawn(limit=4096)
    before = desk.info(job).stdout
    desk.engine.write(job.id, "stdout", b"x" * 5000)
    after = desk.info(job).stdout
    assert [(0, 0, 4096, False), (5000, 904, 4096, False)] == [
        (state.written, state.dropped, state.capacity, state.closed) for state in (before, after)
    ]


async def test_streams_close_with_the_job_but_for_what_is_held(desk: Desk) -> None:
    """An ended job's stream that a descendant holds grows on, and closes when that has gone."""
    job = await desk.spawn()
    desk.engine.write(job.id, "stdout", b"a")
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    assert (False, True) == (desk.info(job).stdout.closed, desk.info(job).stderr.closed)
    desk.engine.write(job.id, "stdout", b"b")
    assert 2 == desk.info(job).stdout.written
    desk.engine.close(job.id, "stdout")
    assert (2, True) == (desk.info(job).stdout.written, desk.info(job).stdout.closed)
    assert frozenset() == job.open_streams


async def test_a_removed_jobs_stream_stays_what_it_was(desk: Desk) -> None:
    """Who still has a job's files open sees the counts of the moment of its removal."""
    job = await desk.spawn()
    desk.engine.write(job.id, "stdout", b"abc")
    desk.engine.exit(job.id)
    await desk.table.remove([job])
    assert (3, True) == (job.streams["stdout"].state.written, job.streams["stdout"].state.closed)
    assert job.streams["stdout"].open() is None


# Signals


async def test_a_signal_and_an_end_go_to_the_engine(desk: Desk) -> None:
    """The number and the job's own grace period are what the engine is asked for."""
    job = await desk.spawn(grace=2.5)
    await desk.table.signal(job, 10)
    await desk.table.end(job)
    assert ([(1, 10)], [(1, 2.5)]) == (desk.engine.signals, desk.engine.ends)


async def test_what_an_ended_job_left_behind_can_be_signalled(desk: Desk) -> None:
    """ESRCH is only where nobody is left."""
    job = await desk.spawn()
    desk.engine.exit(job.id, lingering=1)
    await desk.table.end(job)
    assert [(1, 5.0)] == desk.engine.ends
    (nobody,) = await desk.ended(0)
    with pytest.raises(JobEnded):
        await desk.table.end(nobody)


# Removing


async def test_a_job_that_is_alive_is_not_removed(desk: Desk) -> None:
    """One living job among those to be removed is EBUSY, and all stay."""
    over, alive = await desk.spawn(), await desk.spawn()
    desk.engine.exit(over.id)
    with pytest.raises(JobAlive, match="job 2 is running"):
        await desk.table.remove([over, alive])
    assert ([1, 2], []) == (desk.ids(), desk.engine.forgotten)


async def test_a_removed_job_is_gone_everywhere(desk: Desk) -> None:
    """Table, store, names, engine and face are all told."""
    face = desk.table.face = Face()
    job = await desk.spawn(name="x")
    desk.engine.write(job.id, "stdout", b"abc")
    desk.engine.exit(job.id)
    await desk.table.remove([job], by_rmdir=1)
    assert ([], {}, {}, [1], [([1], 1)]) == (
        desk.ids(),
        desk.stored(),
        dict(desk.table.names()),
        desk.engine.forgotten,
        face.told,
    )
    assert job.removed


async def test_a_job_is_removed_once(desk: Desk) -> None:
    """A second removal, of one who looked it up before the first, succeeds and does nothing."""
    (job,) = await desk.ended(0)
    await desk.table.remove([job])
    await desk.table.remove([job])
    assert [1] == desk.engine.forgotten


async def test_a_job_can_be_removed_while_the_engine_is_gone(desk: Desk) -> None:
    """The output is left for the next start, which removes it."""
    (job,) = await desk.ended(0)
    desk.engine.fail(EngineGone("gone"))
    await desk.table.remove([job])
    desk.engine.fail(None)
    assert ([], []) == (desk.ids(), desk.engine.forgotten)
    await desk.restart()
    assert [1] == desk.engine.forgotten


async def test_a_store_that_refuses_keeps_the_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be removed from the database is not removed at all."""
    (job,) = await desk.ended(0)
    monkeypatch.setattr(desk.store, "remove", _full)
    with pytest.raises(StateFull):
        await desk.table.remove([job])
    assert ([1], []) == (desk.ids(), desk.engine.forgotten)


def _full(_: object) -> None:
    raise StateFull("the disk that holds the state is full")


# Keeping


async def test_ends_are_stored_and_then_acknowledged(desk: Desk, mock_clock: MockClock) -> None:
    """The engine may forget how a job ended once the database has it."""
    await desk.ended(0, 3)
    assert ({1: "queued", 2: "queued"}, []) == (desk.stored(), desk.engine.acknowledged)
    await desk.housekeeping(mock_clock)
    assert ({1: "done:0", 2: "failed:3"}, [1, 2]) == (desk.stored(), desk.engine.acknowledged)


async def test_a_full_store_keeps_ends_in_memory_and_tries_again(
    desk: Desk, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the disk is full readers see the end and the engine keeps it; when there is room it is stored."""
    (job,) = await desk.ended(3)
    end = desk.store.end
    tries: list[tuple[str, dict[int, str], list[int]]] = []

    def full_twice(rows: Iterable[Row]) -> None:
        tries.append((job.status.word, desk.stored(), desk.engine.acknowledged[:]))
        if len(tries) < 3:
            _full(rows)
        end(rows)

    monkeypatch.setattr(desk.store, "end", full_twice)
    await desk.housekeeping(mock_clock, 10)
    assert [("failed:3", {1: "queued"}, [])] * 3 == tries
    assert ({1: "failed:3"}, [1]) == (desk.stored(), desk.engine.acknowledged)


@pytest.mark.parametrize("error", [EngineGone("gone"), NotPermitted("no"), JobEnded("nobody"), LimitReached("full")])
async def test_whatever_the_engine_answers_housekeeping_goes_on(
    desk: Desk, error: JobfsError, mock_clock: MockClock
) -> None:
    """An error of the engine ends neither the task nor, with it, the mount."""
    await desk.ended(0)
    desk.engine.fail(error)
    await desk.housekeeping(mock_clock)
    desk.engine.fail(None)
    await desk.ended(0)
    await desk.housekeeping(mock_clock)
    assert {1: "done:0", 2: "done:0"} == desk.stored()


async def test_past_the_count_the_oldest_ended_jobs_go(tmp_path: Path, mock_clock: MockClock) -> None:
    """`keep` bounds the ended jobs, by the order of their ends; who is alive is never counted or dropped."""
    async with desk_in(tmp_path, keep=2) as desk:
        alive = await desk.spawn()
        jobs = [await desk.spawn() for _ in range(4)]
        for job in reversed(jobs):
            desk.engine.exit(job.id)
        await desk.housekeeping(mock_clock)
        assert [alive.id, 2, 3] == desk.ids()
        assert [1, 2, 3] == sorted(desk.stored())


async def test_the_order_of_the_ends_survives_a_restart(desk: Desk, mock_clock: MockClock) -> None:
    """Which ended job is the oldest does not depend on when the daemon was started."""
    first, second = await desk.spawn(), await desk.spawn()
    desk.table.take(Ended(second.id, Event.EXIT_ZERO, 0, 10.0, 1.0))
    desk.table.take(Ended(first.id, Event.EXIT_ZERO, 0, 20.0, 1.0))
    await desk.housekeeping(mock_clock)
    await desk.restart(keep=1)
    await desk.housekeeping(mock_clock)
    assert [first.id] == desk.ids()


async def test_past_the_bytes_the_oldest_ended_jobs_go(desk: Desk, mock_clock: MockClock) -> None:
    """`keep_bytes` bounds the output of the ended jobs, also what a descendant adds to it later."""
    jobs = [await desk.spawn() for _ in range(3)]
    for job in jobs:
        desk.engine.write(job.id, "stdout", b"x" * 1000)
        desk.engine.exit(job.id, open_streams=["stdout"])
    await desk.restart(keep_bytes=3000)
    await desk.housekeeping(mock_clock)
    assert [1, 2, 3] == desk.ids()
    desk.engine.write(3, "stdout", b"y")
    desk.engine.close(3, "stdout")
    await desk.housekeeping(mock_clock)
    assert [2, 3] == desk.ids()


async def test_one_big_job_goes_when_it_is_the_oldest(desk: Desk, mock_clock: MockClock) -> None:
    """Where it alone takes too much, it goes, and what ended later stays, also with a lower bound at a later mount."""
    big, *small = [await desk.spawn() for _ in range(3)]
    desk.engine.write(big.id, "stdout", b"x" * 10_000)
    for job in small:
        desk.engine.write(job.id, "stderr", b"x" * 100)
    for job in (big, *small):
        desk.engine.exit(job.id)
    await desk.restart(keep_bytes=10_200)
    await desk.housekeeping(mock_clock)
    assert [1, 2, 3] == desk.ids()
    await desk.restart(keep_bytes=10_199)
    await desk.housekeeping(mock_clock)
    assert ([2, 3], [1]) == (desk.ids(), desk.engine.forgotten)
    await desk.restart(keep_bytes=99)
    await desk.housekeeping(mock_clock)
    assert [] == desk.ids()


async def test_what_ended_first_goes_first_whatever_was_closed_first(tmp_path: Path, mock_clock: MockClock) -> None:
    """Neither the order of the ids nor that in which pipes closed counts, but that of the ends, across restarts too."""
    async with desk_in(tmp_path, keep=2) as desk:
        first, second, third = [await desk.spawn() for _ in range(3)]
        for job in (third, first, second):
            desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
        for job in (second, first, third):
            desk.engine.close(job.id, "stdout")
        await desk.housekeeping(mock_clock)
        assert [first.id, second.id] == desk.ids()
        await desk.restart(keep=1)
        await desk.housekeeping(mock_clock)
        assert [second.id] == desk.ids()


async def test_a_job_that_grows_while_it_lives_is_counted_when_it_has_ended(desk: Desk, mock_clock: MockClock) -> None:
    """A living job's output never makes another one go."""
    ended = (await desk.ended(0))[0]
    alive = await desk.spawn()
    desk.engine.write(alive.id, "stdout", b"x" * 10_000)
    await desk.restart(keep_bytes=5000)
    await desk.housekeeping(mock_clock)
    assert [ended.id, alive.id] == desk.ids()
    desk.engine.exit(alive.id)
    await desk.housekeeping(mock_clock)
    assert [] == desk.ids()


async def test_no_bound_drops_who_is_alive(tmp_path: Path, mock_clock: MockClock) -> None:
    """With nothing to be kept at all, living jobs stay and ended ones go."""
    async with desk_in(tmp_path, keep=0) as desk:
        alive = await desk.spawn()
        desk.engine.write(alive.id, "stdout", b"x" * 1000)
        await desk.ended(0)
        await desk.housekeeping(mock_clock)
        assert [alive.id] == desk.ids()


class NoDescriptors(FakeEngine):
    """Where streams cannot be opened, because the daemon has no descriptor left."""

    def open_stream(self, job: int, name: str) -> RingReader | None:
        """See `Engine`."""
        raise OSError(errno.EMFILE, f"too many open files: {name} of {job}")


async def test_an_end_is_stored_also_where_the_output_cannot_be_looked_at(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Without a descriptor for its streams a job's end is still stored, and the job is kept within the bounds."""
    async with desk_in(tmp_path, NoDescriptors(tmp_path), keep=1) as desk:
        await desk.ended(0, 3)
        await desk.housekeeping(mock_clock)
        assert ({2: "failed:3"}, [2]) == (desk.stored(), desk.ids())

    # Restarts


async def test_a_restart_shows_all_as_if_nothing_had_happened(desk: Desk, mock_clock: MockClock) -> None:
    """Jobs that ran, stopped and ended are what they were."""
    running, stopped, over = await desk.spawn("make", name="x"), await desk.spawn(), await desk.spawn()
    desk.engine.stop(stopped.id)
    desk.engine.write(over.id, "stdout", b"abc")
    desk.engine.exit(over.id, 3)
    await desk.housekeeping(mock_clock)
    await desk.restart()
    again = desk.table.snapshots(desk.table.jobs())
    assert ["running", "stopped", "failed:3"] == [info.status.word for info in again]
    assert [(job.spec, job.created_at, job.started_at, job.ended_at, job.pid) for job in (running, stopped, over)] == [
        (info.spec, info.created_at, info.started_at, info.ended_at, info.pid) for info in again
    ]
    assert (3, True) == (again[2].stdout.written, again[2].stdout.closed)


async def test_what_ended_while_nobody_looked_is_learned(desk: Desk) -> None:
    """A job that ended between two daemons has the end that it had."""
    job = await desk.spawn()
    desk.engine.disconnect()
    desk.engine.exit(job.id, 3)
    await desk.restart()
    assert ["failed:3"] == [it.status.word for it in desk.table.jobs()]


async def test_a_job_that_the_engine_never_saw_is_cancelled(desk: Desk) -> None:
    """A daemon that was killed between the database and the engine leaves a job that never started."""
    desk.store.add(spec(), 1.0)
    await desk.restart()
    (job,) = desk.table.jobs()
    assert ("cancelled", None) == (job.status.word, job.pid)
    with pytest.raises(JobEnded, match="never started"):
        await desk.table.signal(job, 9)


async def test_what_the_engine_has_and_the_table_not_is_forgotten(desk: Desk) -> None:
    """Output of a job that was removed while the engine was gone does not stay for ever."""
    job = await desk.spawn()
    desk.engine.disconnect()
    desk.engine.exit(job.id)
    desk.store.remove([job.id])
    await desk.restart()
    assert ([1], []) == (desk.engine.forgotten, desk.ids())


def lose_database(desk: Desk) -> None:
    """The daemon ends, and what it had stored is gone."""
    desk.close()
    for path in desk.place.glob("jobs.sqlite*"):
        path.unlink()


async def test_jobs_that_the_database_lost_are_taken_up_again(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Living and ended, with what the engine remembers of them; nothing of theirs is thrown away; they are stored."""
    alive, over = await desk.spawn("make all", name="build", limit=4096), await desk.spawn("exit 3")
    terminal = await desk.spawn("top", pty=True)
    desk.engine.write(alive.id, "stdout", b"abc")
    desk.engine.write(over.id, "stdout", b"xyz")
    desk.engine.exit(over.id, 3)
    lose_database(desk)
    await desk.restart()
    again = desk.table.snapshots(desk.table.jobs())
    assert [(1, "running", "make all"), (2, "failed:3", "exit 3"), (3, "running", "top")] == [
        (job.id, job.status.word, job.spec.line) for job in again
    ]
    assert [alive.started_at, over.started_at, terminal.started_at] == [job.created_at for job in again]
    assert ([3, 3], []) == ([job.stdout.written for job in again[:2]], desk.engine.forgotten)
    assert [(True, False, 4096), (True, True)] == [
        (again[0].spec.recovered, again[0].spec.pty, again[0].spec.limit),
        (again[2].spec.recovered, again[2].spec.pty),
    ]
    assert "the database has lost 3 jobs; what is on record of them is shown: [1, 2, 3]" in caplog.text
    assert {1: "queued", 2: "queued", 3: "queued"} == desk.stored()
    assert 4 == (await desk.spawn()).id
    await desk.restart()
    assert [1, 2, 3, 4] == desk.ids()


async def test_jobs_that_an_older_database_never_had_are_taken_up_again(desk: Desk) -> None:
    """One that was put back from yesterday knows what was removed, but not what came later."""
    removed, kept, later = [await desk.spawn() for _ in range(3)]
    for job in (removed, kept, later):
        desk.engine.exit(job.id)
    desk.store.remove([removed.id, later.id])
    desk.close()
    with closing(sqlite3.connect(desk.place / "jobs.sqlite")) as db, db:
        db.execute("UPDATE sqlite_sequence SET seq=2")
    await desk.restart()
    assert ([kept.id, later.id], [removed.id]) == (desk.ids(), desk.engine.forgotten)


async def test_a_job_that_lives_is_never_thrown_away(desk: Desk) -> None:
    """Whatever the database says."""
    job = await desk.spawn("make")
    desk.store.remove([job.id])
    await desk.restart()
    assert ([(1, "running")], []) == ([(it.id, it.status.word) for it in desk.table.jobs()], desk.engine.forgotten)


async def test_what_is_lost_is_shown_also_where_it_cannot_be_stored(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk does not keep a living job from being shown; the next daemon takes it up anew."""

    def full(*_: object) -> None:
        raise StateFull("the disk is full")

    await desk.spawn("make")
    lose_database(desk)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "restore", full)
        await desk.restart()
        assert ([1], "they could not be stored: the disk is full" in caplog.text) == (desk.ids(), True)
    await desk.restart()
    assert ([1], {1: "queued"}) == (desk.ids(), desk.stored())


async def test_a_name_in_the_database_that_its_job_was_not_given_is_nobodys(desk: Desk) -> None:
    """A scribble in the table of names makes no link."""
    job = await desk.spawn(name="build")
    desk.store.hold("made-up", job.id)
    await desk.restart()
    assert ["build"] == list(desk.table.names())


async def test_a_stalled_stream_says_why_until_it_goes_on(desk: Desk) -> None:
    """What keeps a job's output from being kept stands with that stream, and makes the table's text anew."""
    job = await desk.spawn()
    version = desk.table.version
    desk.engine.stall(job.id, stdout="cannot be written: the disk is full")
    assert ("cannot be written: the disk is full", None) == (
        desk.info(job).stdout.problem,
        desk.info(job).stderr.problem,
    )
    assert desk.table.version > version
    desk.engine.stall(job.id)
    assert (None, None) == (desk.info(job).stdout.problem, desk.info(job).stderr.problem)


async def test_a_stream_of_which_less_is_there_than_was_stored_is_damaged(desk: Desk, mock_clock: MockClock) -> None:
    """A closed stream is compared with how much was written to it in all; one that is gone was not empty."""
    for data in (b"abc", b"def", b""):
        job = await desk.spawn()
        if data:
            desk.engine.write(job.id, "stdout", data)
        desk.engine.exit(job.id)
    await desk.housekeeping(mock_clock)
    desk.close()
    (desk.place / "1.stdout").unlink()
    with (desk.place / "2.stdout").open("r+b") as file:
        file.seek(4 * 8)
        file.write(b"\x02")
    await desk.restart()
    states = [job.streams["stdout"].state for job in desk.table.jobs()]
    assert [
        (True, "damaged: it has 0 bytes where 3 were written"),
        (True, "damaged: it has 2 bytes where 3 were written"),
        (False, None),
    ] == [(state.damaged, state.problem) for state in states]
    with pytest.raises(StreamDamaged):
        desk.table.jobs()[0].streams["stdout"].open()
    assert desk.table.jobs()[2].streams["stdout"].open() is None


async def test_what_was_left_behind_wrote_is_counted_in_what_is_stored(desk: Desk, mock_clock: MockClock) -> None:
    """A stream that closes after its job's end has its last count stored then."""
    job = await desk.spawn()
    desk.engine.write(job.id, "stdout", b"a")
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    await desk.housekeeping(mock_clock)
    assert [{"stderr": 0}] == [row.written for row in desk.store.jobs()]
    desk.engine.write(job.id, "stdout", b"b")
    desk.engine.close(job.id, "stdout")
    await desk.housekeeping(mock_clock)
    assert [{"stdout": 2, "stderr": 0}] == [row.written for row in desk.store.jobs()]


async def test_a_stream_that_is_still_held_grows_after_a_restart(desk: Desk) -> None:
    """Which streams of an ended job are open is known to the next daemon too."""
    job = await desk.spawn()
    desk.engine.write(job.id, "stdout", b"a")
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    desk.store.end([job.row()])
    await desk.restart()
    desk.engine.write(job.id, "stdout", b"b")
    (again,) = desk.table.snapshots(desk.table.jobs())
    assert (2, False) == (again.stdout.written, again.stdout.closed)


class Busy(FakeEngine):
    """An engine whose jobs go on while it answers `attach`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.meanwhile: list[Callable[[], None]] = []

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`."""
        news = await super().attach(alive, tell)
        for happen in self.meanwhile:
            happen()
        return news


async def test_what_happens_during_an_attach_is_not_lost(tmp_path: Path) -> None:
    """News may come before the answer that they follow on from: a job that ends then has ended."""
    engine = Busy(tmp_path)
    async with desk_in(tmp_path, engine) as desk:
        for _ in range(2):
            await desk.spawn()
        engine.meanwhile = [lambda: engine.exit(1, 3), lambda: engine.stop(2)]
        await desk.restart()
        assert ["failed:3", "stopped"] == [job.status.word for job in desk.table.jobs()]


async def test_an_attach_that_fails_loses_no_news_either(tmp_path: Path) -> None:
    """Where the engine goes during the attach, later news are taken as ever."""
    async with desk_in(tmp_path) as desk:
        job = await desk.spawn()
        desk.engine.fail(EngineGone("gone"))
        with pytest.raises(EngineGone):
            await desk.table.attach_engine()
        desk.engine.fail(None)
        desk.engine.exit(job.id, 3)
        assert "failed:3" == job.status.word


class Interrupted(FakeEngine):
    """An engine that goes amid a spawn, after it has started the job or before."""

    starts = True

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        self.disconnect()
        if self.starts:
            await super().spawn(job, spec, environment, directory, holder)
        raise EngineGone("gone")


async def test_a_job_whose_engine_went_amid_its_spawn_is_there_if_it_was_started(tmp_path: Path) -> None:
    """The next engine knows it: the spawn succeeds, once, and the job has its name."""
    async with desk_in(tmp_path, Interrupted(tmp_path)) as desk, trio.open_nursery() as nursery:
        spawned: list[Job] = []

        async def spawn() -> None:
            spawned.append(await desk.spawn(name="x"))

        nursery.start_soon(spawn)
        await wait_all_tasks_blocked()
        await desk.table.attach_engine()
        await wait_all_tasks_blocked()
        assert [(1, "running")] == [(job.id, job.status.word) for job in spawned]
        assert ([1], spawned[0]) == (desk.ids(), desk.table.named("x"))


async def test_a_spawn_whose_engine_went_before_it_started_the_job_fails(tmp_path: Path) -> None:
    """Nothing is left of it, and its name is free."""
    engine = Interrupted(tmp_path)
    engine.starts = False
    async with desk_in(tmp_path, engine) as desk, trio.open_nursery() as nursery:
        errors: list[JobfsError] = []

        async def spawn() -> None:
            try:
                await desk.spawn(name="x")
            except EngineGone as error:
                errors.append(error)

        nursery.start_soon(spawn)
        await wait_all_tasks_blocked()
        await desk.table.attach_engine()
        await wait_all_tasks_blocked()
        assert (1, [], {}) == (len(errors), desk.ids(), desk.stored())
        desk.table.check_name("x")


async def test_a_spawn_that_is_cancelled_while_nobody_knows_whether_it_happened_hides_no_job(tmp_path: Path) -> None:
    """Whoever shows the table is told to expect it no more; it is shown if the next engine knows it."""

    class Expecting(Face):
        """Notes what it expects."""

        def __init__(self) -> None:
            super().__init__()
            self.expected: set[int] = set()

        def expect(self, job: int) -> None:
            """See `jobfs.face.Face`."""
            self.expected.add(job)

        def failed(self, job: int) -> None:
            """See `jobfs.face.Face`."""
            self.expected.remove(job)

    async with desk_in(tmp_path, Interrupted(tmp_path)) as desk, trio.open_nursery() as nursery:
        face = desk.table.face = Expecting()
        nursery.start_soon(desk.spawn)
        await wait_all_tasks_blocked()
        assert {1} == face.expected
        nursery.cancel_scope.cancel()
    assert set() == face.expected


async def test_a_job_of_which_nobody_knows_whether_it_was_started_is_lost(tmp_path: Path) -> None:
    """It may have run: so the spawn does not fail, and the job says what is known of it."""
    engine = Interrupted(tmp_path)
    async with desk_in(tmp_path, engine) as desk, trio.open_nursery() as nursery:
        nursery.start_soon(desk.spawn)
        await wait_all_tasks_blocked()
        job = engine.jobs.pop(1)
        engine.jobs[1] = replace(job, ended=Ended(1, Event.LOSE, None, 2.0, None, "killed"))
        await desk.table.attach_engine()
        await wait_all_tasks_blocked()
        assert ["lost"] == [job.status.word for job in desk.table.jobs()]


# Events


async def test_every_change_is_an_event(desk: Desk) -> None:
    """Each line is a JSON object that says when, what, which job, and how the job stands then."""
    job = await desk.spawn(name="x")
    desk.engine.stop(job.id)
    desk.engine.cont(job.id)
    desk.engine.kill(job.id, 9, "timeout")
    await desk.table.remove([job])
    told = desk.events()
    assert [
        ("started", 1, "x", "running", None),
        ("stopped", 1, "x", "stopped", None),
        ("continued", 1, "x", "running", None),
        ("ended", 1, "x", "killed:9", "timeout"),
        ("removed", 1, "x", None, None),
    ] == [(it["event"], it["id"], it["name"], it.get("status"), it.get("reason")) for it in told]
    assert all(str(it["at"]).endswith("Z") for it in told)


async def test_an_error_is_an_event(desk: Desk) -> None:
    """Whose shell shows only the number finds the sentence there, cut where it is very long."""
    desk.table.report_error(NoSuchJob("no such job: " + "x" * 10_000))
    (told,) = desk.events()
    assert ("error", errno.ENOENT) == (told["event"], told["errno"])
    assert str(told["error"]).startswith("no such job: xxx")
    assert len(str(told["error"])) < 1000


async def test_events_go_on_after_a_restart(desk: Desk) -> None:
    """The stream is one, whichever daemon writes to it."""
    job = await desk.spawn()
    await desk.restart()
    desk.engine.exit(job.id)
    assert ["started", "ended"] == [told["event"] for told in desk.events()]


# Environments


@pytest.mark.parametrize(
    ("environment", "variables", "expected"),
    [
        ("", {}, ""),
        ("", {"A": "1"}, "A=1\0"),
        ("A=0\0B=2\0", {"A": "1"}, "B=2\0A=1\0"),
        ("AB=0\0", {"A": "1"}, "AB=0\0A=1\0"),
        ("A=0\0A=9\0", {"A": ""}, "A=\0"),
        ("A\0B=a=b\0", {"C": "x=y"}, "A\0B=a=b\0C=x=y\0"),
        ("B=\n\udcff\0", {}, "B=\n\udcff\0"),
        ("A=1\0B=2\0A=3\0", {"A": None}, "B=2\0"),
        ("A=1\0", {"A": None}, ""),
    ],
)
def test_variables_are_set_in_an_environment(
    environment: str, variables: Mapping[str, str | None], expected: str
) -> None:
    """A variable replaces all of its name, or removes it, and leaves every other entry as it is."""
    assert expected == with_variables(environment, variables)


def test_a_scripted_engine_is_an_engine(tmp_path: Path) -> None:
    """The checker compares the fake with the protocol where it is given to a table; it knows no job at first."""
    nobody: Iterable[int] = []
    assert list(nobody) == list(FakeEngine(tmp_path).known())


# Names and a full disk


async def test_a_name_that_went_with_its_holder_stays_away_after_a_restart(desk: Desk) -> None:
    """An older job that was given the same name does not get it back, not even from the next daemon."""
    older = await desk.spawn(name="x")
    desk.engine.exit(older.id)
    newer = await desk.spawn(name="x")
    desk.engine.exit(newer.id)
    await desk.table.remove([newer])
    assert desk.table.named("x") is None
    await desk.restart()
    assert desk.table.named("x") is None
    again = await desk.spawn(name="x")
    assert again is desk.table.named("x")


async def test_a_name_is_its_holders_after_a_restart(desk: Desk) -> None:
    """The newest job that was given a name has it, whoever serves the state."""
    older = await desk.spawn(name="x")
    desk.engine.exit(older.id)
    newer = await desk.spawn(name="x")
    await desk.restart()
    holder = desk.table.named("x")
    assert holder is not None
    assert newer.id == holder.id


# What a review found


async def test_a_full_disk_is_pruned_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Where no end can be stored, the bounds are still kept: that is what makes room."""
    del autojump_clock  # asked for so that the test runs on it
    await desk.restart(keep=1)
    old, new = await desk.ended(0, 0)

    def full(_: object) -> None:
        raise StateFull("full")

    monkeypatch.setattr(desk.store, "end", full)
    with trio.move_on_after(5):
        await desk.table.ended.keep_house()
    assert [new.id] == desk.ids()
    assert old.removed


async def test_what_nobody_foresaw_does_not_end_keeping_house(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A thread that cannot be started, for one: it is logged, and tried again."""
    del autojump_clock  # asked for so that the test runs on it
    tries: list[int] = []

    async def failing(*_: int) -> None:
        tries.append(1)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(desk.table.ended, "prune", failing)
    await desk.ended(0)
    with trio.move_on_after(5):
        await desk.table.ended.keep_house()
    assert len(tries) > 1


async def test_streams_of_which_the_engine_knows_nothing_are_closed(desk: Desk) -> None:
    """What an ended job left behind went with the engine: `closed` is true after the next attach."""
    job = await desk.spawn()
    desk.engine.write(job.id, "stdout", b"x")
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    assert not desk.info(job).stdout.closed
    desk.engine.jobs.clear()
    await desk.table.attach_engine()
    assert desk.info(job).stdout.closed


async def test_a_job_that_was_continued_meanwhile_is_running(desk: Desk) -> None:
    """A stop that was over before the connection came back is not shown for ever."""
    job = await desk.spawn()
    desk.engine.stop(job.id)
    desk.engine.disconnect()
    desk.engine.cont(job.id)
    await desk.table.attach_engine()
    assert "running" == job.status.word
