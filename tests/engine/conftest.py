"""The engine's fixtures: a workshop with a daemon attached, and one where the test attaches it itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.engine.workshop import Workshop, workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def bare() -> AsyncIterator[Workshop]:
    """An engine that nobody is attached to yet."""
    async with workshop() as shop:
        yield shop


@pytest.fixture
async def shop() -> AsyncIterator[Workshop]:
    """An engine with a daemon attached."""
    async with workshop() as it, it.attached():
        yield it
