"""A place for a job, made before the job comes: the slot of its record and its pipes, or its terminal.

Making these takes a good part of what starting a process does. So the next one is made while nobody waits, and a spawn
only gives it the job's name. A job of an earlier supervisor has all that already, and somebody brings it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from jobfs.supervisor import job_file
from jobfs.supervisor.inlet import Inlet
from jobfs.supervisor.launch import Descriptors
from jobfs.supervisor.outlet import Outlet
from jobfs.supervisor.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobfs.supervisor.loop import Loop
    from jobfs.supervisor.records import Records
    from jobfs.supervisor.wire import JobRecord, SpawnOrder

log = logging.getLogger(__name__)

PIPES: Mapping[str, type[Outlet]] = {"stdout": Outlet, "stderr": Outlet}
TERMINAL: Mapping[str, type[Outlet]] = {"stdout": Terminal}  # what is written to stderr comes out there too


class Hold(Protocol):
    """Who keeps duplicates of what a job depends on, for the day when the supervisor is killed."""

    def __call__(self, job: int, **descriptors: int) -> None:
        """Keeps duplicates of `descriptors`, under these names."""


class Berth:
    """A slot and, still without a file, an outlet for each output stream."""

    def __init__(self, jobs: str, records: Records, slot: int) -> None:
        """For a job whose files will be in the directory `jobs`."""
        self._jobs = jobs
        self._records = records
        self._slot = slot
        self._job: int | None = None
        self.inlet: Inlet | None = None
        self.outlets: dict[str, Outlet] = {}

    @classmethod
    def make(cls, jobs: str, records: Records, outlets: Mapping[str, type[Outlet]] = PIPES) -> Self:
        """A new one; OSError where that fails."""
        berth = cls(jobs, records, records.allocate())
        try:
            for name, kind in outlets.items():
                berth.outlets[name] = kind()
        except OSError:
            berth.discard()
            raise
        return berth

    @classmethod
    def adopt(cls, jobs: str, records: Records, record: JobRecord, brought: dict[str, int], hold: Hold) -> Self:
        """That of a job whose supervisor was killed, of what was `brought` of it, which is taken over from there.

        A stream whose pipe nobody brought has none: nobody holds it any more.
        """
        job = record["id"]
        berth = cls(jobs, records, records.slot_of(job))
        berth._job = job
        kinds = TERMINAL if record.get("pty") else PIPES
        for name, kind in kinds.items():
            if name in brought:
                ring = brought.pop(f"{name}.ring", None)
                queue = [brought.pop(f"{name}.queue")] if f"{name}.queue" in brought else []
                berth.outlets[name] = outlet = kind(brought.pop(name), *queue)
                outlet.assign(job_file(jobs, job, name), record["limit"], partial(_hold_ring, hold, job, name))
                try:
                    outlet.resume(ring)
                except OSError as error:
                    log.error("what job %d writes to its %s goes nowhere: %s", job, name, error)  # noqa: TRY400
                    outlet.forget()
        if "stdin" in brought:
            berth.inlet = Inlet(brought.pop("stdin"))
        return berth

    def take(self, job: int, order: SpawnOrder, hold: Hold) -> None:
        """It is the job's from now on, with what `order` asks for; OSError where that cannot be had."""
        self._job = job
        self._records.assign(self._slot, job)
        for name, outlet in self.outlets.items():
            outlet.assign(job_file(self._jobs, job, name), order["limit"], partial(_hold_ring, hold, job, name))
        if order["stdin"] == "pipe" and self.terminal is None:
            self.inlet = Inlet()

    @property
    def terminal(self) -> Terminal | None:
        """The job's terminal, where it is to have one."""
        outlet = self.outlets.get("stdout")
        return outlet if isinstance(outlet, Terminal) else None

    @property
    def pipes(self) -> dict[str, int]:
        """The inode number of each output pipe."""
        return {name: outlet.inode for name, outlet in self.outlets.items()}

    @property
    def own_ends(self) -> dict[str, int]:
        """The descriptors that would be gone with the supervisor, by name."""
        ends: dict[str, int] = {}
        for name, outlet in self.outlets.items():
            if not outlet.closed:
                ends |= outlet.own_ends(name)
        if self.inlet is not None and self.inlet.writer >= 0:
            ends["stdin"] = self.inlet.writer
        return ends

    @property
    def rings(self) -> dict[str, int]:
        """The descriptors of the ring files, by the names that they are held under."""
        return {f"{name}.ring": outlet.ring for name, outlet in self.outlets.items() if outlet.ring is not None}

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


class Berths:
    """The berths of the jobs whose files are in one directory; one is always being kept ready."""

    def __init__(self, loop: Loop, jobs: str, records: Records, hold: Hold) -> None:
        self._loop = loop
        self._jobs = jobs
        self._records = records
        self._hold = hold
        self._spare: Berth | None = None

    def give(self, job: int, order: SpawnOrder) -> Berth:
        """One that is the job's, with what `order` asks for; OSError where that cannot be had."""
        berth = Berth.make(self._jobs, self._records, TERMINAL) if order["pty"] else self._take_spare()
        try:
            berth.take(job, order, self._hold)
        except OSError:
            berth.discard()
            raise
        return berth

    def adopt(self, record: JobRecord, brought: dict[str, int]) -> Berth:
        """See `Berth.adopt`."""
        return Berth.adopt(self._jobs, self._records, record, brought, self._hold)

    def close(self) -> None:
        """Gives back what was made for a job that never came."""
        if self._spare is not None:
            self._spare.discard()
            self._spare = None

    def _take_spare(self) -> Berth:
        berth, self._spare = self._spare or Berth.make(self._jobs, self._records), None
        self._loop.after(0, self._make_spare)
        return berth

    def _make_spare(self) -> None:
        with suppress(OSError):  # the spawn that needs it will say so
            self._spare = self._spare or Berth.make(self._jobs, self._records)


def _hold_ring(hold: Hold, job: int, name: str, ring: int) -> None:
    hold(job, **{f"{name}.ring": ring})
