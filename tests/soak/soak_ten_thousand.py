"""Ten thousand jobs through `ctl` of a real mount, as fast as it takes them: each ends right, and nothing leaks."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount

JOBS = 10_000
BATCH = 100  # commands in one write


@pytest.fixture
def roomy() -> Iterator[Mounted]:
    """A mount that keeps all of them."""
    mounted = Mounted("--keep", str(2 * JOBS))
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.finish()


def statuses(jobs: Mounted) -> dict[int, str]:
    """The status words by id."""
    infos = [json.loads(line) for line in (jobs.path / "table.jsonl").read_bytes().splitlines()]
    return {info["id"]: info["status"] for info in infos}


def descriptors(jobs: Mounted) -> list[int]:
    """How many the daemon and the supervisor have."""
    return [psutil.Process(pid).num_fds() for pid in (jobs.daemon, jobs.supervisor) if pid is not None]


@pytest.mark.parametrize("batch", [1, BATCH])
def test_ten_thousand_jobs_end_right_and_leave_nothing(
    roomy: Mounted, capsys: pytest.CaptureFixture[str], batch: int
) -> None:
    """The right status for each, no zombie, and as many descriptors in daemon and supervisor as before."""
    roomy.run("true")
    before = descriptors(roomy)
    began = time.monotonic()
    fd = os.open(roomy.file("ctl"), os.O_WRONLY)
    for start in range(0, JOBS, batch):
        os.write(fd, b"".join(b"spawn exit %d\n" % (n % 256) for n in range(start, start + batch)))
    os.close(fd)
    spawned = time.monotonic()
    expected = {1: "done:0"} | {n + 2: f"failed:{n % 256}" if n % 256 else "done:0" for n in range(JOBS)}
    ended = until(lambda: statuses(roomy), lambda now: not {"running", "queued"} & {*now.values()}, patience=600)
    seconds = spawned - began, time.monotonic() - began
    with capsys.disabled():
        print(f"\n{batch} a write: {JOBS / seconds[0]:.0f} spawned a second, {JOBS / seconds[1]:.0f} ended a second")  # noqa: T201 - a rate to be read
    assert expected == ended
    assert [] == psutil.Process(roomy.supervisor).children()
    # The files that the daemon has open are its caches' to close.
    assert before == until(lambda: descriptors(roomy), lambda now: now == before)
