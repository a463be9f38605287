"""Small files that say who does what: believed only where they make sense, and written also on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobfs.files import RESERVE, read_object, write_object


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where such a file may be made."""
    return tmp_path / "said.json"


def fail_to_make(monkeypatch: pytest.MonkeyPatch, times: int, number: int = errno.ENOSPC) -> None:
    """The next so many attempts to make a file fail."""
    plain = Path.write_bytes
    left = [times]

    def write_bytes(path: Path, data: bytes) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return plain(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_what_was_written_is_read(path: Path) -> None:
    """Any object, the last one."""
    for said in ({"pid": 1, "text": "\udcff \n"}, {}):
        write_object(path, said)
        assert said == read_object(path)
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("said", [b"", b"[]", b"7", b"{", b"\xff", b"\0" * 100, b"[" * 100_000])
def test_what_is_no_object_says_nothing(path: Path, said: bytes) -> None:
    """Nor does a file that is not there."""
    assert read_object(path) is None
    path.write_bytes(said)
    assert read_object(path) is None


def test_what_is_no_file_says_nothing_and_is_not_waited_for(path: Path) -> None:
    """A FIFO, a directory, a link."""
    for make, remove in ((os.mkfifo, os.unlink), (os.mkdir, os.rmdir), (lambda at: os.symlink("x", at), os.unlink)):
        make(path)
        assert read_object(path) is None
        remove(path)


def test_on_a_full_disk_it_is_written_over_what_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether what it says is longer or shorter, and the reserve stays."""
    write_object(path, {"pid": 1})
    path.with_name(RESERVE).touch()
    longer: dict[str, object] = {"pid": 2, "more": "x" * 500}
    shorter: dict[str, object] = {"pid": 3}
    for said in (longer, shorter):
        fail_to_make(monkeypatch, 1)
        write_object(path, said)
        assert said == read_object(path)
    assert path.with_name(RESERVE).exists()


def test_on_a_full_disk_the_reserve_is_given_up_for_a_new_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what it is for."""
    path.with_name(RESERVE).touch()
    fail_to_make(monkeypatch, 1)
    write_object(path, {"pid": 1})
    assert ({"pid": 1}, False) == (read_object(path), path.with_name(RESERVE).exists())


def test_where_it_cannot_be_written_it_says_what_it_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room even so, or another error: nothing is changed, and nothing is left."""
    fail_to_make(monkeypatch, 2)
    with pytest.raises(OSError, match="No space left"):
        write_object(path, {"pid": 1})
    assert [] == list(path.parent.iterdir())
    write_object(path, {"pid": 1})
    fail_to_make(monkeypatch, 2)
    with pytest.raises(OSError, match="No space left"):
        write_object(path, {"pid": "x" * 10_000})
    fail_to_make(monkeypatch, 1, errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        write_object(path, {"pid": 2})
    assert ({"pid": 1}, [path]) == (read_object(path), list(path.parent.iterdir()))
