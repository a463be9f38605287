"""A place for a job, made before the job comes: the slot of its record and its pipes, or its terminal.

Making these takes a good part of what starting a process does. So the next one is made while nobody waits, and a spawn
only gives it the job's name.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from jobfs.supervisor import job_file
from jobfs.supervisor.inlet import Inlet
from jobfs.supervisor.launch import Descriptors
from jobfs.supervisor.outlet import Outlet
from jobfs.supervisor.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobfs.supervisor.records import Records
    from jobfs.supervisor.wire import SpawnOrder


PIPES: Mapping[str, type[Outlet]] = {"stdout": Outlet, "stderr": Outlet}
TERMINAL: Mapping[str, type[Outlet]] = {"stdout": Terminal}  # what is written to stderr comes out there too


class Berth:
    """A slot and, still without a file, an outlet for each output stream."""

    def __init__(self, jobs: str, records: Records, outlets: Mapping[str, type[Outlet]] = PIPES) -> None:
        """Makes it, for a job whose files will be in the directory `jobs`; OSError where that fails."""
        self._jobs = jobs
        self._records = records
        self._slot = records.allocate()
        self._job: int | None = None
        self.inlet: Inlet | None = None
        self.outlets: dict[str, Outlet] = {}
        try:
            for name, kind in outlets.items():
                self.outlets[name] = kind()
        except OSError:
            self.discard()
            raise

    def take(self, job: int, order: SpawnOrder) -> None:
        """It is the job's from now on, with what `order` asks for; OSError where that cannot be had."""
        self._job = job
        self._records.assign(self._slot, job)
        for name, outlet in self.outlets.items():
            outlet.assign(job_file(self._jobs, job, name), order["limit"])
        if order["stdin"] == "pipe" and self.terminal is None:
            self.inlet = Inlet()

    @property
    def terminal(self) -> Terminal | None:
        """The job's terminal, where it is to have one."""
        outlet = self.outlets["stdout"]
        return outlet if isinstance(outlet, Terminal) else None

    def descriptors(self, order: SpawnOrder, directory: int | None) -> Descriptors:
        """What the job's process gets; `directory` is that of its working directory."""
        if self.terminal is not None:
            tty = self.terminal.job_end
            return Descriptors(tty if order["stdin"] in ("none", "pipe") else None, tty, tty, directory, tty)
        stdin = None if self.inlet is None else self.inlet.job_end
        return Descriptors(stdin, self.outlets["stdout"].job_end, self.outlets["stderr"].job_end, directory)

    def started(self) -> None:
        """The job has its ends of the pipes now; ours go."""
        for outlet in self.outlets.values():
            outlet.started()
        if self.inlet is not None:
            self.inlet.started()

    def process_ended(self) -> None:
        """The job's process has ended, and nobody else reads what is written to it."""
        for outlet in self.outlets.values():
            outlet.process_ended()
        if self.inlet is not None:
            self.inlet.close()

    def end_of_file(self) -> None:
        """The job reads end of file: its pipe is closed, or that is typed."""
        if self.terminal is not None:
            self.terminal.type_end_of_file()
        elif self.inlet is not None:
            self.inlet.close()

    def discard(self) -> None:
        """Gives everything back."""
        for outlet in self.outlets.values():
            if not outlet.closed:
                outlet.close()
        if self.inlet is not None:
            self.inlet.close()
        with suppress(OSError):  # it is found free when the file is read again
            if self._job is None:
                self._records.give_back(self._slot)
            else:
                self._records.release(self._job)
