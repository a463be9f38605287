"""The requests of the kernel, answered from the tree's tables. Thin: what a file says and does is elsewhere."""

from __future__ import annotations

import bisect
import errno
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import pyfuse3

from jobfs.text import encode
from mount.caller import File, session_of
from mount.errors import answered
from mount.handles import ControlHandle, Handle, StdinHandle, StreamHandle, TextHandle
from mount.tree import (
    JOB_BY_NAME,
    JOB_BY_SLOT,
    JOB_FILES,
    LINK,
    NAME_SLOT,
    ROOT,
    ROOT_BY_INODE,
    ROOT_BY_NAME,
    ROOT_FILES,
    SLOTS,
    JobFile,
    Kind,
    RootFile,
    job_inode,
    job_name,
    job_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobfs.commands import Commands
    from jobfs.job import Job, StreamView
    from jobfs.stream import StreamState
    from jobfs.table import JobTable

# Seconds that the kernel may keep what never changes, and the root's attributes, which it asks for on every path.
FOR_EVER = 86400.0
ROOT_KEPT = 0.05
# Seconds for which text that was rendered to tell a size is the text that an open gives.
_TEXT_KEPT = 0.1
_TEXTS_MAX = 256  # rendered texts that are kept for that long
_BLOCK = 512  # bytes that st_blocks counts in
# Cookies of readdir(2). A file of the tables has its slot past the two dots; a job its id times two past all of these,
# and its name the number after that.
_DOT, _DOT_DOT = 1, 2
_JOBS = SLOTS * 2
Entry = RootFile | JobFile
Listed = tuple[int, bytes, Callable[[], pyfuse3.EntryAttributes]]


class Operations(pyfuse3.Operations):
    """The face of one table."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, table: JobTable, commands: Commands, events: StreamView, created_at: float) -> None:
        super().__init__()
        self._table = table
        self._commands = commands
        self._events = events
        self._created_ns = int(created_at * 1e9)
        self._uid, self._gid = os.geteuid(), os.getegid()
        self.mounted_as = (-1, "")  # the numbers of the mount and of its device, once it is there
        self._handles: dict[int, Handle] = {}
        self._held: dict[int, tuple[Job, int]] = {}  # jobs that open files hold: the job, and how many
        self._job_of_handle: dict[int, Job] = {}
        self._next_handle = 1
        self._texts: dict[int, tuple[int, float, bytes]] = {}  # by inode: table version, when, text
        self._ids: tuple[int, list[int]] = (-1, [])  # at a version of the table

    # Names

    @answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """See pyfuse3."""
        del ctx
        if parent_inode == ROOT:
            return self._lookup_in_root(name)
        job, _ = self._node(parent_inode)
        entry = JOB_BY_NAME.get(name)
        if job is None or entry is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._job_file_attributes(job, entry)

    def _lookup_in_root(self, name: bytes) -> pyfuse3.EntryAttributes:
        number = job_name(name)
        if number is not None:
            job = self._table.get(number)
            if job is not None:
                return self._directory_attributes(job)
        elif (entry := ROOT_BY_NAME.get(name)) is not None:
            if entry.kind is not Kind.LINK or self._table.last(None) is not None:
                return self._root_file_attributes(entry)
        elif (named := self._table.named(name.decode("utf-8", "replace"))) is not None:
            return self._name_attributes(named)
        raise pyfuse3.FUSEError(errno.ENOENT)

    @answered
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """See pyfuse3."""
        del ctx
        return self._attributes(inode)

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

    def _entries(self, directory: int, start: int) -> Iterator[Listed]:
        """What a directory lists past the cookie `start`; attributes are made when they are asked for."""
        for cookie, name, inode in ((_DOT, b".", directory), (_DOT_DOT, b"..", ROOT)):
            if cookie > start:
                yield cookie, name, partial(self._attributes, inode)
        if directory == ROOT:
            yield from self._root_entries(start)
            return
        job, _ = self._node(directory)
        for entry in JOB_FILES:
            if job is not None and entry.listed and _DOT_DOT + entry.slot > start:
                yield _DOT_DOT + entry.slot, entry.name, partial(self._job_file_attributes, job, entry)

    def _root_entries(self, start: int) -> Iterator[Listed]:
        for entry in ROOT_FILES:
            there = entry.kind is not Kind.LINK or self._table.last(None) is not None
            if _DOT_DOT + entry.slot > start and there:
                yield _DOT_DOT + entry.slot, entry.name, partial(self._root_file_attributes, entry)
        ids = self._sorted_ids()
        for number in ids[bisect.bisect_left(ids, (start - _JOBS) // 2) :]:
            job = self._table.get(number)
            cookie = _JOBS + number * 2
            if job is not None and cookie > start:
                yield cookie, str(number).encode("ascii"), partial(self._directory_attributes, job)
            if job is not None and cookie + 1 > start and self._table.named(job.spec.name or "") is job:
                yield cookie + 1, encode(job.spec.name or ""), partial(self._name_attributes, job)

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
        if flags & os.O_ACCMODE != os.O_RDONLY and not entry.mode & stat.S_IWUSR:
            raise pyfuse3.FUSEError(errno.EACCES)
        settled = job is not None and isinstance(entry, JobFile) and _settled(job, entry)
        handle = self._open(inode, job, entry, (ctx.pid, ctx.uid))
        number = self._next_handle
        self._next_handle += 1
        self._handles[number] = handle
        if job is not None:
            self._job_of_handle[number] = job
            self._held[job.id] = (job, self._held.get(job.id, (job, 0))[1] + 1)
        return pyfuse3.FileInfo(fh=number, direct_io=not settled, keep_cache=settled)

    def _open(self, inode: int, job: Job | None, entry: Entry, opener: tuple[int, int]) -> Handle:
        match entry.kind:
            case Kind.CONTROL:
                node = File(inode, *self.mounted_as)
                return ControlHandle(self._table, self._commands, node, opener, None if job is None else job.id)
            case Kind.STREAM if job is None:
                return StreamHandle(self._events.open)
            case Kind.STREAM:
                assert job is not None
                view = job.streams[entry.name.decode("ascii")]
                return StreamHandle(view.open)
            case Kind.STDIN:
                return StdinHandle()
            case _:
                return TextHandle(lambda: self._text(inode, job, entry))

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
        del attr, fh, ctx
        _, entry = self._node(inode)
        if entry is None or not entry.mode & stat.S_IWUSR:
            raise pyfuse3.FUSEError(errno.EACCES if fields.update_size else errno.EPERM)
        return self._attributes(inode)

    @answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """See pyfuse3. Removing a job's directory is `rm`."""
        del ctx
        number = job_name(name) if parent_inode == ROOT else None
        job = None if number is None else self._table.get(number)
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
            return (parent != ROOT and name in JOB_BY_NAME) or self._lookup_in_root(name) is not None
        except pyfuse3.FUSEError:
            return False

    @answered
    async def refuse(self, *_: object) -> NoReturn:
        """Nothing is made in the tree but by its own verbs, and nothing is renamed."""
        raise pyfuse3.FUSEError(errno.EACCES)

    create = mknod = mkdir = symlink = link = rename = refuse  # type: ignore[assignment]

    @answered
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """See pyfuse3. Only the owner gets in, and the modes bind the owner, root too."""
        del ctx
        return (self._attributes(inode).st_mode >> 6) & mode == mode

    @answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """See pyfuse3. As /proc: no blocks, and as many files as there are."""
        del ctx
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        data.f_files = len(self._sorted_ids()) * len(JOB_FILES) + len(ROOT_FILES)
        return data

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Inode numbers are computed, nothing is kept for the kernel."""

    # What the kernel asks about

    def _node(self, inode: int) -> tuple[Job | None, Entry | None]:
        """The job and the table's row that an inode number stands for; the row is None for directories and names."""
        number, slot = job_of(inode)
        if number == 0:
            return None, ROOT_BY_INODE.get(slot)
        job = self._table.get(number)
        if job is None and number in self._held:
            job = self._held[number][0]
        if job is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return job, JOB_BY_SLOT.get(slot)

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        job, entry = self._node(inode)
        if isinstance(entry, RootFile):
            return self._root_file_attributes(entry)
        if job is None:
            return self._root_attributes()
        if isinstance(entry, JobFile):
            return self._job_file_attributes(job, entry)
        return self._name_attributes(job) if job_of(inode)[1] == NAME_SLOT else self._directory_attributes(job)

    def _root_attributes(self) -> pyfuse3.EntryAttributes:
        attributes = self._fill(ROOT, stat.S_IFDIR | 0o700, int(self._table.listed_at * 1e9))
        attributes.st_nlink = 1  # as btrfs: it is not a count of the directories in it
        attributes.attr_timeout = ROOT_KEPT
        return attributes

    def _directory_attributes(self, job: Job) -> pyfuse3.EntryAttributes:
        attributes = self._fill(job_inode(job.id), stat.S_IFDIR | 0o700, job.created_ns)
        attributes.st_nlink = 2
        attributes.attr_timeout = attributes.entry_timeout = FOR_EVER
        return attributes

    def _name_attributes(self, job: Job) -> pyfuse3.EntryAttributes:
        attributes = self._fill(job_inode(job.id, NAME_SLOT), LINK, job.created_ns)
        attributes.st_size = len(str(job.id))
        return attributes

    def _root_file_attributes(self, entry: RootFile) -> pyfuse3.EntryAttributes:
        attributes = self._fill(entry.slot, entry.mode, self._created_ns)
        attributes.entry_timeout = 0 if entry.kind is Kind.LINK else FOR_EVER
        if entry.kind is not Kind.CONTROL:
            _touch(attributes, int(self._table.changed_at * 1e9))
        if entry.kind is Kind.STREAM:
            _measure(attributes, self._events.state)
            _touch(attributes, self._events.state.mtime_ns or self._created_ns)
        elif entry.kind is Kind.TEXT:
            attributes.st_size = len(self._text(entry.slot, None, entry))
        return attributes

    def _job_file_attributes(self, job: Job, entry: JobFile) -> pyfuse3.EntryAttributes:
        inode = job_inode(job.id, entry.slot)
        if entry.kind is Kind.STREAM:
            state = job.streams[entry.name.decode("ascii")].state
            attributes = self._fill(inode, entry.mode, state.mtime_ns or job.created_ns)
            _measure(attributes, state)
            settled = _complete(state)
        else:
            attributes = self._fill(inode, entry.mode, entry.mtime_ns(job))
            if entry.text is not None:
                attributes.st_size = len(self._text(inode, job, entry))
            settled = entry.settled(job)
        attributes.entry_timeout = FOR_EVER
        attributes.attr_timeout = FOR_EVER if settled else 0
        return attributes

    def _fill(self, inode: int, mode: int, mtime_ns: int) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.st_mode = mode
        attributes.st_uid = self._uid
        attributes.st_gid = self._gid
        _touch(attributes, mtime_ns)
        attributes.attr_timeout = attributes.entry_timeout = 0
        return attributes

    def _text(self, inode: int, job: Job | None, entry: Entry) -> bytes:
        """The text of a rendered file; for a moment the same to all, so that a size that was told holds."""
        known = self._texts.get(inode)
        now = time.monotonic()
        if known is not None and known[0] == self._table.version and now - known[1] < _TEXT_KEPT:
            return known[2]
        version = self._table.version
        if isinstance(entry, RootFile):
            assert entry.text is not None
            text = entry.text(self._table)
        else:
            assert entry.text is not None
            assert job is not None
            text = entry.text(self._table, job)
        if len(self._texts) > _TEXTS_MAX:
            self._texts.clear()
        self._texts[inode] = (version, now, text)
        return text


def _settled(job: Job, entry: JobFile) -> bool:
    if entry.kind is Kind.STREAM:
        return _complete(job.streams[entry.name.decode("ascii")].state)
    return entry.settled(job)


def _complete(state: StreamState) -> bool:
    """A stream that is closed and of which nothing was evicted is a file as on a disk."""
    return state.closed and not state.dropped


def _touch(attributes: pyfuse3.EntryAttributes, mtime_ns: int) -> None:
    attributes.st_mtime_ns = attributes.st_ctime_ns = attributes.st_atime_ns = mtime_ns


def _measure(attributes: pyfuse3.EntryAttributes, state: StreamState) -> None:
    attributes.st_size = state.written
    attributes.st_blocks = -(-state.retained // _BLOCK)
