"""The process that owns the jobs.

It forks them, drains their pipes into ring files, keeps their deadlines, reaps them and writes down how each ended.
It does little, so that it need not die: no FUSE, no database, no waiting for the daemon.
"""

from __future__ import annotations

import os

# Names in the state directory, which daemon and supervisor share.
LOCK = "supervisor.lock"
ADDRESS = "supervisor.json"
JOBS = "jobs"
RECORDS = "records"  # in that directory
# The exit status of a supervisor that found another one at work.
EXIT_LOCKED = 3


def job_file(jobs: str, job: int | str, name: str) -> str:
    """The path of a job's `stdout` or `stderr` in the directory `jobs`.

    Side by side and not in a directory for each job, which would take longer to make than the job to start.
    """
    return f"{jobs}/{job}.{name}"


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What tells the file at `path` from every other that has or will have that name; None where there is none."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino
