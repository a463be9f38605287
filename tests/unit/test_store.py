"""What survives the daemon: rows in, rows out, and a sentence where that cannot be."""

import errno
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.errors import MachineError, StateFull
from jobfs.model import JobSpec, Usage, Writer
from jobfs.states import QUEUED, Status
from jobfs.store import SCHEMA, Row, StateDamaged, Store
from jobfs.text import decode
from tests.unit.tables import spec

NEW_KEYS = {"pty", "lease"}  # of specifications, which the first schema did not have
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
    }
    return Row(**{**base, **changed})  # type: ignore[arg-type]


def _scribble(path: Path, statement: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(statement)
    db.close()


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


def test_a_state_of_a_newer_version_is_refused_and_left_as_it_is(store: Store, path: Path) -> None:
    """A database that a later jobfs wrote is not touched by this one."""
    store.add(spec(), 1.0)
    store.close()
    _scribble(path, f"PRAGMA user_version={SCHEMA + 1}")
    with pytest.raises(StateDamaged, match="newer jobfs"):
        Store(path)
    _scribble(path, f"PRAGMA user_version={SCHEMA}")
    again = Store(path)
    assert [1] == [row.id for row in again.jobs()]
    again.close()


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """What is not ours is neither read nor overwritten."""
    path.write_bytes(b"something else entirely\n" * 100)
    with pytest.raises(StateDamaged, match="damaged"):
        Store(path)
    assert path.read_bytes().startswith(b"something else")


def test_a_database_with_a_damaged_page_is_refused_when_its_jobs_are_read(store: Store, path: Path) -> None:
    """A page that was scribbled on is told as damage, wherever in the reading it shows."""
    for _ in range(200):
        store.add(spec("x" * 500), 1.0)
    store.close()
    raw = bytearray(path.read_bytes())
    raw[-5 * 4096 : -4096] = b"\xa5" * (4 * 4096)
    path.write_bytes(raw)
    again = Store(path)
    with pytest.raises(StateDamaged, match="damaged"):
        list(again.jobs())
    again.close()


@pytest.mark.parametrize("column", ["spec='{'", "spec='[]'", "spec='{}'", "status='gone'", "usage='{\"x\": 1}'"])
def test_a_row_that_makes_no_sense_is_refused(store: Store, path: Path, column: str) -> None:
    """A row that this jobfs cannot have written is told as damage."""
    store.add(spec(), 1.0)
    _scribble(path, f"UPDATE job SET {column}")  # noqa: S608 - the columns stand above
    with pytest.raises(StateDamaged, match="damaged: a job makes no sense"):
        list(store.jobs())


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


def test_a_state_of_the_first_schema_is_taken_up(store: Store, path: Path) -> None:
    """Its jobs are as they were, with what they lack at its default; an older jobfs refuses the state from then on."""
    id_ = store.add(spec("make", stdin="in"), 1.5)
    store.close()
    db = sqlite3.connect(path, isolation_level=None)
    ((said,),) = db.execute("SELECT spec FROM job")
    known = {key: value for key, value in json.loads(said).items() if key not in NEW_KEYS}
    db.execute("UPDATE job SET spec=?", (json.dumps(known),))
    db.execute("PRAGMA user_version=1")
    db.close()
    again = Store(path)
    assert [(id_, spec("make", stdin="in"))] == [(row.id, row.spec) for row in again.jobs()]
    again.close()
    db = sqlite3.connect(path)
    assert (SCHEMA,) == db.execute("PRAGMA user_version").fetchone()
    db.close()
