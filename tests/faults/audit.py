"""The audit: whether what a mount shows, after all that was done to it, is what really happened.

`observe` looks at a mount; `findings` compares what it saw with the truth, and is one sentence for each thing that is
wrong. Nothing is to happen meanwhile: see `Load.settle`.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import psutil

from jobfs.mountinfo import mounts
from jobfs.supervisor import JOBS, RECORDS
from jobfs.supervisor.records import read_records
from tests.faults.plans import RECORD, expected, tag_of
from tests.faults.truth import Answer, Deeds
from tests.mounted import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.truth import Command, Truth
    from tests.mounted import Mounted

LIVING = frozenset({"queued", "running", "stopped"})
STREAMS = ("stdout", "stderr")
_PIECE = 128 * 1024  # bytes of one read
_STATE_FILES = frozenset(
    "daemon.json daemon.lock events jobs jobs.sqlite jobs.sqlite-shm jobs.sqlite-wal log log.1 reserve supervisor.json "  # noqa: SIM905 - reads better
    "supervisor.lock".split()
)
_JOB_FILE = re.compile(r"([0-9]+)\.(?:stdout|stderr)")


@dataclass(slots=True)
class Stream:
    """What the mount says of a stream, and the bytes that it has from `dropped` on.

    `written` is the file's size; what the table says, `counted`, may be a tenth of a second older.
    """

    written: int = 0
    counted: int = 0
    dropped: int = 0
    capacity: int = 0
    closed: bool = True
    data: bytes = b""


@dataclass(slots=True)
class Row:
    """What the mount says of a job. `process`: the state of its process, as psutil has it; None where there is none."""

    id: int
    tag: int | None
    status: str
    reason: str | None = None
    process: str | None = None
    streams: dict[str, Stream] = field(default_factory=lambda: {name: Stream() for name in STREAMS})


@dataclass(slots=True)
class World:
    """What there is after a load. `job_files`: the names in the state's directory of output."""

    rows: list[Row] = field(default_factory=list)
    state_files: set[str] = field(default_factory=set)
    job_files: set[str] = field(default_factory=set)
    recorded: set[int] = field(default_factory=set)  # the jobs that have a record
    zombies: int = 0
    mounts: int = 1
    log: str = ""


# Looking


def observe(jobs: Mounted) -> World:
    """Looks at all that a mount shows, and at what stands behind it."""
    return World(
        rows=[_row(jobs, info) for info in table(jobs)],
        state_files=set(os.listdir(jobs.state)),
        job_files=set(os.listdir(jobs.state / JOBS)),
        recorded=set(read_records(str(jobs.state / JOBS / RECORDS))),
        zombies=_zombies(jobs.supervisor),
        mounts=sum(mount.point == jobs.path for mount in mounts()),
        log=jobs.log(),
    )


def table(jobs: Mounted) -> list[dict[str, object]]:
    """The `info` of every job."""
    return [dict(json.loads(line)) for line in jobs.file("table.jsonl").read_bytes().splitlines()]


def descriptors(pid: int | None) -> Counter[str]:
    """How many open files a process has, by what they are of."""
    found: Counter[str] = Counter()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            found["file" if target.startswith("/") else target.rstrip("0123456789[]")] += 1
    return found


def _row(jobs: Mounted, info: dict[str, object]) -> Row:
    job, pid = info["id"], info["pid"]
    assert isinstance(job, int)
    return Row(
        id=job,
        tag=tag_of(str(info["cmd"])),
        status=str(info["status"]),
        reason=None if info["reason"] is None else str(info["reason"]),
        process=_state_of(pid, job) if isinstance(pid, int) else None,
        streams={name: _stream(jobs, job, name, info[name]) for name in STREAMS},
    )


def _stream(jobs: Mounted, job: int, name: str, counts: object) -> Stream:
    assert isinstance(counts, dict)
    file = jobs.file(name, job)
    stream = Stream(file.stat().st_size, counts["written"], counts["dropped"], counts["capacity"], counts["closed"])
    if stream.written:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            ends = [*range(stream.dropped, stream.written, _PIECE), stream.written]
            stream.data = b"".join(os.pread(fd, end - at, at) for at, end in pairwise(ends))
        finally:
            os.close(fd)
    return stream


