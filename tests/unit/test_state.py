"""The state directory: private, local, and served by one daemon at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.state import (
    MEMORY,
    StateDirectory,
    StateUnusable,
    older_supervisor,
    serving,
    state_path,
    supervisor_of,
    this_process,
)
from jobfs.supervisor import ADDRESS, JOBS
from jobfs.supervisor.wire import PROTOCOL


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
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, what in (("link", "a link"), ("dangling", "a link"), ("file", "no directory")):
        with pytest.raises(StateUnusable, match=f"{name} is {what}: "):
            StateDirectory(tmp_path / name)
    with pytest.raises(StateUnusable, match="file/state cannot be made: File exists"):
        StateDirectory(tmp_path / "file" / "state")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "name", ["log", "events", "jobs.sqlite", "reserve", "daemon.json", "daemon.lock", "supervisor.json", "jobs/records"]
)
def test_what_should_be_a_file_and_is_none_is_refused(tmp_path: Path, name: str) -> None:
    """A link, a directory or a FIFO where a file of the state should be is told by name, and waited for by nobody."""
    StateDirectory(tmp_path / "state").leave()
    path = tmp_path / "state" / name
    path.unlink(missing_ok=True)
    makes: list[Callable[[], object]] = [path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("elsewhere")]
    for make, remove in zip(makes, (path.rmdir, path.unlink, path.unlink), strict=True):
        make()
        with pytest.raises(StateUnusable, match=f"{path} is no file: move it away"):
            StateDirectory(tmp_path / "state")
        assert (None, None) == (serving(tmp_path / "state"), supervisor_of(tmp_path / "state"))
        remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user takes root")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Nobody else's database is served."""
    StateDirectory(tmp_path / "state").leave()
    (tmp_path / "state" / "jobs.sqlite").touch()
    os.chown(tmp_path / "state" / "jobs.sqlite", 4242, 4242)
    with pytest.raises(StateUnusable, match=r"jobs\.sqlite belongs to user 4242, not to you: .*chown"):
        StateDirectory(tmp_path / "state")


def test_one_that_its_owner_may_not_write_to_is_refused(tmp_path: Path) -> None:
    """The sentence says what to do; root, whom modes do not bind, is told the same."""
    StateDirectory(tmp_path / "state").leave()
    for path in (tmp_path / "state" / JOBS, tmp_path / "state"):
        path.chmod(0o500)
        with pytest.raises(StateUnusable, match=f"{path} lacks permissions of your own .mode 0500.: chmod 700 it"):
            StateDirectory(tmp_path / "state")
        path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_one_on_a_read_only_file_system_is_refused(tmp_path: Path) -> None:
    """Nothing is made there, whoever asks."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "jobfs-test", place], check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        StateDirectory(place / "state").leave()
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        with pytest.raises(StateUnusable, match="state is on a file system that is read-only: choose another"):
            StateDirectory(place / "state")
        with pytest.raises(StateUnusable, match="other cannot be made: Read-only file system"):
            StateDirectory(place / "other")
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_daemon_whose_state_was_removed_leaves_the_next_one_alone(tmp_path: Path) -> None:
    """What another daemon announces in a directory of the same name is not the first one's to take back."""
    path = tmp_path / "state"
    first = StateDirectory(path)
    first.announce(this_process(Path("/v/jobs"), []))
    shutil.rmtree(path)
    second = StateDirectory(path)
    second.announce(this_process(Path("/v/other"), []))
    first.leave()
    who = serving(path)
    assert who is not None
    assert "/v/other" == who.mountpoint
    second.leave()


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


SOUND = {"pid": 1, "mountpoint": "/v/jobs", "made": ["/v"], "started_at": 1.5}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{",
        "[]",
        "null",
        "\0" * 4096,
        "[" * 100_000,
        *(json.dumps({key: value for key, value in SOUND.items() if key != missing}) for missing in SOUND),
        *(json.dumps(SOUND | {"pid": pid}) for pid in (0, -1, True, 1.5, "1", None, 1 << 70)),
        *(json.dumps(SOUND | {"made": made}) for made in ("/v", [1], None)),
        json.dumps(SOUND | {"mountpoint": 7}),
        json.dumps(SOUND | {"started_at": "now"}),
    ],
)
def test_what_makes_no_sense_says_nothing(tmp_path: Path, said: str) -> None:
    """A damaged announcement is none, whichever value of it is one that cannot be."""
    (tmp_path / "daemon.json").write_text(said, encoding="utf-8")
    assert serving(tmp_path) is None


def test_an_announcement_with_more_in_it_is_read(tmp_path: Path) -> None:
    """What a newer version says beside it is passed over."""
    (tmp_path / "daemon.json").write_text(json.dumps(SOUND | {"new": "thing"}), encoding="utf-8")
    who = serving(tmp_path)
    assert who is not None
    assert (1, "/v/jobs", ["/v"]) == (who.pid, who.mountpoint, who.made)


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"pid": "1"}', '{"pid": [1]}', '{"pid": -1}', '{"pid": 1e400}'])
def test_a_supervisor_of_which_nothing_is_known_is_none(tmp_path: Path, said: str) -> None:
    """A damaged address names no process, which could be a stranger's."""
    (tmp_path / ADDRESS).write_text(said, encoding="utf-8")
    assert supervisor_of(tmp_path) is None


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


@pytest.mark.parametrize(("protocol", "older"), [(PROTOCOL - 1, True), (PROTOCOL, False), (None, False), ("2", False)])
def test_an_older_supervisor_is_known_as_such(tmp_path: Path, protocol: object, *, older: bool) -> None:
    """By the protocol that it wrote down."""
    (tmp_path / ADDRESS).write_text(json.dumps({"pid": 77, "socket": "/x", "protocol": protocol}))
    assert (77 if older else None) == older_supervisor(tmp_path)
