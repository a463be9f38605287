"""One table, served at one directory by this process: the daemon's whole purpose, and `mount.mounted`'s."""

from __future__ import annotations

import errno
import logging
import os
import select
import subprocess
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio

from jobfs.beside import undisturbed_nursery
from jobfs.commands import Commands
from jobfs.mountinfo import MOUNTINFO, Mount, mounts
from mount import mountpoint, session
from mount.attributes import Attributes
from mount.blocked import BlockedRequests
from mount.notify import KernelFace
from mount.nudges import Nudges
from mount.operations import Operations
from mount.own import OwnMount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from jobfs.beside import Undisturbed
    from jobfs.face import Face
    from jobfs.job import StreamView
    from jobfs.table import JobTable

log = logging.getLogger(__name__)

_MAX_TASKS = 100_000  # requests that may wait at once; pyfuse3's 99 would freeze the mount
_LAST_ANSWERS = 2.0  # seconds that requests have to be answered once it ends; one may wait for what never comes

_serving: list[TableMount] = []  # pyfuse3 has one session in a process


class TableMount:
    """The mount of `table` at `point`, from `run` on until it is unmounted, taken away, or `end` was called."""

    def __init__(self, table: JobTable, events: StreamView, point: Path, *, state: Path, created_at: float) -> None:
        """`state` is what the mount table names; `created_at`, seconds since the epoch, what files date from."""
        self.point = point
        self._state = state
        self._table = table
        self._own = OwnMount()
        self._nudges = Nudges(self._own)
        self._kernel = KernelFace(self._own, self._nudges)
        self._blocked = BlockedRequests()
        attributes = Attributes(table, events, created_at)
        self._operations = Operations(table, Commands(table), events, attributes, self._kernel, self._blocked)
        self._scope = trio.CancelScope()  # of the session
        self._in_session = False
        self._mountinfo = -1

    async def run(self, ready: Callable[[], None]) -> None:
        """Mounts, calls `ready` when what is asked is answered, and serves. MountpointUnusable where it cannot."""
        if _serving:
            msg = f"this process has a mount at {_serving[0].point} already, and can have one at a time"
            raise mountpoint.MountpointUnusable(msg)
        face, at = self._table.face, self._table.mount
        self._mountinfo = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        _serving.append(self)
        try:
            self._table.face, self._table.mount = self._kernel, str(self.point)
            with _without_vfork():
                requests = session.tune(self._blocked.interrupted)
                mount = self._mount()  # before there is a nursery, which would make a group of what it raises
                async with undisturbed_nursery() as nursery:
                    await self._serve(nursery, mount, requests, ready)
                    nursery.cancel_scope.cancel()
        finally:
            self._show(face, at)
            os.close(self._mountinfo)
            _serving.remove(self)

    def _show(self, face: Face, at: str) -> None:
        self._kernel.mounted = False
        self._table.face, self._table.mount = face, at

    async def _serve(
        self, nursery: Undisturbed, mount: Mount | None, requests: session.RequestWait, ready: Callable[[], None]
    ) -> None:
        try:
            self._kernel.mounted = True
            if mount is not None:
                self._operations.mounted_as = (mount.id, mount.device)
                await nursery.start(partial(self._own.run, self.point, mount.id))
                major, minor = map(int, mount.device.split(":"))
                self._nudges.device = major << 20 | minor
                nursery.start_soon(self._end_when_taken_away, mount.id)
            self._nudges.follow_table(self._table)
            nursery.start_soon(self._nudges.run)
            nursery.start_soon(self._blocked.run)
            with self._scope:
                self._in_session = True
                nursery.start_soon(self._end_when_disconnected, requests)
                nursery.start_soon(_say_when_mounted, ready)
                log.info("process %d serves %s at %s", os.getpid(), self._state, self.point)
                await pyfuse3.main(min_tasks=1, max_tasks=_MAX_TASKS)
        finally:
            self._in_session = False
            self._unmount(mount)
            log.info("process %d no longer serves %s", os.getpid(), self.point)

    def _mount(self) -> Mount | None:
        """Mounts; gives the mount as the kernel lists it, None where somebody took it away at once."""
        options = {f"fsname={mountpoint.source(self._state)}", "subtype=jobfs"}
        try:
            beneath = os.open(self.point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            msg = f"{self.point} cannot be used: {error.strerror}"
            raise mountpoint.MountpointUnusable(msg) from error
        try:
            pyfuse3.init(self._operations, str(self.point), options)
            try:
                if hidden := mountpoint.beneath(beneath):
                    log.warning("hidden beneath the mount, as nothing was mounted when they were made: %s", hidden)
                return mountpoint.mount_at(self.point, self._mountinfo)
            except OSError:
                pyfuse3.close(unmount=True)
                raise
        except RuntimeError as error:
            msg = f"mounting at {self.point} failed: you need to be allowed to read and write /dev/fuse"
            raise mountpoint.MountpointUnusable(msg) from error
        finally:
            os.close(beneath)

    def _unmount(self, mount: Mount | None) -> None:
        """Lets go of the kernel's side. Another mount that is there by now is somebody else's."""

        def is_ours() -> bool:
            now = mountpoint.mount_at(self.point, self._mountinfo)
            return mount is not None and now is not None and now.id == mount.id

        pyfuse3.close(unmount=is_ours())
        if is_ours():  # it was aborted (fusectl), and libfuse leaves it then
            with suppress(mountpoint.MountpointUnusable, OSError):
                mountpoint.unmount(self.point, lazy=True)

    async def _end_when_taken_away(self, mount: int) -> None:
        """After `umount -l` those who have files open could go on; but nobody could mount the state again meanwhile."""
        await _wait_taken_away(self._mountinfo, mount)
        self.end()

    async def _end_when_disconnected(self, requests: session.RequestWait) -> None:
        """After an abort (fusectl) no request comes any more, while those that wait know nothing of it."""
        await requests.wait_disconnected()
        self.end()

    def end(self) -> None:
        """Who waits is to go, and then all others, who have a moment for their answers."""
        if not self._in_session:
            self._scope.cancel()
            return
        self._blocked.refuse(errno.ENOTCONN)
        pyfuse3.terminate()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + _LAST_ANSWERS)

    def reap(self) -> None:
        """Waits for the process that the mount had for itself; in a thread, and when `run` is over."""
        self._own.reap()

    def make_way(self) -> None:
        """Somebody is about to unmount: what we have open there, and who only waits, is not to be in the way."""
        self._own.rest()
        if self._operations.open_files == len(self._blocked):
            self._blocked.answer_all(errno.ENOTCONN)


@contextmanager
def _without_vfork() -> Iterator[None]:
    """Has `subprocess` start processes by fork(2), anywhere in this program.

    A child of vfork(2) holds up the thread that made it, which holds Python's lock. Before its exec it closes the files
    that the program has open, of this mount too; and that waits for our answer, which nobody could give.
    """
    before = subprocess._USE_VFORK  # noqa: SLF001 - documented, in the manual of `subprocess`
    subprocess._USE_VFORK = False  # type: ignore[misc]  # noqa: SLF001
    try:
        yield
    finally:
        subprocess._USE_VFORK = before  # type: ignore[misc]  # noqa: SLF001


async def _say_when_mounted(ready: Callable[[], None]) -> None:
    """Being in the session loop is being mounted: what is asked from now on is answered."""
    await trio.lowlevel.checkpoint()
    ready()


async def _wait_taken_away(mountinfo: int, number: int) -> None:
    """Waits until the mount of that number is none that this process sees any more."""
    with select.epoll() as changed:
        changed.register(mountinfo, select.EPOLLPRI | select.EPOLLERR)  # proc(5): that is how it tells
        while any(mount.id == number for mount in mounts(mountinfo)):
            await trio.lowlevel.wait_readable(changed.fileno())
            changed.poll(0)
