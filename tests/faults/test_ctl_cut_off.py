"""The daemon is killed in the middle of a write to `ctl`: each command has happened or not, never twice, never half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import killed_amid_writes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounted import Mounted

pytestmark = [pytest.mark.mount, pytest.mark.timeout(180)]


def test_write_that_is_cut_off_has_run_from_its_first_line_on(roomy: Mounted, tmp_path: Path) -> None:
    """Of several lines, those that happened are the first ones, in order, each once; what was answered has happened."""
    figures = killed_amid_writes(roomy, tmp_path, 8)
    assert figures.counts["spawns: done"] > 0
