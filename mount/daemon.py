"""The daemon: mounts the table and serves it until it is unmounted. The jobs are the supervisor's, and stay."""

from __future__ import annotations

import logging
import logging.handlers
import os
import resource
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jobfs.beside import first_of
from jobfs.engines.local import LocalEngine
from jobfs.errors import JobfsError
from jobfs.events import CAPACITY, highest_id, open_events
from jobfs.job import StreamView
from jobfs.state import DATABASE, SUPERVISOR, StateDirectory, claim_for, serving, this_process
from jobfs.store import Store
from jobfs.stream import RingReader
from jobfs.table import JobTable
from mount import mountpoint, service
from mount.serving import TableMount

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_LOG_SIZE = 1024 * 1024  # bytes of one log file; one older one is kept
# What keeps a daemon from serving and is told in a sentence, not by a traceback.
FORESEEN = (mountpoint.MountpointUnusable, JobfsError, OSError)
_READY = "ready"
_RESTART_PAUSE = 0.5  # seconds between attempts to have a supervisor again


@dataclass(frozen=True, slots=True)
class Options:
    """What `jobfs mount` was asked for: where, which state, and how much of what ended is kept."""

    point: Path
    state: Path
    keep: int
    keep_bytes: int
    foreground: bool = False
    mounted_before: bool = False  # by a daemon whose place this one takes


def detach(serve_it: Callable[[Callable[[], None]], None]) -> str | None:
    """Runs `serve_it` in a process of its own, until that calls what it is given: it is ready.

    Gives None then, else the sentence that says why not. In the new process this never returns.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with open(reader, encoding="utf-8") as said:
            answer = said.read()
        return None if answer == _READY else answer or "the daemon ended before it was ready"
    os.close(reader)
    waiting = _Waiting(writer)
    status = 1
    try:
        _become_daemon()
        serve_it(lambda: waiting.tell(_READY))
        status = 0
    except Exception as error:
        waiting.tell(str(error))
        expected = isinstance(error, FORESEEN)
        log.error("the daemon ends: %s", error, exc_info=None if expected else error)  # noqa: TRY400
    finally:
        os._exit(status)


class _Waiting:
    """The one who waits for a daemon, at the other end of a pipe; told once."""

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe

    def tell(self, what: str) -> None:
        pipe, self._pipe = self._pipe, None  # its number may be another file's later
        if pipe is not None:
            with suppress(BrokenPipeError):  # who waited was interrupted
                os.write(pipe, what.encode("utf-8", "replace"))
            os.close(pipe)


def _become_daemon() -> None:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def serve(options: Options, claim: mountpoint.Claim, ready: Callable[[], None]) -> None:
    """Mounts and serves until unmounted; calls `ready` once the mount is there, and lets go of the `claim` to it."""
    state = StateDirectory(options.state)
    try:
        log_to(options.state / "log")
        killed = serving(options.state)  # who ends by itself is announced no more
        made = mountpoint.prepare(options.point, mounted_before=options.mounted_before) + claim.made
        if not made and killed is not None and killed.mountpoint == str(options.point):
            made = killed.made  # and could not remove
        notifier = service.Notifier()
        state.announce(
            replace(
                this_process(options.point, made),
                keep=options.keep,
                keep_bytes=options.keep_bytes,
                foreground=options.foreground,
                unit=notifier.unit,
            )
        )

        def is_mounted() -> None:
            claim.release()
            notifier.tell("READY=1")
            ready()

        try:
            _raise_descriptor_limit()
            trio.run(_Daemon(options).run, is_mounted)
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        finally:
            notifier.tell("STOPPING=1")
            mountpoint.remove(made)
    finally:
        state.leave()


def log_to(path: Path) -> None:
    """Sends what the daemon logs to a file of bounded size."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_SIZE, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


class _Daemon:
    """The tasks of one mount."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._engine = LocalEngine(options.state)
        self._store = store = Store(options.state / DATABASE)
        claim_for(SUPERVISOR, store, options.state)
        self._events_path = options.state / "events"
        self._events = open_events(self._events_path)
        self._table = JobTable(store, self._engine, self._events, keep=options.keep, keep_bytes=options.keep_bytes)

    async def run(self, ready: Callable[[], None]) -> None:
        """Serves until the mount is gone."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._engine.run)
                await self._table.attach()
                if self._store.made:  # where it was lost, ids go on all the same: events tell of removed jobs too
                    self._store.pass_over(highest_id(self._events_path))
                nursery.start_soon(self._table.ended.keep_house)
                nursery.start_soon(self._replace_supervisor, nursery)
                await self._serve(nursery, ready)
                nursery.cancel_scope.cancel()
        finally:
            self._store.close()
            self._events.detach()

    async def _serve(self, nursery: trio.Nursery, ready: Callable[[], None]) -> None:
        events = StreamView(
            lambda: RingReader.open(self._events_path),
            CAPACITY,
            lambda _: self._table.recorded.listen(events.grew),
        )
        point, state = self._options.point, self._options.state
        mount = TableMount(self._table, events, point, state=state, created_at=_created_at(self._store))
        await nursery.start(_heed_signals, mount)
        await mount.run(ready)

    async def _replace_supervisor(self, nursery: trio.Nursery) -> None:
        """Whenever the supervisor has gone, a new one is started; its records tell what has become of the jobs."""
        while True:
            await self._engine.gone.wait()
            log.error("the supervisor has gone")
            self._engine.gone = trio.Event()
            try:
                await nursery.start(self._engine.run)
            except (JobfsError, OSError) as error:  # OSError: no descriptor is left, for one
                log.error("%s; trying again", error)  # noqa: TRY400 - the sentence says it
                await trio.sleep(_RESTART_PAUSE)
                self._engine.gone.set()
                continue
            await self._attach_supervisor()

    async def _attach_supervisor(self) -> None:
        while not self._engine.gone.is_set():
            try:
                await self._table.attach_engine()
            except (JobfsError, OSError) as error:
                log.error("%s; trying again", error)  # noqa: TRY400 - the sentence says it
                await trio.sleep(_RESTART_PAUSE)
            else:
                return


async def _heed_signals(mount: TableMount, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGUSR1:
                mount.make_way()
            else:
                log.info("%s: unmounting", signal.Signals(number).name)
                mount.end()


def _created_at(store: Store) -> float:
    """When the state was made, in seconds since the epoch; as far as that is known."""
    now = time.time()
    try:
        return min(max(0.0, float(store.property("created_at", str(now)))), now)
    except (JobfsError, ValueError) as error:  # a full disk is no reason not to mount
        log.warning("when the state was made is not known: %s", error)
        return now


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
