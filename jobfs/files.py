"""Small files of a state directory that say who does what: read without trust, and written also on a full disk."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RESERVE = "reserve"
"""Beside them: a file of nothing, whose blocks are given up when the disk is full and a little room is needed."""
_SIZE_MAX = 1 << 20  # bytes of a file that can be one of ours
_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_object(path: Path) -> dict[str, object] | None:
    """The JSON object that is in a file; None where there is no file, or no object in it. Never waits."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        said = json.loads(os.read(fd, _SIZE_MAX)) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except (ValueError, RecursionError, OSError):
        return None
    finally:
        os.close(fd)
    return said if isinstance(said, dict) else None


def write_object(path: Path, said: dict[str, object]) -> None:
    """Replaces what a file says; OSError where that cannot be, and then it says what it said.

    On a full disk it is written over what is there, or, where nothing is, `RESERVE` is given up for it.
    """
    text = json.dumps(said).encode("ascii")
    try:
        _replace(path, text)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        if not _overwrite(path, text):
            path.with_name(RESERVE).unlink(missing_ok=True)
            _replace(path, text)


def _replace(path: Path, text: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_bytes(text)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _overwrite(path: Path, text: bytes) -> bool:
    """Writes into the first block of a file, which it has; False where it has none, or that is too small."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(fd).st_size
        if not size or max(size, len(text)) > os.fstat(fd).st_blksize:
            return False
        text = text.ljust(size)
        return os.pwrite(fd, text, 0) == len(text)
    except OSError:
        return False
    finally:
        os.close(fd)
