"""The file `events`: gone on with, or begun anew with the damaged one kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jobfs.events import CAPACITY, highest_id, open_events
from jobfs.stream import RingWriter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where events may be kept."""
    return tmp_path / "events"


def written(path: Path, text: bytes) -> None:
    """Events of an earlier daemon."""
    writer = open_events(path)
    writer.append(text)
    writer.detach()


def test_events_go_on_where_they_were(path: Path) -> None:
    """They survive the daemon."""
    written(path, b"one\n")
    written(path, b"two\n")
    writer = open_events(path)
    assert 8 == writer.total
    writer.detach()


@pytest.mark.parametrize("damage", ["cut", "scribbled", "closed", "directory", "fifo"])
def test_damaged_events_are_kept_aside(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """They begin anew, and the log says so; nothing that was there is destroyed."""
    written(path, b"one\n")
    if damage == "cut":
        os.truncate(path, 3000)
    elif damage == "scribbled":
        path.write_bytes(b"x" * 10_000)
    elif damage == "closed":
        RingWriter.open(path).close()
    else:
        path.unlink()
        {"directory": os.mkdir, "fifo": os.mkfifo}[damage](path)
    before = path.lstat()
    writer = open_events(path)
    assert (0, before.st_ino) == (writer.total, path.with_name("events.damaged").lstat().st_ino)
    assert "it is kept as events.damaged, and events begin anew" in caplog.text
    writer.append(b"two\n")
    writer.detach()


@pytest.mark.parametrize(
    ("text", "highest"),
    [
        (b"", 0),
        (b'{"at": "x", "event": "removed", "id": 7, "name": null}\n{"event": "ended", "id": 5}\n', 7),
        (b'{"event": "error", "errno": 2, "error": "no such job: 99"}\n', 0),
    ],
)
def test_the_highest_id_that_events_tell_of(path: Path, text: bytes, highest: int) -> None:
    """Of jobs that were removed too."""
    assert 0 == highest_id(path)
    written(path, text)
    assert highest == highest_id(path)


def test_the_highest_id_is_among_what_is_retained(path: Path) -> None:
    """Events are bounded; the newest are there."""
    written(path, b"".join(b'{"event": "removed", "id": %d, "name": null}\n' % id_ for id_ in range(1, 40_000)))
    assert 39_999 == highest_id(path)
    assert path.stat().st_size > CAPACITY
