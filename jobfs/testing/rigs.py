"""What the author of an engine provides for the checks: how it is opened, and how a job plays a script."""

from __future__ import annotations

import enum
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

from jobfs.engines.base import Engine
from jobfs.model import JobSpec
from jobfs.testing.scripts import Script, cues, shell_spec

PATIENCE = 30.0
"""Seconds until a check gives up on what hangs, where a rig says nothing else."""


class Feature(enum.Enum):
    """What an engine may be able to do and another one not. What no feature is about, every engine does."""

    OUTLIVES = "its jobs outlive the program that uses it"
    PROGRAMS = "its jobs are programs, with a directory, an environment, a umask and a niceness"
    SIGNALS = "its jobs can be sent any signal, and die of it"
    STOPS = "its jobs can be stopped and continued"
    KILLS = "its jobs can ignore that they are asked to end, and are killed then"
    STDIN = "its jobs can be written to"
    LINGERS = "its jobs can leave something behind"
    TERMINAL = "its jobs can have a terminal"


class Rig(Protocol):
    """An engine to be checked, and jobs for it."""

    @property
    def features(self) -> frozenset[Feature]:
        """What the engine can do: a check of something else is skipped."""

    @property
    def patience(self) -> float:
        """Seconds until a check gives up on what hangs."""

    def open(self) -> AbstractAsyncContextManager[Engine]:
        """The engine, with all its tasks running, so that it can be attached to.

        When it is left, the program that used the engine has gone. Opened again, it is on the same state, as it is
        after that program was restarted. Never open twice at once.
        """

    def spec(self, script: Script) -> JobSpec:
        """A job that plays `script`. A check may change what it says of limit, timeout, grace, stdin and so on."""

    def impossible(self) -> Sequence[JobSpec]:
        """Jobs that the engine cannot start: a program that is not there, say."""

    async def give(self, cue: str) -> None:
        """Lets go on what waits for `cue`, or will; at most one job waits for it."""


class ProcessRig(ABC):
    """A rig for an engine that runs programs on this machine: scripts are played by /bin/sh.

    A subclass says how the engine is opened, and what it cannot do. `directory` is for the cues' FIFOs, and is there
    as long as the rig is; `environment`, NUL-terminated entries, is what jobs get beside a PATH. To be closed when the
    checks are over.
    """

    features: frozenset[Feature] = frozenset(Feature)
    patience: float = PATIENCE

    def __init__(self, directory: Path, environment: str = "") -> None:
        self._directory = directory
        self._environment = f"PATH={os.environ.get('PATH', os.defpath)}\0{environment}"
        self._cues: dict[str, int] = {}

    def __enter__(self) -> Self:
        """The rig itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Lets go of the cues; what still waits for one goes on."""
        for fd in self._cues.values():
            os.close(fd)
        self._cues.clear()

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Engine]:
        """See `Rig`."""

    def spec(self, script: Script) -> JobSpec:
        """See `Rig`."""
        for cue in cues(script):
            if cue not in self._cues:
                os.mkfifo(self._directory / cue)
                self._cues[cue] = os.open(self._directory / cue, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        return shell_spec(script, self._directory, environment=self._environment)

    def impossible(self) -> Sequence[JobSpec]:
        """See `Rig`. A program that is not there, and a directory that is not."""
        nothing = str(self._directory / "not-there")
        return (replace(self.spec(()), cmd=None, argv=(nothing,)), replace(self.spec(()), cwd=nothing))

    async def give(self, cue: str) -> None:
        """See `Rig`."""
        os.write(self._cues[cue], b"go\n")
