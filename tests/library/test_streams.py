"""The output of jobs: bounded, with absolute offsets, to be read, waited for and followed."""

from __future__ import annotations

import gc
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

import jobfs
from tests.descriptors import descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from jobfs import Feed, StreamReader, Table, Task

LIMIT = 4096  # the smallest capacity
FULL = "cannot be written: No space left on device: the job waits when it writes"


@pytest.fixture
def feed(table: Table) -> Feed:
    """A job of the smallest capacity, to be written to."""
    return table.register("feed", limit=LIMIT)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2M,mode=700", "jobfs-test", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def make_room(disk: Path) -> None:
    """It is a disk of 40 MiB."""
    await trio.run_process(["mount", "-o", "remount,size=40M", str(disk)])


async def collect(stream: StreamReader, into: list[bytes], offset: int = 0) -> None:
    """Follows it to its end."""
    async for data in stream.follow(offset):
        into.append(data)  # noqa: PERF401 - one by one, to be looked at meanwhile


async def test_the_counts(feed: Feed) -> None:
    """What was written, what is retained of it, what was dropped; `closed` once the job has ended."""
    stream = feed.job.stdout
    assert (0, 0, 0, 0, LIMIT, False) == counts(stream)
    await feed.stdout.write(b"x" * 1000)
    assert (1000, 0, 1000, 0, LIMIT, False) == counts(stream)
    await feed.stdout.write(b"x" * 4000)
    assert (5000, 904, LIMIT, 904, LIMIT, False) == counts(stream)
    await feed.finish()
    assert (5000, 904, LIMIT, 904, LIMIT, True) == counts(stream)
    assert (5000, True) == (feed.stdout.written, feed.stdout.closed)


def counts(stream: StreamReader) -> tuple[int, int, int, int, int, bool]:
    """All that `state` says."""
    state = stream.state
    return state.written, state.start, state.retained, state.dropped, state.capacity, state.closed


async def test_offsets_are_absolute(feed: Feed) -> None:
    """A byte is read at the offset it was written at, as long as it is retained; then it is Evicted."""
    stream = feed.job.stdout
    written = bytes(range(256)) * 100
    for at in range(0, len(written), 1000):
        await feed.stdout.write(written[at : at + 1000])
        start = stream.state.start
        assert (start, written[start : at + 1000]) == stream.snapshot()
        assert written[start : start + 10] == stream.read(start, 10)
        assert written[start + 100 : at + 1000] == stream.read(start + 100)
        if start:
            with pytest.raises(jobfs.Evicted) as evicted:
                stream.read(start - 1, 1)
            assert start == evicted.value.oldest


async def test_reading_at_the_end_and_past_it(feed: Feed) -> None:
    """Fewer bytes than were asked for, or none; negative offsets are a ValueError."""
    stream = feed.job.stdout
    assert (b"", b"", (0, b"")) == (stream.read(0), stream.read(100, 5), stream.snapshot())
    await feed.stdout.write(b"hello")
    assert [b"hello", b"lo", b"lo", b"", b"", b""] == [
        stream.read(0),
        stream.read(3),
        stream.read(3, 100),
        stream.read(5),
        stream.read(100),
        stream.read(0, 0),
    ]
    with pytest.raises(ValueError, match="offset: -1"):
        stream.read(-1)
    with pytest.raises(ValueError, match="offset: -1"):
        stream.follow(-1)


async def test_more_than_the_capacity_at_once(table: Table) -> None:
    """All is counted, and the newest bytes are kept."""
    feed = table.register("feed", limit=LIMIT)
    data = os.urandom(3_000_000)
    await feed.stdout.write(data)
    feed.stderr.write_nowait(data)
    for stream in (feed.job.stdout, feed.job.stderr):
        assert (len(data), LIMIT) == (stream.state.written, stream.state.retained)
        assert (len(data) - LIMIT, data[-LIMIT:]) == stream.snapshot()


async def test_writing_nothing(table: Table) -> None:
    """It is a checkpoint, and makes no file."""
    feed = table.register("feed")
    await feed.stdout.write(b"")
    feed.stdout.write_nowait(b"")
    assert (0, []) == (feed.stdout.written, list((table.parts.state / "jobs").iterdir()))


async def test_writing_after_the_end(table: Table) -> None:
    """trio.ClosedResourceError, whoever kept the task."""
    kept: list[Task] = []

    async def end(task: Task) -> None:
        await task.stdout.write(b"x")
        kept.append(task)

    job = table.start(end)
    await job.wait()
    assert (True, 1) == (kept[0].stdout.closed, kept[0].stdout.written)
    with pytest.raises(trio.ClosedResourceError):
        await kept[0].stdout.write(b"x")
    with pytest.raises(trio.ClosedResourceError):
        kept[0].stdout.write_nowait(b"x")
    await job.remove()
    assert 1 == kept[0].stdout.written


