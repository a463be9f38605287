"""The record of one job: a file beside its output, allocated when the job is spawned.

How the job ended overwrites it in place, so that a full disk cannot lose an end, and it stays until the job is removed.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pathlib import Path

    from jobfs.supervisor.wire import JobRecord

NAME = "record"
SIZE = 4096  # bytes: one block, which every file system writes in place


class RecordFile:
    """The writing side, open as long as the job's process lives."""

    def __init__(self, path: str) -> None:
        """Makes the file, or takes one that nobody needs; OSError where that fails, with nothing left behind."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(self._fd, b"\n" * SIZE, 0)
        except OSError:
            os.close(self._fd)
            os.unlink(path)
            raise

    def write(self, record: JobRecord) -> None:
        """Replaces what it said."""
        text = json.dumps(record).encode("ascii")[: SIZE - 1]
        os.pwrite(self._fd, text.ljust(SIZE, b"\n"), 0)

    def close(self) -> None:
        """Leaves the file as it is."""
        os.close(self._fd)


def read_record(path: Path) -> JobRecord | None:
    """The record in a file; None where there is none or it was never filled in."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    return cast("JobRecord", record) if isinstance(record, dict) else None
