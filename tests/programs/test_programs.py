"""The `needs` marker: what is there runs, what is not skips by its name, or fails where all are asked for."""

from __future__ import annotations

import pytest

from tests.programs import programs
from tests.programs.conftest import pytest_runtest_setup


def needing(request: pytest.FixtureRequest, *names: str) -> pytest.Item:
    """This very test, as one that needs programs."""
    assert isinstance(request.node, pytest.Item)
    request.node.add_marker(pytest.mark.needs(*names))
    return request.node


@pytest.mark.parametrize("name", ["no-such-program", "python:no_such_module", "npm:no-such-package"])
def test_missing_program_is_named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A test whose program is missing is skipped by its name, and fails where JOBFS_REQUIRE_PROGRAMS is set."""
    item = needing(request, "sh", name)
    monkeypatch.delenv("JOBFS_REQUIRE_PROGRAMS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"not installed: {name} "):
        pytest_runtest_setup(item)
    monkeypatch.setenv("JOBFS_REQUIRE_PROGRAMS", "1")
    with pytest.raises(pytest.fail.Exception, match=f"not installed: {name} "):
        pytest_runtest_setup(item)


def test_program_that_is_there_is_found(request: pytest.FixtureRequest) -> None:
    """A test whose programs are there is run, and knows where they are."""
    pytest_runtest_setup(needing(request, "sh", "python:pytest"))
    assert programs.path("sh").endswith("/sh")


@pytest.mark.needs("less-633")
def test_less_is_new_enough() -> None:
    """The less that the tests run is of version 633 or later, wherever it was found."""
    assert programs.path("less-633").endswith("/less")
