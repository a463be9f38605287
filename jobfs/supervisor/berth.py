"""A place for a job, made before the job comes: its record and its pipes.

Making these takes a good part of what starting a process does. So the next one is made while nobody waits, and a spawn
only gives it the job's name.
"""

from __future__ import annotations

import os
from contextlib import suppress

from jobfs.model import STREAMS
from jobfs.supervisor import job_file
from jobfs.supervisor.outlet import Outlet
from jobfs.supervisor.record import NAME, RecordFile

_SPARE = "spare"  # no number, so nobody takes it for a job


class Berth:
    """A record and, still without a file, an outlet for each output stream."""

    def __init__(self, jobs: str) -> None:
        """Makes it in the directory `jobs`; OSError where that fails, with nothing left behind."""
        self._jobs = jobs
        self._path = job_file(jobs, _SPARE, NAME)
        self.outlets: dict[str, Outlet] = {}
        self.record_file = RecordFile(self._path)
        try:
            for name in STREAMS:
                self.outlets[name] = Outlet()
        except OSError:
            self.discard()
            raise

    def take(self, job: int, capacity: int) -> None:
        """It is the job's from now on, with streams of `capacity` bytes; OSError where that fails."""
        path = job_file(self._jobs, job, NAME)
        os.rename(self._path, path)
        self._path = path
        for name, outlet in self.outlets.items():
            outlet.assign(job_file(self._jobs, job, name), capacity)

    def discard(self) -> None:
        """Gives everything back."""
        for outlet in self.outlets.values():
            if not outlet.closed:
                outlet.close()
        self.record_file.close()
        with suppress(OSError):
            os.unlink(self._path)
