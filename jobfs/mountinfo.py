"""What is mounted where, from /proc/self/mountinfo (proc(5)): the one way to ask that touches no file system."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
_CHUNK = 65536  # bytes
_ESCAPE = re.compile(rb"\\([0-3][0-7][0-7])")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: where, of which type and from what; `user` is the user that a FUSE mount belongs to.

    `id` is the mount's number, `device` that of its file system, major:minor, which all its mounts share.
    """

    id: int
    device: str
    point: Path
    type: str
    source: str
    user: int | None


def parse(raw: bytes) -> list[Mount]:
    """The mounts of a mountinfo file, in its order: of two at one point, the later one is on top."""
    return [_mount(line) for line in raw.split(b"\n") if line]  # a carriage return may stand in a path, unescaped


def mounts(opened: int | None = None) -> list[Mount]:
    """What this process sees mounted; `opened` is a descriptor of MOUNTINFO, for who may have none left by then."""
    if opened is None:
        return parse(MOUNTINFO.read_bytes())
    raw = b""
    while chunk := os.pread(opened, _CHUNK, len(raw)):
        raw += chunk
    return parse(raw)


def type_at(path: Path) -> str:
    """The type of the file system that `path`, which must be free of links, lies on; empty where unknown."""
    types = {mount.point: mount.type for mount in mounts()}
    return next((types[point] for point in (path, *path.parents) if point in types), "")


def _mount(line: bytes) -> Mount:
    left, _, right = line.partition(b" - ")
    kind, source, options = right.split(b" ", 2)
    user = next((int(option[8:]) for option in options.split(b",") if option.startswith(b"user_id=")), None)
    number, _, device, _, point = left.split(b" ")[:5]
    return Mount(int(number), device.decode(), Path(_unescape(point)), os.fsdecode(kind), _unescape(source), user)


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda escape: bytes([int(escape[1], 8)]), field))
