"""The requests of the kernel, answered from the tree's tables. Thin: what a file says and does is elsewhere."""

from __future__ import annotations

import bisect
import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import pyfuse3

from jobfs.text import encode
from mount.attributes import Entry, settled
from mount.caller import File, session_of
from mount.control_handle import ControlHandle
from mount.errors import answered
from mount.handles import (
    FollowHandle,
    Handle,
    Opened,
    ReadOnly,
    StatusHandle,
    StdinHandle,
    StreamHandle,
    TextHandle,
    WaitHandle,
)
from mount.tree import (
    JOB_BY_NAME,
    JOB_BY_SLOT,
    JOB_FILES,
    NAME_SLOT,
    ROOT,
    ROOT_BY_INODE,
    ROOT_BY_NAME,
    ROOT_FILES,
    SLOTS,
    JobFile,
    Kind,
    RootFile,
    job_name,
    job_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobfs.commands import Commands
    from jobfs.job import Job, StreamView
    from jobfs.table import JobTable
    from mount.attributes import Attributes
    from mount.blocked import BlockedRequests
    from mount.notify import KernelFace

# Cookies of readdir(2). A file of the tables has its slot past the two dots; a job its id times two past all of these,
# and its name the number after that.
_DOT, _DOT_DOT = 1, 2
_JOBS = SLOTS * 2
# What can wait.
_BLOCKING = (Kind.WAIT, Kind.FOLLOW, Kind.STDIN)
NOBODY = 0  # the number of no task
Listed = tuple[int, bytes, Callable[[], pyfuse3.EntryAttributes]]


class Operations(pyfuse3.Operations):
    """The face of one table."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a mount
        self,
        table: JobTable,
        commands: Commands,
        events: StreamView,
        attributes: Attributes,
        kernel: KernelFace,
        blocked: BlockedRequests,
    ) -> None:
        super().__init__()
        self._table = table
        self._commands = commands
        self._events = events
        self._attributes = attributes
        self._kernel = kernel
        self._blocked = blocked
        self.mounted_as = (-1, "")  # the numbers of the mount and of its device, once it is there
        self._handles: dict[int, Handle] = {}
        self._held: dict[int, tuple[Job, int]] = {}  # jobs that open files hold: the job, and how many
        self._job_of_handle: dict[int, Job] = {}
        self._next_handle = 1
        self._ids: tuple[int, list[int]] = (-1, [])  # at a version of the table

    @property
    def open_files(self) -> int:
        """How many files are open, each as often as it was opened."""
        return len(self._handles)

    # Names

    @answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """See pyfuse3."""
        if parent_inode == ROOT:
            return self._lookup_in_root(name, ctx.pid)
        job, _ = self._node(parent_inode)
        entry = JOB_BY_NAME.get(name)
        if job is None or entry is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes.of_job_file(job, entry)

    def _lookup_in_root(self, name: bytes, task: int) -> pyfuse3.EntryAttributes:
        number = job_name(name)
        if number is not None:
            job = self._visible(number, task) or self._kernel.leaving(number, task)
            if job is not None:
                self._kernel.looked_up(job, task)
                return self._attributes.of_directory(job)
        elif (entry := ROOT_BY_NAME.get(name)) is not None:
            if entry.kind is not Kind.LINK or self._table.last(None) is not None:
                return self._attributes.of_root_file(entry)
        elif (named := self._named(name.decode("utf-8", "replace"))) is not None:
            return self._attributes.of_name(named)
        raise pyfuse3.FUSEError(errno.ENOENT)

    def _visible(self, number: int, task: int | None = None) -> Job | None:
        return None if self._kernel.hides(number, task) else self._table.get(number)

    def _named(self, name: str) -> Job | None:
        job = self._table.named(name)
        return None if job is None else self._visible(job.id)

    @answered
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """See pyfuse3."""
        del ctx
        job, entry = self._node(inode)
        attributes = self._about(inode)
        if entry is not None and entry.kind is Kind.STREAM:
            view = self._events if job is None else job.streams[entry.name.decode("ascii")]
            view.told = attributes.st_size
        return attributes

    @answered
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """See pyfuse3. `last` depends on who asks."""
        job, entry = self._node(inode)
        if job is None:
            last = self._table.last(session_of(ctx.pid))
            if last is None:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return str(last.id).encode("ascii")
        if isinstance(entry, JobFile) and entry.text is not None:
            return entry.text(self._table, job)
        return str(job.id).encode("ascii")

    @answered
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """See pyfuse3."""
        del ctx
        return inode

    @answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """See pyfuse3. A cookie says what comes before it, not how many: jobs come and go meanwhile."""
        for cookie, name, attributes in self._entries(fh, start_id):
            if not pyfuse3.readdir_reply(token, name, attributes(), cookie):
                return
            if fh == ROOT and (number := job_name(name)) is not None and (job := self._table.get(number)) is not None:
                self._kernel.looked_up(job, NOBODY)  # the kernel takes what it lists for looked up

    def _entries(self, directory: int, start: int) -> Iterator[Listed]:
        """What a directory lists past the cookie `start`; attributes are made when they are asked for."""
        for cookie, name, inode in ((_DOT, b".", directory), (_DOT_DOT, b"..", ROOT)):
            if cookie > start:
                yield cookie, name, partial(self._about, inode)
        if directory == ROOT:
            yield from self._root_entries(start)
            return
        job, _ = self._node(directory)
        for entry in JOB_FILES:
            if job is not None and entry.listed and _DOT_DOT + entry.slot > start:
                yield _DOT_DOT + entry.slot, entry.name, partial(self._attributes.of_job_file, job, entry)

    def _root_entries(self, start: int) -> Iterator[Listed]:
        for entry in ROOT_FILES:
            there = entry.kind is not Kind.LINK or self._table.last(None) is not None
            if _DOT_DOT + entry.slot > start and there:
                yield _DOT_DOT + entry.slot, entry.name, partial(self._attributes.of_root_file, entry)
        ids = self._sorted_ids()
        for number in ids[bisect.bisect_left(ids, (start - _JOBS) // 2) :]:
            job = self._visible(number)
            cookie = _JOBS + number * 2
            if job is not None and cookie > start:
                yield cookie, str(number).encode("ascii"), partial(self._attributes.of_directory, job)
            if job is not None and cookie + 1 > start and self._table.named(job.spec.name or "") is job:
                yield cookie + 1, encode(job.spec.name or ""), partial(self._attributes.of_name, job)

    def _sorted_ids(self) -> list[int]:
        if self._ids[0] != self._table.version:
            self._ids = (self._table.version, [job.id for job in self._table.jobs()])
        return self._ids[1]

    # Open files

    @answered
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """See pyfuse3. What is settled is the kernel's to keep; all else is read anew each time."""
        job, entry = self._node(inode)
        if entry is None:
            raise pyfuse3.FUSEError(errno.EISDIR)
        is_own = self._kernel.is_own(ctx.pid)
        if flags & os.O_ACCMODE != os.O_RDONLY and not entry.mode & stat.S_IWUSR and not is_own:
            raise pyfuse3.FUSEError(errno.EACCES)
        cached = job is not None and isinstance(entry, JobFile) and settled(job, entry)
        if is_own:
            handle: Handle = ReadOnly()
        else:
            opened = Opened(File(inode, *self.mounted_as), (ctx.pid, ctx.uid), flags, self._blocked)
            handle = self._open(inode, job, entry, opened, cached=cached)
        number = self._next_handle
        self._next_handle += 1
        self._handles[number] = handle
        if job is not None:
            self._job_of_handle[number] = job
            self._held[job.id] = (job, self._held.get(job.id, (job, 0))[1] + 1)
        # All that is read has places to seek to, as in /proc: head, which read too much, seeks back over that.
        unseekable = entry.kind is Kind.STDIN
        return pyfuse3.FileInfo(fh=number, direct_io=not cached, keep_cache=cached, nonseekable=unseekable)

    def _open(self, inode: int, job: Job | None, entry: Entry, opened: Opened, *, cached: bool) -> Handle:
        if entry.kind is Kind.CONTROL:
            return ControlHandle(self._table, self._commands, opened, None if job is None else job.id)
        if entry.kind is Kind.TEXT:
            return TextHandle(lambda: self._attributes.text(inode, job, entry))
        if job is None:
            return StreamHandle(self._events, lambda: False)
        if entry.kind in _BLOCKING:
            self._blocked.opened(opened.file)
        if entry.kind is Kind.STREAM:
            return StreamHandle(job.streams[entry.name.decode("ascii")], lambda: job.ended, cached=cached)
        return self._open_live(inode, job, entry, opened)

    def _open_live(self, inode: int, job: Job, entry: Entry, opened: Opened) -> Handle:
        """A file of which a job's life or output decides when it is ready."""
        match entry.kind:
            case Kind.STATUS:
                return StatusHandle(job, lambda: self._attributes.text(inode, job, entry))
            case Kind.WAIT:
                return WaitHandle(job, lambda: self._attributes.text(inode, job, entry), opened)
            case Kind.FOLLOW:
                return FollowHandle(job.streams["stdout"], lambda: job.ended, opened)
            case _:
                return StdinHandle(self._table.stdin(job), opened)

    @answered
    async def poll(
        self, inode: int, fh: int, poll_handle: pyfuse3.PollHandle | None, ctx: pyfuse3.RequestContext
    ) -> int:
        """See pyfuse3."""
        del inode, ctx
        return self._handles[fh].poll(poll_handle)

    @answered
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """See pyfuse3."""
        return await self._handles[fh].read(off, size)

    @answered
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """See pyfuse3."""
        return await self._handles[fh].write(off, buf)

    @answered
    async def flush(self, fh: int) -> None:
        """See pyfuse3."""
        await self._handles[fh].flush()

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        """See pyfuse3. Commands act before their write returns."""

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        """See pyfuse3."""

    @answered
    async def release(self, fh: int) -> None:
        """See pyfuse3."""
        handle = self._handles.pop(fh)
        job = self._job_of_handle.pop(fh, None)
        if job is not None:
            _, count = self._held.pop(job.id)
            if count > 1:
                self._held[job.id] = (job, count - 1)
        await handle.release()

    @answered
    async def releasedir(self, fh: int) -> None:
        """See pyfuse3."""

    # Changes

    @answered
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """See pyfuse3. Truncating, chmod and utimes of a file that takes writes succeed and do nothing."""
        del attr, fh
        _, entry = self._node(inode)
        if entry is None or not (entry.mode & stat.S_IWUSR or self._kernel.is_own(ctx.pid)):
            raise pyfuse3.FUSEError(errno.EACCES if fields.update_size else errno.EPERM)
        return self._about(inode)

    @answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """See pyfuse3. Removing a job's directory is `rm`."""
        number = job_name(name) if parent_inode == ROOT else None
        if number is not None and self._kernel.leaving(number, ctx.pid) is not None:
            return
        job = None if number is None else self._visible(number)
        if job is None:
            raise pyfuse3.FUSEError(errno.ENOTDIR if self._exists(parent_inode, name) else errno.ENOENT)
        await self._table.remove([job], by_rmdir=job.id)

    @answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """See pyfuse3. A file of an ended job is gone with its directory, so that `rm -r` works."""
        del ctx
        if not self._exists(parent_inode, name):
            raise pyfuse3.FUSEError(errno.ENOENT)
        if parent_inode == ROOT:
            raise pyfuse3.FUSEError(errno.EPERM)
        job, _ = self._node(parent_inode)
        if job is not None and not job.ended:
            raise pyfuse3.FUSEError(errno.EBUSY)

    def _exists(self, parent: int, name: bytes) -> bool:
        try:
            return (parent != ROOT and name in JOB_BY_NAME) or self._lookup_in_root(name, NOBODY) is not None
        except pyfuse3.FUSEError:
            return False

    @answered
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """See pyfuse3. Only we make directories: that of a job that has come."""
        del mode
        number = job_name(name) if parent_inode == ROOT and self._kernel.is_own(ctx.pid) else None
        if number is None:
            raise pyfuse3.FUSEError(errno.EACCES)
        job = self._table.get(number) if await self._kernel.made(number) else None
        if job is None:
            raise pyfuse3.FUSEError(errno.EAGAIN)
        self._kernel.looked_up(job, ctx.pid)
        attributes = self._attributes.of_directory(job)
        attributes.entry_timeout = 0  # so that who looks at it first is heard of
        return attributes

    @answered
    async def refuse(self, *_: object) -> NoReturn:
        """Nothing is made in the tree but by its own verbs, and nothing is renamed."""
        raise pyfuse3.FUSEError(errno.EACCES)

    create = mknod = symlink = link = rename = refuse  # type: ignore[assignment]

    @answered
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """See pyfuse3. Only the owner gets in, and the modes bind the owner, root too."""
        del ctx
        return (self._about(inode).st_mode >> 6) & mode == mode

    @answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """See pyfuse3. As /proc: no blocks, and as many files as there are."""
        del ctx
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        data.f_files = len(self._sorted_ids()) * len(JOB_FILES) + len(ROOT_FILES)
        return data

    @answered
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """See pyfuse3. Inode numbers are computed; only which directories the kernel has is remembered."""
        for inode, count in inode_list:
            number, slot = job_of(inode)
            if number and not slot:
                self._kernel.forgotten(number, count)

    # What the kernel asks about

    def _node(self, inode: int) -> tuple[Job | None, Entry | None]:
        """The job and the table's row that an inode number stands for; the row is None for directories and names."""
        number, slot = job_of(inode)
        if number == 0:
            return None, ROOT_BY_INODE.get(slot)
        job = self._table.get(number)
        if job is None:
            job = self._held[number][0] if number in self._held else self._kernel.leaving(number)
        if job is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return job, JOB_BY_SLOT.get(slot)

    def _about(self, inode: int) -> pyfuse3.EntryAttributes:
        job, entry = self._node(inode)
        if isinstance(entry, RootFile):
            return self._attributes.of_root_file(entry)
        if job is None:
            return self._attributes.of_root()
        if isinstance(entry, JobFile):
            return self._attributes.of_job_file(job, entry)
        return self._attributes.of_name(job) if job_of(inode)[1] == NAME_SLOT else self._attributes.of_directory(job)
