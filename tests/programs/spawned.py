"""What the tests with writers ask: which jobs have appeared, what ran in them, and what was refused."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from tests.mounted import PATIENCE, Mounted, until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Refusal(NamedTuple):
    """An `error` event."""

    errno: int
    sentence: str


class Spawned:
    """The jobs and the errors of a mount since this was made; a test has its mount for itself while it runs."""

    def __init__(self, mounted: Mounted) -> None:
        """Takes what is there as old."""
        self._mounted = mounted
        self._before = self._ids()
        self._events = mounted.file("events").stat().st_size

    @property
    def jobs(self) -> list[int]:
        """The new jobs, in the order in which they were spawned."""
        return sorted(self._ids() - self._before)

    def until(self, count: int) -> list[int]:
        """Waits until there are so many new jobs and all have ended, their streams too, and gives all there are."""
        for job in until(lambda: self.jobs, lambda jobs: len(jobs) >= count):
            self._mounted.until_closed(job)
        return self.jobs

    def commands(self, count: int) -> list[bytes]:
        """The command lines of the new jobs, when there are so many and they have ended."""
        return [self._mounted.read(job, "cmd").removesuffix(b"\n") for job in self.until(count)]

    @property
    def refused(self) -> list[Refusal]:
        """The new `error` events."""
        with self._mounted.file("events").open() as file:
            file.seek(self._events)
            events = [json.loads(line) for line in file.read().splitlines()]
        return [Refusal(event["errno"], event["error"]) for event in events if event["event"] == "error"]

    def until_refused(self) -> Refusal:
        """Waits for a new `error` event, and gives the last."""
        return until(lambda: self.refused)[-1]

    def _ids(self) -> set[int]:
        return {int(name) for name in os.listdir(self._mounted.path) if name.isdigit()}


def run(
    mounted: Mounted, command: Sequence[str], cwd: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program in `cwd`, which is its home too, where $J is the mount."""
    environment = {**os.environ, "J": str(mounted.path), "HOME": str(cwd), "LC_ALL": "C", **(variables or {})}
    return subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
