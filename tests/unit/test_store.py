"""What survives the daemon: rows in, rows out, and a sentence where that cannot be."""

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.errors import LimitReached, MachineError, StateFull
from jobfs.model import JobSpec, Usage, Writer
from jobfs.states import QUEUED, Status
from jobfs.store import SCHEMA, Row, StateDamaged, Store
from jobfs.text import decode
from tests.unit.tables import spec

SCHEMAS = Path(__file__).with_name("schemas")  # a state of each older one, as SQL
TEXT = st.binary().map(decode)
WRITERS = st.builds(
    Writer,
    pid=st.none() | st.integers(0, 1 << 22),
    uid=st.none() | st.integers(0, (1 << 32) - 1),
    session=st.none() | st.integers(0, 1 << 22),
    command=st.none() | TEXT,
)
SPECS = st.builds(
    JobSpec,
    cmd=st.none() | TEXT,
    argv=st.none() | st.lists(TEXT, min_size=1).map(tuple),
    directory=TEXT,
    environment=TEXT,
    name=st.none() | st.just("build"),
    cwd=st.none() | TEXT,
    umask=st.integers(0, 0o777),
    stdin=TEXT,
    limit=st.integers(4096, 1 << 40),
    timeout=st.none() | st.floats(0, 1e9),
    grace=st.floats(0, 1e9),
    nice=st.none() | st.integers(-20, 19),
    pty=st.booleans(),
    lease=st.booleans(),
    writer=WRITERS,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database may be made."""
    return tmp_path / "jobs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """An empty state."""
    it = Store(path)
    yield it
    it.close()


def _row(id_: int, **changed: object) -> Row:
    base: dict[str, object] = {
        "id": id_,
        "spec": spec(),
        "status": Status.parse("failed:3"),
        "handle": "100 boot",
        "pid": 100,
        "reason": "because",
        "created_at": 1.5,
        "started_at": 2.25,
        "ended_at": 3.125,
        "elapsed": 0.875,
        "usage": Usage(0.5, 0.25, None, 4096, 0, 0),
        "written": {"stdout": 7},
    }
    return Row(**{**base, **changed})  # type: ignore[arg-type]


def _raw(store: Store) -> sqlite3.Connection:
    return store._db  # noqa: SLF001 - for what another version would do


def _scribble(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement)


def _rows(path: Path) -> list[Row]:
    with closing(Store(path)) as store:
        return list(store.jobs())


def _files(place: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a directory: when it was changed, and what is in it."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in place.iterdir()}


@given(SPECS, st.floats(0, 1e11))
def test_a_job_comes_back_as_it_was_added(job_spec: JobSpec, created_at: float) -> None:
    """Every word of a specification survives, bytes that are not UTF-8 too; a new job is queued."""
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place, "jobs.sqlite"))
        id_ = store.add(job_spec, created_at)
        (row,) = store.jobs()
        expected = Row(id_, job_spec, QUEUED, None, None, None, created_at, None, None, None, Usage())
        assert expected == row
        store.close()


def test_an_end_comes_back_after_a_restart(store: Store, path: Path) -> None:
    """How a job ended, when and what it used is there for the next daemon."""
    id_ = store.add(spec(), 1.5)
    store.end([_row(id_)])
    store.close()
    again = Store(path)
    assert [_row(id_)] == list(again.jobs())
    again.close()


def test_what_was_committed_survives_a_kill(store: Store, path: Path) -> None:
    """A daemon that never closed the database has lost nothing."""
    id_ = store.add(spec(), 1.5)
    other = Store(path)
    assert [id_] == [row.id for row in other.jobs()]
    other.close()


def test_jobs_come_oldest_first(store: Store) -> None:
    """The order is that of the ids."""
    ids = [store.add(spec(), 1.0) for _ in range(3)]
    store.end([_row(ids[2]), _row(ids[0])])
    assert [1, 2, 3] == [row.id for row in store.jobs()]


def test_an_id_is_never_given_twice(store: Store, path: Path) -> None:
    """The newest job's id is not free after its removal, and not after a restart either."""
    assert [1, 2] == [store.add(spec(), 1.0), store.add(spec(), 1.0)]
    store.remove([2])
    assert 3 == store.add(spec(), 1.0)
    store.remove([1, 3])
    store.close()
    again = Store(path)
    assert [] == list(again.jobs())
    assert 4 == again.add(spec(), 1.0)
    again.close()


def test_what_is_not_there_is_removed_and_ended_without_harm(store: Store) -> None:
    """A row that is gone already is no error, and does not come back."""
    store.end([_row(7)])
    store.remove([7])
    store.remove([])
    assert [] == list(store.jobs())


def test_a_property_keeps_its_first_value(store: Store, path: Path) -> None:
    """What a state was given when it was made stays, whatever a later daemon proposes."""
    assert "1" == store.property("created_at", "1")
    store.close()
    again = Store(path)
    assert ("1", "x") == (again.property("created_at", "2"), again.property("other", "x"))
    again.close()


@pytest.mark.parametrize("killed", [False, True])
def test_a_state_of_a_newer_version_is_refused_and_left_as_it_is(path: Path, tmp_path: Path, *, killed: bool) -> None:
    """A database that a later jobfs wrote is not touched by this one, not even by making the files beside it anew."""
    store = Store(path)
    store.add(spec(), 1.0)
    _raw(store).execute("PRAGMA journal_mode=DELETE")  # as migrations do
    _raw(store).execute(f"PRAGMA user_version={SCHEMA + 1}")
    _raw(store).execute("PRAGMA journal_mode=WAL")
    store.add(spec(), 1.0)
    left = tmp_path / "left"
    left.mkdir()
    if killed:  # a copy is what a killed daemon leaves: its log is still to be written back
        for file in tmp_path.glob("jobs.sqlite*"):
            shutil.copy2(file, left)
    store.close()
    if not killed:
        shutil.copy2(path, left)
    before = _files(left)
    with pytest.raises(StateDamaged, match=f"{left}.*newer jobfs .schema {SCHEMA + 1}.*use that one"):
        Store(left / path.name)
    assert before == _files(left)


def test_a_newer_version_that_only_the_log_tells_of_is_refused(store: Store, path: Path) -> None:
    """Also where the database's file itself says less."""
    _raw(store).execute(f"PRAGMA user_version={SCHEMA + 1}")
    with pytest.raises(StateDamaged, match="newer jobfs"):
        Store(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """What is not ours is neither read nor overwritten; the sentence names it and says what to do."""
    path.write_bytes(b"something else entirely\n" * 100)
    with pytest.raises(StateDamaged, match=r"jobs\.sqlite: .*damaged.*: move it away and mount again"):
        Store(path)
    assert path.read_bytes().startswith(b"something else")


def test_what_is_no_file_is_refused(path: Path, tmp_path: Path) -> None:
    """A directory, a link or a FIFO in the database's place is an error that names it, and holds nobody up."""
    path.mkdir()
    with pytest.raises(MachineError, match=r"jobs\.sqlite: .*Is a directory"):
        Store(path)
    path.rmdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match=r"jobs\.sqlite: "):
        Store(path)
    assert not (tmp_path / "elsewhere").exists()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(MachineError, match=r"jobs\.sqlite: "):
        Store(path)


@pytest.mark.parametrize("size", [0, 50, 4096, 5000, -4096, -100])
def test_a_database_that_was_cut_is_refused_or_begins_anew(store: Store, path: Path, size: int) -> None:
    """Cut at any place it is told as damage, and never half of the jobs; an empty file is one that is made anew."""
    for _ in range(100):
        store.add(spec("x" * 500), 1.0)
    store.close()
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    if size:
        with pytest.raises(StateDamaged, match="damaged"):
            _rows(path)
    else:
        again = Store(path)
        assert (True, [], 0) == (again.made, list(again.jobs()), again.last_id)
        again.close()


def test_a_database_with_a_damaged_page_is_refused(store: Store, path: Path) -> None:
    """A page that was scribbled on is told as damage, but where nothing stood there: a wrong job is never given."""
    for _ in range(50):
        store.add(spec("x" * 500, environment="E=" + "y" * 9000 + "\0"), 1.0)
    store.close()
    whole, rows, refused = path.read_bytes(), _rows(path), 0
    pages = range(0, len(whole), 4096)
    for page in pages:
        path.write_bytes(whole[: page + 100] + b"\xa5" * 1000 + whole[page + 1100 :])
        try:
            assert rows == _rows(path)
        except StateDamaged:
            refused += 1
    assert refused > len(pages) * 0.9


def test_a_lost_log_is_a_state_of_earlier(store: Store, path: Path, tmp_path: Path) -> None:
    """Without the log that a killed daemon left, what was written back before is there, and whole."""
    store.add(spec(), 1.0)
    _raw(store).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.add(spec(), 1.0)
    left = tmp_path / "left.sqlite"
    shutil.copy2(path, left)
    with closing(Store(left)) as again:
        assert ([1], 1, False) == ([row.id for row in again.jobs()], again.last_id, again.made)


@pytest.mark.parametrize(
    "column",
    [
        "spec='{'",
        "spec=replace(spec, 'true', 'trve')",
        "spec=CAST(X'ff' AS TEXT)",
        "environment=X'00'",
        "created_at=2.5",
        "status='gone'",
        "status='done:0'",
        "reason='x'",
        "usage='{\"x\": 1}'",
        "ended_at=1e300",
        "elapsed='x'",
        "written='{\"stdout\": 8}'",
        "end_checksum=NULL",
        "spec_checksum=0",
    ],
)
def test_a_row_that_was_changed_is_refused(store: Store, path: Path, column: str) -> None:
    """A row that this jobfs has not written so is told as damage, with its job where that is known."""
    store.end([_row(store.add(spec(), 1.0))])
    _scribble(path, f"UPDATE job SET {column}")  # noqa: S608 - the columns stand above
    with pytest.raises(
        StateDamaged, match=r"jobs\.sqlite: .*damaged: (job 1 makes no sense|Could not decode).*move it"
    ):
        list(store.jobs())


def test_a_database_that_another_program_locks_is_told_as_such(store: Store, path: Path) -> None:
    """It may work later: EAGAIN, and nothing is changed; nor is it taken for damaged when it is opened."""
    store.add(spec(), 1.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LimitReached, match="another program has locked"):
            store.add(spec(), 1.0)
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("UPDATE job SET reason='x'")
        with pytest.raises(LimitReached, match=r"jobs\.sqlite: another program has locked"):
            Store(path)


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_stored_where_nobody_would_find_it(store: Store, path: Path, *, replaced: bool) -> None:
    """Once the database was removed or moved away, a job is refused; those that were stored are still to be had."""
    store.add(spec(), 1.0)
    path.rename(path.with_name("away"))
    if replaced:
        path.touch()
    with pytest.raises(MachineError, match=r"was removed or replaced.*: unmount, and mount again"):
        store.add(spec(), 1.0)
    assert [1] == [row.id for row in store.jobs()]


def test_jobs_are_stored_under_ids_that_they_have(store: Store) -> None:
    """What was rebuilt is queued until it is told otherwise, and ids go on past it; all or none."""
    rows = [replace(_row(id_), status=QUEUED) for id_ in (7, 5)]
    store.restore(rows)
    assert ([5, 7], 7) == ([row.id for row in store.jobs()], store.last_id)
    with pytest.raises(MachineError):
        store.restore([replace(_row(id_), status=QUEUED) for id_ in (8, 5)])
    store.end([_row(5)])
    assert ["failed:3", "queued"] == [row.status.word for row in store.jobs()]
    assert 8 == store.add(spec(), 1.0)


def test_ids_can_be_passed_over(store: Store, path: Path) -> None:
    """Ids go on past those that are said to have been given; never back."""
    store.pass_over(41)
    store.pass_over(3)
    assert (41, 42) == (store.last_id, store.add(spec(), 1.0))
    _scribble(path, "DELETE FROM sqlite_sequence")
    store.pass_over(50)
    assert 51 == store.add(spec(), 1.0)


def test_a_place_that_is_not_there_is_no_damage(tmp_path: Path) -> None:
    """Where the database cannot be opened the machine is at fault, not the state."""
    with pytest.raises(MachineError, match="does not work") as caught:
        Store(tmp_path / "missing" / "jobs.sqlite")
    assert not isinstance(caught.value, StateDamaged)


@pytest.fixture
def full(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A state whose disk has room for one small job. SQLite itself says that there is no more, as it does on a disk."""
    plain = sqlite3.connect

    def bounded(where: Path, *, timeout: float, isolation_level: None) -> sqlite3.Connection:
        db = plain(where, timeout=timeout, isolation_level=isolation_level)
        db.execute("PRAGMA max_page_count=8")
        return db

    monkeypatch.setattr(sqlite3, "connect", bounded)
    it = Store(path)
    it.add(spec(), 1.0)
    yield it
    it.close()


def test_a_full_disk_is_told_as_such_and_changes_nothing(full: Store) -> None:
    """What does not fit is StateFull, which is ENOSPC, and what was stored stays."""
    with pytest.raises(StateFull, match="full") as caught:
        full.add(spec(environment="A=" + "x" * 100_000 + "\0"), 1.0)
    assert errno.ENOSPC == caught.value.errno
    assert [1] == [row.id for row in full.jobs()]


def test_ends_are_stored_together_or_not_at_all(full: Store) -> None:
    """Where one of several ends does not fit, none is stored, and the store works on."""
    full.add(spec(), 1.0)
    with pytest.raises(StateFull):
        full.end([_row(1), _row(2, reason="x" * 100_000)])
    assert ["queued", "queued"] == [row.status.word for row in full.jobs()]
    full.end([_row(1)])
    assert ["failed:3", "queued"] == [row.status.word for row in full.jobs()]


@pytest.mark.parametrize("schema", range(1, SCHEMA))
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_state_of_an_older_schema_is_taken_up(path: Path, schema: int, mode: str) -> None:
    """Its jobs, names and ids are as they were, with what they lack at its default; once migrated it stays so."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.executescript((SCHEMAS / f"{schema}.sql").read_text(encoding="utf-8"))
    odd = decode(b"HOME=/root\0ODD=\xff\0")
    make = JobSpec("make -j8", None, "/src", odd, name="build", writer=Writer(100, 0, 90, "bash"))
    sleep = JobSpec(None, ("sleep", "7"), "/", "", stdin="pipe", limit=4096, timeout=1.5, grace=0.25, nice=3)
    if schema > 1:
        sleep = replace(sleep, pty=True, lease=True)
    echo = JobSpec(decode(b"echo \xfe; printf '\x1b'"), None, "/", "", cwd="sub", umask=0o77)
    at, none = 1700000000.0, (None, None, None)
    expected = [
        Row(
            1,
            make,
            Status.parse("failed:2"),
            "4711 boot",
            4711,
            "because",
            at + 0.25,
            at + 0.5,
            at + 3.5,
            3.0,
            Usage(0.5, 0.25, None, 4096, 0, 0),
        ),
        Row(2, sleep, QUEUED, *none, at + 1.25, *none, Usage()),
        Row(3, echo, Status.parse("cancelled"), *none, at + 2.25, None, at + 9, None, Usage()),
    ]
    for _ in range(2):
        again = Store(path)
        assert (expected, {"build": 1}, False) == (list(again.jobs()), again.holders(), again.made)
        assert (str(at), 4) == (again.property("created_at", "0"), again.last_id)
        again.close()
    with closing(Store(path)) as again:
        assert 5 == again.add(spec(), 1.0)
    with closing(sqlite3.connect(path)) as db:
        assert [(SCHEMA,), ("wal",), ("ok",)] == [
            db.execute(f"PRAGMA {what}").fetchone() for what in ("user_version", "journal_mode", "integrity_check")
        ]


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is still one of the older schema, for the jobfs of that time too."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript((SCHEMAS / "1.sql").read_text(encoding="utf-8"))

    def broken(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM job")
        db.execute("this is no SQL")

    monkeypatch.setattr("jobfs.store._MIGRATIONS", (broken,))
    with pytest.raises(MachineError, match=r"jobs\.sqlite: "):
        Store(path)
    with closing(sqlite3.connect(path)) as db:
        assert [(1,), (3,)] == [
            db.execute(what).fetchone() for what in ("PRAGMA user_version", "SELECT count(*) FROM job")
        ]
