"""The table: looking jobs up, waiting for several, names, removing, pruning, several tables."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

import jobfs
from jobfs.engines.inprocess.function import FunctionJob
from tests.descriptors import descriptors

if TYPE_CHECKING:
    from jobfs import Job, Table, Task


async def ends(task: Task, code: int = 0) -> int:
    """Ends with that."""
    await task.checkpoint()
    return code


async def sleeps(_: Task) -> None:
    """Never ends by itself."""
    await trio.sleep_forever()


async def waits(_: Task, event: trio.Event) -> None:
    """Ends when that has happened."""
    await event.wait()


async def ids_of(table: Table, jobs: list[Job] | None = None) -> list[int]:
    """The order in which jobs come out of `wait_all`."""
    return [job.id async for job in table.wait_all(jobs)]


async def test_looking(table: Table) -> None:
    """Jobs are found by id and by name, and listed oldest first."""
    assert ([], 0, None, None) == (table.jobs(), len(table), table.last, table.last_stopped)
    one, two = table.start(ends, name="one"), table.start(sleeps)
    assert [one, two] == table.jobs() == list(table)
    assert (2, [1, 2], 2, two) == (len(table), table.ids(), table.running_count, table.last)
    assert (one, two, one, None) == (table["one"], table[2], table.get("one"), table.get("two"))
    assert [True, True, False, False] == [key in table for key in (1, "one", 3, "1")]
    for key in (3, "two"):
        with pytest.raises(jobfs.NoSuchJob, match=f"no such job: {key}"):
            _ = table[key]
    await one.wait()
    assert (1, ["done:0", "running"]) == (table.running_count, [str(info.status) for info in table.infos()])
    assert {one: 1, two: 2} == {table[1]: 1, table[2]: 2}


async def test_waiting_for_one(table: Table) -> None:
    """`wait_nowait` is WouldBlock as long as the job has not ended."""
    over = trio.Event()
    job = table.start(waits, over)
    with pytest.raises(trio.WouldBlock):
        job.wait_nowait()
    assert not job.ended
    over.set()
    assert await job.wait() == job.wait_nowait() == await job.wait_changed(job.status)
    assert job.ended


async def test_wait_all_gives_jobs_in_the_order_of_their_ends(table: Table) -> None:
    """Those that ended before come first."""
    events = [trio.Event() for _ in range(4)]
    jobs = [table.start(waits, event) for event in events]
    for index in (2, 0):
        events[index].set()
        await jobs[index].wait()
    order: list[int] = []

    async def watch() -> None:
        order.extend(await ids_of(table))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for index in (3, 1):
            await trio.testing.wait_all_tasks_blocked()
            events[index].set()
    assert [3, 1, 4, 2] == order
    assert [3, 1, 4, 2] == await ids_of(table)


async def test_a_slow_consumer_misses_no_end(table: Table) -> None:
    """What ends while it is busy with another one comes next, in order, stops and continuations notwithstanding."""
    events = [trio.Event() for _ in range(4)]
    jobs = [table.start(waits, event) for event in events]
    order = []
    events[3].set()
    async for job in table.wait_all(jobs):
        order.append(job.id)
        if len(order) == 1:
            await jobs[0].stop()
            await jobs[0].cont()
            for index in (1, 0, 2):
                events[index].set()
                await jobs[index].wait()
    assert [4, 2, 1, 3] == order


async def test_many_that_end_at_once(table: Table) -> None:
    """Each comes once."""
    over = trio.Event()
    for _ in range(100):
        table.start(waits, over)
    waited = table.wait_all()
    over.set()
    assert table.ids() == sorted([job.id async for job in waited])


async def test_wait_all_of_nothing_and_of_one_twice(table: Table) -> None:
    """Nothing is over at once; a job that is named twice comes once."""
    assert [] == await ids_of(table)
    job = table.start(ends)
    assert [] == await ids_of(table, [])
    assert [1] == await ids_of(table, [job, job, table[1]])


async def test_wait_all_knows_the_jobs_of_the_moment_it_was_called(table: Table) -> None:
    """Later ones are not waited for, and one that was removed meanwhile still comes."""
    first = table.start(ends)
    waited = table.wait_all()
    table.start(sleeps)
    await first.wait()
    await first.remove()
    assert [1] == [job.id async for job in waited]


async def test_wait_all_can_be_left_half_way_or_cancelled(table: Table) -> None:
    """Nobody listens to the jobs any more when it is dropped; after a cancellation it can be gone on with."""
    over = trio.Event()
    jobs = [table.start(waits, over), table.start(ends)]
    async for job in table.wait_all():
        assert jobs[1] == job
        break
    assert not jobs[0].inner.bell
    waited = table.wait_all()
    assert jobs[1] == await anext(waited)
    with trio.move_on_after(0) as scope:
        await anext(waited)
    assert scope.cancelled_caught
    over.set()
    assert jobs[:1] == [job async for job in waited]


async def test_names(table: Table) -> None:
    """A name is one living job's; a later one takes it over from one that has ended, and keeps it."""
    first = table.start(ends, name="n")
    for again in (lambda: table.start(ends, name="n"), lambda: table.register("x", name="n")):
        with pytest.raises(jobfs.NameTaken):
            again()
    with pytest.raises(jobfs.NameTaken):
        await table.spawn("true", name="n")
    await first.wait()
    assert first == table["n"]
    second = table.start(sleeps, name="n")
    assert (second, "n", "n") == (table["n"], first.name, second.name)
    await first.remove()
    assert second == table["n"]
    await second.end()
    await second.remove()
    assert table.get("n") is None


