"""The mountpoint: what is made for it, what is in its way, and what the mount table says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobfs.client import PREFERRED
from jobfs.mountinfo import Mount
from mount import mountpoint
from mount.mountpoint import MountpointUnusable, default_mountpoint, prepare, remove, source, state_of


def mounted(point: Path, kind: str = "fuse.jobfs", what: str = "") -> Mount:
    """A mount as the kernel lists it."""
    return Mount(1, "0:1", point, kind, what, 0)


def test_directories_are_made_and_removed_again(tmp_path: Path) -> None:
    """Those that were missing, the innermost first; what others put there stays."""
    point = tmp_path / "a" / "b" / "c"
    made = prepare(point)
    assert [str(point), str(point.parent), str(point.parent.parent)] == made
    (tmp_path / "a" / "other").touch()
    remove(made)
    assert (True, False) == ((tmp_path / "a").exists(), point.parent.exists())


def test_a_directory_that_was_there_is_not_ours_to_remove(tmp_path: Path) -> None:
    """Nothing was made for it."""
    assert [] == prepare(tmp_path)


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    """A directory with something in it, a file, and a place where nothing can be made."""
    (tmp_path / "file").touch()
    with pytest.raises(MountpointUnusable, match="is not empty"):
        prepare(tmp_path)
    with pytest.raises(MountpointUnusable, match="cannot be used: Not a directory"):
        prepare(tmp_path / "file")
    with pytest.raises(MountpointUnusable, match="cannot be made"):
        prepare(Path("/proc/self/nothing/here"))


def test_a_mount_of_ours_that_is_alive_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not mounted over."""
    monkeypatch.setattr(mountpoint, "mounts", lambda _=None: [mounted(tmp_path)])
    with pytest.raises(MountpointUnusable, match=r"mounted at .* already"):
        prepare(tmp_path)


@pytest.mark.parametrize("state", ["/x", "/with blank", "/with,comma", "/with%41", "/\udcff\udc80\n", "/é"])
def test_the_mount_table_tells_the_state(state: str) -> None:
    """In ASCII without comma or blank, whatever bytes the path has."""
    said = source(Path(state))
    assert said.isascii()
    assert not {*said} & {",", " ", "\n", "\\"}
    assert Path(state) == state_of(mounted(Path("/m"), what=said))


def test_the_mount_on_top_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two at one point, the later one."""
    point = Path("/v/jobs")
    listed = [mounted(point, "ext4"), mounted(Path("/other")), mounted(point, "tmpfs")]
    monkeypatch.setattr(mountpoint, "mounts", lambda _=None: listed)
    assert listed[2] == mountpoint.mount_at(point)
    assert mountpoint.mount_at(Path("/nothing")) is None


def test_who_cannot_have_the_preferred_place_gets_one_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something else is mounted there, it is `jobs` in the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(mountpoint, "mounts", lambda _=None: [mounted(PREFERRED, "ext4")])
    assert tmp_path / "jobs" == default_mountpoint()
