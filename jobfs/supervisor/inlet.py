"""The pipe that a job reads as its stdin.

Its writing end is kept here, so that it stays open over any number of writers, until it is closed for them all.
"""

from __future__ import annotations

import os


class Inlet:
    """A pipe: `job_end` is what the job reads, `writer` what is written to. Both are -1 once they are closed."""

    def __init__(self, writer: int | None = None) -> None:
        """Makes the pipe, OSError where that fails, or takes over the `writer` of an earlier supervisor."""
        if writer is not None:
            self.job_end, self.writer = -1, writer
            return
        self.job_end, self.writer = os.pipe2(os.O_CLOEXEC)
        # Whoever is given a duplicate of it shares this flag. The job's end is its own, and blocks.
        os.set_blocking(self.writer, False)

    def started(self) -> None:
        """The job has its end now; ours goes, so that a writer learns when the job has closed it."""
        if self.job_end >= 0:
            os.close(self.job_end)
            self.job_end = -1

    def take_job_end(self) -> int:
        """The job's end, which is the caller's from now on: a job that is no process reads it itself."""
        end, self.job_end = self.job_end, -1
        return end

    def close(self) -> None:
        """The job reads what is in the pipe, and then end of file."""
        self.started()
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1
