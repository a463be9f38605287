"""The face of a job table without a kernel: `Operations` on a scripted engine, asked as pyfuse3 would ask them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pyfuse3
import trio

from jobfs.commands import Commands
from jobfs.job import StreamView
from jobfs.stream import RingReader
from mount.attributes import Attributes
from mount.blocked import BlockedRequests
from mount.notify import KernelFace
from mount.nudges import Nudges
from mount.operations import Operations
from mount.own import Answer, OwnClientGone, OwnMount, Touch
from mount.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from tests.unit.tables import Desk

CREATED_AT = 1_700_000_000.0  # seconds since the epoch, of the state


@dataclass
class Context:
    """Who asks, as the kernel tells it."""

    pid: int
    uid: int
    gid: int = 0
    umask: int = 0


class Face:
    """The operations of one table, with names instead of inode numbers."""

    def __init__(self, desk: Desk, own: OwnMount | None = None) -> None:
        """`own`: instead of a client of the mount that was never started."""
        self.desk = desk
        events = StreamView(
            lambda: RingReader.open(desk.place / "events"),
            1 << 20,
            lambda _: desk.table.recorded.listen(events.grew),
        )
        attributes = Attributes(desk.table, events, CREATED_AT)
        self.own = OwnMount() if own is None else own
        self.nudges = Nudges(self.own)
        self.kernel = KernelFace(self.own, self.nudges)
        self.blocked = BlockedRequests()
        self.operations = Operations(desk.table, Commands(desk.table), events, attributes, self.kernel, self.blocked)
        self.context = cast("pyfuse3.RequestContext", Context(os.getpid(), os.getuid()))

    async def find(self, path: str) -> pyfuse3.EntryAttributes:
        """The attributes that looking up each part of `path` ends at."""
        found = await self.operations.getattr(ROOT, self.context)
        for name in filter(None, path.split("/")):
            found = await self.operations.lookup(found.st_ino, os.fsencode(name), self.context)
        return found

    async def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """An open file."""
        return (await self.open_info(path, flags)).fh

    async def open_info(self, path: str, flags: int = os.O_RDONLY) -> pyfuse3.FileInfo:
        """What opening a file answers."""
        return await self.operations.open((await self.find(path)).st_ino, flags, self.context)

    async def cat(self, path: str, size: int = 1 << 20) -> bytes:
        """All that a file says, in reads of `size` bytes."""
        handle = await self.open(path)
        pieces: list[bytes] = []
        while piece := await self.operations.read(handle, sum(map(len, pieces)), size):
            pieces.append(piece)
        await self.operations.flush(handle)
        await self.operations.release(handle)
        return b"".join(pieces)

    async def write(self, path: str, data: bytes) -> int:
        """Opens a file, writes once, and closes it."""
        handle = await self.open(path, os.O_WRONLY)
        try:
            return await self.operations.write(handle, 0, data)
        finally:
            await self.operations.flush(handle)
            await self.operations.release(handle)


class ScriptedOwn(OwnMount):
    """The mount's own client as a test plays it: what it was asked, and when on trio's clock."""

    TASK = 1 << 30  # no process has that number

    def __init__(self) -> None:
        super().__init__()
        self.gone = False
        self.begun: list[tuple[int, Answer]] = []
        self.removed: list[int] = []
        self.touched: list[tuple[float, Touch]] = []
        self.while_touching: Callable[[], None] = lambda: None

    def is_own(self, task: int) -> bool:
        """See `OwnMount`."""
        return task == self.TASK

    def begin_to_make(self, job: int) -> Answer:
        """See `OwnMount`. The test says when it is made."""
        self._require()
        answer = Answer()
        self.begun.append((job, answer))
        return answer

    async def remove(self, jobs: Iterable[int]) -> None:
        """See `OwnMount`."""
        self._require()
        await trio.lowlevel.checkpoint()
        self.removed += jobs

    async def touch(self, files: Iterable[Touch]) -> None:
        """See `OwnMount`."""
        self._require()
        self.touched += [(trio.current_time(), file) for file in files]
        happen, self.while_touching = self.while_touching, lambda: None
        happen()
        await trio.lowlevel.checkpoint()

    def _require(self) -> None:
        if self.gone:
            raise OwnClientGone


class Listing:
    """A directory that is read as the kernel does: into buffers that take `room` entries each."""

    def __init__(self, face: Face, path: str = "", room: int = 3) -> None:
        self._face = face
        self._path = path
        self._room = room
        self._cookie = 0
        self._left = 0
        self.names: list[str] = []
        self.inodes: dict[str, int] = {}

    def reply(self, _: object, name: bytes, attributes: pyfuse3.EntryAttributes, cookie: int) -> bool:
        """Stands for pyfuse3.readdir_reply."""
        if not self._left:
            return False
        self._left -= 1
        self._cookie = cookie
        self.names.append(os.fsdecode(name))
        self.inodes[os.fsdecode(name)] = attributes.st_ino
        return True

    async def more(self) -> bool:
        """One getdents(2); whether it gave anything."""
        self._left = self._room
        directory = (await self._face.find(self._path)).st_ino
        await self._face.operations.readdir(directory, self._cookie, cast("pyfuse3.ReaddirToken", None))
        return self._left < self._room

    async def rest(self) -> list[str]:
        """All names, what was listed before included."""
        while await self.more():
            pass
        return self.names


async def errno_of(attempt: Callable[[], Coroutine[object, None, object]]) -> int:
    """What the system call fails with; AssertionError where it does not fail, or with anything but an errno."""
    try:
        await attempt()
    except pyfuse3.FUSEError as error:
        return error.errno
    raise AssertionError("it did not fail")
