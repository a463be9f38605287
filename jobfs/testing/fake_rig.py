"""The fake engine as one that passes every check: its jobs are played by tasks.

It is the smallest engine that keeps to the protocol, so a check that fails on a change of it can tell a fault. All that
it waits for is trio's, so it runs on trio's mock clock too.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from jobfs.engines.fake import FakeEngine
from jobfs.errors import SpawnFailed
from jobfs.model import STREAMS, JobSpec
from jobfs.states import Event
from jobfs.testing.rigs import PATIENCE, Feature
from jobfs.testing.scripts import (
    VARIABLE,
    Await,
    CloseInput,
    CopyInput,
    Count,
    DieOf,
    Exit,
    Fact,
    IgnoreTerm,
    LeaveBehind,
    OnTerm,
    Report,
    Script,
    Step,
    Wait,
    Write,
    counted,
)

_READ = 4096
_EXITS = {True: Event.EXIT_ZERO, False: Event.EXIT_NONZERO}


class Stage:
    """Where scripts are played: the scripts by command line, the cues, and the nursery of those who play."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.scripts: dict[str | None, Script] = {}
        self.cues: defaultdict[str, trio.Event] = defaultdict(trio.Event)


class ScriptedEngine(FakeEngine):
    """A fake engine whose jobs do by themselves what their script says, and heed signals, ends and deadlines."""

    def __init__(self, directory: Path, stage: Stage) -> None:
        super().__init__(directory)
        self._stage = stage
        self._players: dict[int, list[Player]] = {}
        self._ending: dict[int, str | None] = {}  # the reasons of jobs that are to end
        self._remains_ending: set[int] = set()

    # The protocol

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        if spec.cmd not in self._stage.scripts or not _is_there(spec):
            raise SpawnFailed(f"cannot run {spec.line}: there is no such program or directory", errno.ENOENT)
        await super().spawn(job, spec, environment, directory, holder)
        self._players[job] = []
        self.begin(job, self._stage.scripts[spec.cmd], leads=True)
        if spec.timeout is not None:
            self._stage.nursery.start_soon(self._time_out, job, spec.timeout)

    async def signal(self, job: int, handle: str, number: int) -> None:
        """See `Engine`."""
        await super().signal(job, handle, number)
        self.deliver(job, number)

    async def end(self, job: int, handle: str, grace: float, reason: str | None = None) -> None:
        """See `Engine`."""
        await super().end(job, handle, grace, reason)
        self.begin_end(job, grace, reason)

    async def close_stdin(self, job: int) -> None:
        """See `Engine`. To a job with a terminal it is the only end of file."""
        await super().close_stdin(job)
        self.jobs[job].at_eof = True
        self._stdin(job).close_writer()

    # What becomes of jobs

    def begin(self, job: int, script: Script, *, leads: bool, ignores_term: bool = False) -> None:
        """A process of a job begins."""
        player = Player(self, self._stage, job, leads=leads, ignores_term=ignores_term)
        self._players[job].append(player)
        self._stage.nursery.start_soon(player.play, script)

    def deliver(self, job: int, number: int) -> None:
        """A signal reaches all processes of a job."""
        fake = self.jobs[job]
        if number == signal.SIGSTOP and not fake.stopped and fake.ended is None:
            self.stop(job)
        elif number == signal.SIGCONT and fake.stopped and fake.ended is None:
            self.cont(job)
        for player in tuple(self._players[job]):
            player.deliver(number)

    def begin_end(self, job: int, grace: float, reason: str | None) -> None:
        """A job, or what is left of it, is asked to end, unless it was before."""
        if self.jobs[job].ended is None:
            if job in self._ending:
                return
            self._ending[job] = reason
        elif job in self._remains_ending:
            return
        else:
            self._remains_ending.add(job)
        self.deliver(job, signal.SIGTERM)
        self.deliver(job, signal.SIGCONT)
        self._stage.nursery.start_soon(self._grace_over, job, grace)

    async def _time_out(self, job: int, seconds: float) -> None:
        await trio.sleep(seconds)
        fake = self.jobs.get(job)
        if fake is not None and fake.ended is None:
            self.begin_end(job, fake.spec.grace, f"it was ended after its timeout of {seconds:g} s")

    async def _grace_over(self, job: int, grace: float) -> None:
        await trio.sleep(grace)
        if job in self.jobs:
            self.deliver(job, signal.SIGKILL)

    def over(self, player: Player, event: Event, code: int) -> None:
        """A process of a job has ended."""
        job = player.job
        self._players[job].remove(player)
        left = len(self._players[job])
        fake = self.jobs.get(job)
        if fake is None:  # forgotten
            return
        if player.leads:
            held = frozenset(STREAMS if left and not fake.spec.pty else ())
            self._end_as(job, event, code, lingering=left, open_streams=held, reason=self._ending.get(job))
        elif fake.ended is not None:
            fake.lingering = left
            if not left:
                self.close(job, *fake.ended.open_streams)

    # What jobs do

    def show(self, job: int, stream: str, data: bytes) -> None:
        """A process writes, to a pipe or to a terminal; what is left of a forgotten job writes into nothing."""
        fake = self.jobs.get(job)
        if fake is not None and fake.spec.pty:
            self.write(job, "stdout", data.replace(b"\n", b"\r\n"))
        elif fake is not None:
            self.write(job, stream, data)

    async def copy_input(self, job: int) -> None:
        """A process copies its stdin to its stdout; what is typed a terminal shows as well."""
        spec = self.jobs[job].spec
        while spec.takes_input:
            try:
                data = self.read_stdin(job, _READ)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._stdin(job).reader)
                continue
            if not data:
                return
            for _ in range(2 if spec.pty else 1):
                self.show(job, "stdout", data)


