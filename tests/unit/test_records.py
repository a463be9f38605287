"""The records of a state's jobs: one file, a slot for each job."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from jobfs.supervisor.records import SIZE, Records, read_records

if TYPE_CHECKING:
    from pathlib import Path

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
