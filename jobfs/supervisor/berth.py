"""A place for a job, made before the job comes: the slot of its record and its pipes.

Making these takes a good part of what starting a process does. So the next one is made while nobody waits, and a spawn
only gives it the job's name.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from jobfs.model import STREAMS
from jobfs.supervisor import job_file
from jobfs.supervisor.outlet import Outlet

if TYPE_CHECKING:
    from jobfs.supervisor.records import Records


class Berth:
    """A slot and, still without a file, an outlet for each output stream."""

    def __init__(self, jobs: str, records: Records) -> None:
        """Makes it, for a job whose files will be in the directory `jobs`; OSError where that fails."""
        self._jobs = jobs
        self._records = records
        self._slot = records.allocate()
        self._job: int | None = None
        self.outlets: dict[str, Outlet] = {}
        try:
            for name in STREAMS:
                self.outlets[name] = Outlet()
        except OSError:
            self.discard()
            raise

    def take(self, job: int, capacity: int) -> None:
        """It is the job's from now on, with streams of `capacity` bytes."""
        self._job = job
        self._records.assign(self._slot, job)
        for name, outlet in self.outlets.items():
            outlet.assign(job_file(self._jobs, job, name), capacity)

    def discard(self) -> None:
        """Gives everything back."""
        for outlet in self.outlets.values():
            if not outlet.closed:
                outlet.close()
        with suppress(OSError):  # it is found free when the file is read again
            if self._job is None:
                self._records.give_back(self._slot)
            else:
                self._records.release(self._job)
