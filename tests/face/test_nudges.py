"""What of a job's changes is told to the kernel, and how often, on a clock that jumps."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from mount import nudges
from mount.nudges import Nudges
from mount.own import Touch
from mount.tree import JOB_BY_NAME, job_inode
from tests.face.faces import ScriptedOwn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from jobfs.job import Job
    from tests.unit.tables import Desk


class Told:
    """What was told of one table's jobs."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.own = ScriptedOwn()
        self.nudges = Nudges(self.own)

    def take(self) -> list[str]:
        """What was told since the last time, as the own client takes it."""
        told, self.own.touched = self.own.touched, []
        return [touch.word for _, touch in told]

    async def later(self, clock: MockClock) -> list[str]:
        """What was told until long after, by the test's clock."""
        await trio.sleep_until(clock.current_time() + 10)
        return self.take()

    async def times(self, job: Job, clock: MockClock) -> list[float]:
        """When `job`, which writes a thousand times a second for three seconds, was told of."""
        end = clock.current_time() + 3
        while clock.current_time() < end:
            self.desk.engine.write(job.id, "stdout", b"x")
            await trio.sleep(0.001)
        return [at for at, touch in self.own.touched if touch.path == f"{job.id}/stdout"]


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """A clock that jumps whenever nothing is left to do before the next moment that somebody waits for."""
    return autojump_clock


@pytest.fixture
async def told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Told]:
    """The task that tells, where no watch can be seen."""

    async def here(at: Callable[[], frozenset[int]], patience: float) -> frozenset[int]:
        del patience
        await trio.lowlevel.checkpoint()
        return at()

    it = Told(desk)
    monkeypatch.setattr(nudges, "_watched", lambda _: frozenset[int]())
    monkeypatch.setattr(nudges, "look", here)  # the clock would not wait for a thread
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.nudges.run)
        yield it
        nursery.cancel_scope.cancel()


async def test_nothing_is_told_of_a_job_that_nobody_has_looked_at(desk: Desk, told: Told, clock: MockClock) -> None:
    """Neither its output nor its end; and its engine is asked for nothing."""
    job = await desk.spawn()
    desk.engine.write(job.id, "stdout", b"x")
    desk.engine.exit(job.id)
    assert [] == await told.later(clock)


async def test_output_and_status_are_told_and_each_close_once(desk: Desk, told: Told, clock: MockClock) -> None:
    """Output modifies, each status is a file that is written and closed, and a stream is closed at its end."""
    job = await desk.spawn()
    told.nudges.follow(job)
    assert [] == await told.later(clock)
    desk.engine.write(job.id, "stdout", b"x")
    assert ["m:1/stdout"] == await told.later(clock)
    desk.engine.stop(job.id)
    assert ["mc:1/status"] == await told.later(clock)
    desk.engine.exit(job.id)
    assert ["c:1/stderr", "c:1/stdout", "mc:1/status"] == sorted(await told.later(clock))
    assert [] == await told.later(clock)


async def test_bytes_and_the_end_that_come_together_are_told_together(desk: Desk, told: Told, clock: MockClock) -> None:
    """One IN_MODIFY and one IN_CLOSE_WRITE."""
    job = await desk.spawn()
    told.nudges.follow(job)
    desk.engine.write(job.id, "stdout", b"x")
    desk.engine.exit(job.id)
    assert ["c:1/stderr", "mc:1/status", "mc:1/stdout"] == sorted(await told.later(clock))


async def test_a_stream_that_something_holds_is_closed_later(desk: Desk, told: Told, clock: MockClock) -> None:
    """After the job's end: what a descendant writes is told, and the close when it lets go."""
    job = await desk.spawn()
    told.nudges.follow(job)
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    assert ["c:1/stderr", "mc:1/status"] == sorted(await told.later(clock))
    desk.engine.write(job.id, "stdout", b"x")
    assert ["m:1/stdout"] == await told.later(clock)
    desk.engine.close(job.id, "stdout")
    assert ["c:1/stdout"] == await told.later(clock)


