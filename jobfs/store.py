"""What must survive the daemon, in SQLite: one row a job. Output is not here but in the ring files.

WAL with synchronous=NORMAL: what was committed survives the end of the process, and costs no fsync at a commit.

SQLite notices where its own structure was scribbled on, and nothing else; so every row has checksums. A schema is made
and migrated before the write-ahead log is turned on, so that the database's file itself, not only a log that lies
beside it, says which version it is: a newer one is told by reading, with nothing changed.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, TypeVar

from jobfs.errors import LimitReached, MachineError, StateFull
from jobfs.files import RESERVE
from jobfs.model import JobSpec, Usage, Writer
from jobfs.states import Status
from jobfs.text import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

# By name and not by `asdict`, which copies every value and takes longer than SQLite does.
_SPEC_FIELDS = [field.name for field in fields(JobSpec) if field.name not in ("environment", "run")]
_WRITER_FIELDS = [field.name for field in fields(Writer)]

_TABLES = """
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: an id is never given twice, also after its removal
    spec TEXT NOT NULL,
    environment BLOB NOT NULL,
    status TEXT NOT NULL,
    handle TEXT,
    pid INTEGER,
    reason TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    elapsed REAL,
    usage TEXT,
    written TEXT,  -- bytes in each stream that is closed
    spec_checksum INTEGER NOT NULL,
    end_checksum INTEGER
);
CREATE TABLE holder (name TEXT PRIMARY KEY, job INTEGER NOT NULL);  -- the newest job that was given the name
CREATE TABLE property (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_SPEC_COLUMNS = ("spec", "environment", "created_at")
_END_COLUMNS = ("status", "handle", "pid", "reason", "started_at", "ended_at", "elapsed", "usage", "written")

# Bytes on the disk that are given up when it is full, so that jobs can be removed, which makes room: a deletion needs
# some pages of the write-ahead log.
_RESERVE = 256 * 1024
# Seconds that a statement waits for another program that has locked the database. Everybody waits meanwhile, but not
# while it is opened: nobody is served yet.
_PATIENCE = 0.1
_PATIENCE_AT_FIRST = 1.0
# Where a database says what it is, and the schema's version (https://sqlite.org/fileformat2.html, 1.3).
_MAGIC = b"SQLite format 3\0"
_VERSION_AT = slice(60, 64)
# What SQLite says when the disk is full; the second is of the file that is mapped.
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# The main code of an extended one.
_MAIN_CODE = 0xFF
_ADVICE = "move it away and mount again: what is on record of its jobs will be shown"

Value = str | bytes | float | None


def _pty_and_lease(_: sqlite3.Connection) -> None:
    """Specifications have `pty` and `lease`, which rows of before lack and need not have."""


def _checksums_and_written(db: sqlite3.Connection) -> None:
    """Rows have checksums, and say how much was written to each stream."""
    db.execute("ALTER TABLE job ADD COLUMN written TEXT")
    db.execute("ALTER TABLE job ADD COLUMN spec_checksum INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE job ADD COLUMN end_checksum INTEGER")
    for row in db.execute("SELECT * FROM job").fetchall():
        ended = row["ended_at"] is not None
        sums = (_checksum(row, _SPEC_COLUMNS), _checksum(row, _END_COLUMNS) if ended else None, row["id"])
        db.execute("UPDATE job SET spec_checksum=?, end_checksum=? WHERE id=?", sums)


def _functions(_: sqlite3.Connection) -> None:
    """Specifications say whether they are of a function, which rows of before lack and need not have."""


# What makes schema n + 1 of schema n, the first of schema 1; each in the transaction that raises `user_version`.
_MIGRATIONS = (_pty_and_lease, _checksums_and_written, _functions)
SCHEMA = 1 + len(_MIGRATIONS)


class StateDamaged(MachineError):  # noqa: N818 - as its family
    """The database is not ours, is from a newer version, or was scribbled on."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job as it is stored; times are seconds since the epoch, `elapsed` seconds."""

    id: int
    spec: JobSpec
    status: Status
    handle: str | None
    pid: int | None
    reason: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    elapsed: float | None
    usage: Usage
    written: Mapping[str, int] = field(default_factory=dict)
    """Bytes that were ever written to each stream that is closed, as far as it was known when the end was stored."""


class Store:
    """The rows of one state directory. Every method raises StateFull or MachineError where SQLite can't."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the database at `path`; StateDamaged where that is none of ours, and then nothing is changed.

        `made` tells whether it was made just now.
        """
        self._path = path
        self._reserve = path.with_name(RESERVE)
        self.made = False
        try:
            _look(path)
            self._db = _translated(lambda: sqlite3.connect(path, timeout=_PATIENCE_AT_FIRST, isolation_level=None))
            try:
                _translated(self._prepare)
            except BaseException:
                self._db.close()
                raise
        except (MachineError, OSError) as error:
            kind = type(error) if isinstance(error, MachineError) else MachineError
            raise kind(f"{path}: {error}") from error
        about = path.stat()
        self._file = (about.st_dev, about.st_ino)

    def _prepare(self) -> None:
        db = self._db
        db.row_factory = sqlite3.Row
        (version,) = db.execute("PRAGMA user_version").fetchone()
        _require_known(version)
        if version and db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            msg = f"the state's database is damaged: {_ADVICE}"
            raise StateDamaged(msg)
        if version < SCHEMA:
            db.execute("PRAGMA journal_mode=DELETE")  # see the module
            self._migrate(version)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA busy_timeout={int(_PATIENCE * 1000)}")
        self._make_reserve()

    def _migrate(self, version: int) -> None:
        db = self._db
        self.made = version == 0
        if self.made:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={SCHEMA}; COMMIT;")
        for old, migration in enumerate(_MIGRATIONS, 1):
            if 0 < version <= old:
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    migration(db)
                    db.execute(f"PRAGMA user_version={old + 1}")

    def close(self) -> None:
        """Leaves the state to the next one."""
        self._db.close()

    @property
    def last_id(self) -> int:
        """The highest id that this database ever gave."""
        (last,) = self._run("SELECT max(seq) FROM sqlite_sequence").fetchone()
        return int(last or 0)

    def pass_over(self, id_: int) -> None:
        """Gives only ids above `id_` from now on."""
        if id_ > self.last_id and not self._run("UPDATE sqlite_sequence SET seq=?", id_).rowcount:
            self._run("INSERT INTO sqlite_sequence VALUES ('job', ?)", id_)

    def jobs(self) -> Iterator[Row]:
        """Every job, oldest first; StateDamaged where a row cannot be read, or is not what was written."""
        try:
            # All at once: a damaged page is met while rows are fetched.
            rows = _translated(lambda: self._db.execute("SELECT * FROM job ORDER BY id").fetchall())
        except StateDamaged as error:
            raise StateDamaged(f"{self._path}: {error}") from error
        for row in rows:
            try:
                yield _row(row)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                msg = f"{self._path}: the state's database is damaged: job {row['id']} makes no sense: {_ADVICE}"
                raise StateDamaged(msg) from error

    def add(self, spec: JobSpec, created_at: float) -> int:
        """Stores a job that is queued; gives its id."""
        self._require_place()
        asked = _asked(spec, created_at)
        cursor = self._run(
            "INSERT INTO job (spec, environment, created_at, spec_checksum, status) VALUES (?, ?, ?, ?, 'queued')",
            *asked,
            _checksum_of(asked),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def restore(self, rows: Iterable[Row]) -> None:
        """Stores jobs that are queued under the ids that they have, all or none; later ids are above them."""
        asked = [(row.id, _asked(row.spec, row.created_at)) for row in rows]
        self._all_or_none(
            "INSERT INTO job (id, spec, environment, created_at, spec_checksum, status)"
            " VALUES (?, ?, ?, ?, ?, 'queued')",
            [(id_, *values, _checksum_of(values)) for id_, values in asked],
        )

    def end(self, rows: Iterable[Row]) -> None:
        """Stores how jobs ended, all or none."""
        ends = [(row.id, _end(row)) for row in rows]
        columns = ", ".join(f"{name}=?" for name in (*_END_COLUMNS, "end_checksum"))
        self._all_or_none(
            f"UPDATE job SET {columns} WHERE id=?",  # noqa: S608 - of names that stand above
            [(*values, _checksum_of(values), id_) for id_, values in ends],
        )

    def remove(self, jobs: Iterable[int]) -> None:
        """Forgets jobs, all or none; on a full disk too."""
        gone: list[tuple[Value, ...]] = [(job,) for job in jobs]
        try:
            self._all_or_none("DELETE FROM job WHERE id=?", gone)
        except StateFull:
            self._reserve.unlink(missing_ok=True)
            self._all_or_none("DELETE FROM job WHERE id=?", gone)
        self._make_reserve()

    def holders(self) -> dict[str, int]:
        """The newest job that was given each name, whether it is still there or not."""
        return dict(self._run("SELECT name, job FROM holder").fetchall())

    def hold(self, name: str, job: int) -> None:
        """Notes that `job` is the newest that was given `name`."""
        self._run("INSERT OR REPLACE INTO holder VALUES (?, ?)", name, job)

    def release(self, names: Iterable[str]) -> None:
        """Forgets who held these names: no job is left that was given them."""
        self._all_or_none("DELETE FROM holder WHERE name=?", [(name,) for name in names])

    def _make_reserve(self) -> None:
        if self._reserve.exists():
            return
        try:
            self._reserve.write_bytes(bytes(_RESERVE))
        except OSError:  # there is no room for it yet; a part would be of no use
            self._reserve.unlink(missing_ok=True)

    def _require_place(self) -> None:
        """What is stored in a file that nobody will find again is lost: say so before that."""
        try:
            about = self._path.stat()
        except OSError:
            about = None
        if about is None or (about.st_dev, about.st_ino) != self._file:
            msg = f"{self._path} was removed or replaced while it was in use: unmount, and mount again"
            raise MachineError(msg)

    def _all_or_none(self, statement: str, values: Sequence[tuple[Value, ...]]) -> None:
        def execute() -> None:
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany(statement, values)

        _translated(execute)

    def property(self, name: str, default: str) -> str:
        """The value kept under `name`; the first time, `default` becomes it."""
        row = self._run("SELECT value FROM property WHERE name=?", name).fetchone()
        if row is None:  # only then, so that a full disk is no reason not to mount
            self._run("INSERT INTO property VALUES (?, ?)", name, default)
            return default
        return str(row["value"])

    def _run(self, statement: str, *values: Value) -> sqlite3.Cursor:
        return _translated(lambda: self._db.execute(statement, values))


def _look(path: Path) -> None:
    """StateDamaged where what is at `path` must not be opened: it is no file, or from a newer version."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        header = os.read(fd, _VERSION_AT.stop)
    finally:
        os.close(fd)
    if header.startswith(_MAGIC):
        _require_known(int.from_bytes(header[_VERSION_AT], "big"))


def _require_known(version: int) -> None:
    if version > SCHEMA:
        msg = f"the state is from a newer jobfs (schema {version}, this one knows {SCHEMA}): use that one"
        raise StateDamaged(msg)


def _translated(action: Callable[[], T]) -> T:
    try:
        return action()
    except sqlite3.DatabaseError as error:
        # Without a code it is not SQLite but Python that could not read a text.
        code: int | None = getattr(error, "sqlite_errorcode", None)
        if code in _FULL:
            msg = "the disk that holds the state is full"
            raise StateFull(msg) from error
        if code is not None and code & _MAIN_CODE in _LOCKED:
            msg = f"another program has locked the state's database: {error}"
            raise LimitReached(msg) from error
        if code is not None and isinstance(error, sqlite3.OperationalError):
            msg = f"the state's database does not work: {error}"
            raise MachineError(msg) from error
        msg = f"the state's database is damaged: {error}: {_ADVICE}"
        raise StateDamaged(msg) from error


def _asked(spec: JobSpec, created_at: float) -> tuple[str, bytes, float]:
    """The values of `_SPEC_COLUMNS`."""
    said = {name: getattr(spec, name) for name in _SPEC_FIELDS}
    said["writer"] = {name: getattr(spec.writer, name) for name in _WRITER_FIELDS}
    return json.dumps(said), encode(spec.environment), created_at


def _end(row: Row) -> tuple[Value, ...]:
    """The values of `_END_COLUMNS`."""
    times = (row.started_at, row.ended_at, row.elapsed)
    usage, written = json.dumps(asdict(row.usage)), json.dumps(dict(row.written))
    # A path in it may be no UTF-8, which SQLite's texts are.
    reason = None if row.reason is None else row.reason.encode("utf-8", "backslashreplace").decode()
    return (row.status.word, row.handle, row.pid, reason, *times, usage, written)


def _checksum_of(values: Sequence[Value]) -> int:
    checksum = 0
    for value in values:
        if isinstance(value, bytes):
            raw = value
        else:  # as SQLite gives it back: a number of a REAL column is a float
            said = float(value) if isinstance(value, (int, float)) else value
            raw = repr(said).encode("ascii", "backslashreplace")
        checksum = zlib.crc32(raw, zlib.crc32(b"%d," % len(raw), checksum))
    return checksum


def _checksum(row: sqlite3.Row, columns: Iterable[str]) -> int:
    return _checksum_of([row[name] for name in columns])


def _row(row: sqlite3.Row) -> Row:
    ended = row["end_checksum"] is not None
    if row["spec_checksum"] != _checksum(row, _SPEC_COLUMNS) or (
        row["end_checksum"] != _checksum(row, _END_COLUMNS) if ended else row["status"] != "queued"
    ):
        msg = "it is not what was written"
        raise ValueError(msg)
    said = json.loads(row["spec"])
    said["writer"] = Writer(**said["writer"])
    said["argv"] = None if said["argv"] is None else tuple(said["argv"])
    return Row(
        id=row["id"],
        spec=JobSpec(environment=decode(row["environment"]), **said),
        status=Status.parse(row["status"]),
        handle=row["handle"],
        pid=row["pid"],
        reason=row["reason"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        elapsed=row["elapsed"],
        usage=Usage(**json.loads(row["usage"])) if row["usage"] else Usage(),
        written=json.loads(row["written"] or "{}"),
    )