async def test_waiting_for_more(feed: Feed) -> None:
    """Returns at once where there is more than `since`; else when that is written, and not before."""
    stream = feed.job.stdout
    await feed.stdout.write(b"12345")
    assert 5 == (await stream.wait_changed(0)).written
    assert 5 == (await stream.wait_changed(-1)).written
    seen: list[int] = []

    async def wait(since: int) -> None:
        seen.append((await stream.wait_changed(since)).written)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 5)
        nursery.start_soon(wait, 7)
        nursery.start_soon(wait, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert [] == seen
        for written in ([6], [6], [6, 8], [6, 8]):
            await feed.stdout.write(b"x")
            await trio.testing.wait_all_tasks_blocked()
            assert written == seen
        await feed.finish()
    assert [6, 8, 9] == seen


async def test_waiting_for_more_of_a_job_that_never_writes(table: Table) -> None:
    """It ends, and whoever waits is told; later it is told at once."""
    feed = table.register("feed")

    async def wait(stream: StreamReader) -> None:
        state = await stream.wait_changed(0)
        assert (0, True) == (state.written, state.closed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, feed.job.stdout)
        nursery.start_soon(wait, feed.job.stderr)
        await trio.testing.wait_all_tasks_blocked()
        await feed.finish()
    await wait(feed.job.stdout)


async def test_following(feed: Feed) -> None:
    """Everything comes as it is written, once, to the end of the job; also from an offset, and afterwards."""
    early: list[bytes] = []
    late: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, feed.job.stdout, early)
        nursery.start_soon(collect, feed.job.stdout, late, 7)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await feed.stdout.write(b"hello\n")
        await trio.testing.wait_all_tasks_blocked()
        assert [b"hello\n"] * 3 == early
        feed.stdout.write_nowait(b"end")
        await feed.finish(1)
    after: list[bytes] = []
    await collect(feed.job.stdout, after)
    all_of_it = b"hello\nhello\nhello\nend"
    assert [all_of_it, all_of_it[7:], all_of_it] == [b"".join(read) for read in (early, late, after)]


async def test_following_a_job_that_never_writes(table: Table) -> None:
    """It ends with the job, and goes on being over."""
    feed = table.register("feed")
    read: list[bytes] = []
    followed = feed.job.stdout.follow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, feed.job.stdout, read)
        await trio.testing.wait_all_tasks_blocked()
        await feed.finish()
    assert [] == read == [data async for data in followed] == [data async for data in followed]


async def test_a_follower_that_is_outrun(feed: Feed) -> None:
    """What was evicted is skipped, to the start of a line, and the rest comes whole."""
    followed = feed.job.stdout.follow()
    await feed.stdout.write(b"first\n")
    assert b"first\n" == await anext(followed)
    lines = [b"%06d\n" % number for number in range(200_000)]
    await feed.stdout.write(b"".join(lines))
    await feed.finish()
    rest = b"".join([data async for data in followed])
    assert rest.splitlines(keepends=True) == lines[-rest.count(b"\n") :]
    assert LIMIT - 7 <= len(rest) <= LIMIT


async def test_following_from_evicted_bytes_on(feed: Feed) -> None:
    """It begins at the oldest line that is retained whole."""
    await feed.stdout.write(b"".join(b"%06d\n" % number for number in range(1000)))
    await feed.finish()
    data = b"".join([data async for data in feed.job.stdout.follow(3)])
    assert (b"000999\n", 0) == (data[-7:], len(data) % 7)


async def test_following_from_an_offset_that_is_still_to_come(feed: Feed) -> None:
    """What is written before it is passed over."""
    read: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, feed.job.stdout, read, 8)
        for _ in range(4):
            await trio.testing.wait_all_tasks_blocked()
            await feed.stdout.write(b"12345")
        await feed.finish()
    assert b"451234512345" == b"".join(read)


async def test_a_follower_may_go_at_any_time(feed: Feed) -> None:
    """What it had open is closed with it; one that was cancelled can go on."""
    await feed.stdout.write(b"one")
    _ = feed.job.stdout.state
    before = descriptors()
    async for data in feed.job.stdout.follow():
        assert b"one" == data
        break
    gc.collect()
    assert before == descriptors()
    followed = feed.job.stdout.follow()
    assert b"one" == await anext(followed)
    with trio.move_on_after(0) as scope:
        await anext(followed)
    assert scope.cancelled_caught
    await feed.stdout.write(b"two")
    assert b"two" == await anext(followed)
    await feed.finish()
    assert [] == [data async for data in followed]
    gc.collect()
    assert len(before) > len(descriptors())


