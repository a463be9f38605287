"""Many short jobs through one daemon leave nothing behind in it, nor in the supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.day import Day, Measured, grown, pass_by
from tests.mounted import Mounted

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def forgetful() -> Iterator[Mounted]:
    """A mount whose table is full after a moment."""
    mounted = Mounted("--keep", "200")
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.finish()


@pytest.mark.mount
def test_many_short_jobs_leave_nothing_behind(forgetful: Mounted) -> None:
    """Each ends right; once the table is full neither memory nor descriptors grow with the jobs that came and went."""
    assert [] == grown(pass_by(forgetful, 1500, every=500))


BEFORE = Measured(500, (30_000_000, 10_000_000), (26, 18))
GROWN = {
    "as before": (BEFORE, 0),
    "a little more memory": (Measured(1500, (36_000_000, 12_000_000), (26, 18)), 0),
    "the daemon has more": (Measured(1500, (36_100_000, 10_000_000), (26, 18)), 1),
    "the supervisor has more": (Measured(1500, (30_000_000, 12_100_000), (26, 18)), 1),
    "a descriptor more": (Measured(1500, (30_000_000, 10_000_000), (27, 18)), 1),
    "a descriptor and memory": (Measured(1500, (30_000_000, 13_000_000), (26, 19)), 2),
}


@pytest.mark.parametrize("what", GROWN)
def test_growth_is_found_out(what: str) -> None:
    """A descriptor more than at the first measurement is too much, and a fifth more of memory."""
    last, found = GROWN[what]
    assert found == len(grown(Day([BEFORE, last])))
