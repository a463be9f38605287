"""The fixture of the tests that need a job table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jobfs import table
from tests.unit.tables import Desk, desk_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawn whose engine has gone is told so soon, where no other engine comes."""
    monkeypatch.setattr(table, "_TAKING_UP", 0.5)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """An empty table on a scripted engine."""
    async with desk_in(tmp_path) as it:
        yield it
