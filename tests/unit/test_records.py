"""The records of a state's jobs: one file, a slot for each job."""

from __future__ import annotations

import json
import math
import os
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.supervisor import JOBS
from jobfs.supervisor.records import SIZE, Records, read_records, read_slots, remove_unfinished, short_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobfs.supervisor.wire import JobRecord


def record(job: int, reason: str | None = None) -> JobRecord:
    """What is known of a job."""
    return {
        "id": job,
        "line": "make",
        "reason": reason,
        "stopped": False,
        "pid": 100 + job,
        "boot_id": "boot",
        "started_at": 1.5,
        "started_clock": 0.5,
    }


def test_what_was_written_is_read_by_another_process(tmp_path: Path) -> None:
    """The last that was written of each job is what its record says, and a free slot says nothing."""
    path = str(tmp_path / "records")
    records = Records(path)
    for job in (1, 2):
        records.assign(records.allocate(), job)
        records.write(record(job))
    records.allocate()
    records.write(record(2, "timeout"))
    assert {1: record(1), 2: record(2, "timeout")} == read_records(path)


def test_no_file_has_no_records(tmp_path: Path) -> None:
    """A state that never had a job."""
    assert {} == read_records(str(tmp_path / "records"))


def test_a_removed_jobs_slot_is_the_next_ones_and_never_written_for_it_again(tmp_path: Path) -> None:
    """What comes late for a job that was removed must not overwrite the one that has its slot now."""
    path = str(tmp_path / "records")
    records = Records(path)
    slot = records.allocate()
    records.assign(slot, 1)
    records.write(record(1))
    records.release(1)
    assert slot == records.allocate()
    records.assign(slot, 2)
    records.write(record(2))
    records.write(record(1, "late"))
    assert {2: record(2)} == read_records(path)
    assert SIZE == (tmp_path / "records").stat().st_size


def test_the_next_supervisor_takes_up_the_slots(tmp_path: Path) -> None:
    """A supervisor that was killed leaves its records, and a slot that was only allocated is free."""
    path = str(tmp_path / "records")
    first = Records(path)
    first.assign(first.allocate(), 1)
    first.write(record(1))
    first.allocate()
    second = Records(path)
    second.assign(second.allocate(), 2)
    second.write(record(2))
    second.release(1)
    assert {2: record(2)} == read_records(path)
    assert 2 * SIZE == (tmp_path / "records").stat().st_size


def test_a_slot_that_makes_no_sense_is_free(tmp_path: Path) -> None:
    """The end of the machine may have cut a record short; the others are read."""
    path = tmp_path / "records"
    records = Records(str(path))
    for job in (1, 2):
        records.assign(records.allocate(), job)
        records.write(record(job))
    raw = bytearray(path.read_bytes())
    raw[5:SIZE] = b"x" * (SIZE - 5)
    path.write_bytes(raw)
    assert {2: record(2)} == read_records(str(path))
    assert 0 == Records(str(path)).allocate()


NUMBERS: tuple[object, ...] = (-1, 1.5, "1", None, True, [], 1 << 70)
WRONG: dict[str, tuple[object, ...]] = {
    "id": (0, *NUMBERS),
    "line": (None, 1, ["make"]),
    "reason": (1, False, []),
    "stopped": (None, 0, "no"),
    "pid": (0, 1, *NUMBERS),
    "boot_id": (None, 7),
    "started_at": (-1.0, "1", None, True, math.nan, math.inf, 1e300),
    "started_clock": (-1.0, "1", None, math.nan),
    "start_window": (None, 5, [1], [1, "2"], [1, -2], {}),
    "pipes": (None, [], {"stdin": 5}, {"stdout": "5"}, {"stdout": -5}),
    "limit": (0, *NUMBERS),
    "grace": (None, "5", math.inf),
    "deadline": ("5", math.nan),
    "kill_clock": (None, "5"),
    "lease": (None, 1),
    "pty": (None, "yes"),
    "wait_status": (0x7F, 0x137F, 0xFFFF, 1 << 16, *NUMBERS),
    "lost": (None, 1),
    "ended_at": (None, "now", math.nan),
    "elapsed": (None, "long", -1),
    "open_streams": (None, "stdout", ["stdin"], [1], {}),
    "never_ran": (None, 1),
    "awaits_exec": (None, 1),
    "cpu_user_s": (None, "1", math.inf),
    "cpu_system_s": (None, "1", -0.5),
    "max_rss_bytes": NUMBERS,
}
WHOLE: dict[str, object] = {
    **record(1),
    "start_window": [5, 6],
    "pipes": {"stdout": 7, "stderr": 8},
    "limit": 4096,
    "grace": 5.0,
    "deadline": None,
    "kill_clock": 1.5,
    "lease": False,
    "pty": False,
    "wait_status": 256,
    "lost": False,
    "ended_at": 2.5,
    "elapsed": 1,
    "open_streams": ["stderr"],
    "never_ran": False,
    "awaits_exec": False,
    "cpu_user_s": 0.0,
    "cpu_system_s": 0.25,
    "max_rss_bytes": 4096,
    "of a newer version": {},
}


def read_back(path: Path, said: Mapping[str, object]) -> dict[int, JobRecord]:
    """What is believed of a slot that says so, with the checksum that a supervisor writes."""
    body = json.dumps(said).encode()[:-1]
    path.write_bytes(b'%b, "checksum": %d}' % (body, zlib.crc32(body)) + b"\n" * SIZE)
    os.truncate(path, SIZE)
    return read_records(str(path))


