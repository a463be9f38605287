"""24 hours in fast motion: a hundred thousand short jobs through one daemon (SOAK_JOBS)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.faults.day import grown, pass_by

if TYPE_CHECKING:
    from tests.mounted import Mounted

pytestmark = pytest.mark.mount

JOBS = int(os.environ.get("SOAK_JOBS", "100000"))


def test_hundred_thousand_jobs_leave_nothing_behind(jobs: Mounted, capsys: pytest.CaptureFixture[str]) -> None:
    """Each ends right; daemon and supervisor have the memory and descriptors that they had after a tenth of them."""
    day = pass_by(jobs, JOBS, every=JOBS // 10)
    with capsys.disabled():
        print(f"\n{day}")  # noqa: T201 - figures to be read
    assert [] == grown(day)
