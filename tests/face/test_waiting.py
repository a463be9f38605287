"""Files that wait and files that are polled, without a kernel: what they answer, and whom they wake."""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from mount import blocked, pending
from mount.caller import File
from mount.pending import Waiting
from tests.face.faces import Context, Face, errno_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    import pyfuse3

    from tests.unit.tables import Desk

READABLE = select.POLLIN | select.POLLRDNORM
ON_DISK = READABLE | select.POLLOUT | select.POLLWRNORM
HUP = select.POLLHUP


class Wake:
    """A process that polls; `woken` is how often it was woken."""

    def __init__(self) -> None:
        self.woken = 0
        self.gone = False

    def notify(self) -> None:
        """See `pyfuse3.PollHandle`."""
        self.woken += 1
        if self.gone:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


class Open:
    """One open file of the face, read from where the last read ended."""

    def __init__(self, face: Face, number: int) -> None:
        self.number = number
        self._face = face
        self._offset = 0

    async def read(self) -> bytes:
        """What a read gives."""
        data = await self._face.operations.read(self.number, self._offset, 1000)
        self._offset += len(data)
        return data

    async def poll(self, wake: Wake | None = None) -> int:
        """The events that hold."""
        handle = cast("pyfuse3.PollHandle | None", wake)
        return await self._face.operations.poll(0, self.number, handle, self._face.context)

    async def close(self) -> None:
        """Closes it."""
        await self._face.operations.release(self.number)


async def opened(face: Face, path: str, flags: int = os.O_RDONLY) -> Open:
    """Opens a file."""
    return Open(face, await face.open(path, flags))


# Polling streams


@pytest.mark.parametrize("name", ["stdout", "stderr"])
async def test_a_stream_polls_as_readable_past_the_last_read(desk: Desk, face: Face, name: str) -> None:
    """Nothing before there are bytes, POLLIN until they were read, POLLHUP at the end."""
    job = await desk.spawn()
    file = await opened(face, f"1/{name}")
    assert 0 == await file.poll()
    desk.engine.write(job.id, name, b"abc")
    assert [READABLE, b"abc", 0] == [await file.poll(), await file.read(), await file.poll()]
    desk.engine.write(job.id, name, b"d")
    desk.engine.exit(job.id)
    assert [READABLE, b"d", HUP, b"", HUP] == [
        await file.poll(),
        await file.read(),
        await file.poll(),
        await file.read(),
        await file.poll(),
    ]
    await file.close()


async def test_a_poller_is_woken_once_for_each_time_it_asked(desk: Desk, face: Face) -> None:
    """By the next bytes, though there may be some already: epoll(7) may be edge-triggered."""
    job = await desk.spawn()
    file, wake = await opened(face, "1/stdout"), Wake()
    for count in range(1, 4):
        await file.poll(wake)
        assert count - 1 == wake.woken
        desk.engine.write(job.id, "stdout", b"x")
        desk.engine.write(job.id, "stdout", b"x")
        assert count == wake.woken
    await file.close()


async def test_a_poller_that_only_looks_is_not_woken(desk: Desk, face: Face) -> None:
    """poll(2) without waiting asks for no call; who asks anew is woken in the newest way alone."""
    job = await desk.spawn()
    file, first, second = await opened(face, "1/stdout"), Wake(), Wake()
    await file.poll(first)
    await file.poll(second)
    await file.poll()
    desk.engine.write(job.id, "stdout", b"x")
    assert (0, 1) == (first.woken, second.woken)
    await file.close()


async def test_the_end_wakes_who_polls_a_stream(desk: Desk, face: Face) -> None:
    """POLLHUP is news as bytes are."""
    job = await desk.spawn()
    file, wake = await opened(face, "1/stdout"), Wake()
    await file.poll(wake)
    desk.engine.exit(job.id)
    assert (1, HUP) == (wake.woken, await file.poll())
    await file.close()


