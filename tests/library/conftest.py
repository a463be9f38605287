"""A table for one test, and the certainty that nothing is left of it."""

from __future__ import annotations

import gc
import signal
from typing import TYPE_CHECKING

import pytest

import jobfs
from tests.descriptors import descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """As many descriptors after a test as before it."""
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    assert before == descriptors()


@pytest.fixture
async def table() -> AsyncIterator[jobfs.Table]:
    """A table in memory, which is closed when the test is over."""
    async with jobfs.open_table() as opened:
        yield opened


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT is Ctrl-C, as in a program that a person has started, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
