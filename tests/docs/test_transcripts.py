"""What a newcomer types works: the shell blocks of README and tutorial, run in order on a real mount."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.transcript import Shell, Step, shows, steps
from tests.mounted import JOBFS, Mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
MAKEFILE = "all:\n\t@echo compiling; sleep 1000\n"


@pytest.fixture
def place() -> Iterator[Mounted]:
    """A place to mount at, where nothing is mounted yet; what a document left there is ended."""
    mounted = Mounted()
    try:
        yield mounted
    finally:
        mounted.finish()


@pytest.fixture
def shell(place: Mounted) -> Iterator[Shell]:
    """The shell of a reader who has cloned jobfs to ~/jobfs, and has something to build in ~/project."""
    home = place.place / "home"
    clone, project = home / "jobfs", home / "project"
    for directory in (clone, project):
        directory.mkdir(parents=True)
    (clone / ".venv").symlink_to(Path(sys.executable).parents[1])
    (project / "Makefile").write_text(MAKEFILE)
    replaced = {
        "make run": f"{JOBFS} mount --state {place.state} {place.path}",
        "make test": "true",  # it is running
        "/v/jobs": str(place.path),
        "~/.local/state/jobfs": str(place.state),
    }
    reader = Shell(clone, {**place.environment, "HOME": str(home)}, replaced)
    try:
        yield reader
    finally:
        reader.close()


@pytest.mark.mount
@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md"])
def test_document_shows_what_happens(document: str, place: Mounted, shell: Shell) -> None:
    """Each command of the document does and shows what the document says, and at its end nothing is left."""
    for step in steps((REPOSITORY / document).read_text()):
        shell.follow(step)
        place.note_processes()
    assert not place.path.exists()


def test_transcript_is_read_as_commands_and_what_they_show() -> None:
    """A console block is commands with their output, a sh block one command, and other blocks are for people."""
    text = "```console\n$ echo a\na\n$ tail -f b\n...\n^C\n```\n```text\n$ no\n```\n```sh\nc\nd\n```\n"
    expected = [Step("echo a", "a\n"), Step("tail -f b", "...\n", interrupted=True), Step("c\nd\n", None)]
    assert expected == steps(text)


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        ("a ... c\n", "a b c\n"),
        ("a\n...\n", "a\nb\nc\n"),
        ("...\n", ""),
        ("2   running  1.0s\n", "2   running  12s\n"),
        ("bash: no\n", "bash: line 7: no\n"),
        ("at 2026-01-31T12:00:00.000Z\n", "at 2027-11-22T09:05:59.123Z\n"),
    ],
)
def test_what_varies_is_no_difference(shown: str, output: str) -> None:
    """Times, durations, and what a document leaves out may differ from what is shown."""
    assert shows(Step("cat x", shown), output)


@pytest.mark.parametrize(("shown", "output"), [("a\n", "b\n"), ("a\n", "a\nb\n"), ("12\n", "13\n"), ("", "a\n")])
def test_all_else_is_a_difference(shown: str, output: str) -> None:
    """What a document shows is what has to come, no less and no more."""
    assert not shows(Step("cat x", shown), output)