class Player:
    """A process of a job: the job's own (`leads`), or something that it left behind."""

    def __init__(self, engine: ScriptedEngine, stage: Stage, job: int, *, leads: bool, ignores_term: bool) -> None:
        self.job = job
        self.leads = leads
        self._engine = engine
        self._stage = stage
        self._scope = trio.CancelScope()
        self._on_term: IgnoreTerm | OnTerm | None = IgnoreTerm() if ignores_term else None
        self._alive = True
        self._runs = trio.Event()  # it is not stopped
        self._runs.set()
        self._pending: list[int] = []  # signals that came while it was stopped

    async def play(self, script: Script) -> None:
        """Plays its script, to the end or until a signal ends it."""
        with self._scope:
            for step in script:
                await self._runs.wait()
                await self._take(step)
            self._end(Event.EXIT_ZERO, 0)

    async def _take(self, step: Step) -> None:
        match step:
            case Write() | Count() | Report():
                self._show(step)
            case Exit(code):
                self._exit(code)
            case DieOf(number):
                self._end(Event.SIGNAL, number)
            case Wait():
                await trio.sleep_forever()
            case Await(cue):
                await self._stage.cues[cue].wait()
            case OnTerm() | IgnoreTerm():
                self._on_term = step
            case CopyInput() | CloseInput():
                await self._read(step)
            case LeaveBehind(left):
                ignores = isinstance(self._on_term, IgnoreTerm)
                self._engine.begin(self.job, left, leads=False, ignores_term=ignores)
        await trio.lowlevel.checkpoint_if_cancelled()

    def _show(self, step: Write | Count | Report) -> None:
        match step:
            case Write(data, stream):
                self._engine.show(self.job, stream, data)
            case Count(last, stream):
                self._engine.show(self.job, stream, counted(last))
            case Report(fact):
                self._engine.show(self.job, "stdout", f"{_fact(fact, self._engine.jobs[self.job].spec)}\n".encode())

    async def _read(self, step: CopyInput | CloseInput) -> None:
        if isinstance(step, CopyInput):
            await self._engine.copy_input(self.job)
        else:
            self._engine.hang_up_stdin(self.job)

    def deliver(self, number: int) -> None:
        """A signal comes."""
        if number == signal.SIGKILL:
            self._end(Event.SIGNAL, number)
        elif number == signal.SIGSTOP:
            self._runs = trio.Event()
        elif number == signal.SIGCONT:
            self._runs.set()
            while self._pending and self._alive:
                self.deliver(self._pending.pop(0))
        elif not self._runs.is_set():
            self._pending.append(number)
        elif number != signal.SIGTERM or self._on_term is None:
            self._end(Event.SIGNAL, number)
        elif isinstance(self._on_term, OnTerm):
            self._leave(self._on_term)

    def _leave(self, how: OnTerm) -> None:
        self._on_term = IgnoreTerm()
        if how.after is None:
            self._exit(how.code)
        else:
            self._stage.nursery.start_soon(self._exit_after, self._stage.cues[how.after], how.code)

    async def _exit_after(self, cue: trio.Event, code: int) -> None:
        await cue.wait()
        self._exit(code)

    def _exit(self, code: int) -> None:
        self._end(_EXITS[code == 0], code)

    def _end(self, event: Event, code: int) -> None:
        if self._alive:
            self._alive = False
            self._scope.cancel()  # first: whoever waits for a descriptor must not when it is closed
            self._engine.over(self, event, code)


def _is_there(spec: JobSpec) -> bool:
    return os.path.isdir(spec.working_directory)


def _fact(fact: Fact, spec: JobSpec) -> str:
    match fact:
        case Fact.DIRECTORY:
            return os.path.realpath(spec.working_directory)
        case Fact.UMASK:
            return f"{spec.umask:04o}"
        case Fact.NICENESS:
            return str(spec.nice or 0)
        case Fact.VARIABLE:
            variables = dict(entry.partition("=")[::2] for entry in spec.environment.split("\0"))
            return variables.get(VARIABLE, "")


class FakeRig:
    """A rig for the fake engine; see `fake_rig`."""

    features = frozenset(Feature)
    patience = PATIENCE

    def __init__(self, engine: ScriptedEngine, stage: Stage) -> None:
        self.engine = engine
        self._stage = stage

    @asynccontextmanager
    async def open(self) -> AsyncIterator[FakeEngine]:
        """See `Rig`. The fake's jobs outlive whoever uses it."""
        try:
            yield self.engine
        finally:
            self.engine.disconnect()

    def spec(self, script: Script) -> JobSpec:
        """See `Rig`."""
        cmd = f"script {len(self._stage.scripts) + 1}"
        self._stage.scripts[cmd] = script
        return JobSpec(cmd, None, "/", "")

    def impossible(self) -> Sequence[JobSpec]:
        """See `Rig`."""
        return (replace(self.spec(()), cmd="no script"), replace(self.spec(()), cwd="/nonexistent"))

    async def give(self, cue: str) -> None:
        """See `Rig`."""
        await trio.lowlevel.checkpoint()
        self._stage.cues[cue].set()


@asynccontextmanager
async def fake_rig(directory: Path, engine: type[ScriptedEngine] = ScriptedEngine) -> AsyncIterator[FakeRig]:
    """A rig whose jobs go on as long as this is open; ring files are made in `directory`.

    `engine`: another class, to try what a check makes of a fault, say.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        try:
            yield FakeRig(engine(directory, stage), stage)
        except Exception as error:  # noqa: BLE001 - raised below, as it is and in no group of the nursery's
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
