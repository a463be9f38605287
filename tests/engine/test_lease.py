"""Leases, as the supervisor keeps them: the daemon's as long as it is connected, then the process's that holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

from jobfs.engines.base import Continued, Ended
from jobfs.engines.local import LocalEngine
from jobfs.errors import SpawnFailed
from jobfs.supervisor.lease import Lease
from jobfs.supervisor.loop import Loop
from tests.engine.workshop import Workshop, ended, status_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from jobfs.supervisor.wire import Message

PASSED = "the process that held its lease ended"
UNKNOWN = "the daemon ended, and who held its lease is not known"


class Holder:
    """A process that holds a lease; `pidfd` is of it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pidfd = os.pidfd_open(process.pid)

    def end(self) -> None:
        """It is killed, and reaped."""
        self._process.kill()
        self._process.wait()


@contextmanager
def holding() -> Iterator[Holder]:
    """A process that holds a lease, until the end at the latest."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        holder = Holder(process)
        try:
            yield holder
        finally:
            holder.end()
            os.close(holder.pidfd)


def pidfds(process: int) -> int:
    """How many pidfds a process has."""
    places = [f"/proc/{process}/fd/{number}" for number in os.listdir(f"/proc/{process}/fd")]
    return sum("pidfd" in os.readlink(place) for place in places if os.path.lexists(place))


@asynccontextmanager
async def ends_of(shop: Workshop, *jobs: int) -> AsyncIterator[list[tuple[str, str | None]]]:
    """Waits until the jobs' processes have ended; gives what the next daemon learns of how."""
    for job in jobs:
        assert await ended(shop.started(job).pid or 0)
    async with shop.attached(*jobs) as learned:
        yield [(status_of(news), news.reason) for news in learned if isinstance(news, Ended)]


async def test_while_the_daemon_is_there_it_decides(shop: Workshop) -> None:
    """The end of the process that holds the lease is nothing to the supervisor, and an end has the reason given."""
    with holding() as holder:
        job = await shop.spawn(
            "read go < $FIFO; exec sleep 1000", environment=shop.fifo(), holder=holder.pidfd, lease=True
        )
    await shop.go()
    await shop.engine.acknowledge([])  # it has looked at what it watches meanwhile
    assert [] == [news for news in shop.news if isinstance(news, Ended)]
    await shop.end(job, reason="the file was closed")
    end = await shop.ended(job)
    assert ("killed:15", "the file was closed") == (status_of(end), end.reason)


async def test_a_reason_comes_too_late_for_a_job_that_is_being_ended(shop: Workshop) -> None:
    """The first one counts, and an end without one has none."""
    job = await shop.spawn("trap '' TERM; echo ready; while :; do sleep 0.01; done", grace=0.2)
    await shop.says(job, b"ready\n")
    await shop.end(job)
    await shop.end(job, reason="late")
    end = await shop.ended(job)
    assert ("killed:9", None) == (status_of(end), end.reason)


async def test_when_the_daemon_goes_the_lease_passes_to_the_process(bare: Workshop) -> None:
    """The job lives as long as that process, and then is ended, for that reason."""
    with holding() as holder:
        async with bare.attached():
            job = await bare.spawn("exec sleep 1000", holder=holder.pidfd, lease=True)
            other = await bare.spawn("exec sleep 1000", holder=holder.pidfd)
        async with bare.attached(job, other) as learned:
            assert [bare.started(job), Continued(job), bare.started(other), Continued(other)] == learned
    async with ends_of(bare, job) as ends:
        assert [("killed:15", PASSED)] == ends
    os.kill(bare.started(other).pid or 0, 0)


async def test_a_process_that_ended_before_the_daemon_did_holds_nothing(bare: Workshop) -> None:
    """The job is ended when the daemon goes, without delay."""
    async with bare.attached():
        with holding() as holder:
            job = await bare.spawn("exec sleep 1000", holder=holder.pidfd, lease=True)
    async with ends_of(bare, job) as ends:
        assert [("killed:15", PASSED)] == ends


async def test_where_nobody_is_known_the_lease_ends_with_the_daemon(bare: Workshop) -> None:
    """Nothing could tell when it is over."""
    async with bare.attached():
        job = await bare.spawn("exec sleep 1000", lease=True)
    async with ends_of(bare, job) as ends:
        assert [("killed:15", UNKNOWN)] == ends


