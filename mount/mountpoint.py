"""The directory that the tree is mounted on: choosing, making, cleaning and unmounting it.

What is mounted where is read from /proc/self/mountinfo: looking at a path whose daemon hangs would hang too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import signal
import stat
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from jobfs.client import FALLBACK, PREFERRED, TYPE
from jobfs.mountinfo import Mount, mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER = 5.0  # seconds that a mount has to answer; one that is busy takes milliseconds
_CLAIM_PATIENCE = 30.0  # seconds that another `jobfs mount` or `umount` at the same place is waited for
_LOOK_AGAIN = 0.02  # seconds
# A directory that is made for a mount has another one of this name in it, beneath the mount. So `> ctl` in the moments
# in which nothing is mounted there is an error, and does not make a file that nobody ever reads.
_GUARD = "ctl"
_LINKS = 40  # one after the other that are followed, as the kernel does (path_resolution(7))


class MountpointUnusable(Exception):  # noqa: N818 - the message is the sentence that a person reads
    """Nothing can be mounted there, or nothing is; and why."""


def source(state: Path) -> str:
    """What stands in the mount table for `state`: ASCII, without the comma that ends a mount option."""
    return quote(os.fsencode(state))


def state_of(mount: Mount) -> Path:
    """The state directory that a mount of jobfs shows."""
    return Path(os.fsdecode(unquote_to_bytes(mount.source)))


def mount_at(point: Path, opened: int | None = None) -> Mount | None:
    """What is mounted at `point`, on top; `opened` as `mounts` has it."""
    return next((mount for mount in reversed(mounts(opened)) if mount.point == point), None)


def normal(path: Path) -> Path:
    """An absolute path without links in what leads to it, as the mount table has it.

    Its last part is only asked whether it is a link, which no mount is: it may be a dead one.
    """
    point = path
    for _ in range(_LINKS):
        absolute = Path(os.path.abspath(point))
        point = absolute.parent.resolve() / absolute.name
        try:
            point = point.parent / os.readlink(point)
        except OSError:
            break
    return point


def default_mountpoint() -> Path:
    """`/v/jobs`, or for a user who cannot have that a place of their own."""
    existing = next((parent for parent in (PREFERRED, *PREFERRED.parents) if os.path.lexists(parent)), Path("/"))
    mount = mount_at(PREFERRED)
    if mount is None and os.access(existing, os.W_OK) and (existing != PREFERRED or _is_empty(PREFERRED)):
        return PREFERRED
    if mount is not None and mount.type == TYPE and os.geteuid() == 0:
        return PREFERRED
    return Path.home() / FALLBACK


class Claim:
    """The right to mount and unmount at one place, which one process has at a time, until it ends or lets it go."""

    def __init__(self, directory: int, made: list[str]) -> None:
        self.made = made  # directories that were made so that the claim could be had, the innermost first
        self._directory: int | None = directory

    def release(self) -> None:
        """Lets it go, also for processes that were forked meanwhile."""
        if self._directory is not None:
            fcntl.flock(self._directory, fcntl.LOCK_UN)
            os.close(self._directory)
            self._directory = None


@contextmanager
def claimed(point: Path) -> Iterator[Claim]:
    """Claims `point`; MountpointUnusable where somebody else keeps it. What was made for it goes where the body fails.

    What is locked is the directory above it: the one that is mounted on cannot be reached while a dead mount is there.
    """
    made: list[str] = []
    try:
        claim = Claim(_wait_for_lock(point, made), made)
        try:
            yield claim
        finally:
            claim.release()
    except BaseException:
        remove(made)
        raise


def _wait_for_lock(point: Path, made: list[str]) -> int:
    deadline = time.monotonic() + _CLAIM_PATIENCE
    while (directory := _lock_above(point, made)) is None:
        if time.monotonic() > deadline:
            msg = f"another jobfs is busy mounting or unmounting at {point}: try again"
            raise MountpointUnusable(msg)
        time.sleep(_LOOK_AGAIN)
    return directory


def _lock_above(point: Path, made: list[str]) -> int | None:
    """The directory above `point`, locked, or None where it cannot be yet; what had to be made goes into `made`."""
    made[:0] = _make(point.parent)
    for parent in point.parents:
        with suppress(OSError):  # one that we may not read, or where there are no such locks: the next one above it
            directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(directory), os.stat(parent)):  # it may have been made anew meanwhile
                    return directory
            except BlockingIOError:
                os.close(directory)
                return None
            except OSError:
                os.close(directory)
                raise
            os.close(directory)
            return None
    msg = f"no directory above {point} can be locked"
    raise MountpointUnusable(msg)


def prepare(point: Path, *, mounted_before: bool = False) -> list[str]:
    """Makes `point` ready to be mounted on; gives the directories that were made for it, the innermost first.

    A mount that a killed daemon left is cleaned away. MountpointUnusable where something is in the way; files are not,
    where another daemon had it `mounted_before`: they were put there in the moment in which nothing was mounted.
    """
    mount = mount_at(point)
    if mount is not None and mount.type == TYPE and _is_stale(point):
        unmount(point, lazy=True)
        mount = mount_at(point)
    if mount is not None and mount.type == TYPE:
        msg = f"jobfs is mounted at {point} already"
        raise MountpointUnusable(msg)
    made = _make(point, guarded=True)
    if not _is_empty(point) and not mounted_before:
        msg = f"{point} is not empty: choose another directory"
        raise MountpointUnusable(msg)
    return made


def answers(point: Path) -> int | None:
    """The errno with which a mount answers, 0 for none; None where it does not answer, because its daemon hangs.

    Asked by a process of its own: who asks a daemon that hangs would hang too, and could not even be killed.
    """
    child = os.fork()
    if not child:
        try:
            os.stat(point)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or errno.EIO)
        finally:
            os._exit(errno.EIO)
    asking = os.pidfd_open(child)
    try:
        if not select.select([asking], [], [], _ANSWER)[0]:
            os.kill(child, signal.SIGKILL)  # heard at once, or when the daemon has gone
            return None
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(asking)


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
    """Removes the directories that `prepare` made, as far as there is nothing of others in them."""
    for directory in map(Path, made):
        try:
            if mount_at(directory) is not None:  # somebody else's by now, and perhaps one that does not answer
                return
            if os.listdir(directory) == [_GUARD]:
                _remove_guarded(directory)
            else:
                directory.rmdir()
        except OSError:
            return


def _remove_guarded(directory: Path) -> None:
    """Moved out of the way first: without the guard, it must not be there."""
    hidden = _hidden(directory)
    directory.rename(hidden)
    try:
        (hidden / _GUARD).rmdir()
        hidden.rmdir()
    except OSError:  # something was put there in this very moment
        hidden.rename(directory)
        raise


def _make(point: Path, *, guarded: bool = False) -> list[str]:
    missing = [parent for parent in (point, *point.parents) if not os.path.lexists(parent)]
    made: list[str] = []
    for directory in reversed(missing):
        try:
            if guarded and directory == point:
                _make_guarded(directory)
            else:
                directory.mkdir(mode=0o755)
        except OSError as error:
            remove(made)
            msg = f"{directory} cannot be made: {error.strerror}"
            raise MountpointUnusable(msg) from error
        made.insert(0, str(directory))
    return made


def _make_guarded(directory: Path) -> None:
    hidden = _hidden(directory)
    hidden.mkdir(mode=0o755)
    (hidden / _GUARD).mkdir(mode=0o755)
    hidden.rename(directory)


def _hidden(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.{os.getpid()}")


def _is_empty(point: Path) -> bool:
    try:
        names = os.listdir(point)
        return not names or (names == [_GUARD] and (point / _GUARD).is_dir() and not os.listdir(point / _GUARD))
    except OSError as error:
        msg = f"{point} cannot be used: {error.strerror}"
        raise MountpointUnusable(msg) from error


def beneath(directory: int) -> list[str]:
    """What was put into a directory, given by its descriptor, before it was mounted on: nobody sees it now."""
    return [name for name in os.listdir(directory) if name != _GUARD or not _is_directory(directory, name)]


def _is_directory(directory: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _is_stale(point: Path) -> bool:
    """Whether the daemon behind a mount has gone: the kernel then answers ENOTCONN."""
    answer = answers(point)
    if answer is None:
        msg = f"jobfs is mounted at {point} already, but does not answer: `jobfs upgrade {point}` replaces its daemon"
        raise MountpointUnusable(msg)
    return answer == errno.ENOTCONN