async def test_a_stream_that_a_descendant_writes_to_is_readable_after_it_hung_up(desk: Desk, face: Face) -> None:
    """POLLHUP, then POLLIN, then POLLHUP."""
    job = await desk.spawn()
    file, wake = await opened(face, "1/stdout"), Wake()
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    assert HUP == await file.poll(wake)
    desk.engine.write(job.id, "stdout", b"late")
    assert (1, READABLE) == (wake.woken, await file.poll())
    assert [b"late", HUP] == [await file.read(), await file.poll()]
    await file.close()


async def test_a_file_that_was_read_backwards_polls_as_on_a_disk(desk: Desk, face: Face) -> None:
    """Always ready, for less asks before each read."""
    job = await desk.spawn()
    desk.engine.write(job.id, "stdout", b"abc")
    file = await face.open("1/stdout")
    for _ in range(2):
        assert b"abc" == await face.operations.read(file, 0, 100)
    assert ON_DISK == await Open(face, file).poll()
    await face.operations.release(file)


async def test_events_poll_as_a_stream_that_never_ends(desk: Desk, face: Face) -> None:
    """Each event is news."""
    job = await desk.spawn()
    file, wake = await opened(face, "events"), Wake()
    assert [READABLE, True, 0] == [await file.poll(), b"started" in await file.read(), await file.poll(wake)]
    desk.engine.exit(job.id)
    assert (1, READABLE) == (wake.woken, await file.poll())
    assert [True, 0] == [b"ended" in await file.read(), await file.poll()]
    await file.close()


# Polling what ends


@pytest.mark.parametrize("name", ["status", "wait"])
async def test_status_and_wait_poll_as_readable_once_the_job_has_ended(desk: Desk, face: Face, name: str) -> None:
    """Woken by the end alone; the first read then tells how it ended."""
    job = await desk.spawn()
    file, wake = await opened(face, f"1/{name}"), Wake()
    assert 0 == await file.poll(wake)
    desk.engine.write(job.id, "stdout", b"x")
    desk.engine.stop(job.id)
    desk.engine.cont(job.id)
    assert (0, 0) == (wake.woken, await file.poll())
    desk.engine.exit(job.id, 3)
    assert (1, READABLE) == (wake.woken, await file.poll())
    assert b"failed:3\n" == await file.read()
    await file.close()


async def test_follow_polls_as_readable_when_a_read_would_not_block(desk: Desk, face: Face) -> None:
    """Bytes, or the end."""
    job = await desk.spawn()
    file, wake = await opened(face, "1/follow"), Wake()
    assert 0 == await file.poll(wake)
    desk.engine.write(job.id, "stdout", b"abc")
    assert (1, READABLE) == (wake.woken, await file.poll())
    assert [b"abc", 0] == [await file.read(), await file.poll(wake)]
    desk.engine.exit(job.id)
    assert (2, READABLE) == (wake.woken, await file.poll() & READABLE)
    assert b"" == await file.read()
    await file.close()


@pytest.mark.parametrize("path", ["ctl", "table", "table.jsonl", "1/cmd", "1/info", "1/ctl", "1/env"])
async def test_all_other_files_poll_as_on_a_disk(desk: Desk, face: Face, path: str) -> None:
    """Always ready."""
    await desk.spawn()
    file = await opened(face, path)
    assert ON_DISK == await file.poll(Wake())
    await file.close()


@pytest.mark.parametrize("name", ["stdout", "status", "wait", "follow"])
async def test_a_poller_that_has_closed_is_not_woken(desk: Desk, face: Face, name: str) -> None:
    """Neither by bytes nor by the end."""
    job = await desk.spawn()
    file, wake = await opened(face, f"1/{name}"), Wake()
    await file.poll(wake)
    await file.close()
    desk.engine.write(job.id, "stdout", b"x")
    desk.engine.exit(job.id)
    assert 0 == wake.woken


