"""What all tests share: where the `mount` marker skips, and how Hypothesis runs.

A test that needs a real mount is marked `mount`. It is skipped where there is no FUSE device, and fails there instead
when JOBFS_REQUIRE_MOUNT is set, as it is in CI: nobody should take a run without those tests for a whole one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.mounted import Mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

FUSE_DEVICE = "/dev/fuse"

# Machines differ in speed, and no test of ours asserts a duration.
hypothesis.settings.register_profile("jobfs", deadline=None)
hypothesis.settings.load_profile("jobfs")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test that needs a mount where there can be none."""
    if item.get_closest_marker("mount") is None or os.path.exists(FUSE_DEVICE):
        return
    reason = f"{FUSE_DEVICE} is missing: no real mount is possible here"
    if os.environ.get("JOBFS_REQUIRE_MOUNT"):
        pytest.fail(f"{reason}, and JOBFS_REQUIRE_MOUNT asks for one", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def jobs() -> Iterator[Mounted]:
    """A fresh mount for one test; when it ends, so does everything that ran there."""
    yield from _mounted()


@pytest.fixture(scope="module")
def shared() -> Iterator[Mounted]:
    """A mount for the tests of one module, which each look at their own jobs only."""
    yield from _mounted()


@pytest.fixture
def hanging() -> Iterator[Mounted]:
    """Another mount, to be frozen: a file system that does not answer."""
    yield from _mounted()


@pytest.fixture
def roomy() -> Iterator[Mounted]:
    """A fresh mount that keeps every job, so that each can be accounted for."""
    yield from _mounted("--keep", "1000000", "--keep-bytes", "1000G")


def _mounted(*options: str) -> Iterator[Mounted]:
    mounted = Mounted(*options)
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.finish()
