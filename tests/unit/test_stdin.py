"""The shared writing end of a job's stdin: how writes end, and whom closing it wakes."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from jobfs.errors import EngineGone, StdinClosed
from jobfs.stdin import Stdin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.tables import Desk

MIB = 1024 * 1024


class Source:
    """Stands for the engine: it gives the writing end of a pipe, of which the test has the other one."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.asked = 0
        self.error: Exception | None = None
        self.stdin = Stdin(self.open)

    async def open(self) -> int:
        """Stands for `Engine.open_stdin`."""
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return os.dup(self._writer)

    def fill(self) -> int:
        """Fills the pipe; gives how many bytes that took."""
        return os.write(self._writer, bytes(MIB))

    def read(self) -> bytes:
        """What is in the pipe; empty at the end of file."""
        return os.read(self.reader, MIB)

    def close_reader(self) -> None:
        """Nobody reads any more."""
        os.close(self.reader)
        self.reader = -1

    def let_go(self) -> None:
        """The engine closes its own end."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def close(self) -> None:
        """Leaves nothing behind."""
        self.let_go()
        if self.reader >= 0:
            self.close_reader()


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    """A stdin, and the pipe behind it."""
    it = Source()
    yield it
    it.stdin.close()
    it.close()


async def test_what_is_written_is_read(source: Source) -> None:
    """The engine is asked once, for all writes."""
    assert [3, 4] == [await source.stdin.write_some(b"one"), await source.stdin.write_some(b"two\n")]
    assert (b"onetwo\n", 1) == (source.read(), source.asked)


async def test_many_first_writers_ask_once(source: Source) -> None:
    """Who writes while it is being opened waits for that."""
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(source.stdin.write_some, b"x")
    assert (b"xxxxx", 1) == (source.read(), source.asked)


async def test_a_write_takes_what_fits(source: Source) -> None:
    """And says how much that was."""
    taken = await source.stdin.write_some(bytes(MIB))
    assert 0 < taken < MIB
    assert taken == len(source.read())


async def test_a_write_waits_while_nothing_fits(source: Source) -> None:
    """Until the job has read something."""
    full = source.fill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.stdin.write_some, b"more")
        await trio.testing.wait_all_tasks_blocked()
        assert full == len(source.read())
    assert b"more" == source.read()


async def test_several_wait_at_once(source: Source) -> None:
    """Those who write and those who want to know when a write would not block."""
    source.fill()
    async with trio.open_nursery() as nursery:
        await source.stdin.open()
        for _ in range(3):
            nursery.start_soon(source.stdin.wait_ready)
            nursery.start_soon(source.stdin.write_some, b"more")
        await trio.testing.wait_all_tasks_blocked()
        assert not source.stdin.ready
        source.read()
    assert b"more" * 3 == source.read()


async def test_a_write_that_is_cancelled_has_written_nothing(source: Source) -> None:
    """Whether it waited, or had not begun."""
    full = source.fill()
    with trio.move_on_after(0) as scope:
        await source.stdin.write_some(b"never")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.stdin.write_some, b"never")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (True, full) == (scope.cancelled_caught, len(source.read()))
    assert source.stdin.ready


async def test_a_write_that_may_not_wait_says_so(source: Source) -> None:
    """EAGAIN where nothing fits; else what was taken."""
    await source.stdin.open()
    assert 2 == source.stdin.write_nowait(b"hi")
    source.fill()
    with pytest.raises(BlockingIOError):
        source.stdin.write_nowait(b"more")


async def test_closing_fails_those_who_wait_and_all_later_writes(source: Source) -> None:
    """EPIPE; and the job reads end of file once the engine has closed its own end."""
    full = source.fill()
    errors: list[StdinClosed] = []

    async def write() -> None:
        try:
            await source.stdin.write_some(b"never")
        except StdinClosed as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(write)
        nursery.start_soon(source.stdin.wait_ready)
        await trio.testing.wait_all_tasks_blocked()
        source.stdin.close()
    await write()
    source.let_go()
    assert [errno.EPIPE] * 4 == [error.errno for error in errors]
    assert (full, b"") == (len(source.read()), source.read())
    assert (True, True) == (source.stdin.closed, source.stdin.ready)


async def test_closing_while_it_is_opened_leaves_no_writer(source: Source) -> None:
    """The descriptor that comes too late is closed."""
    async with trio.open_nursery() as nursery:

        async def open_it() -> None:
            with pytest.raises(StdinClosed):
                await source.stdin.open()

        nursery.start_soon(open_it)
        await trio.lowlevel.checkpoint()
        source.stdin.close()
    source.let_go()
    assert b"" == source.read()


async def test_a_job_that_has_closed_its_stdin_is_epipe(source: Source) -> None:
    """Nobody reads: that is ready, and a write fails."""
    await source.stdin.open()
    source.close_reader()
    assert source.stdin.ready
    with pytest.raises(StdinClosed):
        await source.stdin.write_some(b"x")


async def test_what_the_engine_says_is_closed_stays_so(source: Source) -> None:
    """It is not asked again."""
    source.error = StdinClosed("nobody")
    for _ in range(2):
        with pytest.raises(StdinClosed):
            await source.stdin.write_some(b"x")
    assert 1 == source.asked


async def test_a_failure_of_the_engine_is_not_remembered(source: Source) -> None:
    """The next write asks anew."""
    source.error = EngineGone("away")
    with pytest.raises(EngineGone):
        await source.stdin.write_some(b"x")
    source.error = None
    assert 1 == await source.stdin.write_some(b"x")


# In the table


async def test_all_who_ask_share_one(desk: Desk) -> None:
    """A job that is alive has one stdin; what is written to it, the job reads."""
    job = await desk.spawn("cat", stdin="pipe")
    assert desk.table.stdin(job) is desk.table.stdin(job)
    await desk.table.stdin(job).write_some(b"hello\n")
    assert b"hello\n" == desk.engine.read_stdin(job.id, 100)


async def test_a_job_without_a_pipe_takes_nothing(desk: Desk) -> None:
    """EPIPE, without asking the engine."""
    stdin = desk.table.stdin(await desk.spawn("cat"))
    assert stdin.closed
    with pytest.raises(StdinClosed):
        await stdin.write_some(b"x")


async def test_eof_and_the_jobs_end_close_it(desk: Desk) -> None:
    """For those who have it open, and those who open it later."""
    first, second = await desk.spawn("cat", stdin="pipe"), await desk.spawn("cat", stdin="pipe")
    open_before = [desk.table.stdin(job) for job in (first, second)]
    for stdin in open_before:
        await stdin.open()
    await desk.table.close_stdin(first)
    assert b"" == desk.engine.read_stdin(first.id, 100)
    desk.engine.exit(second.id)
    assert [True] * 4 == [stdin.closed for stdin in [*open_before, *map(desk.table.stdin, (first, second))]]


async def test_a_job_that_has_closed_its_own_end_is_epipe(desk: Desk) -> None:
    """The write tells."""
    job = await desk.spawn("cat", stdin="pipe")
    desk.engine.hang_up_stdin(job.id)
    with pytest.raises(StdinClosed):
        await desk.table.stdin(job).write_some(b"x")
