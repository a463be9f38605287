"""A place for a job, made before the job comes: its directory, its record and its pipes.

Making these takes as long as starting a process does (0.2 ms, most of it the file system's). So the next one is made
while nobody waits, and a spawn only gives it the job's name.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from jobfs.model import STREAMS
from jobfs.supervisor.outlet import Outlet
from jobfs.supervisor.record import RecordFile

if TYPE_CHECKING:
    from pathlib import Path

_SPARE = "spare"  # no number, so nobody takes it for a job


class Berth:
    """A directory with a record and, still without a file, an outlet for each output stream."""

    def __init__(self, jobs: Path) -> None:
        """Makes it among `jobs`; OSError where that fails, with nothing left behind."""
        self._jobs = jobs
        self.directory = f"{jobs}/{_SPARE}"
        self.outlets: dict[str, Outlet] = {}
        shutil.rmtree(self.directory, ignore_errors=True)  # a supervisor that was killed may have left one
        os.mkdir(self.directory, 0o700)
        try:
            self.record_file = RecordFile(self.directory)
        except OSError:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        try:
            for name in STREAMS:
                self.outlets[name] = Outlet()
        except OSError:
            self.discard()
            raise

    def take(self, job: int, capacity: int) -> None:
        """It is the job's from now on, with streams of `capacity` bytes; OSError where that fails."""
        directory = f"{self._jobs}/{job}"
        os.rename(self.directory, directory)
        self.directory = directory
        for name, outlet in self.outlets.items():
            outlet.assign(f"{directory}/{name}", capacity)

    def discard(self) -> None:
        """Gives everything back."""
        for outlet in self.outlets.values():
            if not outlet.closed:
                outlet.close()
        self.record_file.close()
        shutil.rmtree(self.directory, ignore_errors=True)
