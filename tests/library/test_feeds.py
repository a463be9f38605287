"""Jobs that the program feeds itself, with a process of its own or without."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pytest
import trio

import jobfs
from jobfs.engines.inprocess.leader import Leader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobfs import Table, Task


@contextmanager
def child(*command: str, own_session: bool = True) -> Iterator[int]:
    """A process that was started by other means; it is ended and reaped."""
    words = command or ("sleep", "1000")
    with subprocess.Popen(words, start_new_session=own_session, stdout=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped it: asked of the kernel, which answers when that has happened."""
    told = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    return told is not None and told.si_code == os.CLD_STOPPED


async def test_a_feed_is_a_job(table: Table) -> None:
    """It is in the table at once, what is written to it is its output, and `finish` ends it."""
    feed = table.register("pipeline | of things", name="pipes", limit="64K")
    assert ([feed.job], "running") == (table.jobs(), str(feed.job.status))
    assert (feed.job.id, "pipes", "pipeline | of things") == (feed.id, feed.name, feed.job.command)
    await feed.stdout.write(b"out")
    feed.stderr.write_nowait(b"err")
    await feed.finish()
    assert "done:0" == str(feed.job.wait_nowait())
    assert (b"out", b"err") == (feed.job.stdout.snapshot().data, feed.job.stderr.snapshot().data)
    assert (True, 3, 65536) == (feed.stdout.closed, feed.stdout.written, feed.stdout.capacity)


@pytest.mark.parametrize(
    ("code", "status"), [(0, "done:0"), (1, "failed:1"), (255, "failed:255"), (-9, "killed:9"), (-15, "killed:15")]
)
async def test_how_a_feed_finishes(table: Table, code: int, status: str) -> None:
    """With an exit code, or -N for signal N; `finish_nowait` does not wait for it."""
    one, other = table.register("one"), table.register("other")
    await one.finish(code)
    other.finish_nowait(code)
    assert "running" == str(other.job.status)
    assert [status, status] == [str(one.job.status), str(await other.job.wait())]


async def test_what_is_no_exit_code_changes_nothing(table: Table) -> None:
    """ValueError or TypeError, and the job goes on."""
    feed = table.register("feed")
    for code in (256, -999):
        with pytest.raises(ValueError, match="an exit code is from 0 to 255"):
            await feed.finish(code)
    with pytest.raises(TypeError, match="not 'text'"):
        feed.finish_nowait(cast("int", "text"))
    with pytest.raises(TypeError, match="not True"):
        feed.finish_nowait(code=True)
    await feed.finish(3)
    assert "failed:3" == str(feed.job.status)


async def test_a_feed_finishes_once(table: Table) -> None:
    """Also where the first time was not waited for: JobEnded."""
    feed = table.register("feed")
    feed.finish_nowait(3)
    with pytest.raises(jobfs.JobEnded):
        feed.finish_nowait(4)
    with pytest.raises(jobfs.JobEnded):
        await feed.finish(4)
    assert "failed:3" == str(await feed.job.wait())


async def test_a_feed_that_is_killed(table: Table) -> None:
    """It has ended: writing raises trio.ClosedResourceError, and finishing it JobEnded."""
    feed = table.register("feed")
    assert "killed:15" == str(await feed.job.end())
    with pytest.raises(trio.ClosedResourceError):
        await feed.stdout.write(b"x")
    with pytest.raises(trio.ClosedResourceError):
        feed.stderr.write_nowait(b"x")
    with pytest.raises(jobfs.JobEnded):
        await feed.finish()
    with pytest.raises(jobfs.JobEnded):
        feed.add_process(os.getpid())


@pytest.mark.parametrize("how", ["finish", "kill", "SIGKILL"])
async def test_a_writer_that_waits_learns_of_the_end(table: Table, how: str) -> None:
    """Whoever waits to write while the job is stopped gets trio.ClosedResourceError when it has ended, however."""
    feed = table.register("feed")
    await feed.job.stop()

    async def write() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await feed.stdout.write(b"never")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        if how == "finish":
            await feed.finish()
        elif how == "SIGKILL":
            await feed.job.signal(signal.SIGKILL)
        else:
            # SIGCONT follows SIGTERM, which lets a writer go on; so the job ends first.
            await feed.job.signal(signal.SIGTERM)
    assert feed.job.ended


async def test_a_feed_cannot_be_restarted(table: Table) -> None:
    """Nobody would feed the new one."""
    feed = table.register("a | b")
    await feed.finish(1)
    with pytest.raises(jobfs.JobfsError, match=r"^a \| b cannot be run again: it was fed"):
        await feed.job.restart()
    assert [feed.id] == table.ids()


async def test_a_feed_reads(table: Table) -> None:
    """What is written to its job's stdin, where it was registered with one, until it has ended."""
    feed = table.register("feed", stdin=True)
    await feed.job.write(b"hello")
    assert b"hello" == await feed.stdin.receive_some()
    await feed.job.close_stdin()
    assert b"" == await feed.stdin.receive_some()
    await feed.finish()
    with pytest.raises(jobfs.StdinClosed):
        await feed.job.write(b"x")


