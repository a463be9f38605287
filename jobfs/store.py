"""What must survive the daemon, in SQLite: one row a job. Output is not here but in the ring files.

WAL with synchronous=NORMAL: what was committed survives the end of the process, and costs no fsync at a commit.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from jobfs.errors import MachineError, StateFull
from jobfs.model import JobSpec, Usage, Writer
from jobfs.states import Status
from jobfs.text import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

# 2: specifications have `pty` and `lease`, which rows of 1 lack and need not have.
SCHEMA = 2

T = TypeVar("T")

# By name and not by `asdict`, which copies every value and takes longer than SQLite does.
_SPEC_FIELDS = [field.name for field in fields(JobSpec) if field.name != "environment"]
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
    usage TEXT
);
CREATE TABLE holder (name TEXT PRIMARY KEY, job INTEGER NOT NULL);  -- the newest job that was given the name
CREATE TABLE property (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

# Bytes on the disk that are given up when it is full, so that jobs can be removed, which makes room: a deletion needs
# some pages of the write-ahead log.
_RESERVE = 256 * 1024
# Seconds that a statement waits for another program that has locked the database. Everybody waits meanwhile.
_PATIENCE = 0.1


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


class Store:
    """The rows of one state directory. Every method raises StateFull or MachineError where SQLite can't."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserve = path.with_name("reserve")
        self._db = _translated(lambda: sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None))
        try:
            _translated(self._prepare)
        except StateDamaged as error:
            self._db.close()
            raise StateDamaged(f"{path}: {error}") from error
        except MachineError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.row_factory = sqlite3.Row
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:  # looked at before anything is changed
            msg = f"the state is from a newer jobfs (schema {version}, this one knows {SCHEMA})"
            raise StateDamaged(msg)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if version == 0:
            self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={SCHEMA}; COMMIT;")
        elif version < SCHEMA:
            self._db.execute(f"PRAGMA user_version={SCHEMA}")
        self._make_reserve()

    def close(self) -> None:
        """Leaves the state to the next one."""
        self._db.close()

    def jobs(self) -> Iterator[Row]:
        """Every job, oldest first; StateDamaged where a row cannot be read."""
        try:
            # All at once: a damaged page is met while rows are fetched.
            rows = _translated(lambda: self._db.execute("SELECT * FROM job ORDER BY id").fetchall())
            yield from map(_row, rows)
        except StateDamaged as error:
            raise StateDamaged(f"{self._path}: {error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise StateDamaged(f"{self._path}: the state's database is damaged: a job makes no sense") from error

    def add(self, spec: JobSpec, created_at: float) -> int:
        """Stores a job that is queued; gives its id."""
        said = {name: getattr(spec, name) for name in _SPEC_FIELDS}
        said["writer"] = {name: getattr(spec.writer, name) for name in _WRITER_FIELDS}
        cursor = self._run(
            "INSERT INTO job (spec, environment, status, created_at) VALUES (?, ?, 'queued', ?)",
            json.dumps(said),
            encode(spec.environment),
            created_at,
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end(self, rows: Iterable[Row]) -> None:
        """Stores how jobs ended, all or none."""
        self._all_or_none(
            "UPDATE job SET status=?, handle=?, pid=?, reason=?, started_at=?, ended_at=?, elapsed=?, usage=?"
            " WHERE id=?",
            [
                (
                    row.status.word,
                    row.handle,
                    row.pid,
                    row.reason,
                    row.started_at,
                    row.ended_at,
                    row.elapsed,
                    json.dumps(asdict(row.usage)),
                    row.id,
                )
                for row in rows
            ],
        )

    def remove(self, jobs: Iterable[int]) -> None:
        """Forgets jobs, all or none; on a full disk too."""
        gone: list[tuple[str | float | None, ...]] = [(job,) for job in jobs]
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

    def _all_or_none(self, statement: str, values: list[tuple[str | float | None, ...]]) -> None:
        def execute() -> None:
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany(statement, values)

        _translated(execute)

    def property(self, name: str, default: str) -> str:
        """The value kept under `name`; the first time, `default` becomes it."""
        self._run("INSERT OR IGNORE INTO property VALUES (?, ?)", name, default)
        (value,) = self._run("SELECT value FROM property WHERE name=?", name).fetchone()
        return str(value)

    def _run(self, statement: str, *values: str | bytes | float | None) -> sqlite3.Cursor:
        return _translated(lambda: self._db.execute(statement, values))


def _translated(action: Callable[[], T]) -> T:
    try:
        return action()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            msg = "the disk that holds the state is full"
            raise StateFull(msg) from error
        msg = f"the state's database does not work: {error}"
        raise MachineError(msg) from error
    except sqlite3.DatabaseError as error:
        msg = f"the state's database is damaged: {error}"
        raise StateDamaged(msg) from error


def _row(row: sqlite3.Row) -> Row:
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
    )
