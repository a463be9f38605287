"""How mounts come and go, and what becomes of the jobs meanwhile; the end of a daemon, of a supervisor, of a state."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobfs.state import MEMORY, state_path
from jobfs.store import SCHEMA
from jobfs.supervisor import ADDRESS, JOBS, RECORDS, job_file
from jobfs.supervisor.records import read_records
from tests.mounted import JOBFS, Mounted, is_running, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.mount

NUMBERS = 400_000  # lines of a numbered output that is being written while the daemon comes and goes


@pytest.fixture
def absent() -> Iterator[Mounted]:
    """A place for a mount, where nothing is mounted yet."""
    mounted = Mounted()
    try:
        yield mounted
    finally:
        mounted.finish()


def process_of(jobs: Mounted, job: int) -> int:
    """The number of a job's own process."""
    pid = jobs.info(job)["pid"]
    assert isinstance(pid, int)
    return pid


def kill_daemon(jobs: Mounted) -> None:
    """Ends the daemon as a crash does."""
    assert jobs.daemon is not None
    os.kill(jobs.daemon, signal.SIGKILL)
    daemon = jobs.daemon
    until(lambda: not is_running(daemon))


def leave(jobs: Mounted, how: str) -> None:
    """Lets the daemon go: `umount`, or `SIGKILL`."""
    if how == "umount":
        jobs.umount()
    else:
        kill_daemon(jobs)


def told(jobs: Mounted, job: int) -> dict[str, object]:
    """All that is told of a job that has ended."""
    files = {name: jobs.read(job, name) for name in ("cmd", "status", "stdout", "stderr", "env")}
    return {**files, "info": jobs.info(job), "modified": jobs.file("stdout", job).stat().st_mtime_ns}


def numbers() -> bytes:
    """The output of `seq NUMBERS`."""
    return b"".join(b"%d\n" % number for number in range(1, NUMBERS + 1))


def refused(jobs: Mounted, *options: str) -> str:
    """The one sentence, without its `jobfs: `, of a `jobfs mount` that is refused."""
    done = jobs.jobfs("mount", "--state", str(jobs.state), *options, str(jobs.path), check=False)
    assert (1, "") == (done.returncode, done.stdout)
    assert (1, "jobfs: ") == (done.stderr.count("\n"), done.stderr[:7])
    return done.stderr[7:-1]


# Unmounting and mounting again


@pytest.mark.parametrize(("number", "sentence"), [(0, "0 jobs go on"), (1, "1 job goes on"), (2, "2 jobs go on")])
def test_umount_says_how_many_jobs_go_on(jobs: Mounted, number: int, sentence: str) -> None:
    """`umount` leaves running jobs alone and says how many there are; ended ones do not count."""
    jobs.run("true")
    pids = [process_of(jobs, jobs.spawn("sleep 1000")) for _ in range(number)]
    assert f"{jobs.path} is unmounted; {sentence}\n" == jobs.umount()
    assert [True] * number == [is_running(pid) for pid in pids]
    jobs.mount()


@pytest.mark.parametrize("how", ["umount", "SIGKILL"])
def test_next_mount_shows_jobs_as_before(jobs: Mounted, how: str) -> None:
    """The next mount shows all as before, ended jobs and running ones, names and output; and ids go on."""
    ended = [jobs.run("--name report echo out; echo err >&2; exit 3"), jobs.run("kill -9 $$"), jobs.run("true")]
    jobs.ctl(f"rm {ended.pop()}")
    running = jobs.spawn("--name server echo ready; exec sleep 1000")
    jobs.until_output(running, b"ready\n")
    before = sorted(os.listdir(jobs.path)), [told(jobs, job) for job in ended], process_of(jobs, running)
    events = jobs.file("events").read_bytes()
    leave(jobs, how)
    jobs.mount()
    after = sorted(os.listdir(jobs.path)), [told(jobs, job) for job in ended], process_of(jobs, running)
    assert before == after
    assert ("running", b"ready\n") == (jobs.status(running), jobs.read(running))
    assert ["1", str(running)] == [os.readlink(jobs.path / name) for name in ("report", "server")]
    assert jobs.file("events").read_bytes().startswith(events)
    assert running + 1 == jobs.spawn("true")


