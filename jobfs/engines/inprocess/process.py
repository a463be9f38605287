"""A job that is a process, below this program itself."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs.engines.base import Closed, Continued, Ended, Grown, News, Stalled, Started, Stopped
from jobfs.engines.failures import failure
from jobfs.engines.inprocess.launch import Streams
from jobfs.engines.inprocess.starting import start
from jobfs.errors import JobEnded, StdinClosed
from jobfs.model import STREAMS
from jobfs.processes import max_rss_bytes
from jobfs.states import Event, ending
from jobfs.supervisor.inlet import Inlet
from jobfs.supervisor.outlet import STALL_RETRY, Outlet
from jobfs.supervisor.terminal import Terminal

if TYPE_CHECKING:
    from jobfs.engines.inprocess.host import Host
    from jobfs.engines.inprocess.leader import Leader
    from jobfs.model import JobSpec
    from jobfs.processes import Stray

log = logging.getLogger(__name__)

_UNKNOWN_END = "something else in this program reaped it, and how it ended is not known"
_LOOK_SOON = 0.01  # seconds after a signal, when it may have stopped the process


class ProcessJob:
    """One process, its pipes or its terminal, its deadlines and its end."""

    def __init__(self, host: Host, job: int, spec: JobSpec) -> None:
        """OSError where no pipe or terminal can be had, and nothing is left of it then."""
        self.job = job
        self.ended: Ended | None = None
        self.finished = trio.Event()  # it has ended
        self.over = trio.Event()  # nobody holds its pipes any more, and no grace period runs
        self._host = host
        self.spec = spec
        self._terminal = Terminal() if spec.pty else None
        self._their_ends: list[int] = []
        self._inlet: Inlet | None = None
        self.outlets: dict[str, Outlet] = {}
        try:
            self._make_streams()
        except OSError:
            self._discard()
            raise
        self._told_stopped = False
        self._ending: str | None = None
        self._is_ending = False
        self._wait_status: int | None = None
        self._timeout = trio.CancelScope()
        self._killing = 0  # grace periods that run
        for name, outlet in self.outlets.items():
            outlet.assign(host.path(job, name), spec.limit, lambda _: None)

    def _make_streams(self) -> None:
        if self._terminal is not None:
            self.outlets["stdout"] = self._terminal
            return
        for name in STREAMS:
            # Not as the supervisor has them: if this program is killed, nobody comes to read what a job wrote, and
            # SIGPIPE ends it as it ends what runs in a shell's pipeline.
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._their_ends.append(writer)
            self.outlets[name] = Outlet(reader)
        if self.spec.stdin == "pipe":
            self._inlet = Inlet()

    async def start(self, environment: str, directory: int | None) -> Started:
        """Starts the process; one of the `jobfs.errors` family where that fails, and then nothing is left of it.

        Nor where it is cancelled.
        """
        members = partial(self._host.members, self.job)
        try:
            self.leader = await start(self.spec, environment, directory, self._streams(), members)
        except BaseException:
            self._discard()
            raise
        pid = self.leader.pid
        self._close_their_ends()
        for outlet in self.outlets.values():
            outlet.started()
        if self._inlet is not None:
            self._inlet.started()
        self.started = Started(self.job, time.time(), time.monotonic(), pid, f"process {pid}")
        self._host.start_soon(self._run)
        return self.started

    def _streams(self) -> Streams:
        if self._terminal is not None:
            tty = self._terminal.job_end
            return Streams(tty if self.spec.stdin in ("none", "pipe") else None, tty, tty)
        return Streams(None if self._inlet is None else self._inlet.job_end, *self._their_ends)

    def _close_their_ends(self) -> None:
        for fd in self._their_ends:
            os.close(fd)
        self._their_ends.clear()

    def _discard(self) -> None:
        self._close_their_ends()
        for outlet in self.outlets.values():
            outlet.close()
        if self._inlet is not None:
            self._inlet.close()

    # What it is asked

    @property
    def leaders(self) -> list[Leader]:
        """The processes whose groups are the job's."""
        return [self.leader]

    @property
    def strays(self) -> list[Stray]:
        """What its processes, and those that it left behind, are known by."""
        return [self.leader.stray(self.job)]

    @property
    def gone(self) -> bool:
        """Whether its process has ended; its output may not be all kept yet."""
        return self.leader.reaped

    @property
    def story(self) -> list[News]:
        """All that happened to it."""
        if self.ended is not None:
            return [self.started, self.ended]
        return [self.started, Stopped(self.job) if self._told_stopped else Continued(self.job)]

    @property
    def open_streams(self) -> frozenset[str]:
        """The streams that somebody may still write to."""
        return frozenset(name for name, outlet in self.outlets.items() if not outlet.closed)

    def signal(self, number: int) -> None:
        """Signals its group; OSError where that cannot be."""
        self.leader.signal(number)
        self._host.start_soon(self._look_soon)

    def end(self, grace: float, reason: str | None) -> None:
        """SIGTERM and SIGCONT, and SIGKILL after `grace` seconds to all that is left of the group."""
        if self.gone or self._is_ending:
            return
        self.leader.signal(signal.SIGTERM)
        with suppress(ProcessLookupError):  # SIGTERM was enough
            self.leader.signal(signal.SIGCONT)
        self._is_ending, self._ending = True, reason
        self._killing += 1
        self._host.start_soon(partial(self._kill_after, grace))

    async def _kill_after(self, grace: float) -> None:
        await self.leader.kill_after(grace)
        self._killing -= 1
        self._settle()

    def open_stdin(self) -> int:
        """A descriptor to write to, for the caller to close; StdinClosed where nobody reads."""
        writer = -1 if self._inlet is None else self._inlet.writer
        if self._terminal is not None:
            writer = self._terminal.reader
        if writer < 0 or self.gone:
            raise StdinClosed("nobody reads its stdin any more")
        return os.dup(writer)

    def close_stdin(self) -> None:
        """It reads end of file. OSError where its terminal takes nothing."""
        self._require_alive()
        if self._terminal is not None:
            self._terminal.type_end_of_file()
        elif self._inlet is not None:
            self._inlet.close()

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of its terminal."""
        self._require_alive()
        if self._terminal is None:
            raise failure(errno.ENOTTY, "resize it")
        self._terminal.resize(rows, columns)

    def _require_alive(self) -> None:
        if self.gone:
            raise JobEnded("nothing is left of it")

    def watch(self, name: str, past: int) -> None:
        """See `Engine.watch`."""
        outlet = self.outlets.get(name)  # a terminal has one for both streams
        if outlet is not None:
            outlet.watch(past)
            self._tell_if_grown(name)

    def unwatch(self) -> None:
        """Nobody is to be told of more any more."""
        for outlet in self.outlets.values():
            outlet.unwatch()

    def forget(self) -> None:
        """The job was removed: what is still written goes nowhere."""
        for outlet in self.outlets.values():
            outlet.forget()

    def look(self) -> None:
        """Looks whether it was stopped or continued, which nobody tells."""
        if self.ended is None and self.leader.look() != self._told_stopped:
            self._told_stopped = self.leader.stopped
            self._host.tell(Stopped(self.job) if self._told_stopped else Continued(self.job))

    async def _look_soon(self) -> None:
        await trio.sleep(_LOOK_SOON)
        self.look()

    # What happens to it

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            for name in self.outlets:
                nursery.start_soon(self._drain, name)
            if self.spec.timeout is not None:
                nursery.start_soon(self._end_after, self.spec.timeout)
            await self._wait_ended()
            self._timeout.cancel()

    async def _end_after(self, seconds: float) -> None:
        with self._timeout:
            await trio.sleep(seconds)
            with suppress(OSError):  # it has just ended
                self.end(self.spec.grace, f"it was ended after its timeout of {seconds:.6g} s")

    async def _drain(self, name: str) -> None:
        outlet = self.outlets[name]
        with suppress(trio.ClosedResourceError):
            while not outlet.closed:
                await trio.lowlevel.wait_readable(outlet.reader)
                self._move(name)
                while outlet.stalled and not outlet.closed:
                    await trio.sleep(STALL_RETRY)
                    self._move(name)

    def _move(self, name: str) -> None:
        outlet = self.outlets[name]
        if outlet.closed:
            return
        was_stalled = outlet.stalled
        outlet.drain()
        self._tell_if_grown(name)
        if outlet.stalled != was_stalled:
            self._tell_stalled()
        if outlet.at_end:
            self._close(name)

    def _close(self, name: str) -> None:
        outlet = self.outlets[name]
        trio.lowlevel.notify_closing(outlet.reader)
        outlet.close()
        if self.ended is not None:
            self._host.tell(Closed(self.job, self.open_streams))
            self._settle()

    def _tell_if_grown(self, name: str) -> None:
        if self.outlets[name].is_news():
            self._host.tell(Grown(self.job, name))

    @property
    def stalled(self) -> dict[str, str]:
        """Why what is written to a stream cannot be kept, of those of which that is so."""
        waits = "what it left behind waits" if self.gone else "the job waits"
        return {
            name: f"cannot be written: {outlet.obstacle}: {waits} when it writes"
            for name, outlet in self.outlets.items()
            if outlet.stalled
        }

    def _tell_stalled(self) -> None:
        self._host.tell(Stalled(self.job, self.stalled))

    async def _wait_ended(self) -> None:
        status, usage = await self.leader.wait_ended()
        ended_at, elapsed = time.time(), time.monotonic() - self.started.started_clock
        for outlet in self.outlets.values():
            outlet.process_ended()
        if self._inlet is not None:
            self._inlet.close()
        await self._drain_what_waits()
        event, code = (Event.LOSE, None) if status is None else ending(status)
        self.ended = Ended(
            job=self.job,
            event=event,
            code=code,
            ended_at=ended_at,
            elapsed=elapsed,
            reason=self._ending or (_UNKNOWN_END if status is None else None),
            open_streams=self.open_streams,
            cpu_user_s=None if usage is None else usage.ru_utime,
            cpu_system_s=None if usage is None else usage.ru_stime,
            max_rss_bytes=None if usage is None else max_rss_bytes(usage),
        )
        self._host.tell(self.ended)
        self.finished.set()
        self._settle()

    async def _drain_what_waits(self) -> None:
        """The process has ended: the job has when what its pipes held at that moment is in the streams.

        While the disk is full that is waited for, but not as the table is closed: then it is lost.
        """
        while True:
            for name, outlet in self.outlets.items():
                left = outlet.waiting() if not outlet.closed else 0
                while left > 0 and not outlet.stalled and (moved := outlet.drain()):
                    left -= moved
                # So that the end of the pipe is known at once.
                self._move(name)
            if not self.stalled:
                return
            self._tell_stalled()
            if self._host.closing:
                log.warning("job %d: the last of its output is lost: the disk is full", self.job)
                return
            await trio.sleep(STALL_RETRY)

    def _settle(self) -> None:
        if self.ended is not None and not self.open_streams and not self._killing:
            self.leader.close()  # there may be a thousand ended jobs
            self.over.set()

    def close(self) -> None:
        """Lets go of all that it has."""
        for name, outlet in self.outlets.items():
            if not outlet.closed:
                self._close(name)
        self.leader.close()
