"""The Python client's types, as `mypy --strict` sees them from a program of a user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobfs.client import Client, Job
from tests.typing.checked import mypy

pytest.importorskip("mypy", reason="mypy is of the group `check`")

PROGRAM = Path(__file__).with_name("client_program.py")

WRONG = """\
from jobfs.client import Client, Job
client, job = Client(), Client().job(1)
client.spawn(b"make")  # no
client.spawn(["make", 8])  # no
client.spawn("make", env=["A=1"])  # no
client.spawn("make", nice="high")  # no
client.spawn("make", lease=1)  # no
client.spawn("make", "build")  # no
number: int = client.spawn("make")  # no
client.job(1.5)  # no
job.kill(9.5)  # no
job.wait("soon")  # no
job.read(stream="stdin")  # no
job.read(0, "stdout")  # no
job.follow("output")  # no
job.write("text")  # no
job.status = "done:0"  # no
job.id = 2  # no
text: str = job.read()  # no
code: int = job.info()["exit_code"]  # no
job.info()["exitcode"]  # no
job.info()["stdout"]["lost"]  # no
job.waits()  # no
"""


def public(kind: type[Client | Job]) -> set[str]:
    """What users may call."""
    return {name for name in dir(kind) if not name.startswith("_")}


def test_a_program_that_uses_all_of_it_is_right() -> None:
    """Each method takes and gives what it documents."""
    assert (0, "Success: no issues found in 1 source file\n") == mypy(PROGRAM)


def test_the_program_uses_all_of_it() -> None:
    """What is added to the client is added there."""
    used = set(re.findall(r"\b(?:client|job)\.(\w+)", PROGRAM.read_text()))
    assert set() == (public(Client) | public(Job)) - used


def test_wrong_uses_are_rejected(tmp_path: Path) -> None:
    """Every wrong line is an error, and no other one is."""
    program = tmp_path / "wrong.py"
    program.write_text(WRONG)
    status, said = mypy(program)
    expected = {number for number, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# no")}
    found = {int(number) for number in re.findall(r"^wrong\.py:(\d+): error:", said, re.MULTILINE)}
    assert (1, expected) == (status, found)
