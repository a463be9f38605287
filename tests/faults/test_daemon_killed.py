"""SIGKILL and SIGSTOP to the daemon, under load; each ends with the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import (
    daemon_frozen,
    daemon_killed,
    daemon_killed_as_it_starts,
    supervisor_frozen,
    under_load,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounted import Mounted

pytestmark = [pytest.mark.mount, pytest.mark.timeout(180)]


def test_daemon_is_killed_at_random_moments(roomy: Mounted, tmp_path: Path) -> None:
    """Whenever the daemon is killed, the next mount shows what really happened, and nothing is left over."""
    figures = under_load(roomy, tmp_path, [daemon_killed] * 4 + [daemon_killed_as_it_starts], 10)
    assert figures.counts["spawns: done"] > 0


def test_daemon_and_supervisor_are_frozen(roomy: Mounted, tmp_path: Path) -> None:
    """While either stands still, whoever asks waits; then all goes on, and nothing is lost."""
    figures = under_load(roomy, tmp_path, [daemon_frozen, supervisor_frozen], 2)
    assert figures.counts["spawns: done"] > 0
