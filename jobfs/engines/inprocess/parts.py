"""The processes that are parts of a job that is a function: each leads a session and a group of the job's."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs.engines.failures import failure
from jobfs.engines.inprocess.launch import Streams
from jobfs.engines.inprocess.leader import Leader
from jobfs.engines.inprocess.starting import start, undo
from jobfs.errors import JobEnded
from jobfs.model import STREAMS, JobSpec
from jobfs.proc import own_umask
from jobfs.processes import stop_state
from jobfs.text import with_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobfs.engines.inprocess.host import Host
    from jobfs.engines.inprocess.output import Pause, StreamWriter
    from jobfs.processes import Stray


class Parts:
    """The processes of one job: those that it runs, and those that were added to it."""

    def __init__(
        self, host: Host, job: int, environment: str, outputs: Mapping[str, StreamWriter], pause: Pause
    ) -> None:
        """`outputs`: where that goes which the job's own write; `pause`: whether the job is stopped."""
        self._host = host
        self._job = job
        self._environment = environment
        self._outputs = outputs
        self._pause = pause
        self._leaders: dict[int, Leader] = {}
        self._followed: Leader | None = None
        self._awaited: set[Leader] = set()  # whose descriptors `run` waits with
        self._closed = False

    @property
    def leaders(self) -> list[Leader]:
        """The processes whose groups are the job's, as far as `settle` has left them."""
        return list(self._leaders.values())

    def settle(self) -> None:
        """Drops those of whose groups nothing is left."""
        for leader in [leader for leader in self._leaders.values() if not leader.group_lives]:
            if leader in self._awaited:  # something else reaped it, and `run` is about to hear of that
                continue
            del self._leaders[leader.pid]
            leader.close()

    @property
    def strays(self) -> list[Stray]:
        """What they, and those that they left behind, are known by."""
        return [leader.stray(self._job) for leader in self._leaders.values()]

    @property
    def is_stopped(self) -> bool | None:
        """Whether the process is stopped that the job follows; None where it has ended, or there is none."""
        if self._followed is None or not self._followed.group_lives:
            return None
        return stop_state(self._followed.pid)

    def signal(self, number: int) -> None:
        """Signals all of them."""
        for leader in self._leaders.values():
            with suppress(OSError):  # nobody is left of it; or those who are left are another user's by now (setuid)
                leader.signal(number)

    async def wait_ended(self) -> None:
        """Returns when nobody is left in their groups."""
        for leader in self.leaders:
            await leader.wait_group_ended()

    def close(self) -> None:
        """Lets go of them; of one that is run by a task that goes on though the job has ended, when it has ended."""
        self._closed = True
        for leader in self._leaders.values():
            if leader not in self._awaited:
                leader.close()

    def add(self, pid: int) -> None:
        """See `Task.add_process`."""
        self.settle()  # the number may have been that of another one
        if pid not in self._leaders:
            self._take(Leader.of(pid, partial(self._host.members, self._job)))

    def follow(self, pid: int) -> None:
        """Adds a process whose being stopped is the job's: see `is_stopped`."""
        self.add(pid)
        self._followed = self._leaders[pid]

    def _take(self, leader: Leader) -> None:
        self._leaders[leader.pid] = leader
        if self._pause:
            with suppress(OSError):  # it has just ended
                leader.signal(signal.SIGSTOP)

    async def run(
        self,
        command: str | Sequence[str],
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
        grace: Callable[[], float],
    ) -> int:
        """See `Task.run_process`. Where it is cancelled, the process has as many seconds as `grace` says then."""
        spec = JobSpec(
            command if isinstance(command, str) else None,
            None if isinstance(command, str) else tuple(command),
            os.getcwd(),
            self._environment,
            cwd=None if cwd is None else os.fspath(cwd),
            umask=own_umask(),
        )
        leader, readers = await self._start(spec, with_variables(self._environment, env or {}))
        try:
            pumps = [self._outputs[name].attach(reader) for name, reader in zip(STREAMS, readers, strict=True)]
        except trio.ClosedResourceError as error:  # the job has ended while the process was being started
            _close(readers)
            undo(leader)
            raise JobEnded("nothing is left of it") from error
        self.settle()  # there may be thousands, one after the other
        self._take(leader)
        for pump in pumps:
            self._host.start_soon(pump.run)  # beside the function: it goes on while that is cancelled
        self._awaited.add(leader)
        try:
            status = await self._reaped(leader, grace)
        finally:
            self._awaited.remove(leader)
            if self._closed:
                leader.close()
        for pump in pumps:
            await pump.drain_what_waits()
        if status is None:
            raise failure(errno.ECHILD, f"tell how {spec.words[0]} ended")  # somebody else in this program reaped it
        return os.waitstatus_to_exitcode(status)

    async def _start(self, spec: JobSpec, environment: str) -> tuple[Leader, list[int]]:
        """The process, and the reading ends of its streams' pipes."""
        try:
            readers, writers = _pipes()
        except OSError as error:
            raise failure(error.errno or errno.EIO, "make its pipes") from error
        try:
            members = partial(self._host.members, self._job)
            return await start(spec, environment, None, Streams(None, *writers), members), readers
        except BaseException:
            _close(readers)
            raise
        finally:
            _close(writers)

    @staticmethod
    async def _reaped(leader: Leader, grace: Callable[[], float]) -> int | None:
        try:
            return (await leader.wait_ended())[0]
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await _end(leader, grace())
            raise


async def _end(leader: Leader, grace: float) -> None:
    for number in (signal.SIGTERM, signal.SIGCONT):
        with suppress(OSError):
            leader.signal(number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leader.kill_after, grace)
        await leader.wait_ended()


def _pipes() -> tuple[list[int], list[int]]:
    """A pipe for each stream: the reading ends, which do not block, and the writing ends."""
    readers: list[int] = []
    writers: list[int] = []
    try:
        for _ in STREAMS:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            readers.append(reader)
            writers.append(writer)
            os.set_blocking(reader, False)
    except OSError:
        _close(readers + writers)
        raise
    return readers, writers


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
