"""The types of the library and of `jobfs.sync`, as `mypy --strict` sees them from a program of a user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import jobfs
from jobfs import sync
from tests.typing.checked import mypy

pytest.importorskip("mypy", reason="mypy is of the group `check`")

HERE = Path(__file__).parent
FOR_THE_MOUNT = {"parts", "portal", "inner"}  # what is public for `mount` alone
FOR_THE_ENGINE = {"watch", "unwatch", "is_news", "forget", "seal", "attach", "move", "detach", "stalled_by"}
KINDS: dict[str, list[type]] = {
    "library_program.py": [jobfs.Table, jobfs.Job, jobfs.Feed, jobfs.Task, jobfs.StreamReader, jobfs.StreamWriter],
    "sync_program.py": [getattr(sync, name) for name in sync.__all__ if name != "open_table"],
}

WRONG = """\
from collections.abc import AsyncIterator, Iterator
import jobfs
import mount
from jobfs import sync


async def crawl(task: jobfs.Task, pages: int) -> int:
    task.stdout.write(b"")  # no
    await task.stdout.write("text")  # no
    return "done"  # no


def work(task: sync.Task, pages: int) -> int:
    task.stdout.write("text")  # no
    task.checkpoint(1)  # no
    task.cancelled = True  # no
    code: str = task.run_process("make")  # no
    return None  # no


def says(task: sync.Task) -> str:
    return "done"


async def in_trio(table: jobfs.Table, job: jobfs.Job) -> None:
    table.start(crawl)  # no
    table.start(crawl, "ten")  # no
    table.start(crawl, 1, 2)  # no
    table.start(work, 1)  # no
    table.start(crawl, 1, nice=1)  # no
    await table.spawn(b"make")  # no
    await table.spawn("make", env=["A=1"])  # no
    await table.spawn("make", umask="022")  # no
    table[1.5]  # no
    status: str = await job.wait()  # no
    await job.wait(timeout=1)  # no
    job.status = status  # no
    job.id = 2  # no
    async for text in job.stdout.follow():
        number: int = text  # no
    async for one in table.wait_all([1]):  # no
        pass
    with mount.mounted(table, "jobs"):  # no
        pass
    with mount.mounted_sync(table, "jobs"):  # no
        pass
    jobfs.open_tables()  # no


def in_threads(table: sync.Table, job: sync.Job, other: jobfs.Job) -> None:
    table.start(work)  # no
    table.start(work, "ten")  # no
    table.start(work, 1, 2)  # no
    table.start(crawl, 1)  # no
    table.start(says)  # no
    table.spawn(["make", 8])  # no
    table.spawn("make", timeout=[1])  # no
    table.register("a", process="1")  # no
    table.wait_all([other])  # no
    table.remove(1)  # no
    text: str = job.wait(1)  # no
    job.wait("soon")  # no
    job.end(timeout="soon")  # no
    job.stdout.wait_changed()  # no
    job.stdout.write(b"")  # no
    for piece in job.stdout.follow():
        line: str = piece  # no
    mount.mounted(table, "jobs")  # no
    with mount.mounted_sync(table):  # no
        pass
    with jobfs.open_table():  # no
        pass
    with sync.open_table(keep="all"):  # no
        pass
"""


@pytest.mark.parametrize("name", KINDS)
def test_a_program_that_uses_all_of_it_is_right(name: str) -> None:
    """Each method takes and gives what it documents."""
    assert (0, "Success: no issues found in 1 source file\n") == mypy(HERE / name)


@pytest.mark.parametrize("name", KINDS)
def test_the_program_uses_all_of_it(name: str) -> None:
    """What is added is added there."""
    used = set(re.findall(r"\.(\w+)", (HERE / name).read_text()))
    names = {name for kind in KINDS[name] if not issubclass(kind, BaseException) for name in dir(kind)}
    assert set() == {name for name in names if not name.startswith("_")} - used - FOR_THE_MOUNT - FOR_THE_ENGINE


def test_the_programs_use_every_name() -> None:
    """What `jobfs` and `jobfs.sync` offer."""
    library, threads = ((HERE / name).read_text() for name in KINDS)
    assert set() == set(jobfs.__all__) - set(re.findall(r"jobfs\.(\w+)", library))
    assert set() == set(sync.__all__) - set(re.findall(r"sync\.(\w+)", threads))


def test_wrong_uses_are_rejected(tmp_path: Path) -> None:
    """Every wrong line is an error, and no other one is."""
    program = tmp_path / "wrong.py"
    program.write_text(WRONG)
    status, said = mypy(program)
    expected = {number for number, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# no")}
    found = {int(number) for number in re.findall(r"^wrong\.py:(\d+): error:", said, re.MULTILINE)}
    assert (1, expected) == (status, found), said
