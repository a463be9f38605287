"""`open_table`: a table in this process, with a state of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jobfs.beside import beside
from jobfs.engines.inprocess import InProcessEngine
from jobfs.errors import BadCommand, JobfsError
from jobfs.events import CAPACITY, highest_id, open_events
from jobfs.job import StreamView
from jobfs.library.table import Parts, Table
from jobfs.state import DATABASE, LOCK_FILE, PROGRAM, TABLE_PREFIX, TMPFS, StateDirectory, claim_for
from jobfs.store import Store
from jobfs.stream import RingReader
from jobfs.supervisor import JOBS
from jobfs.supervisor.records import remove_unfinished
from jobfs.table import JobTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from jobfs.stream import RingWriter

_UNFINISHED_FOR = 60.0  # seconds after which one that was not finished belongs to nobody: it takes milliseconds


@asynccontextmanager
async def open_table(
    state: str | os.PathLike[str] | None = None, *, keep: int = 1000, keep_bytes: int = 1 << 30
) -> AsyncIterator[Table]:
    """A job table in this process: no daemon, no supervisor.

    `state` is a directory that jobs and output are kept in and found again by the next one who opens it; without it
    they are kept in memory (tmpfs) as long as the table is open. The `keep` newest ended jobs stay, as far as their
    output is not more than `keep_bytes`, a moment after they ended.

    When the block is left, however that is, every job is ended as by `kill`, and what it left behind too; so nothing of
    what was started is left. Raises StateUnusable, StateDamaged or OSError where the state cannot be had, BadCommand
    for bounds that are none, and RuntimeError where no trio runs.
    """
    _require_trio()
    _require_bounds(keep, keep_bytes)
    with _place(state) as place, _state(place) as store, _writer(place) as events:
        engine = InProcessEngine(place / JOBS)
        core = JobTable(store, engine, events, keep=keep, keep_bytes=keep_bytes)

        async def end_all() -> None:
            await engine.close()
            with suppress(JobfsError):  # a full disk; they are `lost` the next time
                await core.ended.store()

        path = place / "events"
        view = StreamView(lambda: RingReader.open(path), CAPACITY, lambda _: core.recorded.listen(view.grew))
        try:
            async with beside(end_all) as nursery:
                with trio.CancelScope(shield=True):  # of a task that is cancelled `start` would never return
                    await nursery.start(engine.run)
                nursery.start_soon(engine.wait_interrupted)
                await core.attach()
                if store.made:
                    store.pass_over(highest_id(path))
                nursery.start_soon(core.ended.keep_house)
                yield Table(Parts(core, place, view, time.time()), engine)
        finally:
            view.freeze()
            core.freeze()


def _require_trio() -> None:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise RuntimeError("jobfs.open_table is for programs that run trio; jobfs.sync is for all others") from None


def _require_bounds(keep: int, keep_bytes: int) -> None:
    bounds: dict[str, object] = {"keep": keep, "keep_bytes": keep_bytes}
    for name, value in bounds.items():
        if not isinstance(value, int) or value < 0:
            raise BadCommand(f"{name} is a number from 0 on, and not {value!r}")


@contextmanager
def _state(place: Path) -> Iterator[Store]:
    directory = StateDirectory(place, PROGRAM)
    try:
        store = Store(place / DATABASE)
        try:
            claim_for(PROGRAM, store, place)
            remove_unfinished(place)
            yield store
        finally:
            store.close()
    finally:
        directory.leave()


@contextmanager
def _writer(place: Path) -> Iterator[RingWriter]:
    events = open_events(place / "events")
    try:
        yield events
    finally:
        events.detach()


@contextmanager
def _place(state: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The state's directory; one in memory goes in the end, and so do those that killed programs left."""
    if state is not None:
        yield Path(state).absolute()
        return
    parent = TMPFS if os.access(TMPFS, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    place = Path(tempfile.mkdtemp(prefix=f"{TABLE_PREFIX}{os.geteuid()}-", dir=parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for place in parent.glob(f"{TABLE_PREFIX}{os.geteuid()}-*"):
        with suppress(OSError):  # it is in use; or somebody else removes it just now, or it is another user's
            about = place.lstat()
            finished = (place / DATABASE).exists()  # it is made when the place is locked
            if about.st_uid != os.geteuid() or (not finished and about.st_mtime > time.time() - _UNFINISHED_FOR):
                continue
            # Made where it is missing: its program may have been killed before it had made it.
            lock = os.open(place / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place)
            finally:
                os.close(lock)
