"""What stat(2) says of each file, and how long the kernel may keep that."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pyfuse3

from mount.tree import LINK, NAME_SLOT, ROOT, JobFile, Kind, RootFile, job_inode

if TYPE_CHECKING:
    from jobfs.job import Job, StreamView
    from jobfs.stream import StreamState
    from jobfs.table import JobTable

# Seconds that the kernel may keep what never changes, and the root's attributes, which it asks for on every path.
FOR_EVER = 86400.0
ROOT_KEPT = 0.05
# Seconds for which text that was rendered to tell a size is the text that an open gives.
_TEXT_KEPT = 0.1
_TEXTS_MAX = 256  # rendered texts that are kept for that long
# The size of a file of which it is not known yet, as sysfs has it. Not 0: splice(2), by which busybox copies, would not
# even ask.
_UNKNOWN = 4096
_BLOCK = 512  # bytes that st_blocks counts in

Entry = RootFile | JobFile
_Stamp = tuple[int, tuple[int, ...]]


class Attributes:
    """Makes the attributes of every file of one table, and the text of those that are rendered."""

    def __init__(self, table: JobTable, events: StreamView, created_at: float) -> None:
        self._table = table
        self._events = events
        self._created_ns = int(created_at * 1e9)
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._texts: dict[int, tuple[_Stamp, float, bytes]] = {}  # by inode: of what, when, text

    def of_root(self) -> pyfuse3.EntryAttributes:
        """The root directory."""
        attributes = self._fill(ROOT, stat.S_IFDIR | 0o700, int(self._table.listed_at * 1e9))
        attributes.st_nlink = 1  # as btrfs: it is not a count of the directories in it
        attributes.attr_timeout = ROOT_KEPT
        return attributes

    def of_directory(self, job: Job) -> pyfuse3.EntryAttributes:
        """A job's directory."""
        attributes = self._fill(job_inode(job.id), stat.S_IFDIR | 0o700, job.created_ns)
        attributes.st_nlink = 2
        attributes.attr_timeout = attributes.entry_timeout = FOR_EVER
        return attributes

    def of_name(self, job: Job) -> pyfuse3.EntryAttributes:
        """The link that has a job's name."""
        attributes = self._fill(job_inode(job.id, NAME_SLOT), LINK, job.created_ns)
        attributes.st_size = len(str(job.id))
        return attributes

    def of_root_file(self, entry: RootFile) -> pyfuse3.EntryAttributes:
        """A file of the root."""
        attributes = self._fill(entry.slot, entry.mode, self._created_ns)
        attributes.entry_timeout = 0 if entry.kind is Kind.LINK else FOR_EVER
        if entry.kind is not Kind.CONTROL:
            _touch(attributes, int(self._table.changed_at * 1e9))
        if entry.kind is Kind.STREAM:
            _measure(attributes, self._events.state)
            _touch(attributes, self._events.state.mtime_ns or self._created_ns)
        elif entry.kind is Kind.TEXT:
            attributes.st_size = len(self.text(entry.slot, None, entry))
        return attributes

    def of_job_file(self, job: Job, entry: JobFile) -> pyfuse3.EntryAttributes:
        """A file of a job."""
        inode = job_inode(job.id, entry.slot)
        if entry.kind is Kind.STREAM:
            state = job.streams[entry.name.decode("ascii")].state
            attributes = self._fill(inode, entry.mode, state.mtime_ns or job.created_ns)
            _measure(attributes, state)
            settled = _complete(state)
        else:
            attributes = self._fill(inode, entry.mode, entry.mtime_ns(job))
            if entry.kind is Kind.WAIT:
                attributes.st_size = _UNKNOWN
            elif entry.text is not None:
                attributes.st_size = len(self.text(inode, job, entry))
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

    def text(self, inode: int, job: Job | None, entry: Entry) -> bytes:
        """The text of a rendered file; for a moment the same to all, so that a size that was told holds."""
        known = self._texts.get(inode)
        now = time.monotonic()
        stamp = self._stamp(job, entry)
        if known is not None and known[0] == stamp and now - known[1] < _TEXT_KEPT:
            return known[2]
        if isinstance(entry, RootFile):
            assert entry.text is not None
            text = entry.text(self._table)
        else:
            assert entry.text is not None
            assert job is not None
            text = entry.text(self._table, job)
        if len(self._texts) > _TEXTS_MAX:
            self._texts.clear()
        self._texts[inode] = (stamp, now, text)
        return text

    def _stamp(self, job: Job | None, entry: Entry) -> _Stamp:
        """What changes with every change that a reader may know of: the table, and how much was written."""
        if entry.kind is Kind.STATUS or (job is not None and not job.open_streams):
            return self._table.version, ()
        jobs = self._table.jobs() if job is None else [job]
        views = (view for job in jobs for view in job.streams.values() if view.may_grow)
        return self._table.version, tuple(view.state.written for view in views)


def settled(job: Job, entry: JobFile) -> bool:
    """Whether a file never changes again, so that the kernel may keep it."""
    if entry.kind is Kind.STREAM:
        return _complete(job.streams[entry.name.decode("ascii")].state)
    return entry.settled(job)


def _complete(state: StreamState) -> bool:
    """A stream that is closed and of which nothing was evicted is a file as on a disk."""
    return state.closed and not state.dropped and not state.damaged


def _touch(attributes: pyfuse3.EntryAttributes, mtime_ns: int) -> None:
    attributes.st_mtime_ns = attributes.st_ctime_ns = attributes.st_atime_ns = mtime_ns


def _measure(attributes: pyfuse3.EntryAttributes, state: StreamState) -> None:
    attributes.st_size = state.written
    attributes.st_blocks = -(-state.retained // _BLOCK)
