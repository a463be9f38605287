"""A place for a job, made before the job comes: the slot of its record and its pipes.

Making these takes a good part of what starting a process does. So the next one is made while nobody waits, and a spawn
only gives it the job's name.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from jobfs.model import STREAMS
from jobfs.supervisor import job_file
from jobfs.supervisor.inlet import Inlet
from jobfs.supervisor.launch import Descriptors
from jobfs.supervisor.outlet import Outlet

if TYPE_CHECKING:
    from jobfs.supervisor.records import Records
    from jobfs.supervisor.wire import SpawnOrder


class Berth:
    """A slot and, still without a file, an outlet for each output stream."""

    def __init__(self, jobs: str, records: Records) -> None:
        """Makes it, for a job whose files will be in the directory `jobs`; OSError where that fails."""
        self._jobs = jobs
        self._records = records
        self._slot = records.allocate()
        self._job: int | None = None
        self.inlet: Inlet | None = None
        self.outlets: dict[str, Outlet] = {}
        try:
            for name in STREAMS:
                self.outlets[name] = Outlet()
        except OSError:
            self.discard()
            raise

    def take(self, job: int, order: SpawnOrder) -> None:
        """It is the job's from now on, with what `order` asks for; OSError where that cannot be had."""
        self._job = job
        self._records.assign(self._slot, job)
        for name, outlet in self.outlets.items():
            outlet.assign(job_file(self._jobs, job, name), order["limit"])
        if order["stdin"] == "pipe":
            self.inlet = Inlet()

    def descriptors(self, directory: int | None) -> Descriptors:
        """What the job's process gets; `directory` is that of its working directory."""
        stdin = None if self.inlet is None else self.inlet.job_end
        return Descriptors(stdin, self.outlets["stdout"].job_end, self.outlets["stderr"].job_end, directory)

    def started(self) -> None:
        """The job has its ends of the pipes now; ours go."""
        for outlet in self.outlets.values():
            outlet.started()
        if self.inlet is not None:
            self.inlet.started()

    def close_stdin(self) -> None:
        """Nobody writes to the job any more."""
        if self.inlet is not None:
            self.inlet.close()

    def discard(self) -> None:
        """Gives everything back."""
        for outlet in self.outlets.values():
            if not outlet.closed:
                outlet.close()
        self.close_stdin()
        with suppress(OSError):  # it is found free when the file is read again
            if self._job is None:
                self._records.give_back(self._slot)
            else:
                self._records.release(self._job)