async def test_bad_options_register_nothing(table: Table) -> None:
    """BadCommand."""
    for command, name in (("", None), ("x\0y", None), ("x", "1x")):
        with pytest.raises(jobfs.BadCommand):
            table.register(command, name=name)
    assert [] == table.jobs()


async def test_a_process_is_signalled_with_its_job(table: Table) -> None:
    """What ends the job ends its process, and SIGSTOP stops both."""
    with child() as pid:
        feed = table.register("sleep 1000", process=pid)
        await feed.job.stop()
        assert (True, "stopped") == (is_stopped(pid), str(feed.job.status))
        await feed.job.cont()
        assert "running" == str(feed.job.status)
        await feed.job.kill()
        status = await trio.to_thread.run_sync(os.waitpid, pid, 0)
        assert -signal.SIGTERM == os.waitstatus_to_exitcode(status[1])
        assert "killed:15" == str(await feed.job.wait())


async def test_a_process_that_heeds_nothing_is_killed(table: Table) -> None:
    """SIGKILL follows after the grace period, though the job has ended before."""
    with child("sh", "-c", "trap '' TERM; kill -STOP $$; while :; do sleep 1000; done") as pid:
        feed = table.register("stubborn", process=pid)
        assert is_stopped(pid)  # SIGTERM is ignored by now
        await feed.job.kill(grace=0.05)
        assert "killed:15" == str(await feed.job.wait())
        status = await trio.to_thread.run_sync(os.waitpid, pid, 0)
        assert -signal.SIGKILL == os.waitstatus_to_exitcode(status[1])


async def test_a_job_is_stopped_as_its_process_is(table: Table) -> None:
    """Also where somebody else stops and continues it."""
    with child() as pid:
        feed = table.register("sleep 1000", process=pid)
        running = feed.job.status
        os.kill(pid, signal.SIGSTOP)
        stopped = await feed.job.wait_changed(running)
        assert ("stopped", feed.job) == (str(stopped), table.last_stopped)
        os.kill(pid, signal.SIGCONT)
        assert "running" == str(await feed.job.wait_changed(stopped))
        await feed.finish()


async def test_registered_as_stopped(table: Table) -> None:
    """It is so at once, and runs when its process does."""
    with child() as pid:
        os.kill(pid, signal.SIGSTOP)
        assert is_stopped(pid)
        feed = table.register("sleep 1000", process=pid, stopped=True)
        assert ("stopped", feed.job) == (str(feed.job.status), table.last_stopped)
        await feed.job.cont()
        assert "running" == str(feed.job.status)
        await feed.finish()
    without = table.register("no process", stopped=True)
    assert "stopped" == str(without.job.status)


async def test_what_is_no_child_is_refused(table: Table) -> None:
    """A stranger, this program itself, one that is in this program's own group: an error, and there is no job."""
    with child(own_session=False) as pid:
        for process, error in ((1, ProcessLookupError), (os.getpid(), ProcessLookupError), (pid, PermissionError)):
            with pytest.raises(error):
                table.register("feed", process=process)
            feed = table.register("feed")
            with pytest.raises(error):
                feed.add_process(process)
            await feed.finish()
            await feed.job.remove()
    with pytest.raises(ProcessLookupError):
        table.register("gone", process=pid)
    assert [] == table.jobs()


async def test_a_process_twice_is_once(table: Table) -> None:
    """It is counted once, and signalled once."""
    with child() as pid:
        feed = table.register("feed", process=pid)
        feed.add_process(pid)
        feed.add_process(pid)
        assert 1 == feed.job.info().usage.processes
        await feed.finish()


async def test_a_process_that_is_added_to_a_stopped_job_is_stopped(table: Table) -> None:
    """It is a part of it from then on."""
    feed = table.register("feed")
    await feed.job.stop()
    with child() as pid:
        feed.add_process(pid)
        assert is_stopped(pid)
        await feed.job.end()


async def test_a_process_that_was_not_reaped_is_not_waited_for() -> None:
    """Its group is over when it has ended, though it is whoever started it who is to reap it; not before."""
    with child("sh", "-c", "sleep 1000 & kill -STOP $$") as pid:
        assert is_stopped(pid)  # it has started the other one by then
        leader = Leader.of(pid, list)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - which takes but a moment
        assert leader.group_runs
        leader.signal(signal.SIGKILL)
        await leader.wait_group_ended()
        assert (True, False) == (leader.group_lives, leader.group_runs)
        leader.close()


async def test_a_function_adds_a_process_of_trio(table: Table) -> None:
    """It ends with the job; to wait for it is the function's affair."""
    codes: list[int] = []

    async def run(task: Task) -> None:
        process = await trio.lowlevel.open_process(["sleep", "1000"], start_new_session=True)
        task.add_process(process.pid)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                codes.append(await process.wait())

    job = table.start(run)
    while job.info().usage.processes != 1:  # noqa: ASYNC110 - nobody tells
        await trio.sleep(0.01)
    assert "killed:15" == str(await job.end())
    assert [-signal.SIGTERM] == codes
