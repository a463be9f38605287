"""docs/library.md is complete, and what it shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jobfs
from jobfs import sync
from tests.mounted import PATIENCE

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/library.md").read_text()
_EXAMPLE = re.compile(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = _EXAMPLE.findall(PAGE)
PLACE = "/tmp/my-jobs"  # noqa: S108 - where the page mounts, and the test elsewhere


@pytest.mark.mount
@pytest.mark.parametrize(("program", "shown"), EXAMPLES)
def test_example_shows_what_happens(tmp_path: Path, program: str, shown: str) -> None:
    """Each program prints what the page says, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace(PLACE, str(tmp_path / "jobs"))],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (0, shown, "") == (done.returncode, done.stdout, done.stderr)


def test_every_program_is_an_example() -> None:
    """There is none of which the page does not say what it prints."""
    assert PAGE.count("```python\n") == len(EXAMPLES)


@pytest.mark.parametrize(
    "kind", [jobfs.Table, jobfs.Job, jobfs.Feed, jobfs.Task, jobfs.StreamReader, sync.Task, sync.StdinReader]
)
def test_every_method_is_named(kind: type) -> None:
    """The page says of each method and property of the library that there is it."""
    for_the_mount = {"parts", "portal", "inner"}
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", prose))))
    assert set() == {name for name in dir(kind) if not name.startswith("_")} - named - for_the_mount


def test_every_error_is_named() -> None:
    """That a program may have to catch."""
    family = {name for name in jobfs.__all__ if issubclass(_kind(name), Exception)}
    assert set() == {name for name in family if name not in PAGE}


@pytest.mark.parametrize("heading", re.findall(r"\]\(#([\w-]+)\)", PAGE))
def test_every_link_within_the_page_leads_somewhere(heading: str) -> None:
    """To a heading of it."""
    headings = re.findall(r"^##+ (.*)$", PAGE, re.MULTILINE)
    assert heading in {text.lower().replace(" ", "-") for text in headings}


def _kind(name: str) -> type:
    kind = getattr(jobfs, name)
    return kind if isinstance(kind, type) else object
