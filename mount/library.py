"""`mounted` and `mounted_sync`: the table of a program, shown as files by that program, as long as a block lasts."""

from __future__ import annotations

import os
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jobfs.beside import beside
from mount import mountpoint
from mount.serving import TableMount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from jobfs import Table, sync


@asynccontextmanager
async def mounted(table: Table, directory: str | os.PathLike[str]) -> AsyncIterator[Path]:
    """Shows `table` at `directory`, which is made where it is missing, and gives its absolute path.

    It is the same tree as that of `jobfs mount`, `ctl` included: whoever may write there can do what this program can.
    When the block is left it is unmounted, and what is open there gets ENOTCONN; jobs go on. A process can have one
    mount at a time. Raises MountpointUnusable where nothing can be mounted there.

    The program must never touch its own mount from the thread that runs trio: nobody would be there to answer. Threads
    (trio.to_thread, trio.Path, trio.open_file) and other processes may.
    """
    table.require_open()
    point, claim, made = await trio.to_thread.run_sync(_claim, Path(os.getcwd(), directory))
    parts = table.parts
    shown = TableMount(parts.core, parts.events, point, state=parts.state, created_at=parts.created_at)
    over = trio.Event()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await shown.run(task_status.started)
        finally:
            over.set()

    async def end() -> None:
        if not over.is_set():
            shown.end()
            await over.wait()

    try:
        async with beside(end) as nursery:
            await nursery.start(serve)
            claim.close()
            yield point
    finally:
        claim.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(shown.reap)
            await trio.to_thread.run_sync(mountpoint.remove, made)


@contextmanager
def mounted_sync(table: sync.Table, directory: str | os.PathLike[str]) -> Iterator[Path]:
    """As `mounted`, for a table of `jobfs.sync`: an ordinary context manager, for any thread.

    What is asked of the mount is answered by the thread that the table runs trio in, which no code of the program
    runs in: so all the program's threads may touch the mount.
    """
    with table.portal.within(lambda: mounted(table.inner, directory)) as point:
        yield point


def _claim(directory: Path) -> tuple[Path, ExitStack, list[str]]:
    """Where to mount, the right to do so until it is closed, and the directories that were made for it."""
    with ExitStack() as stack:
        point = mountpoint.normal(directory)
        claim = stack.enter_context(mountpoint.claimed(point))
        made = mountpoint.prepare(point) + claim.made
        return point, stack.pop_all(), made
