"""Processes of the program itself that have a terminal."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

import jobfs
from jobfs.errors import JobEnded, StdinClosed
from tests.engine.inprocess import children, descriptors, until, until_written

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jobfs import Table


@pytest.fixture
async def table() -> AsyncIterator[Table]:
    """An open table, in memory."""
    async with jobfs.open_table() as it:
        yield it


async def test_the_terminal_is_the_controlling_one(table: Table) -> None:
    """All three standard streams are it, and so is /dev/tty; what is written to errors comes out of stdout."""
    job = await table.spawn("tty; tty <&1; tty <&2 >/dev/tty; echo $((1 + 1)) >&2", pty=True)
    await job.wait()
    *terminals, said = job.stdout.snapshot().data.split()
    assert (3, 1, b"2") == (len(terminals), len(set(terminals)), said)
    assert terminals[0].startswith(b"/dev/pts/")
    assert 0 == job.stderr.state.written


async def test_the_terminal_has_a_size(table: Table) -> None:
    """80 columns at first; a change is told by SIGWINCH."""
    job = await table.spawn("stty size; trap 'stty size; exit' WINCH; while :; do sleep 0.01; done", pty=True)
    await until_written(job, len(b"24 80\r\n"))
    with suppress(JobEnded):  # the shell has its trap set at some time, and ends then
        for rows in itertools.count(30):
            await job.resize(rows, 132)
            await trio.sleep(0.01)
    await job.wait()
    assert b"132" == job.stdout.snapshot().data.split()[3]


async def test_what_is_typed_is_read(table: Table) -> None:
    """A line at a time, echoed; end of file is typed too."""
    job = await table.spawn(["cat"], pty=True)
    await job.write(b"hello\n")
    await until_written(job, len(b"hello\r\nhello\r\n"))
    await job.close_stdin()
    assert "done:0" == str(await job.wait())
    assert b"hello\r\nhello\r\n" == job.stdout.snapshot().data
    with pytest.raises(StdinClosed):
        await job.write(b"x")


async def test_an_interrupt_can_be_typed(table: Table) -> None:
    """Ctrl-C is a signal to who is in the foreground."""
    job = await table.spawn("echo; exec sleep 1000", pty=True)
    await until_written(job)
    await job.write(b"\x03")
    assert "killed:2" == str(await job.wait())


async def test_a_last_write_to_a_terminal_is_readable_when_the_process_has_ended(table: Table) -> None:
    """All of it, in a hundred short lives."""
    for _ in range(100):
        job = await table.spawn(["seq", "500"], pty=True)
        await job.wait()
        assert b"500\r\n" == job.stdout.snapshot().data[-5:]


async def test_a_terminal_can_have_a_niceness_and_a_file_as_stdin(table: Table, tmp_path: Path) -> None:
    """All at once."""
    (tmp_path / "text").write_text("from the file\n")
    job = await table.spawn("nice; cat", pty=True, nice=3, stdin=tmp_path / "text")
    await job.wait()
    assert b"3\r\nfrom the file\r\n" == job.stdout.snapshot().data


async def test_nothing_of_a_terminal_is_left(table: Table) -> None:
    """No descriptor, no process."""
    await (await table.spawn(["true"], pty=True)).wait()
    await until(lambda: not children())
    before = descriptors()
    for _ in range(20):
        await (await table.spawn(["true"], pty=True)).wait()
    await until(lambda: descriptors() == before)