@pytest.mark.parametrize("key", WRONG)
def test_a_value_that_cannot_be_makes_a_record_none(tmp_path: Path, key: str) -> None:
    """Whichever it is: numbers of processes are signalled, and times are shown."""
    assert {1: WHOLE} == read_back(tmp_path / "records", WHOLE)
    for value in WRONG[key]:
        assert {} == read_back(tmp_path / "records", WHOLE | {key: value}), value


@pytest.mark.parametrize(
    "key", ["id", "reason", "stopped", "boot_id", "started_at", "started_clock", "ended_at", "elapsed", "start_window"]
)
def test_a_record_that_lacks_what_belongs_to_it_is_none(tmp_path: Path, key: str) -> None:
    """Half of what is needed to tell what became of a job is nothing."""
    assert {} == read_back(tmp_path / "records", {name: value for name, value in WHOLE.items() if name != key})


@pytest.mark.parametrize("text", [b"[]", b"7", b"null", b'"x"', b"[" * 4000, b"\0" * 100, b"\xff", b'{"id": 1}'])
def test_what_is_no_record_is_none(tmp_path: Path, text: bytes) -> None:
    """Any bytes may stand there; they are counted."""
    path = tmp_path / "records"
    path.write_bytes(text.ljust(SIZE, b"\n") + b"\n" * SIZE)
    assert ({}, 1) == read_slots(str(path))


@given(st.integers(0, SIZE - 1), st.integers(0, 255))
def test_a_byte_that_was_changed_is_never_believed(at: int, byte: int) -> None:
    """A record is read as it was written, or not at all."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "records")
        records = Records(str(path))
        records.assign(records.allocate(), 1)
        records.write(record(1))
        raw = bytearray(path.read_bytes())
        raw[at] = byte
        path.write_bytes(raw)
        assert read_records(str(path)) in ({1: record(1)}, {})


def test_a_record_of_before_the_checksums_is_believed(tmp_path: Path) -> None:
    """A supervisor of that time may have written it."""
    path = tmp_path / "records"
    path.write_bytes(json.dumps(record(1)).encode().ljust(SIZE, b"\n"))
    assert {1: record(1)} == read_records(str(path))


def test_a_record_whose_checksum_was_made_another_key_is_not_believed(tmp_path: Path) -> None:
    """Where the word itself was changed, the record is not taken for one of a version that had no checksums."""
    path = tmp_path / "records"
    records = Records(str(path))
    records.assign(records.allocate(), 1)
    records.write(record(1))
    path.write_bytes(path.read_bytes().replace(b'"checksum"', b'"checksux"'))
    assert {} == read_records(str(path))


@pytest.mark.parametrize("size", [0, 1, 100, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE - 1])
def test_a_file_that_was_cut_keeps_what_is_left(tmp_path: Path, size: int) -> None:
    """Records whose end is there are whole, a part of one is none, and the file can be gone on with."""
    path = tmp_path / "records"
    records = Records(str(path))
    for job in (1, 2):
        records.assign(records.allocate(), job)
        records.write(record(job))
    os.truncate(path, size)
    left = read_records(str(path))
    assert {job: record(job) for job in left} == left
    assert size // SIZE <= len(left)
    again = Records(str(path))
    again.assign(again.allocate(), 3)
    again.write(record(3))
    assert {**left, 3: record(3)} == read_records(str(path))


@pytest.mark.parametrize("wide", ["x" * 5000, "\U0001f600" * 5000, "\udcff" * 5000])
def test_a_record_never_outgrows_its_slot(tmp_path: Path, wide: str) -> None:
    """A command line is cut; where all is too much, how the job ended is kept, and the line goes."""
    short = short_line(["/bin/sh", "-c", wide])
    assert wide.startswith(short.removesuffix("..."))
    assert 3 < len(short) <= 203
    path = str(tmp_path / "records")
    records = Records(path)
    records.assign(records.allocate(), 1)
    records.write({**record(1, "\U0001f600" * 250), "line": short})
    assert "\U0001f600" * 250 == read_records(path)[1]["reason"]


def test_a_line_is_what_a_person_would_type() -> None:
    """A shell's script, or the words quoted."""
    assert ["make -j8", "ls 'a b'", "/bin/sh -c a b"] == [
        short_line(argv) for argv in (["/bin/sh", "-c", "make -j8"], ["ls", "a b"], ["/bin/sh", "-c", "a", "b"])
    ]


def test_what_was_not_finished_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Only what a supervisor itself makes goes, and only where it is a file."""
    (tmp_path / JOBS).mkdir()
    for name in ("1.stdout.new", "2.stderr.new", "1.stdout", "x.new", "3.txt.new", "new"):
        (tmp_path / JOBS / name).touch()
    (tmp_path / JOBS / "4.stdout.new").mkdir()
    remove_unfinished(tmp_path)
    assert {"1.stdout", "x.new", "3.txt.new", "new", "4.stdout.new"} == set(os.listdir(tmp_path / JOBS))


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=30))
def test_each_job_has_its_own_slot_whatever_comes_and_goes(steps: list[tuple[int, bool]]) -> None:
    """Spawns and removals in any order: every job that is there is on record, once, and nobody else."""
    with tempfile.TemporaryDirectory() as place:
        path = f"{place}/records"
        records, there = Records(path), set[int]()
        for job, comes in steps:
            if comes and job not in there:
                records.assign(records.allocate(), job)
                records.write(record(job))
                there.add(job)
            elif not comes:
                records.release(job)
                there.discard(job)
        assert {job: record(job) for job in there} == read_records(path)
