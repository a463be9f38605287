"""The state directory: where it is, that it is private, and who serves it where."""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import sqlite3
import stat
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import quote

import platformdirs
import psutil

import jobfs
from jobfs import mountinfo
from jobfs.errors import MachineError, StateFull
from jobfs.files import RESERVE, read_object, write_object
from jobfs.processes import boot_id, read_process
from jobfs.supervisor import ADDRESS, JOBS, LOCK, RECORDS, identity
from jobfs.supervisor.wire import PROTOCOL

if TYPE_CHECKING:
    from jobfs.store import Store

MEMORY = "memory"
SUPERVISOR = "supervisor"
"""The owner of a state that `jobfs mount` serves."""
PROGRAM = "program"
"""The owner of a state of a program that has a table of its own."""
TABLE_PREFIX = "jobfs-table-"
"""How the states of such programs are called that are in memory."""

_SERVING = "daemon.json"
LOCK_FILE = "daemon.lock"
DATABASE = "jobs.sqlite"
# What is opened in the state directory: a FIFO in the place of one would be waited for, and a link lead elsewhere.
_FILES = (
    *("log", "log.1", "events", DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal"),
    *(RESERVE, _SERVING, LOCK_FILE, ADDRESS, LOCK, f"{JOBS}/{RECORDS}"),
)
_PID_MAX = 1 << 22  # proc(5)
TMPFS = Path("/dev/shm")  # noqa: S108 - the machine's tmpfs; what is made there is private, and checked
# Where SQLite's write-ahead log and flock(2) do not hold between machines; one whose name begins with `fuse` too.
_NETWORK_FILE_SYSTEMS = frozenset(
    "9p afs autofs ceph cifs coda gfs2 glusterfs lustre ncpfs nfs nfs4 ocfs2 smb3".split()  # noqa: SIM905 - reads better
)


class StateUnusable(MachineError):  # noqa: N818 - the message is the sentence that a person reads
    """The state directory cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Who serves a state directory: the daemon's number, where, and the directories that it made for that.

    The rest is what another daemon needs to know to take its place; None where an older version did not say.
    """

    pid: int
    mountpoint: str
    made: list[str]
    started_at: float = 0.0  # seconds since the epoch, as psutil tells it; a clock that is set changes that
    born: str | None = None  # clock ticks after which boot: so that no other process is taken for it
    version: str | None = None  # of jobfs
    keep: int | None = None  # ended jobs
    keep_bytes: int | None = None  # of output of ended jobs
    foreground: bool | None = None  # whether somebody has it run in the foreground
    unit: str | None = None  # the unit of systemd that it is

    @property
    def alive(self) -> bool:
        """Whether that process still runs; a number that another process has by now does not count."""
        process = self.open()
        if process is not None:
            os.close(process)
        return process is not None

    def open(self) -> int | None:
        """A pidfd of that process, for the caller to close; None where it has ended."""
        try:
            process = os.pidfd_open(self.pid)
        except OSError:
            return None
        # Looked at only now: as long as it has not ended, its number stays its own.
        if self._is_it() and not select.select([process], [], [], 0)[0]:
            return process
        os.close(process)
        return None

    def _is_it(self) -> bool:
        try:
            if self.born is not None:
                return self.born == _born(self.pid)
            return psutil.Process(self.pid).create_time() == self.started_at
        except (OSError, psutil.NoSuchProcess):
            return False


_NUMBER = (int, type(None))
_TEXT = (str, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "pid": (int,),
    "mountpoint": (str,),
    "made": (list,),
    "started_at": (float, int),
    "born": _TEXT,
    "version": _TEXT,
    "keep": _NUMBER,
    "keep_bytes": _NUMBER,
    "foreground": (bool, type(None)),
    "unit": _TEXT,
}


class StateDirectory:
    """One state directory, locked for this process as long as the object lives."""

    def __init__(self, path: Path, owner: str = SUPERVISOR) -> None:
        """Makes `path` where it is missing.

        StateUnusable where it is not private, not local, in use already, or another `owner`'s; then nothing is changed.
        """
        self.path = path
        check(path)
        _require_owner(owner, path)
        try:
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            msg = f"the state directory {path} cannot be written to: {error.strerror}"
            raise StateUnusable(msg) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StateUnusable(_in_use(path)) from None

    def announce(self, who: Serving) -> None:
        """Says who serves it."""
        try:
            write_object(self.path / _SERVING, asdict(who))
        except OSError as error:
            msg = f"the state directory {self.path} cannot be written to: {error.strerror}"
            raise StateUnusable(msg) from error

    def leave(self) -> None:
        """Nobody serves it any more."""
        lock = os.fstat(self._lock)
        if identity(self.path / LOCK_FILE) == (lock.st_dev, lock.st_ino):  # else another one has that name by now
            (self.path / _SERVING).unlink(missing_ok=True)
        os.close(self._lock)


def claim_for(owner: str, store: Store, path: Path) -> None:
    """Notes in a state that was just made who owns its jobs; StateUnusable where it is another one's.

    Owners are the supervisor, `SUPERVISOR`, and programs with a table of their own. Neither knows of the other's jobs
    whether they live.
    """
    fresh = store.made and not _had_supervisor(path)
    try:
        found = store.property("owner", owner if fresh else SUPERVISOR)
    except StateFull:  # then it is not one that was just made
        return
    if found != owner:
        raise StateUnusable(_another_ones(path, found))


def owner_of(path: Path) -> str | None:
    """Who owns the jobs of the state in `path`, see `claim_for`; None where nobody does yet, or nobody can tell.

    Nothing is changed.
    """
    database = path / DATABASE
    # Without a log nobody has it open, and SQLite need not be told to make one.
    how = "mode=ro" if database.with_name(f"{database.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(database))}?{how}", uri=True)) as opened:
            found = opened.execute("SELECT value FROM property WHERE name = 'owner'").fetchone()
    except sqlite3.Error:
        return SUPERVISOR if _had_supervisor(path) else None
    return SUPERVISOR if found is None else str(found[0])


