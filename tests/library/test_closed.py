"""A table after its block, and what it was asked for before and not given any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import jobfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from jobfs import Feed, Job, Table, Task


async def ends(task: Task) -> None:
    """Ends by itself."""
    await task.stdout.write(b"output")


async def sleeps(_: Task) -> None:
    """Never ends by itself."""
    await trio.sleep_forever()


async def used_after(state: Path | None) -> tuple[Table, Job, Feed]:
    """A table that is closed, an ended job of its, and a feed."""
    async with jobfs.open_table(state) as table:
        job = table.start(ends, name="job")
        await job.wait()
        feed = table.register("feed", stdin=True)
    return table, job, feed


AFTER: list[Callable[[Table, Job], Awaitable[object]]] = [
    lambda table, _: table.spawn("true"),
    lambda _, job: job.restart(),
    lambda _, job: job.remove(),
    lambda table, job: table.remove(job),
    lambda table, _: table.clean(),
    lambda table, _: table.prune(0),
]


async def test_a_table_that_is_closed_starts_and_forgets_nothing() -> None:
    """An error of the family that says so."""
    table, job, _ = await used_after(None)
    with pytest.raises(jobfs.JobfsError, match="the table is closed"):
        table.start(sleeps)
    with pytest.raises(jobfs.JobfsError, match="the table is closed"):
        table.register("feed")
    for act in AFTER:
        with pytest.raises(jobfs.JobfsError, match="the table is closed"):
            await act(table, job)


async def test_a_table_that_is_closed_can_be_looked_at() -> None:
    """What its jobs were, and how much they have written; waiting is over, and there is nobody to be signalled."""
    table, job, feed = await used_after(None)
    assert ([job, feed.job], job, 0) == (table.jobs(), table["job"], table.running_count)
    assert ["done:0", "killed:15"] == [str(info.status) for info in table.infos()]
    assert ["done:0", "killed:15"] == [str(await each.wait()) for each in (job, feed.job)]
    assert [job, feed.job] == [each async for each in table.wait_all()]
    assert (6, True, 6) == (
        job.stdout.state.written,
        job.stdout.state.closed,
        (await job.stdout.wait_changed(9)).written,
    )
    assert "killed:15" == str(await feed.job.end())
    for act in (job.kill, job.stop, job.close_stdin, feed.job.kill):
        with pytest.raises(jobfs.JobEnded):
            await act()
    with pytest.raises(jobfs.StdinClosed):
        await feed.job.write(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await feed.stdout.write(b"x")


async def test_output_in_memory_goes_with_its_table() -> None:
    """To read it is StreamDamaged; of a job that has written nothing there is nothing to be read."""
    table, job, feed = await used_after(None)
    for read in (job.stdout.snapshot, lambda: job.stdout.read(0), table.events.snapshot):
        with pytest.raises(jobfs.StreamDamaged, match="removed"):
            read()
    with pytest.raises(jobfs.StreamDamaged, match="removed"):
        await anext(job.stdout.follow())
    assert 6 == job.stdout.state.written
    assert b"" == feed.job.stdout.snapshot().data == job.stderr.read(0)


async def test_output_in_a_state_is_still_read(tmp_path: Path) -> None:
    """Its files stay."""
    table, job, _ = await used_after(tmp_path / "state")
    assert (b"output", [b"output"]) == (job.stdout.snapshot().data, [data async for data in job.stdout.follow()])
    assert b'"ended"' in table.events.snapshot().data


async def test_who_follows_from_outside_learns_that_the_table_is_closed() -> None:
    """Tasks that outlive the block, and follow jobs, wait for them, or follow `events`, come to an end."""
    over: list[str] = []

    async def follow_events(table: Table, begun: trio.Event) -> None:
        async for _ in table.events.follow():
            begun.set()
        over.append("events")

    async def wait_for_events(table: Table) -> None:
        state = await table.events.wait_changed(1 << 40)
        over.append(f"closed {state.closed}")

    async def follow(job: Job) -> None:
        assert [] == [data async for data in job.stdout.follow()]
        over.append("job")

    async with trio.open_nursery() as nursery, jobfs.open_table() as table:
        job = table.start(sleeps)
        begun = trio.Event()
        nursery.start_soon(follow_events, table, begun)
        nursery.start_soon(wait_for_events, table)
        nursery.start_soon(follow, job)
        await begun.wait()
        await trio.testing.wait_all_tasks_blocked()
    assert ["closed True", "events", "job"] == sorted(over)
