"""Who is told that a stream grew, that a job changed, and that something was recorded; and what the engine is asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from jobfs.engines.base import Grown
from jobfs.errors import NoSuchJob
from jobfs.job import StreamView
from jobfs.stream import RingReader, RingWriter, StreamDamaged
from tests.unit.tables import Desk, desk_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jobfs.bell import Bell
    from jobfs.job import Job


class Watched:
    """A stream without an engine: `asked` are the offsets that somebody was to watch."""

    def __init__(self, place: Path) -> None:
        self.writer = RingWriter.create(place / "stream", 4096)
        self.asked: list[int] = []
        self.heard: list[str] = []
        self.view = StreamView(lambda: RingReader.open(place / "stream"), 4096, self.asked.append)

    def hear(self) -> None:
        """A listener."""
        self.heard.append("call")

    def close(self) -> None:
        """Lets go of the files."""
        self.writer.detach()
        self.view.freeze()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """A stream that has no byte yet."""
    it = Watched(tmp_path)
    yield it
    it.close()


# One stream


def test_a_stream_that_was_found_damaged_stays_that(
    watched: Watched, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its counts are unknown, opening it fails, also once the file is whole again, and the log says so once."""
    watched.writer.append(b"abc")
    assert (3, False) == (watched.view.state.written, watched.view.state.damaged)
    size = (tmp_path / "stream").stat().st_size
    os.truncate(tmp_path / "stream", 100)
    assert (True, "damaged: the file was cut") == (watched.view.state.damaged, watched.view.state.problem)
    os.truncate(tmp_path / "stream", size)
    for _ in range(2):
        assert watched.view.state.damaged
        with pytest.raises(StreamDamaged):
            watched.view.open()
    assert 1 == caplog.text.count("events is damaged and cannot be read: the file was cut")


def test_a_stream_that_nobody_listens_to_is_not_watched(watched: Watched) -> None:
    """Looking at it costs the engine nothing."""
    watched.writer.append(b"x")
    assert 1 == watched.view.state.written
    assert [] == watched.asked


def test_a_listener_is_told_once_when_the_stream_grew(watched: Watched) -> None:
    """Then it has to listen again."""
    watched.view.listen(0, watched.hear)
    assert ([0], []) == (watched.asked, watched.heard)
    watched.view.grew()
    watched.view.grew()
    assert ["call"] == watched.heard
    watched.view.listen(0, watched.hear)
    assert [0, 0] == watched.asked


def test_listeners_share_one_watch(watched: Watched) -> None:
    """Whoever listens past the same offset or a later one is told by the watch that is there; all are told."""
    watched.view.listen(5, watched.hear)
    watched.view.listen(5, lambda: watched.heard.append("second"))
    watched.view.listen(9, lambda: watched.heard.append("third"))
    assert [5] == watched.asked
    watched.view.grew()
    assert ["call", "second", "third"] == watched.heard


def test_a_listener_past_an_earlier_offset_has_that_watched(watched: Watched) -> None:
    """It might else not be told before the stream is past the later one."""
    watched.view.listen(9, watched.hear)
    watched.view.listen(5, watched.hear)
    assert [9, 5] == watched.asked


def test_who_no_longer_listens_is_not_told(watched: Watched) -> None:
    """`ignore` takes `listen` back."""
    watched.view.listen(0, watched.hear)
    watched.view.ignore(watched.hear)
    watched.view.grew()
    assert [] == watched.heard


def test_nothing_is_asked_of_a_stream_that_cannot_grow(watched: Watched) -> None:
    """A stream that is closed, or whose job was removed, is not watched."""
    watched.view.freeze()
    watched.view.listen(0, watched.hear)
    assert [] == watched.asked


def test_a_removal_tells_the_listeners_to_look(watched: Watched) -> None:
    """None will come: they find the stream closed."""
    watched.view.listen(0, watched.hear)
    watched.view.freeze()
    assert ["call"] == watched.heard
    assert watched.view.state.closed


async def test_a_task_waits_until_the_stream_grew(watched: Watched) -> None:
    """`wait_grown` returns once it is told, and asks for that."""
    returned = trio.Event()

    async def wait() -> None:
        await watched.view.wait_grown(7)
        returned.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert ([7], False) == (watched.asked, returned.is_set())
        watched.view.grew()
    assert returned.is_set()


