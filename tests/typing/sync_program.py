"""A program that uses all of `jobfs.sync`, with the types that it documents; checked by mypy, and never run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import jobfs
import mount
from jobfs import sync


def crawl(task: sync.Task, pages: int, where: str = "/") -> int:
    """A job with arguments."""
    assert_type(task.id, int)
    assert_type(task.name, str | None)
    assert_type(task.stdout, sync.StreamWriter)
    assert_type(task.stderr, sync.StreamWriter)
    assert_type((task.stopped, task.cancelled), tuple[bool, bool])
    assert_type(task.run_process("make", cwd=Path("/src"), env={"CC": "clang"}), int)
    assert_type(task.run_process(["make", "-j8"], cwd="/src"), int)
    task.add_process(pages)
    try:
        task.checkpoint()
    except sync.Cancelled:
        use_writer(task.stdout)
        raise
    return len(where) + use_stdin(task.stdin)


def forever(task: sync.Task) -> None:
    """A job without."""
    task.stdout.write(b"on and on\n")


def use_writer(writer: sync.StreamWriter) -> None:
    """Everything that a StreamWriter has."""
    writer.write(b"data")
    writer.write_nowait(b"data")
    assert_type((writer.written, writer.capacity, writer.closed), tuple[int, int, bool])


def use_stdin(stdin: sync.StdinReader) -> int:
    """Everything that a StdinReader has."""
    assert_type(stdin.receive_some(), bytes)
    assert_type(stdin.receive_some(max_bytes=1), bytes)
    return sum(len(piece) for piece in stdin)


def use_reader(reader: sync.StreamReader) -> bytes:
    """Everything that a StreamReader has."""
    state = assert_type(reader.state, jobfs.StreamState)
    assert_type(reader.wait_changed(state.written), jobfs.StreamState)
    assert_type(reader.wait_changed(state.written, timeout=1), jobfs.StreamState)
    snapshot = assert_type(reader.snapshot(), jobfs.Snapshot)
    assert_type(reader.follow(), Iterator[bytes])
    for piece in reader.follow(snapshot.start):
        return assert_type(piece, bytes)
    try:
        return reader.read(0)
    except jobfs.Evicted as gap:
        return reader.read(gap.oldest, 100)


def use_table(table: sync.Table) -> list[sync.Job]:
    """Everything that a Table has."""
    assert_type(table.start(crawl, 10, "/start"), sync.Job)
    assert_type(table.start(forever, name="f", command="f", stdin=True, limit="1M", timeout=1.5, grace="2s"), sync.Job)
    assert_type(table.spawn("make"), sync.Job)
    job = table.spawn(
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
    assert_type(table.register("a"), sync.Feed)
    feed = table.register("a | b", name="p", stdin=True, limit="1M", process=1, stopped=True)
    feed.finish(-signal.SIGTERM)
    feed.finish_nowait()
    feed.stdout.write(b"data")
    assert_type(feed.job, sync.Job)
    assert_type(table[1], sync.Job)
    assert_type(table["build"], sync.Job)
    assert_type(table.get("build"), sync.Job | None)
    assert_type(3 in table and "build" in table, bool)
    assert_type(iter(table), Iterator[sync.Job])
    assert_type((len(table), table.running_count, table.ids()), tuple[int, int, list[int]])
    assert_type(table.infos(), list[jobfs.JobInfo])
    assert_type((table.last, table.last_stopped), tuple[sync.Job | None, sync.Job | None])
    assert_type(table.events, sync.StreamReader)
    assert_type(table.wait_all(), Iterator[sync.Job])
    assert_type(next(table.wait_all([job])), sync.Job)
    table.remove(job, feed.job)
    table.clean()
    table.prune(10)
    table.prune(10, keep_bytes=1 << 20)
    return table.jobs()


def use_job(job: sync.Job) -> jobfs.Status:
    """Everything that a Job has."""
    assert_type((job.id, job.name, job.command, job.pid), tuple[int, str | None, str, int | None])
    assert_type((job.status, job.ended), tuple[jobfs.Status, bool])
    assert_type(job.info(), jobfs.JobInfo)
    assert_type((job.stdout, job.stderr), tuple[sync.StreamReader, sync.StreamReader])
    assert_type(job.wait(), jobfs.Status)
    assert_type(job.wait(1.5), jobfs.Status)
    assert_type(job.wait_nowait(), jobfs.Status)
    assert_type(job.wait_changed(job.status), jobfs.Status)
    assert_type(job.wait_changed(job.status, timeout=1), jobfs.Status)
    job.signal(signal.SIGUSR1)
    job.stop()
    job.cont()
    job.kill()
    job.kill(grace=1.5)
    assert_type(job.end(2, timeout=3), jobfs.Status)
    job.write(b"input\n")
    job.close_stdin()
    job.resize(24, 80)
    assert_type(job.restart(), sync.Job)
    job.remove()
    return job.status


async def use_asyncio(job: sync.Job) -> bytes:
    """In threads."""
    assert_type(await asyncio.to_thread(job.wait, 1.0), jobfs.Status)
    return await asyncio.to_thread(next, job.stdout.follow(), b"")


def main() -> None:
    """Where it begins."""
    with sync.open_table(Path("state"), keep=10, keep_bytes=1 << 20) as kept:
        use_table(kept)
    with sync.open_table() as table, mount.mounted_sync(table, "jobs") as point:
        assert_type(point, Path)
        for job in table:
            use_job(job)
            use_reader(job.stdout)
            asyncio.run(use_asyncio(job))
