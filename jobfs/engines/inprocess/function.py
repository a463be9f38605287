"""A job that is an async function of this program.

It runs in a cancel scope of its own. What would end a process cancels it; what it raises is its own affair, told in its
stderr; a cancellation from outside and Ctrl-C are passed on. Its processes lead groups of the job.
"""

from __future__ import annotations

import errno
import os
import signal
import time
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs.engines.base import Closed, Continued, Ended, Grown, News, Stalled, Started, Stopped
from jobfs.engines.failures import failure
from jobfs.engines.inprocess.launch import Streams
from jobfs.engines.inprocess.leader import Leader
from jobfs.engines.inprocess.output import Pause, StreamWriter
from jobfs.engines.inprocess.starting import start
from jobfs.engines.inprocess.task import Task
from jobfs.errors import JobEnded, StdinClosed
from jobfs.model import STREAMS, JobSpec
from jobfs.proc import own_umask
from jobfs.processes import stop_state
from jobfs.states import Event
from jobfs.supervisor.inlet import Inlet
from jobfs.text import with_variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobfs.engines.inprocess.host import Host
    from jobfs.processes import Stray

_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
# Which end no process that does not ask for them (signal(7)); 0 is none.
_HARMLESS = (0, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH)
_CRASHED = 1  # the exit code of a function that raised