async def test_removing(table: Table) -> None:
    """Ended jobs are forgotten, all or none; what they were stays to be seen, and their output is gone."""
    feed, alive = table.register("feed"), table.start(sleeps)
    await feed.stdout.write(b"output")
    silent = table.start(ends, 3)
    await feed.finish()
    await silent.wait()
    with pytest.raises(jobfs.JobAlive, match="job 2 is running"):
        await table.remove(feed.job, alive, silent)
    with pytest.raises(jobfs.JobAlive):
        await alive.remove()
    assert [1, 2, 3] == table.ids()
    await table.remove(feed.job, silent)
    await feed.job.remove()
    assert [2] == table.ids()
    assert ("done:0", 6, "failed:3") == (str(feed.job.info().status), feed.job.stdout.state.written, str(silent.status))
    with pytest.raises(jobfs.StreamDamaged, match="removed"):
        feed.job.stdout.snapshot()
    with pytest.raises(jobfs.StreamDamaged, match="removed"):
        feed.job.stdout.read(0)
    with pytest.raises(jobfs.StreamDamaged, match="removed"):
        await anext(feed.job.stdout.follow())
    assert b"" == silent.stdout.snapshot().data
    with pytest.raises(jobfs.JobEnded):
        await feed.job.kill()


async def test_cleaning(table: Table) -> None:
    """`clean` forgets all that have ended, and ids are never given again."""
    for _ in range(3):
        await table.start(ends).wait()
    alive = table.start(sleeps)
    await table.clean()
    await table.clean()
    assert ([alive], 5) == (table.jobs(), table.start(ends).id)


async def test_pruning(table: Table) -> None:
    """The oldest ended ones go first, by their number and by the size of their output."""
    alive = table.start(sleeps)
    for _ in range(5):
        feed = table.register("feed")
        await feed.stdout.write(b"x" * 1000)
        await feed.finish()
    await table.prune(100)
    assert [1, 2, 3, 4, 5, 6] == table.ids()
    await table.prune(4)
    assert [1, 3, 4, 5, 6] == table.ids()
    await table.prune(100, 2500)
    assert [1, 5, 6] == table.ids()
    await table.prune(0)
    assert [alive] == table.jobs()


