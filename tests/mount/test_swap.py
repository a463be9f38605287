"""How a daemon takes the place of another one, and what the jobs and those who use the mount notice of it."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobfs import __version__
from jobfs.state import serving
from tests.mounted import JOBFS, Mounted, frozen, is_running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount


@pytest.fixture
def absent() -> Iterator[Mounted]:
    """A place for a mount, where nothing is mounted yet."""
    mounted = Mounted()
    try:
        yield mounted
    finally:
        mounted.finish()


def upgrade(jobs: Mounted, *options: str) -> str:
    """Runs `jobfs upgrade` and gives what it says; another daemon serves the mount then, and the old one has gone."""
    old = jobs.daemon
    assert old is not None
    jobs.note_processes()
    said = jobs.jobfs("upgrade", *options, str(jobs.path)).stdout
    jobs.note_processes()
    assert (False, True) == (is_running(old), jobs.daemon != old)
    return said


def say(jobs: Mounted, **changes: object) -> None:
    """Has the daemon of a mount say something else of itself; None: nothing."""
    path = jobs.state / "daemon.json"
    said = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def refused(jobs: Mounted, *words: str) -> str:
    """The one sentence of a command that is refused and leaves the daemon as it was."""
    daemon = jobs.daemon
    done = jobs.jobfs(*words, str(jobs.path), check=False)
    assert (1, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert daemon is not None
    assert (daemon, True) == (jobs.daemon, is_running(daemon))
    return done.stderr.removeprefix("jobfs: ").removesuffix("\n")


# What survives


def test_jobs_notice_nothing(jobs: Mounted) -> None:
    """Ended jobs and running ones, names, `last`, output and the ids to come are after an upgrade as before."""
    ended = jobs.run("--name report echo out; echo err >&2; exit 3")
    writer = jobs.spawn("--name writer seq 300000; exec sleep 1000")
    names = sorted(os.listdir(jobs.path))
    before = [jobs.read(ended, name) for name in ("info", "stdout", "stderr")], jobs.info(writer)["pid"]
    said = upgrade(jobs)
    assert f"jobs are at {jobs.path}; process " in said
    assert f"of jobfs {__version__} was replaced\n" in said
    assert before == ([jobs.read(ended, name) for name in ("info", "stdout", "stderr")], jobs.info(writer)["pid"])
    assert names == sorted(os.listdir(jobs.path))
    assert [str(ended), str(writer)] == [os.readlink(jobs.path / name) for name in ("report", "writer")]
    output = b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert output == jobs.until_output(writer, b"300000\n")
    assert writer + 1 == jobs.spawn("true")


def test_a_lease_survives(jobs: Mounted) -> None:
    """A lease that was taken before an upgrade is kept after it: the job ends with the process that took it."""
    script = 'exec 3<> "$1"; echo "spawn --lease exec sleep 1000" >&3; read job <&3; echo $job; read go'
    command = ["bash", "-c", script, "sh", str(jobs.path / "ctl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        job = int(holder.stdout.readline())
        upgrade(jobs)
        assert "running" == jobs.status(job)
        holder.communicate(b"go\n")
    assert "killed:15" == jobs.until_ended(job)


def test_a_lease_of_a_stdin_and_a_timeout_survive_two_upgrades(jobs: Mounted) -> None:
    """What is written to `stdin` after two upgrades arrives, and a timeout set before them passes."""
    reader = jobs.spawn("--stdin pipe cat")
    jobs.file("stdin", reader).write_text("one\n")
    timed = jobs.spawn("--timeout 2s exec sleep 1000")
    for _ in range(2):
        upgrade(jobs)
    jobs.file("stdin", reader).write_text("two\n")
    jobs.ctl(f"eof {reader}")
    assert ("done:0", b"one\ntwo\n") == (jobs.until_closed(reader), jobs.read(reader))
    assert "killed:15" == jobs.until_ended(timed)


def test_how_much_is_kept_survives(absent: Mounted) -> None:
    """The new daemon keeps as much as the old one, or as is said."""
    absent.mount("--keep", "7", "--keep-bytes", "3M")
    upgrade(absent)
    who = serving(absent.state)
    assert who is not None
    assert (7, 3 << 20, False, __version__) == (who.keep, who.keep_bytes, who.foreground, who.version)
    upgrade(absent, "--keep", "2")
    who = serving(absent.state)
    assert who is not None
    assert (2, 3 << 20) == (who.keep, who.keep_bytes)
    jobs = [absent.run("true") for _ in range(4)]
    until(lambda: [job for job in jobs if absent.file("", job).exists()], lambda left: left == jobs[2:])


# Those who use the mount


def test_who_waits_or_has_a_file_open_gets_enotconn(jobs: Mounted) -> None:
    """Open files and working directories of the old daemon's mount answer ENOTCONN; blocked readers are freed."""
    job = jobs.spawn("echo here; exec sleep 1000")
    jobs.until_output(job, b"here\n")
    waiting = [
        subprocess.Popen(["cat", jobs.file(name, job)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for name in ("wait", "follow")
    ]
    shell = subprocess.Popen(["bash"], cwd=jobs.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    fd = os.open(jobs.file("stdout", job), os.O_RDONLY)
    try:
        for reader in waiting:
            until(Path(f"/proc/{reader.pid}/wchan").read_text, lambda place: place == "request_wait_answer")
        upgrade(jobs)
        with pytest.raises(OSError, match="not connected") as met:
            os.read(fd, 10)
        assert errno.ENOTCONN == met.value.errno
        assert [(1, True), (1, True)] == [(r.wait(), b"not connected" in r.communicate()[1]) for r in waiting]
        assert ("here\n", None) == (shell.communicate(f"cd {jobs.path} && cat {job}/stdout\n")[0], None)
    finally:
        with suppress(OSError):
            os.close(fd)
        shell.kill()
        shell.wait()


def test_a_writer_of_commands_goes_on_after_errors(absent: Mounted) -> None:
    """Each command written meanwhile either fails, or has happened once: none is lost or done twice."""
    jobs = absent
    jobs.mount("--keep", "100000")
    script = 'n=0; while [ ! -e "$2" ]; do n=$((n+1)); echo "spawn exec true $n" > "$1" && echo $n; done'
    stop = jobs.place / "stop"
    command = ["bash", "-c", script, "sh", str(jobs.path / "ctl"), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as writer:
        until(lambda: jobs.file("", 5).exists())
        for _ in range(3):
            upgrade(jobs)
        stop.touch()
        told = writer.communicate()[0].split()
    stop.unlink()
    commands = [json.loads(line)["cmd"] for line in jobs.file("table.jsonl").read_text().splitlines()]
    happened = [command.split()[-1] for command in commands]
    assert len(told) > 5
    assert len(happened) == len(set(happened))
    assert set(told) <= set(happened)
    # One may have happened whose writer did not hear of it, for each upgrade.
    assert len(set(happened) - set(told)) <= 3


# Who is replaced, and who is not


def test_mount_over_the_same_version_is_refused(jobs: Mounted) -> None:
    """`jobfs mount` where this version serves already says so, by whom, and what replaces it."""
    sentence = f"jobfs is mounted at {jobs.path} already, by process {jobs.daemon}"
    sentence += f": `jobfs upgrade {jobs.path}` replaces it"
    assert sentence == refused(jobs, "mount", "--state", str(jobs.state))


@pytest.mark.parametrize("named", [True, False])
def test_mount_over_another_version_replaces_it(absent: Mounted, *, named: bool) -> None:
    """`jobfs mount` where another version serves takes its place, with the state and bounds that it had."""
    absent.mount("--keep", "7")
    job, old = absent.spawn("exec sleep 1000"), absent.daemon
    say(absent, version="0.0.1")
    options = ["--state", str(absent.state)] if named else []
    said = absent.jobfs("mount", *options, str(absent.path)).stdout
    absent.note_processes()
    assert f"jobs are at {absent.path}; process {old} of jobfs 0.0.1 was replaced\n" == said
    who = serving(absent.state)
    assert who is not None
    assert (7, __version__, "running") == (who.keep, who.version, absent.status(job))


def test_one_that_says_little_of_itself_is_replaced(absent: Mounted) -> None:
    """A daemon whose version did not tell how much it keeps keeps as much afterwards: its command line tells."""
    absent.mount("--keep", "7", "--keep-bytes=5M")
    unsaid = dict.fromkeys(("born", "version", "keep", "keep_bytes", "foreground", "unit"))
    say(absent, **unsaid)
    assert "(unknown version)" in upgrade(absent)
    who = serving(absent.state)
    assert who is not None
    assert (7, 5 << 20) == (who.keep, who.keep_bytes)


def test_mount_with_replace_replaces_the_same_version(jobs: Mounted) -> None:
    """`jobfs mount --replace` takes the place of a daemon of the same version, too."""
    old = jobs.daemon
    said = jobs.mount("--replace")
    assert f"jobs are at {jobs.path}; process {old} of jobfs {__version__} was replaced\n" == said


def test_one_in_the_foreground_is_left_alone(absent: Mounted) -> None:
    """A daemon in somebody's foreground is not replaced; the sentence says where it is."""
    command = [JOBFS, "mount", "--foreground", "--state", str(absent.state), str(absent.path)]
    with subprocess.Popen(command, env=absent.environment, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        sentence = f"process {daemon.pid}, which serves {absent.path}, runs in somebody's foreground"
        assert refused(absent, "upgrade").startswith(sentence)
        say(absent, **dict.fromkeys(("version", "foreground")))  # as an older version would be
        assert refused(absent, "upgrade").startswith(sentence)
        daemon.send_signal(signal.SIGTERM)
        assert 0 == daemon.wait()


def test_a_service_is_left_to_its_manager(jobs: Mounted) -> None:
    """A daemon that systemd runs is not replaced; the sentence says how it is."""
    say(jobs, unit="--user jobfs.service")
    assert refused(jobs, "upgrade").endswith("is run by systemd: `systemctl restart --user jobfs.service`")


def test_a_newer_state_is_left_to_its_daemon(jobs: Mounted) -> None:
    """Where this version could not serve the state, the daemon that does is left alone."""
    with closing(sqlite3.connect(jobs.state / "jobs.sqlite")) as database:
        database.execute("PRAGMA user_version=99")
    assert "the state is from a newer jobfs (schema 99" in refused(jobs, "upgrade")
    assert "done:0" == jobs.until_ended(jobs.spawn("true"))


def test_upgrade_where_nothing_is_mounted_is_refused(absent: Mounted) -> None:
    """`upgrade` of a directory that is no mount of jobfs says so, and makes nothing."""
    done = absent.jobfs("upgrade", str(absent.path), check=False)
    assert (1, f"jobfs: jobfs is not mounted at {absent.path}\n") == (done.returncode, done.stderr)
    assert not absent.path.exists()


# Daemons in a bad state


def test_a_stopped_daemon_is_replaced(jobs: Mounted) -> None:
    """A daemon that was stopped by a signal is no obstacle for `upgrade`."""
    job, old = jobs.spawn("exec sleep 1000"), jobs.daemon
    assert old is not None
    os.kill(old, signal.SIGSTOP)
    upgrade(jobs)
    assert "running" == jobs.status(job)


def test_commands_do_not_hang_where_the_daemon_does(jobs: Mounted) -> None:
    """`mount` and `umount` of a mount that does not answer say so, and what to do."""
    with frozen(jobs.daemon):
        for words in (["mount", "--state", str(jobs.state)], ["umount"]):
            sentence = refused(jobs, *words)
            assert "does not answer" in sentence
            assert f"`jobfs upgrade {jobs.path}` replaces it" in sentence


def test_a_killed_daemon_is_replaced_by_upgrade(absent: Mounted) -> None:
    """`upgrade` of a mount whose daemon was killed mounts again, and keeps as much as that did."""
    absent.mount("--keep", "7")
    job, old = absent.spawn("exec sleep 1000"), absent.daemon
    assert old is not None
    os.kill(old, signal.SIGKILL)
    upgrade(absent)
    who = serving(absent.state)
    assert who is not None
    assert (7, "running") == (who.keep, absent.status(job))