@pytest.mark.parametrize("how", ["umount", "SIGKILL"])
def test_output_has_no_gap(jobs: Mounted, how: str) -> None:
    """Not a byte is lost, doubled or moved of what a job writes while the daemon comes and goes."""
    job = jobs.spawn(f"seq {NUMBERS}; echo $(seq {NUMBERS} | wc -l) >&2")
    jobs.until_output(job, b"1\n")
    for _ in range(2):
        leave(jobs, how)
        jobs.mount()
    assert "done:0" == jobs.until_closed(job)
    assert (numbers(), b"%d\n" % NUMBERS) == (jobs.read(job), jobs.read(job, "stderr"))


@pytest.mark.parametrize("how", ["umount", "SIGKILL"])
def test_ends_are_recorded_while_nobody_looks(jobs: Mounted, tmp_path: Path, how: str) -> None:
    """How a job ended while there was no daemon, also the last of all, is told by the next mount."""
    gates = [tmp_path / name for name in ("done", "failed", "killed")]
    for gate in gates:
        os.mkfifo(gate)
    ends = ("echo late", "exit 7", "kill -USR1 $$")
    ids = [jobs.spawn(f"read x < {gate}; {end}") for gate, end in zip(gates, ends, strict=True)]
    supervisor = jobs.supervisor
    assert supervisor is not None
    leave(jobs, how)
    for gate in gates:
        gate.write_text("go\n")
    until(lambda: not is_running(supervisor))  # nothing is left for it to do
    jobs.mount()
    assert ["done:0", "failed:7", f"killed:{signal.SIGUSR1.value}"] == [jobs.status(job) for job in ids]
    assert b"late\n" == jobs.read(ids[0])


@pytest.mark.parametrize("how", ["umount", "SIGKILL"])
def test_timeout_is_kept_while_the_daemon_is_dead(jobs: Mounted, how: str) -> None:
    """A timeout that passes while there is no daemon ends the job, and the next mount says why."""
    job = jobs.spawn("--timeout 1 sleep 1000")
    pid = process_of(jobs, job)
    leave(jobs, how)
    until(lambda: not is_running(pid))
    jobs.mount()
    assert f"killed:{signal.SIGTERM.value}" == jobs.until_ended(job)
    assert "timeout" in str(jobs.info(job)["reason"])


@pytest.mark.parametrize("how", ["umount", "SIGKILL"])
def test_grace_is_kept_while_the_daemon_is_dead(jobs: Mounted, how: str) -> None:
    """A grace period that passes while there is no daemon ends the job that would not go by itself."""
    job = jobs.spawn("--grace 1 trap '' TERM; echo ready; while :; do sleep 1000; done")
    jobs.until_output(job, b"ready\n")
    pid = process_of(jobs, job)
    jobs.ctl(f"kill {job}")
    leave(jobs, how)
    until(lambda: not is_running(pid))
    jobs.mount()
    assert f"killed:{signal.SIGKILL.value}" == jobs.until_ended(job)


def test_a_dead_mount_is_taken_away_by_umount(jobs: Mounted) -> None:
    """`umount` takes away what a killed daemon left, says that its jobs go on, and removes what it made."""
    job = jobs.spawn("sleep 1000")
    pid = process_of(jobs, job)
    kill_daemon(jobs)
    assert f"{jobs.path} is unmounted; its daemon was gone already, and its jobs go on\n" == jobs.umount()
    assert (False, True) == (jobs.path.exists(), is_running(pid))
    jobs.mount()
    assert "running" == jobs.status(job)


def test_end_jobs_leaves_nothing(absent: Mounted, tmp_path: Path) -> None:
    """`umount --end-jobs` ends every job and what jobs left behind, and leaves no process, mount or socket."""
    absent.mount()
    pids = tmp_path / "pids"
    jobs = [
        absent.spawn("exec sleep 1000"),
        absent.spawn("kill -STOP $$"),
        absent.spawn("--grace 0.2 trap '' TERM; echo ready; while :; do sleep 1000; done"),
        absent.spawn(f"setsid sh -c 'echo $$ > {pids}; exec sleep 1000' > /dev/null 2>&1 &"),
    ]
    absent.until_output(jobs[2], b"ready\n")
    absent.until(jobs[1], "stopped")
    left_behind = int(until(lambda: pids.read_text() if pids.exists() else ""))
    processes = [process_of(absent, job) for job in jobs] + [left_behind]
    assert f"{absent.path} is unmounted; 0 jobs go on\n" == absent.umount("--end-jobs")
    assert [] == [pid for pid in processes if is_running(pid)]
    assert ([], False, False) == (absent.left_running(), absent.is_mounted, absent.path.exists())
    assert [] == [path for path in absent.place.rglob("*") if path.is_socket()]
    absent.mount()
    assert [f"killed:{number}" for number in (15, 15, 9)] == [absent.status(job) for job in jobs[:3]]


