"""The mount table of the kernel, as proc(5) has it."""

from pathlib import Path

import pytest

from jobfs.mountinfo import Mount, mounts, parse

LINES = rb"""22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw
28 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw,errors=remount-ro
77 28 0:51 / /v/jobs rw,nosuid,nodev,relatime shared:5 master:2 - fuse.jobfs /state rw,user_id=1000,group_id=1000
"""


def _point(field: bytes) -> Path:
    (mount,) = parse(b"77 28 0:51 / " + field + b" rw - fuse.jobfs /state rw,user_id=0\n")
    return mount.point


def test_each_line_is_a_mount_in_the_order_of_the_file() -> None:
    """Where, which type, from what, and of two at one point the later one comes later."""
    assert [("/proc", "proc", "proc"), ("/", "ext4", "/dev/vda1"), ("/v/jobs", "fuse.jobfs", "/state")] == [
        (str(mount.point), mount.type, mount.source) for mount in parse(LINES)
    ]


def test_the_user_of_a_fuse_mount_is_told() -> None:
    """`user_id` is found among the options; a mount that has none belongs to nobody in particular."""
    assert [None, None, 1000] == [mount.user for mount in parse(LINES)]


def test_a_mount_has_its_numbers() -> None:
    """The mount's own number and its file system's device are told."""
    assert (77, "0:51") == (parse(LINES)[-1].id, parse(LINES)[-1].device)


@pytest.mark.parametrize(
    ("field", "point"),
    [
        (rb"/a\040b", "/a b"),
        (rb"/a\011b\012c", "/a\tb\nc"),
        (rb"/a\134b", "/a\\b"),
        (rb"/a\134040b", "/a\\040b"),
        (rb"/\134134", "/\\134"),
        (b"/a\rb", "/a\rb"),
        (b"/a\x0bb", "/a\x0bb"),
        (b"/\xff", "/\udcff"),
        ("/jöbs".encode(), "/jöbs"),
    ],
)
def test_a_mountpoint_is_read_as_it_is_called(field: bytes, point: str) -> None:
    """The kernel's octal escapes are undone once, and what it does not escape, a carriage return too, is kept."""
    assert Path(point) == _point(field)


def test_a_source_may_be_empty_or_hold_what_separates() -> None:
    """A source without a character, and one with blanks, dashes or a hash, leave the rest where it is."""
    raw = (
        b"5 1 0:3 / /a rw - tmpfs  rw\n"
        b"8 1 0:5 / /c rw - tmpfs a\\043b rw\n"
        b"6 1 0:4 / /b rw - fuse.jobfs x\\040-\\040y rw,user_id=7\n"
    )
    assert [("", None), ("a#b", None), ("x - y", 7)] == [(mount.source, mount.user) for mount in parse(raw)]


def test_nothing_mounted_is_no_mount() -> None:
    """An empty file has no mounts."""
    empty: list[Mount] = []
    assert empty == parse(b"")


def test_this_process_has_a_root() -> None:
    """The real file parses, and something is mounted somewhere."""
    assert Path("/") in {mount.point for mount in mounts()}