async def test_a_lease_that_is_over_is_followed_by_the_grace(bare: Workshop) -> None:
    """SIGKILL, where SIGTERM was not enough."""
    async with bare.attached():
        script = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
        job = await bare.spawn(script, grace=0.1, lease=True)
        await bare.says(job, b"ready\n")
    async with ends_of(bare, job) as ends:
        assert [("killed:9", UNKNOWN)] == ends


async def test_a_lease_belongs_to_the_daemon_that_it_came_from(bare: Workshop) -> None:
    """Of two that are connected, the end of the other one changes nothing; nor does a later one's."""
    with holding() as holder:
        async with bare.attached():
            job = await bare.spawn("exec sleep 1000", lease=True)
            second = LocalEngine(bare.state)
            first, bare.engine = bare.engine, second
            async with bare.attached(job):
                kept = await bare.spawn("exec sleep 1000", holder=holder.pidfd, lease=True)
            bare.engine = first
            # Had the second daemon's end been the first one's lease's, the job would be gone with the next answer.
            await bare.engine.acknowledge([])
            await bare.engine.acknowledge([])
            os.kill(bare.started(job).pid or 0, 0)
            assert [] == [news for news in bare.news if isinstance(news, Ended)]
        async with ends_of(bare, job) as ends:
            assert [("killed:15", UNKNOWN)] == ends
        async with bare.attached(kept) as learned:
            assert [bare.started(kept), Continued(kept)] == learned[:2]
    async with ends_of(bare, kept) as ends:
        assert [("killed:15", PASSED)] == ends


@pytest.mark.parametrize("known", [True, False])
async def test_a_job_on_its_way_to_exec_is_ended_too(bare: Workshop, *, known: bool) -> None:
    """After its grace, if its exec never comes."""
    fifo = bare.state / "fifo"
    os.mkfifo(fifo)
    with holding() as holder:
        async with bare.attached():
            pidfd = holder.pidfd if known else None
            job = await bare.spawn("true", stdin=str(fifo), grace=0.05, holder=pidfd, lease=True)
    async with ends_of(bare, job) as ends:
        assert [("killed:9", PASSED if known else UNKNOWN)] == ends


async def test_no_pidfd_is_left_of_a_lease(bare: Workshop) -> None:
    """Whether the job ended by itself, never ran, or was ended with the lease, before or after it passed."""
    with holding() as holder:
        async with bare.attached():
            await bare.closed(await bare.spawn("true", holder=holder.pidfd, lease=True))
            for way in ("/nonexistent", "/"):
                with pytest.raises(SpawnFailed):
                    await bare.spawn(argv=("/nonexistent/program",), cwd=way, holder=holder.pidfd, lease=True)
            await until(lambda: pidfds(bare.supervisor), lambda left: not left)
            job = await bare.spawn("read go < $FIFO", environment=bare.fifo(), holder=holder.pidfd, lease=True)
            other = await bare.spawn("exec sleep 1000", holder=holder.pidfd, lease=True)
            # Those that went along with the answers are closed a moment after these have come.
            await until(lambda: pidfds(bare.supervisor), lambda left: left == 4)
        await bare.go()
        assert await ended(bare.started(job).pid or 0)
        await until(lambda: pidfds(bare.supervisor), lambda left: left == 2)
        os.kill(bare.started(other).pid or 0, signal.SIGTERM)
        async with ends_of(bare, job, other) as ends:
            assert [("done:0", None), ("killed:15", None)] == ends
            await until(lambda: pidfds(bare.supervisor), lambda left: not left)


def test_a_lease_that_is_closed_ends_nothing_any_more() -> None:
    """Its job may be gone in the same round in which the daemon went."""
    loop = Loop()
    said: list[str] = []
    lease, other = (Lease(loop, Nobody(), None) for _ in range(2))
    lease.pass_on(lambda reason: said.append(f"closed: {reason}"))
    other.pass_on(said.append)
    lease.close()
    loop.run(lambda: bool(said))
    assert [UNKNOWN] == said


class Nobody:
    """A daemon that has gone."""

    def send(self, message: Message, descriptors: Mapping[str, int] | None = None) -> None:
        """See `Sender`."""