async def test_events(table: Table) -> None:
    """What happened is in `events`, as lines of JSON."""
    since = table.events.state.written
    job = table.start(sleeps, name="n")
    await job.stop()
    await job.cont()
    await job.end()
    state = await table.events.wait_changed(since)
    told = [json.loads(line) for line in table.events.read(since, state.written - since).splitlines()]
    assert ["started", "stopped", "continued", "ended"] == [event["event"] for event in told]
    assert {(1, "n")} == {(event["id"], event["name"]) for event in told}
    since = state.written
    await job.remove()
    assert since < (await table.events.wait_changed(since)).written


async def test_tables_are_their_own(table: Table) -> None:
    """Any number can be open, each with ids and names of its own; the end of one is nothing to the others."""
    async with jobfs.open_table() as other, jobfs.open_table() as third:
        mine, theirs = table.start(sleeps, name="n"), other.start(sleeps, name="n")
        assert (1, 1, False) == (mine.id, theirs.id, mine == theirs)
        assert [] == third.jobs()
        done = third.start(ends)
        assert [done] == [job async for job in other.wait_all([done])]
    assert ("running", "killed:15") == (str(mine.status), str(theirs.status))


async def test_a_thousand_functions_at_once(table: Table) -> None:
    """They all run, write, and end with what they returned."""
    together = trio.Event()

    async def work(task: Task, number: int) -> int:
        await together.wait()
        await task.stdout.write(b"%d\n" % number)
        return number % 256

    jobs = [table.start(work, number) for number in range(1000)]
    assert 1000 == table.running_count
    together.set()
    ended = {job async for job in table.wait_all()}
    assert set(jobs) == ended
    assert [number % 256 for number in range(1000)] == [job.status.code for job in jobs]
    assert [b"%d\n" % number for number in range(1000)] == [job.stdout.snapshot().data for job in jobs]


def functions() -> int:
    """How many jobs are in memory that are functions."""
    gc.collect()
    return sum(isinstance(thing, FunctionJob) for thing in gc.get_objects())


@pytest.mark.timeout(240)
async def test_thousands_one_after_the_other() -> None:
    """Only those are kept that are to be: in the table, in memory, and as files, open or not."""
    before = functions()
    async with jobfs.open_table(keep=100) as table:
        open_then: list[str] = []
        for number in range(1, 3001):
            if number % 10:
                await table.start(ends, number % 256).wait()
            else:
                feed = table.register("feed")
                feed.stdout.write_nowait(b"x")
                await feed.finish()
            if number == 1000:
                open_then = descriptors()
        while functions() > before + 100:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)
        assert list(range(2901, 3001)) == table.ids()
        assert 10 == len(list((table.parts.state / "jobs").glob("*.stdout")))
        assert open_then == descriptors()


async def test_what_is_no_function_is_refused_at_once() -> None:
    """A coroutine, above all: the function and its arguments are wanted."""
    async with jobfs.open_table() as table:
        coroutine = ends(None, 0)  # type: ignore[arg-type]
        for mistake in (coroutine, "echo hi", None):
            with pytest.raises(TypeError, match="start takes a function"):
                table.start(mistake)  # type: ignore[arg-type]
        coroutine.close()
        assert [] == table.ids()


@pytest.mark.parametrize("bounds", [{"keep": -1}, {"keep": "many"}, {"keep_bytes": "1G"}])
async def test_bounds_that_are_none_are_refused(bounds: dict[str, int]) -> None:
    """Before anything is opened."""
    with pytest.raises(jobfs.BadCommand, match="a number from 0 on"):
        async with jobfs.open_table(**bounds):  # type: ignore[arg-type]
            pass


async def test_another_thread_is_refused() -> None:
    """And nothing is harmed: it is not taken for damage of the state."""
    async with jobfs.open_table() as table:
        for attempt in (lambda: table.register("x"), lambda: table.start(ends, 0)):
            with pytest.raises(RuntimeError, match=r"jobfs\.sync"):
                await trio.to_thread.run_sync(attempt)
        assert [] == table.ids()


def test_without_trio_it_says_what_to_use() -> None:
    """As in a program that runs asyncio."""

    async def wrong() -> None:
        async with jobfs.open_table():
            pass

    with pytest.raises(RuntimeError, match=r"jobfs\.sync"):
        asyncio.run(wrong())
