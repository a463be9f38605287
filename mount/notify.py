"""What the kernel is told of jobs: which directories there are, and who has looked at them.

A job's directory appears by a mkdir(2) and goes by an rmdir(2) of our own, because these are what inotify(7) hears of.
Until the one has come through nobody finds the job; what nobody has looked at nobody watches.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio

from jobfs.bell import Bell
from mount.own import OwnClientGone
from mount.tree import ROOT

if TYPE_CHECKING:
    from jobfs.job import Job
    from mount.nudges import Nudges
    from mount.own import Answer, OwnMount

log = logging.getLogger(__name__)

# Seconds that a directory may take to be made; then the job is shown all the same. It takes a fifth of a millisecond.
_PATIENCE = 1.0
# Seconds that making it waits for the job to have come. The root is locked meanwhile: nobody can look up a new name.
_HELD = 0.02
# Directories that are being made at once of jobs that nobody waits for: the requests fit into a socket.
_AT_ONCE = 64


class _Birth:
    """A job on its way: whether it has come, and whether its directory is there."""

    def __init__(self, *, hidden: bool = True) -> None:
        self.come = trio.Event()
        self.hidden = hidden  # until it is made
        self.made = False
        self.making: Answer | None = None
        self.bell = Bell()  # rung when it is made, or could not be


class KernelFace:
    """The table's `Face`: has jobs appear in the mount, and go from it."""

    def __init__(self, own: OwnMount, nudges: Nudges) -> None:
        self._own = own
        self._nudges = nudges
        self._births: dict[int, _Birth] = {}
        self.mounted = False  # whether there is a kernel to talk to
        self._unmade: deque[int] = deque()  # jobs that have come, and whose directories are not begun to be made
        self._making = 0  # of those, how many are
        self._leaving: dict[int, Job] = {}
        self._lookups: dict[int, int] = {}  # by job: how often the kernel has been given its directory

    # The table's side

    def expect(self, job: int) -> None:
        """See `Face`. The directory is begun to be made, which takes as long as starting the job."""
        birth = self._births[job] = _Birth()
        self._begin_to_make(job, birth)

    async def appeared(self, job: int) -> None:
        """See `Face`. Returns when the directory is there."""
        birth = self._births[job]
        birth.come.set()
        try:
            with trio.move_on_after(_PATIENCE):
                await self._wait_made(birth)
                if not birth.made:  # it was begun too early, and could not wait for the job
                    self._begin_to_make(job, birth)
                    await self._wait_made(birth)
            if not birth.made:
                log.warning("watchers are not told of job %d", job)
        finally:
            del self._births[job]

    def failed(self, job: int) -> None:
        """See `Face`."""
        self._births.pop(job).come.set()

    def came(self, job: int) -> None:
        """See `Face`. Where somebody looks at the directory before it is made, watchers do not hear of it."""
        if self.mounted:
            birth = self._births[job] = _Birth(hidden=False)
            birth.come.set()
            self._unmade.append(job)
            self._make_more()

    def _make_more(self) -> None:
        """A few at a time: nobody waits for them, and a program may start any number at once."""
        while self._unmade and self._making < _AT_ONCE:
            job = self._unmade.popleft()
            birth = self._births[job]
            self._begin_to_make(job, birth)
            if birth.making is None:
                del self._births[job]
                continue
            self._making += 1
            birth.making.bell.listen(partial(self._tried_to_make, job))

    def _tried_to_make(self, job: int) -> None:
        self._making -= 1
        self._births.pop(job, None)
        self._make_more()

    async def made(self, job: int) -> bool:
        """Whether the job has come, for which a directory is just being made; waits for that, not for long."""
        birth = self._births.get(job)
        if birth is not None:
            with trio.move_on_after(_HELD):
                await birth.come.wait()
        birth = self._births.get(job)
        if birth is None or not birth.come.is_set():
            return False
        birth.made = True
        birth.bell.ring()
        return True

    @staticmethod
    async def _wait_made(birth: _Birth) -> None:
        """Returns when the directory is made, or this attempt has failed."""
        while birth.making is not None and not birth.making.over and not birth.made:
            await birth.bell.wait_rung()

    def _begin_to_make(self, job: int, birth: _Birth) -> None:
        birth.making = None
        with suppress(OwnClientGone):
            birth.making = self._own.begin_to_make(job)
            birth.making.bell.listen(birth.bell.ring)

    async def removed(self, jobs: list[Job], *, by_rmdir: int | None) -> None:
        """See `Face`. What rmdir(2) is just removing the kernel forgets by itself, and it holds the root's lock."""
        for job in jobs:
            self._nudges.forget(job.id)
            if job.id in self._unmade:
                self._unmade.remove(job.id)
                del self._births[job.id]
        gone = {job.id: job for job in jobs if job.id != by_rmdir}
        if not gone or by_rmdir is not None:
            return
        self._leaving |= gone
        told = trio.Event()
        trio.lowlevel.spawn_system_task(self._remove, gone, told)
        with trio.move_on_after(_PATIENCE):
            await told.wait()

    async def _remove(self, gone: dict[int, Job], told: trio.Event) -> None:
        """Until it is done the kernel, which keeps names for long, finds directories with nothing in them."""
        while True:
            try:
                await self._own.remove(gone)
            except OwnClientGone:
                log.warning("watchers are told later that %d jobs are gone", len(gone))
                await self._forget(gone)
                told.set()
                await self._own.came.wait_rung()
            else:
                break
        await self._forget(gone)
        for number in gone:
            self._leaving.pop(number, None)
            self._lookups.pop(number, None)
        told.set()

    async def _forget(self, gone: dict[int, Job]) -> None:
        """Has the kernel forget what it still finds of jobs that are gone: what their rmdir(2) did not, or not yet."""
        if self.mounted:
            await trio.to_thread.run_sync(_forget, list(gone), abandon_on_cancel=True)

    # The operations' side

    def is_own(self, task: int) -> bool:
        """Whether it is us who ask."""
        return self._own.is_own(task)

    def hides(self, job: int, task: int | None = None) -> bool:
        """Whether a job is not to be found yet, by `task`.

        One that everybody may find already our own client is not to find: it could not make the directory. But where
        somebody has found it, that one may stand in it by now, and it is left as it is.
        """
        birth = self._births.get(job)
        if birth is None or birth.made:
            return False
        return birth.hidden or (task is not None and self.is_own(task) and job not in self._lookups)

    def leaving(self, job: int, task: int | None = None) -> Job | None:
        """A job whose directory is being removed, and that until then is to be found by `task` only if that is us."""
        return self._leaving.get(job) if task is None or self.is_own(task) else None

    def looked_up(self, job: Job, task: int) -> None:
        """The kernel was given the job's directory, for `task`."""
        self._lookups[job.id] = self._lookups.get(job.id, 0) + 1
        if not self.is_own(task):
            self._nudges.follow(job)

    def forgotten(self, job: int, count: int) -> None:
        """The kernel has let go of what `count` lookups gave it."""
        left = self._lookups.get(job, 0) - count
        if left > 0:
            self._lookups[job] = left
        else:
            self._lookups.pop(job, None)
            self._nudges.forget(job)


def _forget(jobs: list[int]) -> None:
    """In a thread: the kernel may want an answer from the mount first."""
    for job in jobs:
        try:
            pyfuse3.invalidate_entry(ROOT, b"%d" % job)
        except FileNotFoundError:
            pass  # it does not know it any more
        except OSError as error:
            log.warning("the kernel could not be told that job %d is gone: %s", job, error)