async def test_a_poller_that_has_gone_is_no_error(desk: Desk, face: Face) -> None:
    """The kernel may have forgotten it: the job ends, and the others are woken."""
    job = await desk.spawn()
    first, second = await opened(face, "1/wait"), await opened(face, "1/wait")
    gone, there = Wake(), Wake()
    gone.gone = True
    await first.poll(gone)
    await second.poll(there)
    desk.engine.exit(job.id)
    assert ("done:0", 1) == (job.status.word, there.woken)


# Waiting


class Reads:
    """Reads that wait, and what became of each."""

    def __init__(self, face: Face, nursery: trio.Nursery) -> None:
        self._face = face
        self._nursery = nursery
        self.ended: dict[int, bytes | int] = {}
        self._next = 0

    async def start(self, path: str, task: int = 0, flags: int = os.O_RDONLY) -> int:
        """Begins a read by a task; returns when it waits, or has ended."""
        number = self._next
        self._next += 1
        context = cast("pyfuse3.RequestContext", Context(task, os.getuid()))
        inode = (await self._face.find(path)).st_ino
        handle = (await self._face.operations.open(inode, flags, context)).fh

        async def read() -> None:
            async def attempt() -> None:
                self.ended[number] = await self._face.operations.read(handle, 0, 1000)

            with suppress(AssertionError):  # it did not fail
                self.ended[number] = await errno_of(attempt)
            await self._face.operations.release(handle)

        self._nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        return number


@pytest.fixture
async def reads(face: Face) -> AsyncIterator[Reads]:
    """Reads that wait; those that still do in the end are given up."""
    async with trio.open_nursery() as nursery:
        yield Reads(face, nursery)
        nursery.cancel_scope.cancel()


async def test_reads_wait_for_what_they_give(desk: Desk, face: Face, reads: Reads) -> None:
    """`wait` for the end, `follow` for bytes or the end."""
    job = await desk.spawn()
    await reads.start("1/wait")
    await reads.start("1/follow")
    await reads.start("1/follow")
    assert ({}, 3) == (reads.ended, len(face.blocked))
    desk.engine.write(job.id, "stdout", b"abc")
    await trio.testing.wait_all_tasks_blocked()
    assert {1: b"abc", 2: b"abc"} == reads.ended
    desk.engine.exit(job.id, 3)
    await trio.testing.wait_all_tasks_blocked()
    assert b"failed:3\n" == reads.ended[0]
    assert 0 == len(face.blocked)


async def test_the_end_is_the_end_of_follow(desk: Desk, reads: Reads) -> None:
    """Also where something that the job left behind still holds its stdout."""
    job = await desk.spawn()
    await reads.start("1/follow")
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    await trio.testing.wait_all_tasks_blocked()
    assert {0: b""} == reads.ended


@pytest.mark.parametrize("name", ["wait", "follow"])
async def test_who_does_not_want_to_wait_is_told_to_try_again(desk: Desk, face: Face, reads: Reads, name: str) -> None:
    """O_NONBLOCK: EAGAIN, and nothing waits."""
    await desk.spawn()
    await reads.start(f"1/{name}", flags=os.O_RDONLY | os.O_NONBLOCK)
    assert ({0: errno.EAGAIN}, 0) == (reads.ended, len(face.blocked))


@pytest.mark.parametrize("name", ["wait", "follow"])
async def test_a_mount_that_goes_wakes_all_and_lets_nobody_wait_any_more(
    desk: Desk, face: Face, reads: Reads, name: str
) -> None:
    """ENOTCONN, also for those who come later."""
    await desk.spawn()
    for _ in range(2):
        await reads.start(f"1/{name}")
    face.blocked.refuse(errno.ENOTCONN)
    await trio.testing.wait_all_tasks_blocked()
    await reads.start(f"1/{name}")
    assert dict.fromkeys(range(3), errno.ENOTCONN) == reads.ended


async def test_making_way_wakes_all_and_lets_others_wait_again(desk: Desk, face: Face, reads: Reads) -> None:
    """An unmount that is only tried ends nothing for good."""
    await desk.spawn()
    await reads.start("1/wait")
    face.blocked.answer_all(errno.ENOTCONN)
    await trio.testing.wait_all_tasks_blocked()
    await reads.start("1/wait")
    assert ({0: errno.ENOTCONN}, 1) == (reads.ended, len(face.blocked))


