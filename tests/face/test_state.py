"""The state directory: private, local, and served by one daemon at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobfs.supervisor import JOBS
from mount.state import MEMORY, StateDirectory, StateUnusable, serving, state_path, this_process


def test_a_state_directory_is_made_private(tmp_path: Path) -> None:
    """What is missing is made, for this user alone."""
    state = StateDirectory(tmp_path / "a" / "state")
    assert [0o700, 0o700] == [
        path.stat().st_mode & 0o777 for path in (tmp_path / "a" / "state", tmp_path / "a" / "state" / JOBS)
    ]
    state.leave()


def test_one_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    """The sentence says what to do."""
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(0o755)
    with pytest.raises(StateUnusable, match="chmod 700"):
        StateDirectory(path)


def test_links_and_files_are_refused(tmp_path: Path) -> None:
    """No link is followed to where the state would be."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch(mode=0o600)
    with pytest.raises(StateUnusable, match="a link or no directory"):
        StateDirectory(tmp_path / "link")
    with pytest.raises(StateUnusable, match="cannot be made"):
        StateDirectory(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory to another user takes root")
def test_another_users_is_refused(tmp_path: Path) -> None:
    """A state belongs to who serves it."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    os.chown(path, 4242, 4242)
    with pytest.raises(StateUnusable, match="belongs to user 4242"):
        StateDirectory(path)


def test_one_that_is_served_is_refused_and_says_by_whom(tmp_path: Path) -> None:
    """Until the daemon that serves it leaves."""
    first = StateDirectory(tmp_path / "state")
    first.announce(this_process(Path("/v/jobs"), []))
    with pytest.raises(StateUnusable, match=f"at /v/jobs by process {os.getpid()}"):
        StateDirectory(tmp_path / "state")
    first.leave()
    StateDirectory(tmp_path / "state").leave()


def test_who_serves_it_is_told_until_it_leaves(tmp_path: Path) -> None:
    """The daemon's number, the mountpoint, and what was made for it."""
    path = tmp_path / "state"
    assert serving(path) is None
    state = StateDirectory(path)
    state.announce(this_process(tmp_path / "m", [str(tmp_path / "m")]))
    who = serving(path)
    assert who is not None
    assert (os.getpid(), str(tmp_path / "m"), [str(tmp_path / "m")]) == (who.pid, who.mountpoint, who.made)
    assert who.alive
    state.leave()
    assert serving(path) is None


@pytest.mark.parametrize("said", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "odd": 2}', "null"])
def test_what_makes_no_sense_says_nothing(tmp_path: Path, said: str) -> None:
    """A damaged announcement is none."""
    (tmp_path / "daemon.json").write_text(said, encoding="utf-8")
    assert serving(tmp_path) is None


def test_where_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As chosen, in memory apart for each mountpoint, or in the user's own place."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    point = Path("/v/jobs")
    assert tmp_path / "here" == state_path("here", point)
    assert Path("/abs") == state_path("/abs", point)
    assert tmp_path / "jobfs" == state_path(None, point)
    assert state_path(MEMORY, point) == state_path(MEMORY, point)
    assert state_path(MEMORY, point) != state_path(MEMORY, Path("/v/other"))
    assert Path("/dev/shm") == state_path(MEMORY, point).parent  # noqa: S108 - what is in memory is there
