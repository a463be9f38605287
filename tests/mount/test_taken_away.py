"""Mounts taken away from under a daemon: it ends, who waits is freed, jobs go on, and the next mount has them."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobfs.mountinfo import mounts
from tests.mounted import Mounted, frozen, is_running, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.mount

CONNECTIONS = Path("/sys/fs/fuse/connections")
LINES = 200_000  # that a job writes while daemons come and go
BLOCKED = ("wait", "follow")


def unmount(jobs: Mounted) -> None:
    """As anyone who may; again where it is busy, because watchers are being told."""
    until(lambda: subprocess.run(["fusermount3", "-u", str(jobs.path)], check=False).returncode == 0)


def unmount_lazily(jobs: Mounted) -> None:
    """As anyone who may, with files open."""
    subprocess.run(["fusermount3", "-uz", str(jobs.path)], check=True)


def umount_l(jobs: Mounted) -> None:
    """As root, with files open."""
    subprocess.run(["umount", "-l", str(jobs.path)], check=True)


def abort(jobs: Mounted) -> None:
    """Through the control file system of FUSE, mounted apart where it is not."""
    (device,) = (mount.device for mount in mounts() if mount.point == jobs.path)
    control = CONNECTIONS / device.partition(":")[2] / "abort"
    if control.exists():
        control.write_text("1")
    else:
        assert _with_control_files(f"echo 1 > {control}")


def _with_control_files(script: str) -> bool:
    """Whether a shell's script succeeds where the control files of FUSE are mounted."""
    mounting = f"mount -t fusectl none {CONNECTIONS} && {script}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounting]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def kill(jobs: Mounted) -> None:
    """The daemon is killed, and its mount stays, dead."""
    assert jobs.daemon is not None
    os.kill(jobs.daemon, signal.SIGKILL)


@pytest.fixture(autouse=True)
def permitted(request: pytest.FixtureRequest) -> None:
    """Skips, before anything waits in a mount, a way that is not open to this user here."""
    way = request.node.callspec.params.get("way") if hasattr(request.node, "callspec") else None
    if way is umount_l and os.geteuid() != 0:
        pytest.skip("umount takes root")
    if way is abort and not (CONNECTIONS.is_mount() or _with_control_files("true")):
        pytest.skip(f"{CONNECTIONS} is not mounted, and mounting it is not permitted")


WAYS = (unmount, unmount_lazily, umount_l, abort, kill)


@contextmanager
def held_open(path: Path) -> Iterator[None]:
    """A file that a process has open. Not this one: what it forks would close the file, and wait for the daemon."""
    command = ["sh", "-c", 'exec 3< "$1"; echo open; read go', "sh", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.communicate()


@pytest.mark.parametrize("way", WAYS)
def test_jobs_go_on_and_the_next_mount_shows_them(
    jobs: Mounted, tmp_path: Path, way: Callable[[Mounted], None]
) -> None:
    """Under load: the daemon ends, the jobs do not, and what they write and how they end is there afterwards."""
    gate = tmp_path / "gate"
    opened = f"while [ ! -e {gate} ]; do sleep 0.01; done"
    writer = jobs.spawn(f"seq {LINES}; exec sleep 1000")
    chatty = jobs.spawn("--limit 64K while :; do echo chatter; done")
    late = [jobs.spawn(f"{opened}; echo late; exit {status}") for status in (0, 3)]
    by_signal = jobs.spawn(f"{opened}; kill -USR1 $$")
    pids = [jobs.info(job)["pid"] for job in (writer, chatty)]
    jobs.until_output(writer, b"1\n")
    daemon = jobs.daemon
    assert daemon is not None
    way(jobs)
    until(lambda: not is_running(daemon))
    gate.touch()
    jobs.mount()
    jobs.note_processes()
    assert 1 == sum(mount.point == jobs.path for mount in mounts())
    assert ["done:0", "failed:3", "killed:10"] == [jobs.until_ended(job) for job in (*late, by_signal)]
    assert [b"late\n"] * 2 == [jobs.read(job) for job in late]
    assert [("running", pid) for pid in pids] == [(jobs.status(job), jobs.info(job)["pid"]) for job in (writer, chatty)]
    expected = b"".join(b"%d\n" % number for number in range(1, LINES + 1))
    assert expected == jobs.until_output(writer, b"%d\n" % LINES)
    assert {b"chatter"} == set(jobs.read(chatty).splitlines())
    assert by_signal + 1 == jobs.spawn("true")


@pytest.mark.parametrize("way", [unmount_lazily, umount_l, abort, kill])
def test_who_waits_is_freed_and_open_files_keep_nothing(jobs: Mounted, way: Callable[[Mounted], None]) -> None:
    """Blocked readers get an error and end; an open file and a working directory in it do not keep the daemon."""
    job = jobs.spawn("echo here; exec sleep 1000")
    jobs.until_output(job, b"here\n")
    daemon = jobs.daemon
    assert daemon is not None
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                subprocess.Popen(
                    ["cat", jobs.file(name, job)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=jobs.path
                )
            )
            for name in BLOCKED
        ]
        holder = stack.enter_context(
            subprocess.Popen(["sh", "-c", 'exec 3< "$1"; cat', "sh", jobs.file("stdout", job)], stdin=subprocess.PIPE)
        )
        for reader in readers:
            until(Path(f"/proc/{reader.pid}/wchan").read_text, lambda place: place == "request_wait_answer")
        way(jobs)
        until(lambda: not is_running(daemon))
        assert [1, 1] == [reader.wait() for reader in readers]
        said = [reader.stderr.read() for reader in readers if reader.stderr is not None]
        assert [] == [
            complaint for complaint in said if b"not connected" not in complaint and b"abort" not in complaint
        ]
        jobs.mount()
        assert "running" == jobs.status(job)
        holder.communicate()


@pytest.mark.parametrize("way", [unmount_lazily, umount_l, abort])
def test_the_mountpoint_goes_too(jobs: Mounted, way: Callable[[Mounted], None]) -> None:
    """A daemon that ends leaves neither a mount nor the directory that it made, however the mount was taken away."""
    daemon = jobs.daemon
    assert daemon is not None
    with held_open(jobs.file("ctl")):
        way(jobs)
        until(lambda: not is_running(daemon))
    assert (False, False) == (jobs.is_mounted, os.path.lexists(jobs.path))
    assert "Traceback" not in jobs.log()


def test_another_mount_at_the_same_place_is_left_alone(jobs: Mounted) -> None:
    """A daemon whose mount was taken away does not take away what was mounted there since, by another one."""
    other = Mounted()
    other.path = jobs.path
    try:
        daemon = jobs.daemon
        assert daemon is not None
        with held_open(jobs.file("ctl")):
            with frozen(daemon):
                unmount_lazily(jobs)
                other.mount()
            until(lambda: not is_running(daemon))
        assert other.is_mounted
        assert 1 == other.spawn("true")
    finally:
        other.finish()
