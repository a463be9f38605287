"""What the supervisor knows of each job, on the disk: one file for all, a slot of one block for each job.

A slot is allocated when its job is spawned, and how the job ended overwrites it in place, so that a full disk cannot
lose an end. It stays until the job is removed. One file and not one for each job: making a file takes a tenth of a
millisecond on a busy ext4, and a spawn waits for it.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from jobfs.supervisor.wire import JobRecord

SIZE = 4096  # bytes of a slot: one block, which every file system writes in place
_FREE = b"\n" * SIZE


class Records:
    """The writing side; there is one for a state, the supervisor's."""

    def __init__(self, path: str) -> None:
        """Takes up the file at `path`, or makes it; OSError where that fails."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        found = _read(self._fd)
        self.found = [record for record in found if record is not None]
        """What an earlier supervisor left."""
        self._slots = {record["id"]: slot for slot, record in enumerate(found) if record is not None}
        self._free = [slot for slot, record in enumerate(found) if record is None]
        self._count = len(found)

    def allocate(self) -> int:
        """A slot of which nobody knows yet whose it will be; OSError where the disk has no room for it."""
        slot = self._free.pop() if self._free else self._count
        try:
            os.pwrite(self._fd, _FREE, slot * SIZE)
        except OSError:
            if slot < self._count:
                self._free.append(slot)
            raise
        self._count = max(self._count, slot + 1)
        return slot

    def assign(self, slot: int, job: int) -> None:
        """The slot is the job's from now on."""
        self._slots[job] = slot

    def slot_of(self, job: int) -> int:
        """The slot of a job, a new one where it has none; OSError where the disk has no room for that."""
        if job not in self._slots:
            self.assign(self.allocate(), job)
        return self._slots[job]

    def write(self, record: JobRecord) -> None:
        """Replaces what is said of a job; nothing for one that was removed."""
        slot = self._slots.get(record["id"])
        if slot is not None:
            text = json.dumps(record).encode("ascii")[: SIZE - 1]
            os.pwrite(self._fd, text.ljust(SIZE, b"\n"), slot * SIZE)

    def release(self, job: int) -> None:
        """The job is removed: its slot may become another's."""
        slot = self._slots.pop(job, None)
        if slot is not None:
            self.give_back(slot)

    def give_back(self, slot: int) -> None:
        """A slot that was allocated is not needed."""
        os.pwrite(self._fd, _FREE, slot * SIZE)
        self._free.append(slot)


def read_records(path: str) -> dict[int, JobRecord]:
    """What the file at `path` says of each job; nothing where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    try:
        return {record["id"]: record for record in _read(fd) if record is not None}
    finally:
        os.close(fd)


def _read(fd: int) -> list[JobRecord | None]:
    size = os.fstat(fd).st_size
    return [_parse(os.pread(fd, SIZE, at)) for at in range(0, size, SIZE)]


def _parse(slot: bytes) -> JobRecord | None:
    """What a slot says; None for one that is free, or that was cut short by the end of the machine."""
    if slot.startswith(b"\n"):
        return None
    try:
        record = json.loads(slot)
    except ValueError:
        return None
    return cast("JobRecord", record) if isinstance(record, dict) and isinstance(record.get("id"), int) else None
