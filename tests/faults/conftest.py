"""What the tests of faults share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def roomy() -> Iterator[Mounted]:
    """A mount that keeps every job, so that each can be accounted for."""
    mounted = Mounted("--keep", "1000000", "--keep-bytes", "1000G")
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.finish()
