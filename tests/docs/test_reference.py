"""The documents are complete and hold together: links lead somewhere, and what the code's tables have is described."""

from __future__ import annotations

import errno
import inspect
import re
from pathlib import Path

import click
import pytest

from jobfs import control, errors
from mount.cli import main
from mount.tree import JOB_FILES, ROOT_FILES

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md")))]
REFERENCE = (REPOSITORY / "docs/reference.md").read_text()
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def prose(path: Path) -> str:
    """A document without its blocks."""
    return _FENCED.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """What links can point to in a document, named as GitHub names it."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(path))}


def sections() -> dict[str, str]:
    """The reference's sections, by heading without its back-quotes."""
    parts = re.split(r"^#{2,} (.*)\n", REFERENCE, flags=re.MULTILINE)
    return {heading.replace("`", ""): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def first_words() -> set[str]:
    """The first word of each section's heading."""
    return {heading.split()[0] for heading in sections()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """What a document links to inside the repository exists, and so does the heading that is meant there."""
    path = REPOSITORY / document
    for target in _LINK.findall(prose(path)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_file_has_a_section() -> None:
    """The reference has a section for each row of the tree's tables."""
    rows = {f"/{file.name.decode()}" for file in ROOT_FILES} | {f"ID/{file.name.decode()}" for file in JOB_FILES}
    assert set() == rows - set(sections())


def test_every_verb_has_a_section() -> None:
    """The reference has a section for each verb of the grammar."""
    assert set() == set(control._VERBS) - set(sections())  # noqa: SLF001 - the grammar's own table


def test_every_option_has_a_section() -> None:
    """The reference has a section for each option of spawn."""
    assert set() == {f"--{name}" for name in control._OPTIONS} - first_words()  # noqa: SLF001 - the grammar's own table


def test_every_errno_is_in_the_table_of_errors() -> None:
    """The reference says of each errno that jobfs raises on purpose when that is."""
    family = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.JobfsError)]
    raised = {errno.errorcode[kind.errno] for kind in family}
    assert set() == raised - set(re.findall(r"^\| (E\w+) \|", sections()["Errors"], re.MULTILINE))


def test_every_command_and_its_options_have_a_section() -> None:
    """The reference has a section for each command of the command line, which names each of its options."""
    assert isinstance(main, click.Group)
    missing = [
        f"{name} {option}"
        for name, command in main.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if f"`{option}" not in sections().get(f"jobfs {name}", "")
    ]
    assert [] == missing
    assert set() == {f"jobfs {name}" for name in main.commands} - set(sections())