async def test_a_snapshot_while_it_is_written(table: Table) -> None:
    """It is of one moment: consecutive bytes, of which the last is the newest one."""
    over = trio.Event()

    async def write(task: Task) -> None:
        number = 0
        while not over.is_set():
            await task.stdout.write(b"%08d" % number)
            number += 1

    job = table.start(write, limit=LIMIT)
    for _ in range(50):
        await job.stdout.wait_changed(job.stdout.state.written)
        start, data = job.stdout.snapshot()
        first = start // 8
        whole = b"".join(b"%08d" % number for number in range(first, first + 600))
        assert whole[start % 8 :].startswith(data)
        assert start + len(data) == job.stdout.state.written
    over.set()
    await job.wait()


async def test_the_output_of_processes_is_read_the_same_way(table: Table) -> None:
    """Its last bytes are there when it has ended."""
    job = await table.spawn("echo out; echo err >&2")
    followed = [data async for data in job.stdout.follow()]
    await job.wait()
    assert [b"out\n"] == followed
    assert (b"out\n", b"err\n") == (job.stdout.snapshot().data, job.stderr.snapshot().data)


async def test_many_follow_one(feed: Feed) -> None:
    """Each gets all of it."""
    read: list[list[bytes]] = [[] for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for into in read:
            nursery.start_soon(collect, feed.job.stdout, into)
        for _ in range(100):
            await feed.stdout.write(b"0123456789")
        await feed.finish()
    assert [b"0123456789" * 100] * 20 == [b"".join(into) for into in read]


@pytest.fixture
async def on_small_disk(small_disk: Path) -> AsyncIterator[Table]:
    """A table whose state is on it."""
    async with jobfs.open_table(small_disk / "state") as table:
        yield table


async def test_a_full_disk(on_small_disk: Table, small_disk: Path) -> None:
    """Who writes waits, and `info` says so; it mends itself, and nothing is lost."""
    table = on_small_disk
    data = os.urandom(3_000_000)

    async def write(task: Task) -> None:
        await task.stdout.write(data)

    job, other = table.start(write), table.start(write)
    while [FULL, FULL] != [info.stdout.problem for info in table.infos()]:  # noqa: ASYNC110 - nobody tells
        await trio.sleep(0.01)
    feed = table.register("feed")
    with pytest.raises(OSError, match="No space left"):
        feed.stdout.write_nowait(data)
    assert 0 == feed.stdout.written
    assert "killed:15" == str(await other.end())
    assert other.info().stdout.problem is None
    await make_room(small_disk)
    assert "done:0" == str(await job.wait())
    assert (data, None) == (job.stdout.snapshot().data, job.info().stdout.problem)


async def test_a_write_that_is_given_up_on_a_full_disk(on_small_disk: Table) -> None:
    """Nobody waits any more, and `info` says nothing of it."""
    table = on_small_disk
    given_up = trio.Event()

    async def write(task: Task) -> None:
        with trio.move_on_after(0.01):
            await task.stdout.write(bytes(1_000_000))
            await task.stdout.write(bytes(1_000_000))
            await task.stdout.write(bytes(1_000_000))
        given_up.set()
        await trio.sleep_forever()

    job = table.start(write)
    await given_up.wait()
    assert job.info().stdout.problem is None


async def test_a_block_can_be_left_on_a_full_disk(small_disk: Path) -> None:
    """What its jobs wrote last is lost then, and nobody waits for room."""
    async with jobfs.open_table(small_disk / "state") as table:
        job = await table.spawn(["cat", "/dev/zero"])
        while job.info().stdout.problem is None:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)
    assert "killed:15" == str(job.status)


async def test_a_traceback_on_a_full_disk(on_small_disk: Table, small_disk: Path) -> None:
    """The job ends when it is kept, or when somebody ends it."""
    table = on_small_disk

    async def crash(task: Task) -> None:
        with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - it takes some
            while True:
                task.stdout.write_nowait(bytes(4096))
        raise ValueError("mine")

    waits, killed = table.start(crash), table.start(crash)
    while [FULL, FULL] != [info.stderr.problem for info in table.infos()]:  # noqa: ASYNC110 - nobody tells
        await trio.sleep(0.01)
    assert "failed:1" == str(await killed.end())
    assert "running" == str(waits.status)
    await make_room(small_disk)
    assert "failed:1" == str(await waits.wait())
    assert waits.stderr.snapshot().data.endswith(b"ValueError: mine\n")
    assert b"" == killed.stderr.snapshot().data
