"""The fixture of the tests that need a job table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.tables import Desk, desk_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """An empty table on a scripted engine."""
    async with desk_in(tmp_path) as it:
        yield it
