"""Where the `needs` marker skips: see `programs.py`."""

from __future__ import annotations

import os

import pytest

from tests.programs import programs


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose programs are not all installed, or fail it where JOBFS_REQUIRE_PROGRAMS asks for all."""
    needed = [name for marker in item.iter_markers("needs") for name in marker.args]
    missing = [name for name in needed if programs.find(name) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)} (make test-programs installs it)"
    if os.environ.get("JOBFS_REQUIRE_PROGRAMS"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