async def test_a_file_that_is_watched_is_told_at_most_twenty_times_a_second(
    desk: Desk, told: Told, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not much less often, however fast its job writes."""
    job = await desk.spawn()
    inode = job_inode(job.id, JOB_BY_NAME[b"stdout"].slot)
    monkeypatch.setattr(nudges, "_watched", lambda _: frozenset([inode]))
    told.nudges.follow(job)
    times = await told.times(job, clock)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert min(pauses) >= 0.05 - 1e-9
    assert 20 <= len(times) <= 61


async def test_a_watch_on_the_directory_counts_as_one_on_the_file(
    desk: Desk, told: Told, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who watches the directory hears of its files as often."""
    job = await desk.spawn()
    monkeypatch.setattr(nudges, "_watched", lambda _: frozenset([job_inode(job.id)]))
    told.nudges.follow(job)
    assert 20 <= len(await told.times(job, clock)) <= 61


async def test_a_file_on_which_no_watch_is_seen_is_told_once_a_second(desk: Desk, told: Told, clock: MockClock) -> None:
    """In case that there is one that cannot be seen."""
    job = await desk.spawn()
    told.nudges.follow(job)
    times = await told.times(job, clock)
    assert min(later - earlier for earlier, later in pairwise(times)) >= 1 - 1e-9
    assert 2 <= len(times) <= 4


async def test_a_file_whose_watch_has_gone_is_told_once_a_second_again(
    desk: Desk, told: Told, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was the last watch of all."""
    job = await desk.spawn()
    monkeypatch.setattr(nudges, "_watched", lambda _: frozenset([job_inode(job.id)]))
    told.nudges.follow(job)
    await told.times(job, clock)
    monkeypatch.setattr(nudges, "_watched", lambda _: frozenset[int]())
    await told.times(job, clock)  # within which it is looked for again
    told.take()
    assert len(await told.times(job, clock)) <= 4


async def test_a_change_while_others_are_told_is_told_too(desk: Desk, told: Told, clock: MockClock) -> None:
    """What happens during a touch is not lost: the last status is always told."""
    job = await desk.spawn()
    told.nudges.follow(job)
    told.own.while_touching = lambda: desk.engine.exit(job.id)
    desk.engine.stop(job.id)
    words = await told.later(clock)
    assert 2 == words.count("mc:1/status")
    assert {"c:1/stdout", "c:1/stderr"} <= set(words)


async def test_a_job_that_was_forgotten_is_told_of_no_more(desk: Desk, told: Told, clock: MockClock) -> None:
    """The kernel has nothing of it any more, so that nobody watches; also if it forgot it amid a touch."""
    job, other = await desk.spawn(), await desk.spawn()
    for it in (job, other):
        told.nudges.follow(it)
    told.nudges.forget(job.id)
    told.own.while_touching = lambda: told.nudges.forget(other.id)
    desk.engine.stop(other.id)
    assert ["mc:2/status"] == await told.later(clock)
    for it in (job, other):
        desk.engine.write(it.id, "stdout", b"x")
        desk.engine.exit(it.id)
    assert [] == await told.later(clock)
    assert not job.bell
    assert not other.bell


async def test_a_job_that_was_forgotten_can_be_looked_at_again(desk: Desk, told: Told, clock: MockClock) -> None:
    """Once, however often it was looked at before."""
    job = await desk.spawn()
    for _ in range(3):
        told.nudges.follow(job)
        told.nudges.follow(job)
        told.nudges.forget(job.id)
    told.nudges.follow(job)
    desk.engine.write(job.id, "stdout", b"x")
    assert ["m:1/stdout"] == await told.later(clock)


async def test_of_an_ended_job_nothing_is_followed(desk: Desk, told: Told, clock: MockClock) -> None:
    """Nothing of it changes any more; a removed one is not followed either."""
    (job,) = await desk.ended(0)
    told.nudges.follow(job)
    await desk.table.remove([job])
    told.nudges.follow(job)
    assert [] == await told.later(clock)


async def test_the_tables_files_are_told_without_a_look(desk: Desk, told: Told, clock: MockClock) -> None:
    """`table`, `table.jsonl` and `events`: anybody may watch the root."""
    told.nudges.follow_table(desk.table)
    await desk.spawn()
    words = await told.later(clock)
    assert {"mc:table", "mc:table.jsonl", "m:events"} == set(words)


async def test_changes_while_there_is_no_client_are_told_when_it_is_back(
    desk: Desk, told: Told, clock: MockClock
) -> None:
    """Who watches misses nothing: the last event of a file may be among these."""
    job = await desk.spawn()
    told.nudges.follow(job)
    told.own.gone = True
    desk.engine.stop(job.id)
    assert [] == await told.later(clock)
    told.own.gone = False
    told.own.came.ring()
    assert ["mc:1/status"] == await told.later(clock)


def test_a_touch_says_what_is_to_be_told() -> None:
    """As the own client takes it."""
    assert "mc:1/status" == Touch("1/status", modified=True, closed=True).word
    assert "m:events" == Touch("events", modified=True, closed=False).word
