"""docs/client.md is complete, and what it shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobfs import client
from jobfs.client import Client, ClientError, Job
from tests.mounted import PATIENCE, Mounted

PAGE = (Path(__file__).parents[2] / "docs/client.md").read_text()
_EXAMPLE = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = _EXAMPLE.findall(PAGE)


@pytest.mark.mount
@pytest.mark.parametrize(("program", "shown"), EXAMPLES)
def test_example_shows_what_happens(shared: Mounted, program: str, shown: str) -> None:
    """Each program prints what the page says, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=shared.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (0, shown, "") == (done.returncode, done.stdout, done.stderr)


def test_every_program_is_an_example() -> None:
    """There is none of which the page does not say what it prints."""
    assert PAGE.count("```python\n") == len(EXAMPLES)


@pytest.mark.parametrize("kind", [Client, Job])
def test_every_method_is_in_its_table(kind: type[Client | Job]) -> None:
    """The page has a row for each method and property."""
    section = PAGE.partition(f"\n## {kind.__name__}\n")[2].partition("\n## ")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)", row)}
    assert set() == {name for name in dir(kind) if not name.startswith("_")} - named


def test_every_error_is_in_its_table() -> None:
    """The page says of each error when it comes."""
    family = {name for name in client.__all__ if issubclass(_kind(name), ClientError)}
    assert set() == family - set(re.findall(r"`(\w+Error)`", PAGE))


def _kind(name: str) -> type:
    kind = getattr(client, name)
    return kind if isinstance(kind, type) else object
