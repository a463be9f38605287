"""Has the kernel tell those who watch files by inotify(7) that jobs changed them: IN_MODIFY and IN_CLOSE_WRITE.

Nothing that a server does raises an event; only what comes through the mount does. So the daemon touches its own files
after they changed, each at most twenty times a second. Only those of jobs that somebody has looked at: what was not
looked at is not watched. Most of what was looked at is not watched either, and the kernel tells nobody what is; but it
shows every process's watches in /proc, and files on which there are none are touched once a second, in case that a
watch cannot be seen.
"""

from __future__ import annotations

import logging
import math
import re
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from jobfs import proc
from jobfs.errors import LimitReached
from mount.caller import ALL_PATIENCE, look
from mount.own import OwnClientGone, Touch
from mount.tree import JOB_BY_NAME, ROOT, ROOT_BY_NAME, job_inode

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.bell import Bell
    from jobfs.job import Job, StreamView
    from jobfs.table import JobTable
    from mount.own import OwnMount

log = logging.getLogger(__name__)

# Seconds between two nudges of a file on which there is a watch, and of one on which none can be seen.
_WATCHED = 0.05
_UNWATCHED = 1.0
# Seconds before the first: what changed a file has more to do, and whoever waits for that comes first.
_GATHER = 0.005
# Touching takes a fifth of a millisecond a file: it is done for a tenth of the time at most, looking for watches for
# a fiftieth.
_PAUSE_FOR_TOUCHES = 10
_PAUSE_FOR_LOOK = 50
_WATCH = re.compile(rb"^(?:inotify wd:[0-9a-f]+|fanotify) ino:([0-9a-f]+) sdev:([0-9a-f]+)", re.MULTILINE)
_WATCHERS = ("anon_inode:inotify", "anon_inode:[fanotify]")


class Source(Protocol):
    """A file that changes by itself."""

    path: str
    inodes: tuple[int, int]
    """Its own inode number and its directory's."""

    def listen(self, call: Callable[[], None]) -> None:
        """Has `call` called, once, when it changes after the last `take`."""

    def ignore(self, call: Callable[[], None]) -> None:
        """Takes `listen` back."""

    def take(self) -> Touch | None:
        """What is to be told now; None for nothing."""


class RenderedSource:
    """A file that is rendered anew when its bell rings."""

    def __init__(self, path: str, inodes: tuple[int, int], bell: Bell, *, closes: bool) -> None:
        self.path, self.inodes = path, inodes
        self._bell = bell
        self._closes = closes

    def listen(self, call: Callable[[], None]) -> None:
        """See `Source`."""
        self._bell.listen(call)

    def ignore(self, call: Callable[[], None]) -> None:
        """See `Source`."""
        self._bell.ignore(call)

    def take(self) -> Touch:
        """See `Source`. It is written whole, and so closed each time."""
        return Touch(self.path, modified=True, closed=self._closes)


class StreamSource:
    """A job's output stream, which is closed once."""

    def __init__(self, path: str, inodes: tuple[int, int], view: StreamView) -> None:
        self.path, self.inodes = path, inodes
        self._view = view
        self._told = view.state.written
        self._told_closed = view.state.closed

    def listen(self, call: Callable[[], None]) -> None:
        """See `Source`."""
        if self._is_news():
            call()
        elif not self._told_closed:
            self._view.listen(self._told, call)

    def ignore(self, call: Callable[[], None]) -> None:
        """See `Source`."""
        self._view.ignore(call)

    def take(self) -> Touch | None:
        """See `Source`."""
        if not self._is_news():
            return None
        state = self._view.state
        touch = Touch(self.path, modified=state.written > self._told, closed=state.closed)
        self._told, self._told_closed = state.written, state.closed
        return touch

    def _is_news(self) -> bool:
        state = self._view.state
        return state.written > self._told or state.closed != self._told_closed


class _Nudged:
    """A source and when it may be touched again."""

    def __init__(self, source: Source, changed: Callable[[_Nudged], None]) -> None:
        self.source = source
        self.told_at = -math.inf
        self.not_before = -math.inf
        self._changed = changed

    def listen(self) -> None:
        self.source.listen(self._rung)

    def ignore(self) -> None:
        self.source.ignore(self._rung)

    def _rung(self) -> None:
        self._changed(self)