# The mountpoint


def test_mountpoint_that_was_made_is_removed(absent: Mounted) -> None:
    """The directories that `mount` made, `umount` removes; what was there before stays."""
    absent.path = absent.place / "there" / "made" / "jobs"
    (absent.place / "there").mkdir()
    assert f"jobs are at {absent.path}\n" == absent.mount()
    absent.umount()
    assert [] == list((absent.place / "there").iterdir())


def test_mountpoint_that_was_there_stays(absent: Mounted) -> None:
    """A mountpoint that was there before is there afterwards, as it was."""
    absent.path.mkdir(mode=0o750)
    absent.mount()
    absent.umount()
    assert 0o40750 == absent.path.stat().st_mode


def test_mountpoint_made_before_a_crash_is_removed(jobs: Mounted) -> None:
    """A mountpoint that a killed daemon made is removed by the `umount` of the next one."""
    kill_daemon(jobs)
    jobs.mount()
    jobs.umount()
    assert not jobs.path.exists()


def test_daemon_whose_mount_was_taken_away_ends(jobs: Mounted) -> None:
    """`fusermount3 -u` by anyone who may ends the daemon, and no job."""
    job = jobs.spawn("sleep 1000")
    daemon, pid = jobs.daemon, process_of(jobs, job)
    assert daemon is not None
    # Again where it is busy, because watchers are being told.
    until(lambda: subprocess.run(["fusermount3", "-u", str(jobs.path)], check=False).returncode == 0)
    until(lambda: not is_running(daemon))
    assert (True, False) == (is_running(pid), jobs.path.exists())
    jobs.mount()
    assert "running" == jobs.status(job)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_foreground_ends_with_a_signal(absent: Mounted, number: signal.Signals) -> None:
    """In the foreground it says where it is, ends with SIGINT, SIGTERM or SIGHUP, and unmounts; jobs go on."""
    command = [JOBFS, "mount", "--foreground", "--state", str(absent.state), str(absent.path)]
    with subprocess.Popen(command, env=absent.environment, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert f"jobs are at {absent.path}\n" == daemon.stdout.readline()
        absent.note_processes()
        job = absent.spawn("sleep 1000")
        daemon.send_signal(number)
        assert 0 == daemon.wait()
    assert (False, False) == (absent.is_mounted, absent.path.exists())
    absent.mount()
    assert "running" == absent.status(job)


def test_foreground_ends_with_the_mount(absent: Mounted) -> None:
    """In the foreground it stays until it is unmounted."""
    command = [JOBFS, "mount", "--foreground", "--state", str(absent.state), str(absent.path)]
    with subprocess.Popen(command, env=absent.environment, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        absent.umount()
        assert 0 == daemon.wait()


def test_signal_unmounts_the_daemon(jobs: Mounted) -> None:
    """SIGTERM to the daemon in the background unmounts too."""
    daemon = jobs.daemon
    assert daemon is not None
    os.kill(daemon, signal.SIGTERM)
    until(lambda: not is_running(daemon))
    assert (False, False) == (jobs.is_mounted, jobs.path.exists())


def test_umount_of_a_mount_in_use_is_refused(jobs: Mounted) -> None:
    """While someone has a file open, `umount` says that it is busy, and nothing is changed."""
    with jobs.file("ctl").open():
        done = jobs.jobfs("umount", str(jobs.path), check=False)
    assert (1, "") == (done.returncode, done.stdout)
    assert "busy" in done.stderr
    assert 1 == jobs.spawn("true")


def test_umount_with_a_reader_that_waits_wakes_it(jobs: Mounted) -> None:
    """Who only waits in the mount does not keep it: the read of `wait` fails, and the mount goes."""
    job = jobs.spawn("sleep infinity")
    with subprocess.Popen(["cat", jobs.file("wait", job)], stderr=subprocess.PIPE, env={"LC_ALL": "C"}) as reader:
        until(lambda: Path(f"/proc/{reader.pid}/wchan").read_text() == "request_wait_answer")
        assert "1 job goes on" in jobs.umount()
        assert reader.stderr is not None
        assert b"Transport endpoint is not connected" in reader.stderr.read()
    assert 1 == reader.returncode
    jobs.mount()


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of one's own takes root")
def test_umount_ends_the_daemon_also_where_a_container_has_the_mount(jobs: Mounted) -> None:
    """Another mount namespace that has a copy of the mount does not hold `umount` up."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo there; exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as container:
        assert container.stdout is not None
        container.stdout.readline()
        daemon = jobs.daemon
        jobs.umount()
        assert daemon is not None
        assert not is_running(daemon)
        container.kill()


def test_umount_where_nothing_is_mounted_is_refused(absent: Mounted) -> None:
    """`umount` of a directory that is no mount of jobfs says so."""
    done = absent.jobfs("umount", str(absent.place), check=False)
    assert (1, f"jobfs: jobfs is not mounted at {absent.place}\n") == (done.returncode, done.stderr)


# What keeps a mount from being made


def test_second_mount_of_one_state_is_refused(jobs: Mounted) -> None:
    """A state is served once: the second `mount` says where it is served already, and changes nothing."""
    job = jobs.spawn("sleep 1000")
    other = jobs.place / "other"
    done = jobs.jobfs("mount", "--state", str(jobs.state), str(other), check=False)
    sentence = f"the state in {jobs.state} is being served already at {jobs.path} by process {jobs.daemon}"
    sentence += ": unmount that first, or use another --state"
    assert (1, f"jobfs: {sentence}\n", False) == (done.returncode, done.stderr, other.exists())
    assert ("running", job + 1) == (jobs.status(job), jobs.spawn("true"))


def test_second_mount_on_one_directory_is_refused(jobs: Mounted) -> None:
    """One directory shows one table: the second `mount` there says so, and changes nothing."""
    job = jobs.spawn("sleep 1000")
    done = jobs.jobfs("mount", "--state", str(jobs.place / "other"), str(jobs.path), check=False)
    assert (1, f"jobfs: jobfs is mounted at {jobs.path} already\n") == (done.returncode, done.stderr)
    assert ("running", job + 1) == (jobs.status(job), jobs.spawn("true"))
    assert not (jobs.place / "other" / ADDRESS).exists()


def test_directory_that_is_not_empty_is_refused(absent: Mounted) -> None:
    """Nothing is hidden under a mount: a directory that is not empty is refused."""
    absent.path.mkdir()
    (absent.path / "mine").touch()
    assert f"{absent.path} is not empty: choose another directory" == refused(absent)
    assert ["mine"] == os.listdir(absent.path)


def test_file_is_no_mountpoint(absent: Mounted) -> None:
    """A mountpoint that is a file is refused, and stays."""
    absent.path.write_text("mine")
    assert f"{absent.path} cannot be used: Not a directory" == refused(absent)
    assert "mine" == absent.path.read_text()


def open_to_others(state: Path) -> None:
    """A state directory that others can look into."""
    state.mkdir(mode=0o700)
    state.chmod(0o750)


def link(state: Path) -> None:
    """A link to a state directory."""
    state.with_name("elsewhere").mkdir(mode=0o700)
    state.symlink_to("elsewhere")


def jobs_elsewhere(state: Path) -> None:
    """A state directory in which the jobs' own is a link."""
    state.mkdir(mode=0o700)
    state.with_name("elsewhere").mkdir(mode=0o700)
    (state / JOBS).symlink_to("../elsewhere")


def newer(state: Path) -> None:
    """A state as a later version would leave it."""
    state.mkdir(mode=0o700)
    with closing(sqlite3.connect(state / "jobs.sqlite")) as database:
        database.execute("PRAGMA user_version=99")


def scribbled(state: Path) -> None:
    """A database that is none."""
    state.mkdir(mode=0o700)
    (state / "jobs.sqlite").write_bytes(b"scribble" * 4096)


MOVE = "move it away and mount again: what is on record of its jobs will be shown"
UNUSABLE: dict[Callable[[Path], object], str] = {
    open_to_others: "the state directory {state} is open to others (mode 0750): chmod 700 it",
    link: "the state directory {state} is a link: it must be the directory itself",
    Path.touch: "the state directory {state} is no directory: choose another",
    jobs_elsewhere: "the state directory {state}/jobs is a link: it must be the directory itself",
    newer: f"{{state}}/jobs.sqlite: the state is from a newer jobfs (schema 99, this one knows {SCHEMA}): use that one",
    scribbled: f"{{state}}/jobs.sqlite: the state's database is damaged: file is not a database: {MOVE}",
}


@pytest.mark.parametrize("make", UNUSABLE)
def test_unusable_state_is_refused(absent: Mounted, make: Callable[[Path], object]) -> None:
    """A state that cannot be used is refused with a sentence that says why, and left as it was."""
    make(absent.state)
    database = absent.state / "jobs.sqlite"
    before = absent.state.lstat().st_mode, database.exists() and database.read_bytes()
    assert UNUSABLE[make].format(state=absent.state) == refused(absent)
    assert before == (absent.state.lstat().st_mode, database.exists() and database.read_bytes())
    assert (False, False) == (absent.path.exists(), os.path.exists(absent.state / ADDRESS))


def test_damaged_row_is_refused(absent: Mounted) -> None:
    """A database with a row that makes no sense is refused with a sentence, too."""
    absent.mount()
    absent.run("true")
    absent.umount()
    with closing(sqlite3.connect(absent.state / "jobs.sqlite")) as database, database:
        database.execute("UPDATE job SET spec = 'scribble'")
    sentence = f"{absent.state}/jobs.sqlite: the state's database is damaged: job 1 makes no sense: {MOVE}"
    assert sentence == refused(absent)


def test_damaged_page_is_refused(absent: Mounted) -> None:
    """A database that was scribbled on behind its first page is refused with a sentence, too."""
    absent.mount()
    absent.run("true")
    absent.umount()
    with (absent.state / "jobs.sqlite").open("r+b") as database:
        size = database.seek(0, os.SEEK_END)
        database.seek(4096)
        database.write(b"scribble" * ((size - 4096) // 8))
    sentence = f"{absent.state}/jobs.sqlite: the state's database is damaged: {MOVE}"
    assert sentence == refused(absent)


def test_damaged_stream_spoils_nothing_else(jobs: Mounted) -> None:
    """A ring file that was scribbled on is EIO when it is read; all else is served."""
    damaged, sound = jobs.run("echo damaged"), jobs.run("echo sound")
    jobs.umount()
    Path(job_file(str(jobs.state / JOBS), damaged, "stdout")).write_bytes(b"scribble" * 4096)
    jobs.mount()
    with pytest.raises(OSError, match="Input/output error"):
        jobs.read(damaged)
    assert ("done:0", "done:0", b"sound\n") == (jobs.status(damaged), jobs.status(sound), jobs.read(sound))
    assert "Traceback" not in jobs.log()


# The state and its bounds


def test_state_in_memory_touches_no_disk(absent: Mounted) -> None:
    """With `--state memory` no file is made on a disk, and the next mount has the jobs all the same."""
    absent.state = state_path(MEMORY, absent.path)
    absent.options = ("--state", MEMORY)
    try:
        absent.mount()
        job = absent.run("seq 100000")
        output = absent.read(job)
        absent.umount()
        assert [] == [path for path in absent.place.rglob("*") if path.is_file()]
        absent.mount()
        assert output == absent.read(job)
        absent.umount("--end-jobs")
    finally:
        shutil.rmtree(absent.state)


def ended(jobs: Mounted) -> list[int]:
    """The jobs in the table that have ended."""
    lines = map(json.loads, jobs.file("table.jsonl").read_text().splitlines())
    return [line["id"] for line in lines if line["ended_at"] is not None]


def with_files(jobs: Mounted) -> list[int]:
    """The jobs of which the state has a record or output."""
    recorded = read_records(str(jobs.state / JOBS / RECORDS))
    names = {name.partition(".")[0] for name in os.listdir(jobs.state / JOBS)}
    return sorted(recorded.keys() | {int(name) for name in names if name.isdigit()})


def test_keep_bounds_the_ended_jobs(absent: Mounted) -> None:
    """`--keep N` keeps the newest N ended jobs, and every live one however old."""
    absent.mount("--keep", "2")
    live = absent.spawn("sleep 1000")
    jobs = [absent.run(f"echo {number}") for number in range(4)]
    until(lambda: ended(absent) == jobs[2:])
    assert "running" == absent.status(live)
    until(lambda: with_files(absent) == [live, *jobs[2:]])


def test_keep_bounds_what_was_kept_before(absent: Mounted) -> None:
    """A mount with a lower `--keep` drops what is too much at once; with 0 no ended job stays."""
    absent.mount()
    jobs = [absent.run("true") for _ in range(3)]
    absent.umount()
    absent.mount("--keep", "1")
    until(lambda: ended(absent) == jobs[2:])
    absent.umount()
    absent.mount("--keep", "0")
    until(lambda: ended(absent) == [])
    assert jobs[2] + 1 == absent.spawn("true")


def test_keep_bytes_bounds_the_output_of_ended_jobs(absent: Mounted) -> None:
    """`--keep-bytes` drops the oldest ended jobs until the rest's output fits; live ones do not count."""
    absent.mount("--keep-bytes", "100K")
    live = absent.spawn("head -c 200K /dev/zero; exec sleep 1000")
    jobs = [absent.run("head -c 40K /dev/zero; head -c 4K /dev/zero >&2") for _ in range(4)]
    until(lambda: ended(absent) == jobs[2:])
    until(lambda: absent.file("stdout", live).stat().st_size == 200 * 1024)
    assert "running" == absent.status(live)


# The end of a supervisor


def kill_supervisor(jobs: Mounted) -> None:
    """Ends the process that owns the jobs, as a crash does."""
    jobs.note_processes()
    supervisor = jobs.supervisor
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not is_running(supervisor))


def test_jobs_of_a_killed_supervisor_go_on(jobs: Mounted) -> None:
    """When the supervisor is killed, what was alive runs on, is read, signalled and ended; what had ended stays."""
    ended, alive = jobs.run("echo ended; exit 3"), jobs.spawn("--stdin pipe -- echo hello; cat; exit 4")
    jobs.until_output(alive, b"hello\n")
    kill_supervisor(jobs)
    assert "running" == jobs.status(alive)
    jobs.file("stdin", alive).write_bytes(b"more\n")
    jobs.until_output(alive, b"hello\nmore\n")
    jobs.ctl(f"stop {alive}")
    jobs.until(alive, "stopped")
    jobs.ctl(f"cont {alive}")
    jobs.until(alive, "running")
    jobs.ctl(f"eof {alive}")
    assert jobs.until_ended(alive) in ("failed:4", "lost")  # lost only where the kernel is older than Linux 6.15
    assert ("failed:3", b"ended\n") == (jobs.status(ended), jobs.read(ended))


def test_jobs_can_be_spawned_as_soon_as_a_supervisor_was_killed(jobs: Mounted) -> None:
    """A killed supervisor is replaced, and the next job runs as if nothing had happened."""
    before = jobs.spawn("exec sleep 1000")
    kill_supervisor(jobs)
    job = jobs.spawn("echo hello")
    jobs.note_processes()
    assert ("done:0", b"hello\n", "running") == (jobs.until_closed(job), jobs.read(job), jobs.status(before))


def test_jobs_go_on_when_daemon_and_supervisor_were_killed(jobs: Mounted) -> None:
    """The next mount finds them, shows them as running, and ends them when it is told to."""
    line = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exec sleep 1000"
    job = jobs.spawn(f"--cwd {jobs.place} -- {line}")
    jobs.until_output(job, b"one\n")
    kill_daemon(jobs)
    kill_supervisor(jobs)
    (jobs.place / "go").touch()
    jobs.mount()
    jobs.until_output(job, b"one\ntwo\n")
    jobs.umount()
    jobs.mount()
    assert "running" == jobs.status(job)


# The log


def test_log_says_what_the_daemon_did(jobs: Mounted) -> None:
    """The log in the state directory says which process served what and where, and when it stopped."""
    daemon, supervisor = jobs.daemon, jobs.supervisor
    jobs.umount("--end-jobs")
    said = [line.partition(": ")[2] for line in jobs.log().splitlines()]
    assert sorted(
        [
            f"supervisor {supervisor} listens",
            f"process {daemon} serves {jobs.state} at {jobs.path}",
            f"process {daemon} no longer serves {jobs.path}",
            f"supervisor {supervisor} ends: nothing is left to do",
        ]
    ) == sorted(said)


def test_log_says_why_a_mount_was_refused(jobs: Mounted) -> None:
    """A daemon that cannot serve leaves the sentence in the log of its state."""
    state = jobs.place / "other"
    jobs.jobfs("mount", "--state", str(state), str(jobs.path), check=False)
    assert f"the daemon ends: jobfs is mounted at {jobs.path} already" in (state / "log").read_text()


# The command


def test_jobfs_spawn_with_one_word_runs_a_shell(shared: Mounted) -> None:
    """`jobfs spawn` prints the new id; one word is a command line for the shell."""
    job = int(shared.jobfs("spawn", "echo one; echo two").stdout)
    assert ("done:0", b"one\ntwo\n") == (shared.until_closed(job), shared.read(job))


def test_jobfs_spawn_with_several_words_runs_a_program(shared: Mounted) -> None:
    """Several words are a program and its arguments, which no shell looks at; its options are its own."""
    job = int(shared.jobfs("spawn", "printf", "<%s>", "$HOME *", "", "--name").stdout)
    assert ("done:0", b"<$HOME *><><--name>") == (shared.until_closed(job), shared.read(job))


def test_jobfs_spawn_passes_options_on(shared: Mounted, tmp_path: Path) -> None:
    """The options of `spawn` are those of the verb."""
    (tmp_path / "input").write_text("read\n")
    (tmp_path / "environment").write_bytes(b"FROM=file\0PATH=/usr/bin:/bin\0")
    options = ["--name", "optional", "--cwd", str(tmp_path), "--env", "ONE=1", "--env", "TWO=2"]
    options += ["--env-file", str(tmp_path / "environment"), "--stdin", str(tmp_path / "input"), "--limit", "64K"]
    options += ["--timeout", "1h", "--grace", "2s", "--nice", "3"]
    job = int(shared.jobfs("spawn", *options, 'cat; pwd; nice; echo "$ONE $TWO $FROM $XDG_RUNTIME_DIR"').stdout)
    assert "done:0" == shared.until_closed(job)
    nice = os.nice(0) + 3
    assert f"read\n{tmp_path}\n{nice}\n1 2 file \n" == shared.read(job).decode()
    stdout = shared.info(job)["stdout"]
    assert isinstance(stdout, dict)
    assert ("optional", 64 * 1024) == (shared.info(job)["name"], stdout["capacity"])


def test_jobfs_spawn_runs_where_it_was_called(shared: Mounted, tmp_path: Path) -> None:
    """A job that `jobfs spawn` starts has the caller's directory, environment and umask."""
    script = f"cd {tmp_path}; umask 027; GREETING=hello {JOBFS} spawn 'pwd; umask; echo $GREETING'"
    done = shared.sh(f"JOBFS_MOUNT=$J; export JOBFS_MOUNT; {script}")
    job = int(done.stdout)
    shared.until_closed(job)
    assert f"{tmp_path}\n0027\nhello\n" == shared.read(job).decode()


def test_jobfs_ps_prints_the_table(shared: Mounted) -> None:
    """`jobfs ps` prints `table`, and with `--json` `table.jsonl`."""
    job = shared.run("--name listed true")
    assert shared.file("table").read_text() == shared.jobfs("ps").stdout
    objects = [json.loads(line) for line in shared.jobfs("ps", "--json").stdout.splitlines()]
    assert ["listed"] == [info["name"] for info in objects if info["id"] == job]


def test_jobfs_kill_ends_jobs(shared: Mounted) -> None:
    """`jobfs kill` ends every job that is named, and sends just the signal that is named."""
    jobs = [shared.spawn("exec sleep 1000"), shared.spawn("--name victim exec sleep 1000")]
    assert "" == shared.jobfs("kill", f"%{jobs[0]}", "victim").stdout
    assert ["killed:15"] * 2 == [shared.until_ended(job) for job in jobs]
    for words in (["-9"], ["-KILL"], ["-s", "SIGKILL"]):
        job = shared.spawn("exec sleep 1000")
        shared.jobfs("kill", *words, str(job))
        assert "killed:9" == shared.until_ended(job)


def test_jobfs_logs_prints_output(shared: Mounted) -> None:
    """`jobfs logs` prints stdout, and with `--stderr` stderr, of a job by id or by name."""
    job = shared.run("--name speaker echo out; echo err >&2")
    words = [[str(job)], [f"%{job}"], ["speaker"], ["--stderr", "speaker"], ["-e", str(job)]]
    assert ["out\n"] * 3 + ["err\n"] * 2 == [shared.jobfs("logs", *word).stdout for word in words]


def test_jobfs_logs_follows_until_the_end(shared: Mounted, tmp_path: Path) -> None:
    """`jobfs logs --follow` prints what comes as it comes, and ends with the job."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job = shared.spawn(f"echo early; read x < {gate}; seq 100000")
    command = [JOBFS, "logs", "-f", str(job)]
    with subprocess.Popen(command, env=shared.environment, stdout=subprocess.PIPE) as logs:
        assert logs.stdout is not None
        assert b"early\n" == logs.stdout.readline()
        gate.write_text("go\n")
        assert b"".join(b"%d\n" % number for number in range(1, 100001)) == logs.stdout.read()
        assert 0 == logs.wait()


def test_jobfs_logs_ends_when_nobody_reads(shared: Mounted) -> None:
    """`jobfs logs | head` ends without complaint."""
    job = shared.run("seq 1000000")
    done = shared.sh(f"JOBFS_MOUNT=$J {JOBFS} logs $1 | head -n 1", str(job))
    assert (b"1\n", b"") == (done.stdout, done.stderr)


def test_jobfs_rm_forgets_jobs(shared: Mounted) -> None:
    """`jobfs rm` forgets jobs that have ended."""
    jobs = [shared.run("true"), shared.run("--name gone true")]
    assert "" == shared.jobfs("rm", str(jobs[0]), "gone").stdout
    assert [False, False] == [shared.file("", job).exists() for job in jobs]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("kill", "99999"), "no such job: 99999"),
        (("rm", "nobody"), "no such job: nobody"),
        (("kill", "-NONSENSE", "1"), "NONSENSE"),
        (("logs", "99999"), "no such job: 99999"),
        (("spawn", "--timeout", "soon", "true"), "soon"),
        (("spawn", "--name", "last", "true"), "last"),
        (("spawn", "no-such-program", "argument"), "no-such-program"),
        (("spawn", "--cwd", "/no/such/directory", "true"), "/no/such/directory"),
    ],
)
def test_jobfs_errors_are_a_sentence(shared: Mounted, words: tuple[str, ...], sentence: str) -> None:
    """What is refused is told in one sentence that names what is at fault, and the exit status is 1."""
    done = shared.jobfs(*words, check=False)
    assert (1, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert done.stderr.startswith("jobfs: ")
    assert sentence in done.stderr


def test_jobfs_rm_of_a_live_job_is_refused(shared: Mounted) -> None:
    """`jobfs rm` of a live job says that it runs."""
    job = shared.spawn("sleep 1000")
    done = shared.jobfs("rm", str(job), check=False)
    assert (1, f"jobfs: job {job} is running: only one that has ended can be removed\n") == (
        done.returncode,
        done.stderr,
    )


def test_jobfs_finds_the_mount_by_its_variable(jobs: Mounted) -> None:
    """JOBFS_MOUNT names the mount that `jobfs` talks to; where that is none, it says so."""
    job = jobs.run("echo hello")
    jobs.environment["JOBFS_MOUNT"] = str(jobs.place)
    done = jobs.jobfs("logs", str(job), check=False)
    assert (1, f"jobfs: jobfs is not mounted at {jobs.place}\n") == (done.returncode, done.stderr)
    jobs.environment["JOBFS_MOUNT"] = str(jobs.path)
    assert "hello\n" == jobs.jobfs("logs", str(job)).stdout


def test_jobs_find_their_own_mount(shared: Mounted) -> None:
    """A job's JOBFS_MOUNT leads `jobfs` in it to the mount that it runs in."""
    job = shared.run(f"{JOBFS} spawn --name grandchild echo hello")
    shared.until_closed(int(os.readlink(shared.path / "grandchild")))
    assert os.readlink(shared.path / "grandchild") == shared.read(job).decode().strip()
