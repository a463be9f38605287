"""inotify(7) as the kernel has it, for tests: what was told, in order, by names."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.mounted import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_READ = 1 << 16
NAMES = {
    0x2: "IN_MODIFY",
    0x4: "IN_ATTRIB",
    0x8: "IN_CLOSE_WRITE",
    0x100: "IN_CREATE",
    0x200: "IN_DELETE",
    0x400: "IN_DELETE_SELF",
    0x2000: "IN_UNMOUNT",
    0x4000: "IN_Q_OVERFLOW",
    0x8000: "IN_IGNORED",
    0x40000000: "IN_ISDIR",
}
_ALL = 0xFFF  # IN_ALL_EVENTS


class Told(NamedTuple):
    """One event: on which watched path, what, and of which name in it."""

    path: str
    what: str
    """The names of its bits, those of opening and reading left out."""
    name: str


class Watcher:
    """An inotify instance, and all that it was told."""

    def __init__(self, *paths: Path) -> None:
        """Watches `paths` for everything."""
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._paths: dict[int, str] = {}
        self.told: list[Told] = []
        for path in paths:
            self.add(path)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        os.close(self._fd)

    def add(self, path: Path) -> None:
        """Watches one more; OSError where it cannot be."""
        watch = _checked(_libc.inotify_add_watch(self._fd, os.fsencode(path), _ALL))
        self._paths[watch] = path.name

    def until(self, holds: Callable[[list[Told]], object]) -> list[Told]:
        """Waits until what was told `holds`, and gives it."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not holds(self._take()):
            assert poll.poll(PATIENCE * 1000), f"waited in vain; told: {self.told}"
        return self.told

    def until_told(self, what: str, path: str, name: str = "") -> list[Told]:
        """Waits for one event."""
        return self.until(lambda told: Told(path, what, name) in told)

    def count(self, what: str, path: str, name: str = "") -> int:
        """How often that was told."""
        return self._take().count(Told(path, what, name))

    def _take(self) -> list[Told]:
        try:
            raw = os.read(self._fd, _READ)
        except BlockingIOError:
            return self.told
        while raw:
            watch, mask, _, length = _EVENT.unpack_from(raw)
            name = os.fsdecode(raw[_EVENT.size : _EVENT.size + length].rstrip(b"\0"))
            raw = raw[_EVENT.size + length :]
            what = "|".join(known for bit, known in NAMES.items() if mask & bit)
            if what not in ("", "IN_ISDIR"):
                self.told.append(Told(self._paths.get(watch, ""), what, name))
        return self.told

    def forget(self) -> None:
        """What was told until now is of no interest."""
        self._take()
        self.told.clear()


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
