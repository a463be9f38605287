"""The directory that the tree is mounted on: choosing, making, cleaning and unmounting it.

What is mounted where is read from /proc/self/mountinfo: looking at a path whose daemon hangs would hang too.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from jobfs.client import FALLBACK, PREFERRED, TYPE
from jobfs.mountinfo import Mount, mounts


class MountpointUnusable(Exception):  # noqa: N818 - the message is the sentence that a person reads
    """Nothing can be mounted there, or nothing is; and why."""


def source(state: Path) -> str:
    """What stands in the mount table for `state`: ASCII, without the comma that ends a mount option."""
    return quote(os.fsencode(state))


def state_of(mount: Mount) -> Path:
    """The state directory that a mount of jobfs shows."""
    return Path(os.fsdecode(unquote_to_bytes(mount.source)))


def mount_at(point: Path) -> Mount | None:
    """What is mounted at `point`, on top."""
    return next((mount for mount in reversed(mounts()) if mount.point == point), None)


def default_mountpoint() -> Path:
    """`/v/jobs`, or for a user who cannot have that a place of their own."""
    existing = next((parent for parent in (PREFERRED, *PREFERRED.parents) if os.path.lexists(parent)), Path("/"))
    mount = mount_at(PREFERRED)
    if mount is None and os.access(existing, os.W_OK) and (existing != PREFERRED or _is_empty(PREFERRED)):
        return PREFERRED
    if mount is not None and mount.type == TYPE and os.geteuid() == 0:
        return PREFERRED
    return Path.home() / FALLBACK


def prepare(point: Path) -> list[str]:
    """Makes `point` ready to be mounted on; gives the directories that were made for it, the innermost first.

    A mount that a killed daemon left is cleaned away. MountpointUnusable where something is in the way.
    """
    mount = mount_at(point)
    if mount is not None and mount.type == TYPE and _is_stale(point):
        unmount(point, lazy=True)
        mount = mount_at(point)
    if mount is not None and mount.type == TYPE:
        msg = f"jobfs is mounted at {point} already"
        raise MountpointUnusable(msg)
    made = _make(point)
    if not _is_empty(point):
        msg = f"{point} is not empty: choose another directory"
        raise MountpointUnusable(msg)
    return made


def unmount(point: Path, *, lazy: bool = False) -> None:
    """Takes the mount at `point` away; MountpointUnusable where that fails, because it is in use for one."""
    fusermount = shutil.which("fusermount3")
    if fusermount is None:
        msg = "fusermount3 is not installed (package fuse3)"
        raise MountpointUnusable(msg)
    command = [fusermount, "-u", *(["-z"] if lazy else []), "--", str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = done.stderr.strip().removeprefix(f"{fusermount}: ") or f"cannot unmount {point}"
        if os.strerror(errno.EBUSY) in why:
            why += f" (somebody has a file open there, or stands in it: `fuser -vm {point}` tells who)"
        raise MountpointUnusable(why)


def remove(made: list[str]) -> None:
    """Removes the directories that `prepare` made, as far as they are empty."""
    for directory in made:
        try:
            Path(directory).rmdir()
        except OSError:
            return


def _make(point: Path) -> list[str]:
    missing = [parent for parent in (point, *point.parents) if not os.path.lexists(parent)]
    made: list[str] = []
    for directory in reversed(missing):
        try:
            directory.mkdir(mode=0o755)
        except OSError as error:
            remove(made)
            msg = f"{directory} cannot be made: {error.strerror}"
            raise MountpointUnusable(msg) from error
        made.insert(0, str(directory))
    return made


def _is_empty(point: Path) -> bool:
    try:
        with os.scandir(point) as entries:
            return next(entries, None) is None
    except OSError as error:
        msg = f"{point} cannot be used: {error.strerror}"
        raise MountpointUnusable(msg) from error


def _is_stale(point: Path) -> bool:
    """Whether the daemon behind a mount has gone: the kernel then answers ENOTCONN."""
    try:
        point.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False
