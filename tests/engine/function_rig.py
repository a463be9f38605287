"""A rig for the engine of this program itself whose jobs are async functions: they play a script step by step."""

from __future__ import annotations

import signal
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from jobfs.beside import beside
from jobfs.engines.inprocess import InProcessEngine
from jobfs.errors import StdinClosed
from jobfs.model import JobSpec
from jobfs.testing import Feature
from jobfs.testing.rigs import PATIENCE
from jobfs.testing.scripts import (
    Await,
    CloseInput,
    CopyInput,
    Count,
    DieOf,
    Exit,
    IgnoreTerm,
    OnTerm,
    Script,
    Step,
    Wait,
    Write,
    counted,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from jobfs.engines.inprocess.task import Task


class FunctionRig:
    """Jobs that are functions: they end with the program, leave nothing behind, and are no programs."""

    features = frozenset({Feature.SIGNALS, Feature.STOPS, Feature.KILLS, Feature.STDIN})
    patience = PATIENCE

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cues: defaultdict[str, trio.Event] = defaultdict(trio.Event)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[InProcessEngine]:
        """See `Rig`."""
        engine = InProcessEngine(self._directory)
        async with beside(engine.close) as nursery:
            await nursery.start(engine.run)
            yield engine

    def spec(self, script: Script) -> JobSpec:
        """See `Rig`."""

        async def play(task: Task) -> int:
            return await _Player(task, self._cues).play(script)

        return JobSpec("script", None, "/", "", function=True, run=play)

    def impossible(self) -> Sequence[JobSpec]:
        """See `Rig`. A function of a program that has ended."""
        return (JobSpec("script", None, "/", "", function=True),)

    async def give(self, cue: str) -> None:
        """See `Rig`."""
        await trio.lowlevel.checkpoint()
        self._cues[cue].set()


class _Player:
    def __init__(self, task: Task, cues: defaultdict[str, trio.Event]) -> None:
        self._task = task
        self._cues = cues
        self._code = 0
        self._over = trio.CancelScope()

    async def play(self, script: Script) -> int:
        """Plays it to the end; gives the exit code."""
        async with trio.open_nursery() as nursery:
            with self._over:
                for step in script:
                    await self._task.checkpoint()
                    if await self._take(step, nursery):
                        break
            nursery.cancel_scope.cancel()
        return self._code

    async def _take(self, step: Step, nursery: trio.Nursery) -> bool:
        """Takes a step; whether it was the last one."""
        match step:
            case Write(data, stream):
                await self._write(stream, data)
            case Count(last, stream):
                await self._write(stream, counted(last))
            case Exit(code):
                self._code = code
            case DieOf(number):
                self._code = -number
            case Wait():
                await trio.sleep_forever()
            case Await(cue):
                await self._cues[cue].wait()
            case OnTerm() | IgnoreTerm():
                await nursery.start(self._heed_term, step)
            case CopyInput() | CloseInput():
                await self._read(step)
            case _:
                raise NotImplementedError(step)
        return isinstance(step, Exit | DieOf)

    async def _read(self, step: CopyInput | CloseInput) -> None:
        if isinstance(step, CloseInput):
            await self._task.stdin.aclose()
            return
        with suppress(StdinClosed):  # it was started without one
            async for piece in self._task.stdin:
                await self._write("stdout", bytes(piece))

    async def _write(self, stream: str, data: bytes) -> None:
        await (self._task.stdout if stream == "stdout" else self._task.stderr).write(data)

    async def _heed_term(self, how: OnTerm | IgnoreTerm, *, task_status: trio.TaskStatus[None]) -> None:
        with self._task.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                if isinstance(how, OnTerm):
                    if how.after is not None:
                        await self._cues[how.after].wait()
                    self._code = how.code
                    self._over.cancel()
