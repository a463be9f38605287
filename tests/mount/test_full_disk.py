"""The state on a disk that is full: jobs wait, everything else goes on, and nothing is lost once there is room."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, is_running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount

SMALL = "4M"
FULL = "No space left on device"
# Writes more than there is room for, numbered, and then ends.
FLOOD = "seq 1000000; exit 5"
FLOODED = b"".join(b"%d\n" % number for number in range(1, 1_000_001))


class Small(Mounted):
    """A mount with its state on a small disk of its own. `filling` is the file that fills it."""

    @property
    def filling(self) -> Path:
        """A file of nothing."""
        return self.state / "filling"

    def fill(self) -> None:
        """Takes every block that is left."""
        with (
            Path("/dev/zero").open("rb") as zero,
            self.filling.open("ab", buffering=0) as file,
            pytest.raises(OSError, match=FULL),
        ):
            shutil.copyfileobj(zero, file, 4096)

    def make_room(self) -> None:
        """Gives it all back, and more than there was: enough for `FLOOD`."""
        self.filling.unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=40M", str(self.state)], check=True)

    def problem(self, job: int) -> str:
        """What `info` says is wrong with the job's stdout."""
        stream = self.info(job)["stdout"]
        assert isinstance(stream, dict)
        return stream["problem"] or ""

    def check(self) -> None:
        """The database is sound."""
        with closing(sqlite3.connect(self.state / "jobs.sqlite")) as database:
            assert ("ok",) == database.execute("PRAGMA integrity_check").fetchone()


@pytest.fixture
def small() -> Iterator[Small]:
    """A mount on a disk of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    mounted = Small()
    mounted.state.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL},mode=700", "jobfs-test", str(mounted.state)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        mounted.finish()
        pytest.skip("mounting is not permitted here")
    try:
        mounted.mount()
        yield mounted
    finally:
        finish(mounted)


def finish(mounted: Small) -> None:
    """Ends what runs there, which takes room, then takes the disk away, then asserts that nothing is left."""
    try:
        mounted.make_room()
        if mounted.is_mounted:
            mounted.umount("--end-jobs")
        until(mounted.left_running, lambda left: not left)
    finally:
        subprocess.run(["umount", "-l", str(mounted.state)], check=True)
        mounted.finish()


def kill_daemon(jobs: Mounted) -> None:
    """Ends the process that serves the mount, as a crash does."""
    jobs.note_processes()
    daemon = jobs.daemon
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    until(lambda: not is_running(daemon))


def test_jobs_wait_and_everything_else_goes_on(small: Small) -> None:
    """Jobs that write wait, as `info` says; table, kill and rm work, a spawn is ENOSPC or works; nothing is lost."""
    over, quiet = small.run("echo over; exit 3"), small.spawn("exec sleep 1000")
    flood = small.spawn(FLOOD)
    until(lambda: small.problem(flood), lambda said: said == f"cannot be written: {FULL}: the job waits when it writes")
    assert ("running", None) == (small.status(flood), small.info(flood)["reason"])
    small.fill()
    replies = [small.ask("spawn exit 4") for _ in range(5)]
    refused = "error: the disk that holds the state is full"
    assert [] == [reply for reply in replies if not reply.isdigit() and reply != refused]
    assert refused in replies
    small.ctl(f"kill {quiet}")
    assert "killed:15" == small.until_ended(quiet)
    assert (b"over\n", "failed:3") == (small.read(over), small.status(over))
    small.ctl(f"rm {over}")
    assert not small.file("status", over).exists()
    assert [f"{quiet}", "killed:15"] == small.file("table").read_text().splitlines()[1].split()[:2]
    small.make_room()
    assert "failed:5" == small.until_closed(flood)
    assert (FLOODED, "", "killed:15") == (small.read(flood), small.problem(flood), small.status(quiet))
    assert [("failed:4", b"")] * sum(map(str.isdigit, replies)) == [
        (small.until_ended(int(reply)), small.read(int(reply))) for reply in replies if reply.isdigit()
    ]
    small.check()
    assert "Traceback" not in small.log()


def test_a_daemon_that_is_killed_on_a_full_disk_can_be_mounted_again(small: Small) -> None:
    """The next mount works while the disk is full, knows who waits, and what ended meanwhile has its right status."""
    quiet = [small.spawn("exec sleep 1000") for _ in range(3)]
    flood = small.spawn(FLOOD)
    until(lambda: small.problem(flood))
    small.fill()
    for job in quiet[:2]:
        small.ctl(f"kill {job}")
    assert "killed:15" == small.until_ended(quiet[0])
    for _ in range(2):
        kill_daemon(small)
        small.mount()
        assert ["killed:15", "killed:15", "running"] == [small.until(job, str) for job in quiet]
        assert f"cannot be written: {FULL}: the job waits when it writes" == small.problem(flood)
    small.ctl(f"kill -9 {flood}")
    ended = f"cannot be written: {FULL}: its process has ended, and how is told when the last of its output is kept"
    until(lambda: small.problem(flood), lambda said: said == ended)
    assert "running" == small.status(flood)
    assert f"error: job {flood} has ended" == small.ask(f"kill -9 {flood}")
    kill_daemon(small)
    small.mount()
    assert ("running", ended) == (small.status(flood), small.problem(flood))
    small.umount()  # in order, which leaves no file for the next one to write over
    small.mount()
    small.make_room()
    assert "killed:9" == small.until_closed(flood)
    output = small.read(flood)
    assert FLOODED.startswith(output)
    assert len(output) > 1 << 20
    small.ctl(f"kill {quiet[2]}")
    small.until_ended(quiet[2])
    kill_daemon(small)
    small.check()
    small.mount()
    assert ["killed:9", *["killed:15"] * 3] == [small.status(job) for job in (flood, *quiet)]
    small.check()
    assert "Traceback" not in small.log()
