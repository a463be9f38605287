"""Faults, many times over; each count is a variable of the environment, and `make soak` passes it on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import (
    Figures,
    both_killed,
    daemon_frozen,
    daemon_killed,
    daemon_killed_as_it_starts,
    killed_amid_writes,
    supervisor_frozen,
    supervisor_killed,
    under_load,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mounted

pytestmark = pytest.mark.mount


def times(variable: str, usual: int) -> int:
    """How often a fault is to be met."""
    return int(os.environ.get(variable, usual))


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[Figures], None]:
    """Prints figures while the tests run."""

    def say(figures: Figures) -> None:
        with capsys.disabled():
            print(f"\n{figures}")  # noqa: T201 - figures to be read

    return say


def test_daemon_killed(roomy: Mounted, tmp_path: Path, tell: Callable[[Figures], None]) -> None:
    """SIGKILL to the daemon at random moments."""
    tell(under_load(roomy, tmp_path, [daemon_killed], times("SOAK_DAEMON_KILLS", 200)))


def test_daemon_killed_as_it_starts(roomy: Mounted, tmp_path: Path, tell: Callable[[Figures], None]) -> None:
    """SIGKILL to the daemon, and to the next one while it starts."""
    tell(under_load(roomy, tmp_path, [daemon_killed_as_it_starts], times("SOAK_STARTING_DAEMON_KILLS", 50)))


def test_supervisor_killed(roomy: Mounted, tmp_path: Path, tell: Callable[[Figures], None]) -> None:
    """SIGKILL to the supervisor at random moments."""
    tell(under_load(roomy, tmp_path, [supervisor_killed], times("SOAK_SUPERVISOR_KILLS", 20)))


def test_both_killed(roomy: Mounted, tmp_path: Path, tell: Callable[[Figures], None]) -> None:
    """SIGKILL to daemon and supervisor at once."""
    tell(under_load(roomy, tmp_path, [both_killed], times("SOAK_BOTH_KILLS", 20), unwatched=True))


def test_frozen(roomy: Mounted, tmp_path: Path, tell: Callable[[Figures], None]) -> None:
    """SIGSTOP to the daemon and to the supervisor in turn."""
    tell(under_load(roomy, tmp_path, [daemon_frozen, supervisor_frozen], times("SOAK_FREEZES", 40)))


def test_write_cut_off(roomy: Mounted, tmp_path: Path, tell: Callable[[Figures], None]) -> None:
    """SIGKILL to the daemon in the middle of a write to `ctl`."""
    tell(killed_amid_writes(roomy, tmp_path, times("SOAK_CUT_OFF_WRITES", 200)))