class FunctionJob:
    """One function, its streams, its processes and its end."""

    def __init__(self, host: Host, job: int, spec: JobSpec, environment: str) -> None:
        """OSError where it is to have a stdin and no pipe can be had."""
        self.job = job
        self.pause = Pause()
        self.receivers: dict[int, trio.MemorySendChannel[int]] = {}
        self.ended: Ended | None = None
        self.finished = trio.Event()  # it has ended
        self.over = trio.Event()  # nobody holds its pipes any more, and no grace period runs
        self._host = host
        self.spec = spec
        self._environment = environment
        self.outputs = {
            name: StreamWriter(host.path(job, name), spec.limit, self.pause, partial(self._stream_changed, name))
            for name in STREAMS
        }
        self._inlet = Inlet() if spec.stdin == "pipe" else None
        self.stdin = None if self._inlet is None else trio.lowlevel.FdStream(self._inlet.take_job_end())
        self._leaders: dict[int, Leader] = {}
        self._told_open: frozenset[str] = frozenset(STREAMS)
        self._told_stalled = False
        self._scope = trio.CancelScope()
        self._cancelled_by: int | None = None  # the signal
        self._followed: Leader | None = None
        self._is_ending = False
        self._reason: str | None = None
        self._grace = spec.grace
        self._killing = 0  # grace periods that run
        self.task = Task(self, spec.name)
        self.started = Started(job, time.time(), time.monotonic(), None, "function")

    # Its life

    async def run(self) -> None:
        """Runs the function to its end. KeyboardInterrupt gets out, and so does a cancellation from outside."""
        event, code = Event.SIGNAL, int(signal.SIGTERM)  # of one that is cancelled from outside
        deadline = trio.CancelScope()
        if self.spec.timeout is not None:
            self._host.start_soon(partial(self._end_after, self.spec.timeout, deadline))
        try:
            with self._scope:
                event, code = await self._outcome()
            if self._scope.cancelled_caught:
                event, code = Event.SIGNAL, self._cancelled_by or int(signal.SIGTERM)
        except KeyboardInterrupt:
            event, code = Event.SIGNAL, int(signal.SIGINT)
            raise
        finally:
            deadline.cancel()
            self._end_as(event, code)

    async def _end_after(self, seconds: float, deadline: trio.CancelScope) -> None:
        with deadline:
            await trio.sleep(seconds)
            self.end(self.spec.grace, f"it was ended after its timeout of {seconds:.6g} s")

    async def _outcome(self) -> tuple[Event, int]:
        """How the function ends; trio.Cancelled and KeyboardInterrupt get out."""
        assert self.spec.run is not None
        try:
            return outcome_of(await self.spec.run(self.task))
        except SystemExit as error:
            return outcome_of(error.code if isinstance(error.code, int | None) else _CRASHED)
        except (trio.Cancelled, KeyboardInterrupt):
            raise
        except BaseExceptionGroup as group:
            passed_on, own = group.split((trio.Cancelled, KeyboardInterrupt))
            if own is not None:
                await self._write_traceback(own)
            if passed_on is not None:
                raise passed_on from None
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is that job's alone
            await self._write_traceback(error)
        return Event.EXIT_NONZERO, _CRASHED

    async def _write_traceback(self, error: BaseException) -> None:
        # Without the line above, which is none of the function's.
        lines = traceback.format_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        said = "".join(lines).encode("utf-8", "backslashreplace")
        self.pause.end()  # it has ended: it need not wait to be continued
        try:
            self.task.stderr.write_nowait(said)  # at once, for a cancellation may be under way
        except OSError:
            await self.task.stderr.write(said)

    def _end_as(self, event: Event, code: int) -> None:
        now = time.monotonic()
        for output in self.outputs.values():
            output.seal()
        if self._inlet is not None:
            self._inlet.close()
        if self.stdin is not None:
            self.stdin.close()
        self._told_open = self.open_streams
        self.ended = Ended(
            job=self.job,
            event=event,
            code=code,
            ended_at=time.time(),
            elapsed=now - self.started.started_clock,
            reason=self._reason,
            open_streams=self._told_open,
        )
        self._host.tell(self.ended)
        self.finished.set()
        self._settle()

    def _settle(self) -> None:
        if self.ended is not None and not self.open_streams and not self._killing:
            for leader in self._leaders.values():
                leader.close()
            self.over.set()

    # What it is asked

    @property
    def leaders(self) -> list[Leader]:
        """The processes whose groups are the job's; those of which nothing is left are dropped."""
        if self.ended is None:
            self._drop_ended()
        return list(self._leaders.values())

    def _drop_ended(self) -> None:
        for leader in [leader for leader in self._leaders.values() if not leader.group_lives]:
            del self._leaders[leader.pid]
            leader.close()

    @property
    def strays(self) -> list[Stray]:
        """What its processes, and those that it left behind, are known by."""
        return [leader.stray(self.job) for leader in self.leaders]

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self.ended is not None

    @property
    def story(self) -> list[News]:
        """All that happened to it."""
        if self.ended is not None:
            return [self.started, self.ended]
        return [self.started, Stopped(self.job) if self.pause else Continued(self.job)]

    @property
    def open_streams(self) -> frozenset[str]:
        """The streams that somebody may still write to."""
        return frozenset(name for name, output in self.outputs.items() if not output.closed)

    def signal(self, number: int) -> None:
        """Signals its processes, and does with the function what the signal does with a process."""
        self._signal_processes(number)
        if number == signal.SIGCONT:
            self._resume()
        elif number in self.receivers:
            with suppress(trio.WouldBlock, trio.BrokenResourceError):
                self.receivers[number].send_nowait(number)
        elif number in _STOPPING:
            self._stop()
        elif number not in _HARMLESS:
            self._cancel(number)

    def end(self, grace: float, reason: str | None) -> None:
        """SIGTERM and SIGCONT, and SIGKILL after `grace` seconds; see `signal`."""
        if self.ended is not None or self._is_ending:
            return
        self._is_ending, self._reason, self._grace = True, reason, grace
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        self._killing += 1
        self._host.start_soon(partial(self._kill_after, grace))

    async def _kill_after(self, grace: float) -> None:
        with trio.move_on_after(grace):
            for leader in self.leaders:
                await leader.kill_after(grace)
            await self.finished.wait()
        if self.ended is None:
            self._cancel(signal.SIGKILL)
        self._signal_processes(signal.SIGKILL)
        self._killing -= 1
        self._settle()

    def _signal_processes(self, number: int) -> None:
        for leader in self.leaders:
            with suppress(OSError):  # nobody is left of it; or those who are left are another user's by now (setuid)
                leader.signal(number)

    def _cancel(self, number: int) -> None:
        if self._cancelled_by is None or number == signal.SIGKILL:
            self._cancelled_by = number
        self._scope.cancel()

    def _stop(self) -> None:
        if not self.pause:
            self.pause.begin()
            self._host.tell(Stopped(self.job))

    def _resume(self) -> None:
        if self.pause:
            self.pause.end()
            self._host.tell(Continued(self.job))

    def follow(self, pid: int, *, stopped: bool) -> None:
        """Adds a process whose being stopped is the job's; `stopped`: whether it is now."""
        self.add_process(pid)
        self._followed = self._leaders[pid]
        if stopped:
            self._stop()

    def look(self) -> None:
        """Looks whether the process that it follows was stopped or continued, which nobody tells."""
        if self._followed is not None and self.ended is None:
            stopped = stop_state(self._followed.pid) if self._followed.group_lives else None
            if stopped is not None:
                (self._stop if stopped else self._resume)()

    def open_stdin(self) -> int:
        """A descriptor to write to, for the caller to close; StdinClosed where nobody reads."""
        if self._inlet is None or self._inlet.writer < 0:
            raise StdinClosed("nobody reads its stdin any more")
        return os.dup(self._inlet.writer)

    def close_stdin(self) -> None:
        """The function reads end of file."""
        self._require_alive()
        if self._inlet is not None:
            self._inlet.close()

    def resize(self, rows: int, columns: int) -> None:
        """It has no terminal."""
        del rows, columns
        self._require_alive()
        raise failure(errno.ENOTTY, "resize it")

    def _require_alive(self) -> None:
        if self.ended is not None:
            raise JobEnded("nothing is left of it")

    def watch(self, name: str, past: int) -> None:
        """See `Engine.watch`."""
        self.outputs[name].watch(past)

    def unwatch(self) -> None:
        """Nobody is to be told of more any more."""
        for output in self.outputs.values():
            output.unwatch()

    def forget(self) -> None:
        """The job was removed: what is still written goes nowhere."""
        for output in self.outputs.values():
            output.forget()

    def close(self) -> None:
        """Lets go of all that it has; it has ended."""
        for leader in self._leaders.values():
            leader.close()

    def _stream_changed(self, name: str) -> None:
        if self.outputs[name].is_news():
            self._host.tell(Grown(self.job, name))
        stalled = {name: output.obstacle for name, output in self.outputs.items() if output.obstacle is not None}
        if stalled or self._told_stalled:
            self._told_stalled = bool(stalled)
            self._host.tell(Stalled(self.job, stalled))
        if self.ended is not None and self.open_streams < self._told_open:
            self._told_open = self.open_streams
            self._host.tell(Closed(self.job, self._told_open))
            self._settle()

    # Its processes

    async def run_process(
        self, command: str | Sequence[str], cwd: str | os.PathLike[str] | None, env: Mapping[str, str] | None
    ) -> int:
        """See `Task`."""
        await self.task.checkpoint()
        spec = JobSpec(
            command if isinstance(command, str) else None,
            None if isinstance(command, str) else tuple(command),
            os.getcwd(),
            self._environment,
            cwd=None if cwd is None else os.fspath(cwd),
            umask=own_umask(),
        )
        readers, writers = _pipes()
        try:
            surroundings = with_variables(self._environment, env or {})
            members = partial(self._host.members, self.job)
            leader = await start(spec, surroundings, None, Streams(None, *writers), members)
        except BaseException:
            _close(readers)
            raise
        finally:
            _close(writers)
        self._drop_ended()  # there may be thousands, one after the other
        self._leaders[leader.pid] = leader
        pumps = [self.outputs[name].attach(reader) for name, reader in zip(STREAMS, readers, strict=True)]
        for pump in pumps:
            self._host.start_soon(pump.run)  # beside the function: it goes on while that is cancelled
        if self.pause:
            with suppress(ProcessLookupError):  # it has just ended
                leader.signal(signal.SIGSTOP)
        status = await self._reaped(leader)
        for pump in pumps:
            await pump.drain_what_waits()
        if status is None:
            raise failure(errno.ECHILD, f"tell how {spec.words[0]} ended")  # somebody else in this program reaped it
        return os.waitstatus_to_exitcode(status)

    async def _reaped(self, leader: Leader) -> int | None:
        try:
            return (await leader.wait_ended())[0]
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._end_process(leader)
            raise

    async def _end_process(self, leader: Leader) -> None:
        for number in (signal.SIGTERM, signal.SIGCONT):
            with suppress(OSError):
                leader.signal(number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leader.kill_after, self._grace)
            await leader.wait_ended()

    def add_process(self, pid: int) -> None:
        """See `Task`."""
        self._require_alive()
        if pid not in self._leaders:
            self._leaders[pid] = Leader.of(pid, partial(self._host.members, self.job))


def outcome_of(code: int | None) -> tuple[Event, int]:
    """What a function's answer means; raises where it means nothing, which is its own fault."""
    code = 0 if code is None else code
    if not isinstance(code, int):
        raise TypeError(f"a job's function returns its exit code, or None, and not {code!r}")
    if code < 0 and -code in signal.valid_signals():
        return Event.SIGNAL, -code
    if not 0 <= code <= 255:  # noqa: PLR2004 - wait(2)
        raise ValueError(f"an exit code is from 0 to 255, or minus a signal's number: {code}")
    return (Event.EXIT_NONZERO, code) if code else (Event.EXIT_ZERO, 0)


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