def _state_of(pid: int, job: int) -> str | None:
    """The state of a process that is this job's; None where there is none, or a stranger has the number."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.environ().get("JOBFS_ID") == str(job):
            return str(process.status())
    return None


def _zombies(supervisor: int | None) -> int:
    """Those that nobody reaps; one that has just ended is reaped in time."""

    def count() -> int:
        try:
            children = psutil.Process(supervisor).children(recursive=True)
        except psutil.NoSuchProcess:  # it has ended with its last job
            return 0
        found = 0
        for child in children:
            with suppress(psutil.NoSuchProcess):
                parent = child.parent()
                # A shell that was stopped reaps nothing until it is continued.
                held_up = parent is not None and parent.status() == psutil.STATUS_STOPPED
                found += child.status() == psutil.STATUS_ZOMBIE and not held_up
        return found

    try:
        return until(count, lambda zombies: not zombies)
    except AssertionError:
        return count()


# Comparing


def findings(truth: Truth, world: World) -> list[str]:
    """All that is wrong, a sentence for each."""
    rows: dict[int | None, list[Row]] = defaultdict(list)
    for row in world.rows:
        rows[row.tag].append(row)
    return [
        *truth.seen_wrong,
        *_unknown(truth, world),
        *chain.from_iterable(_of_command(truth, command, rows[tag]) for tag, command in truth.commands.items()),
        *_out_of_order(truth, rows),
        *_left_over(world),
    ]


def _of_command(truth: Truth, command: Command, rows: list[Row]) -> Iterator[str]:
    deeds = truth.deeds.get(command.tag, Deeds())
    yield from _accounted(truth, command, rows)
    for row in rows:
        yield from _status(command, row, deeds, _possible_ends(truth, command, row, deeds))
        for name in STREAMS:
            least, most = _bounds(command, name, deeds)
            if truth.unwatched and (row.reason or command.plan.leaves):
                least = 0
            yield from _stream_findings(command, row, name, least, most)


def _unknown(truth: Truth, world: World) -> Iterator[str]:
    for row in world.rows:
        if row.tag not in truth.commands:
            yield f"job {row.id} is in the table, and nobody spawned it"
    for tag in truth.deeds.keys() - truth.commands.keys():
        yield f"a process of tag {tag} ran, and nobody spawned it"
    ids = [row.id for row in world.rows]
    if len(ids) != len(set(ids)):
        yield f"an id is in the table twice: {ids}"


def _accounted(truth: Truth, command: Command, rows: list[Row]) -> Iterator[str]:
    """Each command was run once or not at all, as its writer was told, and is in the table as often."""
    ids, starts = [row.id for row in rows], truth.deeds.get(command.tag, Deeds()).starts
    there = [f"{row.id}, {row.status} ({row.reason})" for row in rows]
    about = f"tag {command.tag} ({command.answer.value}, id {command.id}; in the table {there}; started {starts})"
    if len(ids) > 1 or len(starts) > 1:
        yield f"{about}: it is there, or ran, more than once"
    elif command.answer in (Answer.REFUSED, Answer.BROKEN):
        if ids or starts:
            yield f"{about}: it was refused ({command.why})"
    else:
        never_ran = bool(rows) and rows[0].status == "cancelled" and bool(rows[0].reason)
        # One that is ended at once has no time to note anything; of one that is lost nobody knows how far it came.
        may_be_silent = command.signals or (truth.may_be_lost(command) and rows and rows[0].status == "lost")
        # So is one that could not be run, where who was to tell that was killed: its exec fails a moment later.
        excused = never_ran and truth.may_be_lost(command)
        wrong = {
            "it was told to run": command.answer is Answer.DONE
            and ((never_ran and not excused) or not (ids or command.removed is not False)),
            "it never started": command.answer is Answer.DONE and not (starts or may_be_silent or excused),
            "it was removed": command.removed is True and ids,
            "it ran, and the table does not know it": starts and not ids and command.removed is False,
            "it is there, and never started": ids and not (starts or never_ran or may_be_silent),
            "it ran, and the table says that it did not": starts and never_ran,
            "under different ids": len({*ids, *(job for _, job in starts), command.id} - {None}) > 1,
        }
        yield from (f"{about}: {what}" for what, holds in wrong.items() if holds)


def _possible_ends(truth: Truth, command: Command, row: Row, deeds: Deeds) -> set[str]:
    """The words that are true of the job, if it has ended: its own end, or a signal that it may have been sent."""
    possible = {f"killed:{number}" for number in command.signals}
    if deeds.end is not None:
        how, number = deeds.end
        possible.add(f"killed:{number}" if how == "signal" else f"failed:{number}" if number else "done:0")
    if not deeds.starts:
        possible.add("cancelled")
    if truth.may_be_lost(command) and row.reason:
        possible.add("lost")
    if truth.unwatched and command.plan.terminal:
        possible.add(f"killed:{signal.SIGHUP:d}")
    return possible


def _status(command: Command, row: Row, deeds: Deeds, possible: set[str]) -> Iterator[str]:
    """The word is what the process did, or it is alive."""
    about = _about(command, row)
    if row.status in LIVING:
        yield from (f"{about}, {what}" for what in _of_living(command, row, deeds))
        return
    if row.process is not None:
        yield f"{about}, and its process is {row.process}"
    if row.status not in possible:
        yield f"{about}, and can only be one of {sorted(possible)}"


def _about(command: Command, row: Row) -> str:
    because = "" if row.reason is None else f" ({row.reason})"
    return f"job {row.id} (tag {command.tag}: {command.plan.steps}) is {row.status}{because}"


def _of_living(command: Command, row: Row, deeds: Deeds) -> Iterator[str]:
    if row.process is None or row.process == psutil.STATUS_ZOMBIE:
        yield "and its process is not there"
    elif deeds.end is not None or not (command.plan.holds or command.plan.fed):
        yield f"and its end was {deeds.end}"
    if command.must_end:
        yield "and was ended"
    halted = row.process == psutil.STATUS_STOPPED
    if halted != (row.status == "stopped") or command.stopped not in (None, halted):
        yield f"its process is {row.process}, stopped by the load: {command.stopped}"


def _stream_findings(command: Command, row: Row, name: str, least: int, most: int | None) -> Iterator[str]:
    """All that was written was counted, and what is retained of it is what was written there."""
    stream = row.streams[name]
    about = f"{_about(command, row)}, {name}"
    if stream.written < least or (most is not None and stream.written > most):
        yield f"{about}: {stream.written} bytes are there, from {least} to {most} were written"
    if row.status not in LIVING and stream.counted != stream.written:
        yield f"{about}: {stream.counted} bytes are counted, and the file's size is {stream.written}"
    if stream.dropped != max(0, stream.written - stream.capacity):
        yield f"{about}: {stream.dropped} of {stream.written} bytes are dropped, with room for {stream.capacity}"
    if row.status not in LIVING and not stream.closed:
        yield f"{about}: nobody writes to it any more, and it is not closed"
    if stream.data != expected(command.tag, name, stream.dropped, stream.written - stream.dropped):
        yield f"{about}: the bytes from {stream.dropped} to {stream.written} are not those that were written there"


def _bounds(command: Command, name: str, deeds: Deeds) -> tuple[int, int | None]:
    """How many bytes were written at least and at most."""
    plan = command.plan
    if plan.fed and name == "stdout":
        return (command.fed if deeds.end is not None else 0), command.offered
    if name == "stderr":
        return deeds.err, plan.err * RECORD
    return deeds.out, None if plan.out is None else plan.out * RECORD


def _out_of_order(truth: Truth, rows: dict[int | None, list[Row]]) -> Iterator[str]:
    """Of the lines of one write each one happened before the next, and none where one before it did not."""
    batches: dict[int, list[Command]] = defaultdict(list)
    for command in truth.commands.values():
        batches[command.batch].append(command)
    for batch in batches.values():
        found = [[row.id for row in rows[command.tag]] or command.removed is not False for command in batch]
        if sorted(map(bool, found), reverse=True) != list(map(bool, found)):
            yield f"of one write, {[command.tag for command in batch]}, there are {found}: one is left out"
        ids = [found[0] for found in found if isinstance(found, list)]
        if ids != sorted(ids):
            yield f"of one write, {[command.tag for command in batch]}, the ids are {ids}"


def _left_over(world: World) -> Iterator[str]:
    """Nothing is there that belongs to no job."""
    known = {row.id for row in world.rows}
    if strange := world.state_files - _STATE_FILES:
        yield f"in the state directory: {sorted(strange)}"
    for name in sorted(world.job_files - {RECORDS}):
        match = _JOB_FILE.fullmatch(name)
        if match is None or int(match[1]) not in known:
            yield f"a file of no job: {name}"
    if strangers := world.recorded - known:
        yield f"records of no job: {sorted(strangers)}"
    if world.zombies:
        yield f"{world.zombies} processes are not reaped"
    if world.mounts != 1:
        yield f"{world.mounts} mounts, one atop the other"
    if "Traceback" in world.log:
        yield f"a traceback in the log: {world.log[world.log.index('Traceback') :][:2000]}"
