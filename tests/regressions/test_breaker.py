"""What an attack on the whole found: writers in strange places; a neighbour that locks; no descriptors."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.mounted import Mounted, frozen, is_running, until

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.mount


def test_directory_of_a_mount_taken_away_lazily_stops_nobody_else(jobs: Mounted, hanging: Mounted) -> None:
    """A job in a directory whose mount was taken away lazily, and hangs, stops no other job and no other command."""
    hanging.note_processes()
    daemon = hanging.daemon
    writer = subprocess.Popen(
        ["bash", "-c", "echo there; read go; /bin/echo spawn true > $J/ctl"],
        cwd=hanging.path,
        env={**os.environ, "J": str(jobs.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    assert b"there\n" == writer.stdout.readline()
    assert daemon is not None
    with writer, frozen(daemon):  # thawed first, then the writer is waited for
        subprocess.run(["fusermount3", "-uz", str(hanging.path)], check=True)  # while it hangs: else the daemon ends
        writer.stdin.write(b"go\n")
        writer.stdin.close()
        until(lambda: jobs.jobfs("ps").stdout, lambda table: "true" in table)
        other = jobs.run("echo hello")
        assert b"hello\n" == jobs.read(other)
        assert psutil.STATUS_STOPPED == psutil.Process(daemon).status()  # it was not thawed for our taking too long
    assert 0 == writer.returncode
    until(lambda: is_running(daemon), lambda runs: not runs)


def test_locked_database_holds_up_nobody(jobs: Mounted) -> None:
    """While another program has locked the state's database, files are read as before, and a spawn fails with EIO."""
    job = jobs.spawn("sleep 1000")
    with closing(sqlite3.connect(jobs.state / "jobs.sqlite", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        before = time.monotonic()
        assert "database is locked" in jobs.ask("spawn true")
        assert "running" == jobs.status(job)
        assert time.monotonic() - before < 3  # SQLite by itself waits 5 seconds for each statement
    assert jobs.ask("spawn true").isdigit()


def test_supervisor_is_replaced_once_there_are_descriptors(jobs: Mounted) -> None:
    """A daemon whose supervisor dies while it has no descriptor left lives on, and has a new one when it can."""
    daemon, supervisor = jobs.daemon, jobs.supervisor
    assert daemon is not None
    assert supervisor is not None
    limits = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir(f"/proc/{daemon}/fd")))
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, (min(used, 10), limits[1]))
    os.kill(supervisor, signal.SIGKILL)
    until(jobs.log, lambda log: "trying again" in log)
    assert psutil.pid_exists(daemon)
    resource.prlimit(daemon, resource.RLIMIT_NOFILE, limits)
    until(lambda: jobs.ask("spawn true"), str.isdigit)
    jobs.note_processes()


def test_empty_program_name_is_not_found(jobs: Mounted) -> None:
    """A job whose `argv[0]` is empty is refused with ENOENT, as one whose program is not found."""
    assert "No such file or directory" in jobs.ask('{"op": "spawn", "argv": [""]}')
    assert [] == [name for name in os.listdir(jobs.path) if name.isdigit()]