class Nudges:
    """What is followed, and what of it has changed; `run` is the task that tells the kernel."""

    def __init__(self, own: OwnMount) -> None:
        self._own = own
        self._jobs: dict[int, list[_Nudged]] = {}
        self._changed: dict[_Nudged, None] = {}
        self._woken = trio.Event()
        self._watched: frozenset[int] = frozenset()  # inode numbers
        self._look_at = -math.inf  # when to look for watches again, on trio's clock
        self.device = 0  # the number of the mount's file system, as the kernel has it

    def follow_table(self, table: JobTable) -> None:
        """The files of the root are anybody's to watch: no lookup tells."""
        for name, bell in (("table", table.bell), ("table.jsonl", table.bell), ("events", table.recorded)):
            inodes = (ROOT_BY_NAME[name.encode("ascii")].slot, ROOT)
            self._follow(RenderedSource(name, inodes, bell, closes=name != "events"))

    def follow(self, job: Job) -> None:
        """Somebody has looked at the job: from now on its changes are told."""
        if job.id in self._jobs or job.removed:
            return
        sources: list[Source] = []
        if not job.ended:
            sources.append(RenderedSource(f"{job.id}/status", _inodes(job, "status"), job.bell, closes=True))
        for name, view in job.streams.items():
            if view.may_grow:
                sources.append(StreamSource(f"{job.id}/{name}", _inodes(job, name), view))
        if sources:
            self._jobs[job.id] = [self._follow(source) for source in sources]

    def forget(self, job: int) -> None:
        """Nobody has the job's files any more."""
        for nudged in self._jobs.pop(job, ()):
            nudged.ignore()
            self._changed.pop(nudged, None)

    async def run(self) -> None:
        """Tells the kernel; runs for ever."""
        while True:
            await self._woken.wait()
            await trio.sleep(_GATHER)
            self._woken = trio.Event()
            while self._changed:
                await self._turn()

    def _follow(self, source: Source) -> _Nudged:
        nudged = _Nudged(source, self._note)
        nudged.listen()
        return nudged

    def _note(self, nudged: _Nudged) -> None:
        self._changed[nudged] = None
        self._woken.set()

    async def _turn(self) -> None:
        """Touches what may be touched, or waits until something may."""
        now = trio.current_time()
        due = [nudged for nudged in self._changed if nudged.not_before <= now]
        if not due:
            if now >= self._look_at:
                await self._look_for_watches()
            with trio.move_on_at(min(nudged.not_before for nudged in self._changed)):
                await self._woken.wait()
            self._woken = trio.Event()
            return
        await self._touch([touch for nudged in due if (touch := self._take(nudged)) is not None])
        took = trio.current_time() - now
        for nudged in due:
            pause = _WATCHED if self._watched.intersection(nudged.source.inodes) else _UNWATCHED
            nudged.told_at = now
            nudged.not_before = now + max(pause, took * _PAUSE_FOR_TOUCHES)

    def _take(self, nudged: _Nudged) -> Touch | None:
        """What is to be told of it; listens on, before anything is waited for: what changes meanwhile is told too."""
        del self._changed[nudged]
        try:
            touch = nudged.source.take()
            nudged.listen()
        except OSError as error:  # its stream cannot be looked at, for want of a descriptor: later
            log.warning("cannot look at %s: %s", nudged.source.path, error)
            self._changed[nudged] = None
            return None
        return touch

    async def _touch(self, touches: list[Touch]) -> None:
        while True:
            try:
                await self._own.touch(touches)
            except OwnClientGone:
                await self._own.came.wait_rung()
            else:
                return

    async def _look_for_watches(self) -> None:
        began = trio.current_time()
        try:
            found = await look(partial(_watched, self.device), ALL_PATIENCE)
        except LimitReached as error:
            log.warning("cannot look for watches: %s", error)
            found = None
        if found is not None:
            self._watched = found
        now = trio.current_time()
        self._look_at = now + max(_UNWATCHED, (now - began) * _PAUSE_FOR_LOOK)
        for nudged in self._changed:
            if self._watched.intersection(nudged.source.inodes):
                nudged.not_before = min(nudged.not_before, nudged.told_at + _WATCHED)


def _inodes(job: Job, name: str) -> tuple[int, int]:
    return job_inode(job.id, JOB_BY_NAME[name.encode("ascii")].slot), job_inode(job.id)


def _watched(device: int) -> frozenset[int]:
    """The inode numbers of the file system `device` on which some process that can be seen has a watch."""
    found: set[int] = set()
    for pid in proc.tasks():
        try:
            for number in proc.entries(pid, "fd"):
                if proc.link(pid, f"fd/{number}") in _WATCHERS:
                    watches = _WATCH.findall(proc.read(pid, f"fdinfo/{number}"))
                    found.update(int(inode, 16) for inode, where in watches if int(where, 16) == device)
        except OSError:  # it has gone, or is another user's, who does not get in here
            continue
    return frozenset(found)