def is_programs(path: Path) -> bool:
    """Whether the state in `path` is that of a program with a table of its own; one in memory may be gone by now."""
    return (path.parent == TMPFS and path.name.startswith(TABLE_PREFIX)) or owner_of(path) == PROGRAM


def _had_supervisor(path: Path) -> bool:
    return (path / JOBS / RECORDS).exists()


def _require_owner(owner: str, path: Path) -> None:
    found = owner_of(path)
    if found not in (None, owner):
        raise StateUnusable(_another_ones(path, found))


def _another_ones(path: Path, owner: str | None) -> str:
    who = "a daemon: mount it with `jobfs mount`" if owner == SUPERVISOR else "a program: see jobfs.open_table"
    return f"the state in {path} is that of {who}"


def _in_use(path: Path) -> str:
    other = serving(path)
    if other is not None and other.alive:
        where = f"at {other.mountpoint} by process {other.pid}"
        return f"the state in {path} is being served already {where}: unmount that first, or use another --state"
    return f"the state in {path} is in use already: one daemon, or one table of one program, can have it at a time"


def this_process(mountpoint: Path, made: list[str]) -> Serving:
    """This process, as it serves at `mountpoint`, with the directories that it `made` for that."""
    return Serving(
        pid=os.getpid(),
        mountpoint=str(mountpoint),
        made=made,
        started_at=psutil.Process().create_time(),
        born=_born(os.getpid()),
        version=jobfs.__version__,
    )


def serving(path: Path) -> Serving | None:
    """Who serves the state in `path`, or did when it was killed; None where nobody does, or nobody can tell.

    What a newer version says besides is passed over.
    """
    said = read_object(path / _SERVING)
    if said is None:
        return None
    return _checked({key: said[key] for key in said if key in _KINDS})


def _checked(said: dict[str, object]) -> Serving | None:
    if not {"pid", "mountpoint", "made", "started_at"} <= said.keys() or not _is_pid(said["pid"]):
        return None
    if any(not isinstance(value, _KINDS[key]) for key, value in said.items()):
        return None
    who = Serving(**said)  # type: ignore[arg-type]  # it was just looked at
    return who if all(isinstance(directory, str) for directory in who.made) else None


def _born(pid: int) -> str:
    process = read_process(pid)
    if process is None:
        raise ProcessLookupError
    return f"{process.start} {boot_id()}"


def supervisor_of(path: Path) -> int | None:
    """The process that owns the jobs of the state in `path`, or owned them when it was killed; None where none did."""
    pid = (read_object(path / ADDRESS) or {}).get("pid")
    return pid if _is_pid(pid) else None


def older_supervisor(path: Path) -> int | None:
    """The supervisor of the state in `path`, if it is of an older version; None where it is not, or nobody can tell."""
    protocol = (read_object(path / ADDRESS) or {}).get("protocol")
    return supervisor_of(path) if isinstance(protocol, int) and protocol < PROTOCOL else None


def _is_pid(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _PID_MAX


def state_path(chosen: str | None, mountpoint: Path) -> Path:
    """Where the state is: as chosen, in memory (`memory`), or the user's own place for such things."""
    if chosen == MEMORY:
        name = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
        return TMPFS / f"jobfs-{os.geteuid()}-{name}"
    if chosen is not None:
        return Path(chosen).absolute()
    return Path(platformdirs.user_state_dir("jobfs", appauthor=False))


def check(path: Path) -> None:
    """Makes the state directory where it is missing; StateUnusable where it is not private, not local, or no state."""
    _make_private(path)
    _make_private(path / JOBS)
    for name in _FILES:
        _require_file(path / name)


def _make_private(path: Path) -> None:
    try:
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        msg = f"the state directory {path} cannot be made: {error.strerror}"
        raise StateUnusable(msg) from error
    if not stat.S_ISDIR(status.st_mode):
        is_link = stat.S_ISLNK(status.st_mode)
        what = "a link: it must be the directory itself" if is_link else "no directory: choose another"
        msg = f"the state directory {path} is {what}"
        raise StateUnusable(msg)
    if status.st_uid != os.geteuid():
        msg = f"the state directory {path} belongs to user {status.st_uid}, not to you"
        raise StateUnusable(msg)
    if status.st_mode & 0o077:
        msg = f"the state directory {path} is open to others (mode {status.st_mode & 0o777:04o}): chmod 700 it"
        raise StateUnusable(msg)
    kind = mountinfo.type_at(path.resolve())
    if kind in _NETWORK_FILE_SYSTEMS or kind.startswith("fuse"):
        msg = f"the state directory {path} is on {kind}, where locks and shared memory do not hold: choose a local one"
        raise StateUnusable(msg)
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        msg = (
            f"the state directory {path} is on a file system that is read-only: choose another, or mount that writable"
        )
        raise StateUnusable(msg)
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        mode = status.st_mode & 0o777
        msg = f"the state directory {path} lacks permissions of your own (mode {mode:04o}): chmod 700 it"
        raise StateUnusable(msg)


def _require_file(path: Path) -> None:
    """What lies at `path`, if anything does, is a file of this user's."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        msg = f"{path} is no file: move it away, whatever it is"
        raise StateUnusable(msg)
    if status.st_uid != os.geteuid():
        msg = f"{path} belongs to user {status.st_uid}, not to you: give it to yourself with chown, or move it away"
        raise StateUnusable(msg)
