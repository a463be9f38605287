"""A program that uses all of the trio library, with the types that it documents; checked by mypy, and never run."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import assert_type

import trio

import jobfs
import mount


async def crawl(task: jobfs.Task, pages: int, where: str = "/") -> int:
    """A job with arguments."""
    assert_type(task.id, int)
    assert_type(task.name, str | None)
    assert_type(task.stdout, jobfs.StreamWriter)
    assert_type(task.stderr, jobfs.StreamWriter)
    assert_type(task.stdin, trio.abc.ReceiveStream)
    assert_type(task.stopped, bool)
    assert_type(await task.run_process("make", cwd=Path("/src"), env={"CC": "clang"}), int)
    assert_type(await task.run_process(["make", "-j8"], cwd="/src"), int)
    task.add_process(pages)
    await task.checkpoint()
    with task.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        assert_type(signals, AsyncIterator[int])
    await use_writer(task.stdout)
    return len(where)


async def forever(task: jobfs.Task) -> None:
    """A job without."""
    await task.stdout.write(b"on and on\n")


async def use_writer(writer: jobfs.StreamWriter) -> None:
    """Everything that a StreamWriter has."""
    await writer.write(b"data")
    writer.write_nowait(b"data")
    assert_type((writer.written, writer.capacity, writer.closed), tuple[int, int, bool])


async def use_reader(reader: jobfs.StreamReader) -> bytes:
    """Everything that a StreamReader has."""
    state = assert_type(reader.state, jobfs.StreamState)
    assert_type(await reader.wait_changed(state.written), jobfs.StreamState)
    snapshot = assert_type(reader.snapshot(), jobfs.Snapshot)
    assert_type((snapshot.start, snapshot.data), tuple[int, bytes])
    assert_type(reader.follow(), AsyncIterator[bytes])
    async for piece in reader.follow(snapshot.start):
        return assert_type(piece, bytes)
    try:
        return reader.read(0)
    except jobfs.Evicted as gap:
        return reader.read(gap.oldest, 100)


async def use_table(table: jobfs.Table) -> list[jobfs.Job]:
    """Everything that a Table has."""
    assert_type(table.start(crawl, 10, "/start"), jobfs.Job)
    assert_type(table.start(forever, name="f", command="f", stdin=True, limit="1M", timeout=1.5, grace="2s"), jobfs.Job)
    assert_type(await table.spawn("make"), jobfs.Job)
    job = await table.spawn(
        ("make", "-j8"),
        name="build",
        cwd=Path("/src"),
        env={"CC": "clang"},
        stdin="pipe",
        limit=4096,
        timeout="5m",
        grace=1,
        nice=10,
        pty=False,
        umask=0o022,
    )
    assert_type(table.register("a"), jobfs.Feed)
    feed = table.register("a | b", name="p", stdin=True, limit="1M", process=1, stopped=True)
    await feed.finish(-signal.SIGTERM)
    feed.finish_nowait()
    await feed.stdout.write(b"data")
    assert_type(feed.job, jobfs.Job)
    assert_type(table[1], jobfs.Job)
    assert_type(table["build"], jobfs.Job)
    assert_type(table.get("build"), jobfs.Job | None)
    assert_type(3 in table and "build" in table, bool)
    assert_type(iter(table), Iterator[jobfs.Job])
    assert_type((len(table), table.running_count, table.ids()), tuple[int, int, list[int]])
    assert_type(table.infos(), list[jobfs.JobInfo])
    assert_type((table.last, table.last_stopped), tuple[jobfs.Job | None, jobfs.Job | None])
    assert_type(table.events, jobfs.StreamReader)
    assert_type(table.wait_all(), AsyncIterator[jobfs.Job])
    async for ended in table.wait_all([job]):
        assert_type(ended, jobfs.Job)
    await table.remove(job, feed.job)
    await table.clean()
    await table.prune(10)
    await table.prune(10, keep_bytes=1 << 20)
    return table.jobs()


async def use_job(job: jobfs.Job) -> jobfs.Status:
    """Everything that a Job has."""
    assert_type((job.id, job.name, job.command, job.pid), tuple[int, str | None, str, int | None])
    assert_type((job.status, job.ended), tuple[jobfs.Status, bool])
    assert_type(job.info(), jobfs.JobInfo)
    assert_type((job.stdout, job.stderr), tuple[jobfs.StreamReader, jobfs.StreamReader])
    assert_type(await job.wait(), jobfs.Status)
    assert_type(job.wait_nowait(), jobfs.Status)
    assert_type(await job.wait_changed(job.status), jobfs.Status)
    await job.signal(signal.SIGUSR1)
    await job.stop()
    await job.cont()
    await job.kill()
    await job.kill(grace=1.5)
    assert_type(await job.end(2), jobfs.Status)
    await job.write(b"input\n")
    await job.close_stdin()
    await job.resize(24, 80)
    assert_type(await job.restart(), jobfs.Job)
    await job.remove()
    return job.status


def use_values(info: jobfs.JobInfo) -> list[object]:
    """What is frozen."""
    assert_type(info.status.state, jobfs.State)
    assert_type(info.spec, jobfs.JobSpec)
    assert_type(info.spec.writer, jobfs.Writer)
    assert_type(info.usage, jobfs.Usage)
    assert_type(info.stdout.dropped, int)
    return [info.status.state is jobfs.State.RUNNING, str(info.status)]


async def main() -> None:
    """Where it begins."""
    try:
        async with jobfs.open_table(Path("state"), keep=10, keep_bytes=1 << 20) as kept:
            await use_table(kept)
        async with jobfs.open_table() as table, mount.mounted(table, "jobs") as point:
            assert_type(point, Path)
            for job in table:
                await use_job(job)
                await use_reader(job.stdout)
                use_values(job.info())
    except (
        jobfs.BadCommand,
        jobfs.NameTaken,
        jobfs.MachineError,
        jobfs.EngineGone,
        jobfs.NoSuchJob,
        jobfs.SpawnFailed,
    ) as error:
        assert_type(error.errno, int)
    except (jobfs.JobAlive, jobfs.JobEnded, jobfs.StdinClosed, jobfs.JobfsError):
        pass
    except (jobfs.StateUnusable, jobfs.StreamDamaged, mount.MountpointUnusable):
        pass