async def test_no_more_wait_than_there_is_room_for(desk: Desk, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGAIN for the next one; when one has ended there is room again."""
    monkeypatch.setattr(blocked, "_MOST", 2)
    await desk.spawn()
    job = await desk.spawn()
    await reads.start("1/wait")
    await reads.start("2/wait")
    await reads.start("1/wait")
    assert {2: errno.EAGAIN} == reads.ended
    desk.engine.exit(job.id)
    await trio.testing.wait_all_tasks_blocked()
    await reads.start("1/wait")
    assert {1: b"done:0\n", 2: errno.EAGAIN} == reads.ended


class Wanting:
    """Stands for /proc: the openers that want out."""

    def __init__(self) -> None:
        self.openers: set[int] = set()
        self.looks = 0

    def interrupted(self, requests: Collection[Waiting]) -> set[Waiting]:
        """See `mount.pending`."""
        self.looks += 1
        return {request for request in requests if request.opener in self.openers}


@pytest.fixture
def wanting(monkeypatch: pytest.MonkeyPatch) -> Wanting:
    """Nobody wants out, and nobody is behind anybody."""
    it = Wanting()
    nobody: dict[pending.Process, set[File]] = {}
    monkeypatch.setattr(pending, "interrupted", it.interrupted)
    monkeypatch.setattr(pending, "suspects", lambda _: nobody)
    return it


async def test_who_is_interrupted_gets_eintr_and_the_others_wait_on(
    desk: Desk, face: Face, reads: Reads, wanting: Wanting
) -> None:
    """The kernel says that somebody is, /proc says who."""
    job = await desk.spawn()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(face.blocked.run)
        for task in (10, 20, 20, 30):
            await reads.start("1/wait", task)
        wanting.openers.add(20)
        face.blocked.interrupted()
        with trio.fail_after(30):
            while len(reads.ended) < 2:  # noqa: ASYNC110 - the answer comes by a thread
                await trio.sleep(0.01)
        assert {1: errno.EINTR, 2: errno.EINTR} == reads.ended
        nursery.cancel_scope.cancel()
    desk.engine.exit(job.id)
    await trio.testing.wait_all_tasks_blocked()
    assert (b"done:0\n", b"done:0\n") == (reads.ended[0], reads.ended[3])


async def test_while_nobody_is_interrupted_nobody_is_looked_at(
    desk: Desk, face: Face, reads: Reads, wanting: Wanting, autojump_clock: trio.testing.MockClock
) -> None:
    """However long they wait; an interrupt that comes when nobody waits is no matter either."""
    await desk.spawn()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(face.blocked.run)
        face.blocked.interrupted()
        await reads.start("1/wait", 10)
        await trio.sleep_until(autojump_clock.current_time() + 1000)
        assert 0 == wanting.looks
        nursery.cancel_scope.cancel()


async def test_who_sleeps_behind_another_one_is_looked_at_without_being_told(
    desk: Desk, face: Face, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says nothing of them: where there can be such a one, it is looked at now and then."""
    await desk.spawn()
    behind = {pending.Process((99,))}
    wants_out: set[pending.Process] = set()
    monkeypatch.setattr(pending, "suspects", lambda requests: {it: {requests[0].file} for it in behind})

    def interrupted_behind(suspects: dict[pending.Process, set[File]], requests: list[Waiting]) -> set[Waiting]:
        return set(requests) if wants_out & suspects.keys() else set()

    monkeypatch.setattr(pending, "interrupted_behind", interrupted_behind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(face.blocked.run)
        await reads.start("1/wait", 10)
        wants_out |= behind
        with trio.fail_after(30):
            while not reads.ended:  # noqa: ASYNC110 - the answer comes by a thread
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert {0: errno.EINTR} == reads.ended
