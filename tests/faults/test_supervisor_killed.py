"""SIGKILL to the supervisor, and to daemon and supervisor at once, under load; each ends with the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import both_killed, supervisor_killed, under_load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounted import Mounted

pytestmark = [pytest.mark.mount, pytest.mark.timeout(180)]


def test_supervisor_is_killed_at_random_moments(roomy: Mounted, tmp_path: Path) -> None:
    """Whenever the supervisor is killed, jobs go on, not a byte of theirs is lost, and their ends are known."""
    figures = under_load(roomy, tmp_path, [supervisor_killed], 2)
    assert figures.counts["spawns: done"] > 0


def test_daemon_and_supervisor_are_killed_at_once(roomy: Mounted, tmp_path: Path) -> None:
    """The next mount finds the jobs that live on, with all that they wrote; what ended meanwhile may be lost."""
    figures = under_load(roomy, tmp_path, [both_killed], 2, unwatched=True)
    assert figures.counts["spawns: done"] > 0
