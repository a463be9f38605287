"""What the supervisor knows of each job, on the disk: one file for all, a slot of one block for each job.

A slot is allocated when its job is spawned, and how the job ended overwrites it in place, so that a full disk cannot
lose an end. It stays until the job is removed. One file and not one for each job: making a file takes a tenth of a
millisecond on a busy ext4, and a spawn waits for it.

A slot may be cut short by the end of the machine, or be scribbled on, so it ends with a checksum (an older supervisor's
do not), and what is read is believed only if every value is one that can be: numbers of processes are signalled.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from jobfs.supervisor import JOBS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from jobfs.supervisor.wire import JobRecord

log = logging.getLogger(__name__)

SIZE = 4096  # bytes of a slot: one block, which every file system writes in place
_FREE = b"\n" * SIZE
_CHECKSUM = b', "checksum": '  # what stands before it, at the end of the JSON object
_LINE = 200  # characters of a command line that are kept
_LINE_ESCAPED = 1000  # characters of the JSON text that they may take
_UNFINISHED = re.compile(r"\d+\.(stdout|stderr)\.new")
_PID_MAX = 1 << 22  # proc(5)
_TIME_MAX = 1 << 37  # seconds: of what has a year of four digits, and some
_ID_MAX = 10**18
_WAIT_STATUS_MAX = 0xFFFF
_USAGE_MAX = 1 << 62


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
            text = _encode(record)
            if len(text) >= SIZE:  # how a job ended is worth more than what it was
                text = _encode({**record, "line": ""})
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
    return read_slots(path)[0]


def read_slots(path: str) -> tuple[dict[int, JobRecord], int]:
    """As `read_records`, and how many slots were found that make no sense."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return {}, 0
    try:
        slots = [os.pread(fd, SIZE, at) for at in range(0, os.fstat(fd).st_size, SIZE)]
    finally:
        os.close(fd)
    records = [_parse(slot) for slot in slots]
    damaged = sum(record is None and not slot.startswith(b"\n") for slot, record in zip(slots, records, strict=True))
    return {record["id"]: record for record in records if record is not None}, damaged


def short_line(argv: Sequence[str]) -> str:
    """The beginning of a command line, as a person would type it: what a record has room for."""
    shell = len(argv) == 3 and argv[:2] == ["/bin/sh", "-c"]  # noqa: PLR2004 - and the script
    line = argv[2] if shell else shlex.join(argv)
    short = line[:_LINE]
    while len(json.dumps(short)) > _LINE_ESCAPED:
        short = short[:-1]
    return short if short == line else f"{short}..."


def remove_unfinished(state: Path) -> None:
    """Removes what a supervisor that was killed had not finished; only the one that holds the state's lock may."""
    for name in os.listdir(state / JOBS):
        if _UNFINISHED.fullmatch(name):
            log.info("removing %s, which was not finished", name)
            with suppress(OSError):  # a directory, for one, is not ours
                (state / JOBS / name).unlink()


def _read(fd: int) -> list[JobRecord | None]:
    size = os.fstat(fd).st_size
    return [_parse(os.pread(fd, SIZE, at)) for at in range(0, size, SIZE)]


def _encode(record: JobRecord) -> bytes:
    body = json.dumps(record).encode("ascii")[:-1]
    return b"%b%b%d}" % (body, _CHECKSUM, zlib.crc32(body))


def _parse(slot: bytes) -> JobRecord | None:
    """What a slot says; None for one that is free or makes no sense."""
    if len(slot) < SIZE:  # the file was cut; what is written after it would be taken for the rest
        return None
    text = slot.rstrip(b"\n")
    body, has_checksum, checksum = text.rpartition(_CHECKSUM)
    if not text or (has_checksum and checksum != b"%d}" % zlib.crc32(body)):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    # Before there were checksums there were only these keys: with others, it is the word that was scribbled on.
    if not isinstance(record, dict) or not (has_checksum or record.keys() <= _VALUES.keys() | {"stalled"}):
        return None
    record.pop("checksum", None)
    return cast("JobRecord", record) if _makes_sense(record) else None


def _makes_sense(record: Mapping[str, object]) -> bool:
    """Whether every value can be, and all are there that go together. Keys of a newer supervisor pass."""
    groups = [group for key, group in _TOGETHER.items() if key in record]
    return (
        "id" in record
        and all(key in record for group in groups for key in group)
        and all(_VALUES[key](value) for key, value in record.items() if key in _VALUES)
    )


def _whole(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_time(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(cast("float", value)) and 0 <= cast("float", value) < _TIME_MAX


def _is_end(value: object) -> bool:
    """Whether it is a wait status of a process that ended (wait(2))."""
    if not _whole(0, _WAIT_STATUS_MAX)(value):
        return False
    return os.WIFEXITED(cast("int", value)) or os.WIFSIGNALED(cast("int", value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_reason(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_window(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_whole(0, _USAGE_MAX), value))  # noqa: PLR2004


def _is_pipes(value: object) -> bool:
    numbers = isinstance(value, dict) and all(map(_whole(1, _USAGE_MAX), value.values()))
    return numbers and _is_names(list(cast("dict[object, object]", value)))


def _is_deadline(value: object) -> bool:
    return value is None or _is_time(value)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(name in ("stdout", "stderr") for name in value)


_VALUES: Mapping[str, Callable[[object], bool]] = {
    "id": _whole(1, _ID_MAX),
    "line": _is_text,
    "pid": _whole(2, _PID_MAX),
    "start_window": _is_window,
    "pipes": _is_pipes,
    "limit": _whole(1, _USAGE_MAX),
    "grace": _is_time,
    "deadline": _is_deadline,
    "kill_clock": _is_time,
    "lease": _is_flag,
    "pty": _is_flag,
    "lost": _is_flag,
    "boot_id": _is_text,
    "started_at": _is_time,
    "started_clock": _is_time,
    "stopped": _is_flag,
    "wait_status": _is_end,
    "ended_at": _is_time,
    "elapsed": _is_time,
    "reason": _is_reason,
    "open_streams": _is_names,
    "never_ran": _is_flag,
    "awaits_exec": _is_flag,
    "cpu_user_s": _is_time,
    "cpu_system_s": _is_time,
    "max_rss_bytes": _whole(0, _USAGE_MAX),
}

# Where the one is, so are the others.
_TOGETHER: Mapping[str, tuple[str, ...]] = {
    "id": ("reason", "stopped"),
    "pid": ("boot_id", "started_at", "started_clock"),
    "pipes": ("boot_id", "started_at", "started_clock", "start_window", "limit", "grace"),
    "wait_status": ("pid", "ended_at", "elapsed"),
    "lost": ("ended_at", "elapsed"),
}
