"""Taking the place of the daemon that serves a mount: who that is, whether that may be, and how it is made to go.

All that can fail or takes long comes first, so that the mountpoint is without a daemon for a fraction of a second.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from jobfs import state
from jobfs.client import TYPE
from jobfs.mountinfo import mounts
from jobfs.state import DATABASE, Serving, StateUnusable
from jobfs.store import SCHEMA
from mount import mountpoint
from mount.mountpoint import MountpointUnusable

_DEVICE = "/dev/fuse"
# Seconds that a daemon has to end by itself. Its last answers take two at most; one that hangs never ends.
_PATIENCE = 10.0
_KILLED = 60.0  # seconds until a killed process has gone, which is soon, but for one that waits for a bad disk


def predecessor(point: Path, chosen: Path) -> Serving | None:
    """The daemon that serves the state `chosen` at `point`, or did until its mount was taken away; None else."""
    served = state.serving(chosen)
    if served is None or not served.alive or not _in_our_namespace(served.pid):
        return None
    mount = mountpoint.mount_at(point)
    if mount is not None and mount.type == TYPE and served.mountpoint == str(point):
        return served if _same(mountpoint.state_of(mount), chosen) else None
    return None if is_mounted(served, chosen) else served


def check(old: Serving, chosen: Path) -> None:
    """Looks at all that may keep a new daemon from serving; a sentence is raised, and the `old` one is left alone."""
    if old.unit is not None:
        msg = f"process {old.pid}, which serves {old.mountpoint}, is run by systemd: `systemctl restart {old.unit}`"
        raise MountpointUnusable(msg)
    if old.foreground:
        msg = f"process {old.pid}, which serves {old.mountpoint}, runs in somebody's foreground: end it, then mount"
        raise MountpointUnusable(msg)
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        msg = f"you need to be allowed to read and write {_DEVICE}"
        raise MountpointUnusable(msg)
    if shutil.which("fusermount3") is None:
        msg = "fusermount3 is not installed (package fuse3)"
        raise MountpointUnusable(msg)
    state.check(chosen)
    _check_schema(chosen / DATABASE)


def end(old: Serving) -> bool:
    """Makes the `old` daemon end, and waits until it has; gives whether it ended by itself, or had to be killed."""
    process = old.open()
    if process is None:
        return True
    try:
        # SIGCONT too: one that was stopped hears nothing else.
        for number in (signal.SIGTERM, signal.SIGCONT):
            _send(process, number)
        if select.select([process], [], [], _PATIENCE)[0]:
            return True
        _send(process, signal.SIGKILL)
        if select.select([process], [], [], _KILLED)[0]:
            return False
    finally:
        os.close(process)
    msg = f"process {old.pid}, which serves {old.mountpoint}, does not end, though it was killed"
    raise StateUnusable(msg)


def _check_schema(database: Path) -> None:
    """StateUnusable where a newer version of jobfs has made the state its own."""
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(database))}?mode=ro", uri=True)) as opened:
            (version,) = opened.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        msg = f"{database}: {error}"
        raise StateUnusable(msg) from error
    if version > SCHEMA:
        msg = f"{database}: the state is from a newer jobfs (schema {version}, this one knows {SCHEMA})"
        raise StateUnusable(msg)


def _send(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


def is_mounted(served: Serving, chosen: Path) -> bool:
    """Whether a daemon has its mount still, wherever that is."""
    return any(
        mount.type == TYPE and str(mount.point) == served.mountpoint and _same(mountpoint.state_of(mount), chosen)
        for mount in mounts()
    )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other


def _in_our_namespace(pid: int) -> bool:
    """Whether a process sees the same mounts as we do; one in a container may serve there what we do not see."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), os.stat("/proc/self/ns/mnt"))
    except OSError:
        return False