async def test_a_task_that_gives_up_no_longer_listens(watched: Watched) -> None:
    """A cancelled wait leaves no listener behind."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await watched.view.wait_grown(0)
    watched.view.listen(0, watched.hear)
    watched.view.grew()
    assert ["call"] == watched.heard


# The table's jobs


class Ears:
    """Counts the rings of bells, listening again after each."""

    def __init__(self, **bells: Bell) -> None:
        self.count = dict.fromkeys(bells, 0)
        for name, bell in bells.items():
            self._listen(name, bell)

    def _listen(self, name: str, bell: Bell) -> None:
        def call() -> None:
            self.count[name] += 1
            bell.listen(call)

        bell.listen(call)

    def take(self) -> dict[str, int]:
        """The rings since the last time."""
        counted, self.count = self.count, dict.fromkeys(self.count, 0)
        return counted


def ears(desk: Desk, job: Job) -> Ears:
    """Listens to a job, to its table, and to what is recorded."""
    return Ears(job=job.bell, table=desk.table.bell, recorded=desk.table.recorded)


async def test_a_change_of_status_rings_the_jobs_bell_the_tables_and_that_of_events(desk: Desk) -> None:
    """A stop, a continue and the end are heard by all who listen, once each."""
    job = await desk.spawn()
    heard = ears(desk, job)
    for change in (desk.engine.stop, desk.engine.cont, desk.engine.exit):
        change(job.id)
        assert {"job": 1, "table": 1, "recorded": 1} == heard.take()


async def test_what_is_said_twice_rings_once(desk: Desk) -> None:
    """A job that is said to be stopped and is already changes nothing."""
    job = await desk.spawn()
    desk.engine.stop(job.id)
    heard = ears(desk, job)
    desk.engine.stop(job.id)
    assert {"job": 0, "table": 0, "recorded": 0} == heard.take()


async def test_jobs_that_come_and_go_ring_the_tables_bell_and_not_each_others(desk: Desk) -> None:
    """A bell of a job is that job's alone."""
    job = (await desk.ended(0))[0]
    heard = ears(desk, job)
    other = await desk.spawn()
    came = heard.take()
    assert 0 == came["job"]
    assert came["table"] >= 1
    assert came["recorded"] == 1
    desk.engine.exit(other.id)
    heard.take()
    await desk.table.remove([other])
    assert {"job": 0, "table": 1, "recorded": 1} == heard.take()


async def test_an_error_is_recorded_and_changes_no_job(desk: Desk) -> None:
    """`events` grows, and the table stays as it was."""
    job = await desk.spawn()
    heard = ears(desk, job)
    desk.table.report_error(NoSuchJob("no such job: 9"))
    assert {"job": 0, "table": 0, "recorded": 1} == heard.take()


async def test_bells_ring_when_the_new_state_is_there_to_be_seen(desk: Desk) -> None:
    """Who is called finds what it is called for: the status, and the event's line."""
    job = await desk.spawn()
    seen: list[object] = []
    job.bell.listen(lambda: seen.append(job.status.word))
    desk.table.recorded.listen(lambda: seen.append(desk.events()[-1]["event"]))
    desk.engine.exit(job.id, 3)
    assert ["failed:3", "ended"] == seen


# Streams of the table's jobs


async def test_output_is_told_to_who_listens_to_that_stream(desk: Desk) -> None:
    """A byte on `stdout` is no news of `stderr`, nor of another job, nor of any status."""
    job, other = await desk.spawn(), await desk.spawn()
    heard = ears(desk, job)
    told: list[str] = []
    for name, view in job.streams.items():
        view.listen(0, lambda name=name: told.append(name))  # type: ignore[misc]
    other.streams["stdout"].listen(0, lambda: told.append("other"))
    desk.engine.write(job.id, "stdout", b"x")
    assert ["stdout"] == told
    assert {"job": 0, "table": 0, "recorded": 0} == heard.take()


async def test_a_stream_is_told_past_what_the_listener_has_seen(desk: Desk) -> None:
    """Bytes that are there already are told at once; else the next ones are."""
    job = await desk.spawn()
    view = job.streams["stdout"]
    desk.engine.write(job.id, "stdout", b"abc")
    told: list[int] = []
    view.listen(3, lambda: told.append(view.state.written))
    assert [] == told
    desk.engine.write(job.id, "stdout", b"d")
    assert [4] == told
    view.listen(3, lambda: told.append(view.state.written))
    assert [4, 4] == told


async def test_news_of_a_stream_of_an_unknown_job_is_no_matter(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """It may have been removed while they were on their way."""
    desk.table.take(Grown(99, "stdout"))
    assert "" == caplog.text


async def test_the_end_of_a_job_is_told_to_who_listens_to_its_streams(desk: Desk) -> None:
    """Also of a stream that something it left behind still holds, and again when that lets go."""
    job = await desk.spawn()
    told: list[tuple[str, bool]] = []

    def listen() -> None:
        for name, view in job.streams.items():
            view.listen(0, lambda name=name, view=view: told.append((name, view.state.closed)))  # type: ignore[misc]

    listen()
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    assert [("stderr", True), ("stdout", False)] == sorted(told)
    told.clear()
    listen()
    desk.engine.close(job.id, "stdout")
    assert [("stdout", True)] == told


async def test_who_listens_is_told_to_look_when_the_engine_is_attached_anew(desk: Desk) -> None:
    """The engine has forgotten what was to be told: whoever listens again has it asked again."""
    job = await desk.spawn()
    view = job.streams["stdout"]
    told: list[int] = []
    view.listen(0, lambda: told.append(view.state.written))
    desk.engine.disconnect()
    desk.engine.write(job.id, "stdout", b"abc")
    assert [] == told
    await desk.table.attach_engine()
    assert [3] == told
    view.listen(3, lambda: told.append(view.state.written))
    desk.engine.write(job.id, "stdout", b"d")
    assert [3, 4] == told


async def test_a_stream_that_grew_while_nobody_was_attached_is_looked_at_after_a_restart(tmp_path: Path) -> None:
    """A new table's listeners start from what is there."""
    async with desk_in(tmp_path) as desk:
        job = await desk.spawn()
        desk.engine.write(job.id, "stdout", b"abc")
        await desk.restart()
        again = desk.table.jobs()[0]
        told: list[int] = []
        again.streams["stdout"].listen(0, lambda: told.append(again.streams["stdout"].state.written))
        assert [3] == told
