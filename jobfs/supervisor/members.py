"""Which processes are a job's, of those that this supervisor started and of those that earlier ones did."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jobfs import proc
from jobfs.processes import Stray, all_processes, boot_id, members

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobfs.processes import Process
    from jobfs.supervisor import wire
    from jobfs.supervisor.child import Child

# The number of no process that a session is led by.
_NOBODY = -1


class Members:
    """Finds the processes of jobs, with what is known of the jobs of earlier supervisors: the strays."""

    def __init__(self, children: Mapping[int, Child], found: Iterable[wire.JobRecord]) -> None:
        """`children` are this supervisor's jobs, by number, now and later; `found` the records of earlier ones'."""
        self._children = children
        self.boot_id = boot_id()
        self._strays: dict[int, Stray] = {}
        for record in found:
            self.add_stray(record)

    @property
    def strays(self) -> list[wire.Stray]:
        """The jobs of earlier supervisors, as they are told."""
        return [(job.job, job.pid, job.first, job.last) for job in self._strays.values()]

    def add_stray(self, record: wire.JobRecord) -> None:
        """A job that was not started by this supervisor is known by what `record` says of its process, if anything."""
        if record.get("boot_id") != self.boot_id or not {"pid", "start_window"} <= record.keys():
            return  # it is gone, or was never there, or an older version wrote down too little of it
        self._strays[record["id"]] = Stray(record["id"], record["pid"], *record["start_window"])

    def forget(self, job: int) -> None:
        """The job was removed."""
        self._strays.pop(job, None)

    def find(self, job: int, leader: int) -> list[Process]:
        """What is left of an ended job, whose process was `leader`, or all of one that is alive."""
        processes = proc.patiently(all_processes)
        # The leader of an ended job is gone: who has its number now is a stranger, and so is who is in its session.
        leaders = {_NOBODY if leader in processes else leader: job}
        leaders |= {child.pid: child.job for child in self._children.values() if not child.ended}
        return members(processes, leaders, os.getpid(), self._strays.values()).get(job, [])
