"""The fixtures of the tests of the face: a table on a scripted engine, and the operations on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyfuse3
import pytest

from tests.face.faces import Face, Listing
from tests.unit.tables import Desk, desk_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """An empty table on a scripted engine."""
    async with desk_in(tmp_path) as it:
        yield it


@pytest.fixture
async def face(desk: Desk) -> Face:
    """The operations on that table."""
    return Face(desk)


@pytest.fixture
def listing(face: Face, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Listing]:
    """Makes listings of that face, one at a time."""

    def make(path: str = "", room: int = 3) -> Listing:
        it = Listing(face, path, room)
        monkeypatch.setattr(pyfuse3, "readdir_reply", it.reply)
        return it

    return make
