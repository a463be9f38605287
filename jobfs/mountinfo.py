"""What is mounted where, from /proc/self/mountinfo (proc(5)): the one way to ask that touches no file system."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_ESCAPES = ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\"))


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: where, of which type and from what; `user` is the user that a FUSE mount belongs to."""

    point: Path
    type: str
    source: str
    user: int | None


def parse(raw: bytes) -> list[Mount]:
    """The mounts of a mountinfo file, in its order: of two at one point, the later one is on top."""
    return [_mount(line) for line in raw.splitlines()]


def mounts() -> list[Mount]:
    """What this process sees mounted."""
    return parse(Path("/proc/self/mountinfo").read_bytes())


def _mount(line: bytes) -> Mount:
    left, _, right = line.partition(b" - ")
    kind, source, options = right.split(b" ", 2)
    user = next((int(option[8:]) for option in options.split(b",") if option.startswith(b"user_id=")), None)
    return Mount(Path(_unescape(left.split(b" ")[4])), os.fsdecode(kind), _unescape(source), user)


def _unescape(field: bytes) -> str:
    for escape, char in _ESCAPES:
        field = field.replace(escape, char)
    return os.fsdecode(field)
