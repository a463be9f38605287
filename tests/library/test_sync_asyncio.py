"""`jobfs.sync` in a program that runs asyncio, and its table as files of a mount."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mount
from jobfs import sync
from tests.mounted import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def table() -> Iterator[sync.Table]:
    """A table in memory."""
    with sync.open_table() as table:
        yield table


def test_asyncio_waits_in_threads(table: sync.Table) -> None:
    """The event loop turns on meanwhile."""
    job = table.spawn("read x; echo $x; exit 3", stdin="pipe")

    async def main() -> str:
        waiting = asyncio.create_task(asyncio.to_thread(job.wait, PATIENCE))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(job.write, b"hello\n")
        return str(await waiting)

    assert "failed:3" == asyncio.run(main())
    assert b"hello\n" == job.stdout.snapshot().data


def test_asyncio_in_a_job_is_ended_with_it(table: sync.Table) -> None:
    """A function may run asyncio: what its threads wait for raises Cancelled there."""
    other = table.spawn(["sleep", "1000"])

    async def main(task: sync.Task) -> None:
        task.stdout.write(b"waiting\n")
        await asyncio.to_thread(other.wait)

    job = table.start(lambda task: asyncio.run(main(task)), command="asyncio")
    until(lambda: job.stdout.state.written)
    assert "killed:15" == str(job.end(timeout=PATIENCE))


@pytest.mark.mount
def test_the_table_is_shown_as_files(table: sync.Table, tmp_path: Path) -> None:
    """The thread that mounted may read and write there, as other programs may."""
    point = tmp_path / "jobs"
    function = table.start(lambda task: task.run_process("echo here"), name="f", command="here")
    function.wait(PATIENCE)
    with mount.mounted_sync(table, point) as at:
        assert point == at
        assert "done:0\n" == (at / "f/status").read_text()
        (at / "ctl").write_text("spawn --name cat --stdin pipe cat\n")
        (at / "cat/stdin").write_text("through the mount\n")
        assert "here\n" == subprocess.run(["cat", at / "1/stdout"], capture_output=True, text=True, check=True).stdout
        assert b"through the mount\n" == next(table["cat"].stdout.follow())
        (at / "ctl").write_text("kill cat\n")
        assert "killed:15\n" == (at / "cat/wait").read_text()
        with pytest.raises(mount.MountpointUnusable), mount.mounted_sync(table, tmp_path / "second"):
            pass
    assert [] == list(tmp_path.iterdir())
    assert "done:0" == str(table.spawn("true").wait(PATIENCE))


@pytest.mark.mount
def test_what_the_mounted_block_raises_gets_out(table: sync.Table, tmp_path: Path) -> None:
    """It is unmounted all the same, and can be mounted again."""
    with pytest.raises(ZeroDivisionError), mount.mounted_sync(table, tmp_path / "jobs"):
        raise ZeroDivisionError
    with mount.mounted_sync(table, tmp_path / "jobs") as point:
        assert (point / "ctl").exists()
    assert [] == list(tmp_path.iterdir())
