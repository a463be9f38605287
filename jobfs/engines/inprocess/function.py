"""A job that is an async function of this program.

It runs in a cancel scope of its own. What would end a process cancels it; what it raises is its own affair, told in its
stderr; a cancellation from outside and Ctrl-C are passed on. Its processes lead groups of the job.
"""

from __future__ import annotations

import errno
import inspect
import os
import signal
import time
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from jobfs.engines.base import Closed, Continued, Ended, Grown, News, Stalled, Started, Stopped
from jobfs.engines.failures import failure
from jobfs.engines.inprocess.outcome import Outcome, outcome_of, outcome_of_error
from jobfs.engines.inprocess.output import Pause, StreamWriter
from jobfs.engines.inprocess.parts import Parts
from jobfs.engines.inprocess.task import Task
from jobfs.errors import JobEnded, StdinClosed
from jobfs.model import STREAMS
from jobfs.states import Event
from jobfs.supervisor.inlet import Inlet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobfs.engines.inprocess.host import Host
    from jobfs.engines.inprocess.leader import Leader
    from jobfs.model import Function, JobSpec
    from jobfs.processes import Stray

_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
# Which end no process that does not ask for them (signal(7)); 0 is none.
_HARMLESS = (0, signal.SIGCONT, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH)


class FunctionJob:
    """One function, its streams, its processes and its end."""

    def __init__(self, host: Host, job: int, spec: JobSpec, environment: str) -> None:
        """OSError where it is to have a stdin and no pipe can be had."""
        self.job = job
        self.pause = Pause()
        self.receivers: dict[int, list[trio.MemorySendChannel[int]]] = {}  # by signal, the newest last
        self.ended: Ended | None = None
        self.finished = trio.Event()  # it has ended
        self.over = trio.Event()  # nobody holds its pipes any more, and no grace period runs
        self._host = host
        self.spec = spec
        self.outputs = {
            name: StreamWriter(host.path(job, name), spec.limit, self.pause, partial(self._stream_changed, name))
            for name in STREAMS
        }
        self._inlet = Inlet() if spec.stdin == "pipe" else None
        self.stdin = None if self._inlet is None else trio.lowlevel.FdStream(self._inlet.take_job_end())
        self.parts = Parts(host, job, environment, self.outputs, self.pause)
        self._told_open: frozenset[str] = frozenset(STREAMS)
        self._told_stalled = False
        self._scope = trio.CancelScope()
        self._cancelled_by: int | None = None  # the signal
        self._is_ending = False
        self._reason: str | None = None
        self._grace = spec.grace
        self._killing = 0  # grace periods that run
        self.task = Task(self, spec.name)
        self.started = Started(job, time.time(), time.monotonic(), None, "function")

    # Its life

    async def run(self) -> None:
        """Runs the function to its end. KeyboardInterrupt gets out, and so does a cancellation from outside."""
        deadline = trio.CancelScope()
        if self.spec.timeout is not None:
            self._host.start_soon(partial(self._end_after, self.spec.timeout, deadline))
        outcome = Outcome(Event.SIGNAL, int(signal.SIGTERM))
        try:
            outcome = await self._outcome()
            await self._write_to_stderr(outcome.said)
        finally:
            deadline.cancel()
            self._end_as(outcome.event, outcome.code)
        if outcome.passed_on is not None:
            raise outcome.passed_on

    async def _end_after(self, seconds: float, deadline: trio.CancelScope) -> None:
        with deadline:
            await trio.sleep(seconds)
            self.end(self.spec.grace, f"it was ended after its timeout of {seconds:.6g} s")

    async def _outcome(self) -> Outcome:
        """How the function ends."""
        code: int | None = None
        assert self.spec.run is not None
        try:
            with self._scope:
                code = await _called(self.spec.run, self.task, self.spec.line)
            if self._scope.cancelled_caught:
                return Outcome(Event.SIGNAL, self._cancelled_by or int(signal.SIGTERM))
            return Outcome(*outcome_of(code))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is that job's alone
            return outcome_of_error(error, cancelled=trio.current_effective_deadline() == -inf)

    async def _write_to_stderr(self, said: str) -> None:
        if not said:
            return
        self.pause.end()  # it has ended: it need not wait to be continued
        data = said.encode("utf-8", "backslashreplace")
        try:
            self.task.stderr.write_nowait(data)  # at once, for a cancellation may be under way
        except OSError:
            if not self._scope.cancel_called:  # nobody wants it gone yet: it waits for room
                with trio.CancelScope() as self._scope:
                    await self.task.stderr.write(data)

    def _end_as(self, event: Event, code: int) -> None:
        now = time.monotonic()
        self.pause.end()  # whoever else waits to write learns that it has ended
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
            self.parts.close()
            self.over.set()

    # What it is asked

    @property
    def leaders(self) -> list[Leader]:
        """The processes whose groups are the job's; those of which nothing is left are dropped."""
        if self.ended is None:
            self.parts.settle()
        return self.parts.leaders

    @property
    def strays(self) -> list[Stray]:
        """What its processes, and those that it left behind, are known by."""
        if self.ended is None:
            self.parts.settle()
        return self.parts.strays

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
        self.parts.signal(number)
        if number == signal.SIGCONT:
            self._resume()
        if receivers := self.receivers.get(number):
            with suppress(trio.WouldBlock):  # it has many to take already
                receivers[-1].send_nowait(number)
        elif number in _STOPPING:
            self.stop()
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
            await self.finished.wait()
            await self.parts.wait_ended()
        if self.ended is None:
            self._cancel(signal.SIGKILL)
        self.parts.signal(signal.SIGKILL)
        self._killing -= 1
        self._settle()

    def _cancel(self, number: int) -> None:
        if self._cancelled_by is None or number == signal.SIGKILL:
            self._cancelled_by = number
        self._scope.cancel()

    def stop(self) -> None:
        """It waits at its next `write` or `checkpoint`."""
        if not self.pause:
            self.pause.begin()
            self._host.tell(Stopped(self.job))

    def _resume(self) -> None:
        if self.pause:
            self.pause.end()
            self._host.tell(Continued(self.job))

    def look(self) -> None:
        """Looks whether the process that it follows was stopped or continued, which nobody tells."""
        stopped = self.parts.is_stopped if self.ended is None else None
        if stopped is not None:
            (self.stop if stopped else self._resume)()

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
        self.parts.close()

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
        self._require_alive()
        return await self.parts.run(command, cwd, env, lambda: self._grace)

    def add_process(self, pid: int) -> None:
        """See `Task`."""
        self._require_alive()
        self.parts.add(pid)

    def follow(self, pid: int) -> None:
        """Adds a process whose being stopped is the job's."""
        self.parts.follow(pid)


@trio.lowlevel.disable_ki_protection
async def _called(function: Function, task: Task, line: str) -> int | None:
    """What it answers. Ctrl-C gets into it, and into nothing else that the engine runs."""
    answer = function(task)
    if not inspect.isawaitable(answer):
        raise TypeError(f"{line} is no async function: it returned {answer!r}")
    return await answer
