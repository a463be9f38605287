"""A state directory that was damaged, removed or replaced: a sentence or a clean recovery, and never a wrong answer."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from jobfs.supervisor import ADDRESS, JOBS, RECORDS, job_file
from jobfs.supervisor.records import SIZE, read_records
from tests.mounted import Mounted, is_running, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobfs.supervisor.wire import JobRecord

pytestmark = pytest.mark.mount

WRITES_ON = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"


@pytest.fixture
def absent() -> Iterator[Mounted]:
    """A state and a mountpoint that are not there yet."""
    mounted = Mounted()
    try:
        yield mounted
    finally:
        mounted.finish()


def kill_daemon(jobs: Mounted) -> None:
    """Ends the process that serves the mount, as a crash does."""
    jobs.note_processes()
    daemon = jobs.daemon
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    until(lambda: not is_running(daemon))


def end_everything(jobs: Mounted) -> None:
    """Daemon and supervisor end, and with them all that a supervisor remembers."""
    jobs.note_processes()
    supervisor = jobs.supervisor
    jobs.umount()
    assert supervisor is not None
    until(lambda: not is_running(supervisor))


def ring(jobs: Mounted, job: int, stream: str = "stdout") -> Path:
    """The file in which a stream is kept."""
    return jobs.state / JOBS / f"{job}.{stream}"


def errno_of(action: Callable[[], object]) -> int:
    """The errno that `action` fails with; 0 where it does not."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


def numbers(output: bytes) -> bool:
    """Whether it is what `WRITES_ON` writes, from the first on, with nothing missing; the last line may be cut."""
    lines = output.split(b"\n")[:-1]
    return bool(lines) and lines == [b"%d" % number for number in range(1, len(lines) + 1)]


# The database


def test_jobs_live_on_when_the_database_was_lost(jobs: Mounted) -> None:
    """Moved away, as the sentence about its damage says: living jobs run on and are shown, with all that they wrote."""
    gone = jobs.run("echo gone")
    over = jobs.run("echo over; exit 3")
    alive = jobs.spawn(WRITES_ON)
    quoted = json.dumps({"op": "spawn", "argv": ["sh", "-c", "exec sleep 1000"]})
    silent = int(jobs.ask(quoted))
    jobs.ctl(f"rm {gone}")
    newest = jobs.run("true")
    jobs.ctl(f"rm {newest}")
    before = jobs.info(alive)
    jobs.umount()
    for name in ("jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"):
        (jobs.state / name).unlink(missing_ok=True)
    for _ in range(2):  # the second time they are in the new database
        jobs.mount()
        after = jobs.info(alive)
        same = ("id", "status", "cmd", "pid", "started_at")
        assert [before[key] for key in same] == [after[key] for key in same]
        assert (True, None, None) == (after["recovered"], after["cwd"], after["argv"])
        assert numbers(jobs.read(alive))
        assert ("failed:3", b"over\n", "exit 3") == (
            jobs.status(over),
            jobs.read(over),
            str(jobs.info(over)["cmd"])[-6:],
        )
        assert ("running", "sh -c 'exec sleep 1000'") == (jobs.status(silent), jobs.info(silent)["cmd"])
        for hidden in ("env", "cwd"):
            assert errno.EIO == errno_of(lambda: os.stat(jobs.file(hidden, alive), follow_symlinks=False))  # noqa: B023
        jobs.umount()
    jobs.mount()
    assert (
        f"the database has lost 3 jobs; what is on record of them is shown: [{over}, {alive}, {silent}]" in jobs.log()
    )
    size = len(jobs.read(alive))
    until(lambda: len(jobs.read(alive)) > size)
    assert newest + 1 == jobs.spawn("true")  # events tell of those that were removed
    jobs.ctl(f"kill {alive}")
    assert "killed:15" == jobs.until_ended(alive)
    assert "spawn it anew" in jobs.ask(f"restart {alive}")
    jobs.ctl(f"rm {alive} {over}")
    assert "Traceback" not in jobs.log()


def test_a_database_without_its_log_is_completed_from_the_records(jobs: Mounted) -> None:
    """What a killed daemon had written to the log alone, and was removed with that, is shown again."""
    old = jobs.run("echo old")
    jobs.umount()
    jobs.mount()
    new, alive = jobs.run("echo new"), jobs.spawn("exec sleep 1000")
    kill_daemon(jobs)
    (jobs.state / "jobs.sqlite-wal").unlink()
    jobs.mount()
    assert [(b"old\n", "done:0"), (b"new\n", "done:0")] == [(jobs.read(job), jobs.status(job)) for job in (old, new)]
    assert ("running", alive + 1) == (jobs.status(alive), jobs.spawn("true"))
    assert (False, True) == (jobs.info(old)["recovered"], jobs.info(new)["recovered"])


def test_a_damaged_database_disturbs_no_job(jobs: Mounted) -> None:
    """While `mount` is refused for it jobs go on, and are there when its own advice was followed."""
    alive = jobs.spawn(WRITES_ON)
    jobs.until_output(alive, b"3\n")
    jobs.umount()
    database = jobs.state / "jobs.sqlite"
    os.truncate(database, database.stat().st_size - 4096)
    size = ring(jobs, alive).stat().st_mtime_ns
    done = jobs.jobfs("mount", "--state", str(jobs.state), str(jobs.path), check=False)
    advice = "move it away and mount again: what is on record of its jobs will be shown"
    assert (
        f"jobfs: {database}: the state's database is damaged: database disk image is malformed: {advice}\n"
        == done.stderr
    )
    until(lambda: ring(jobs, alive).stat().st_mtime_ns > size)
    database.rename(jobs.place / "away")
    jobs.mount()
    assert ("running", True) == (jobs.status(alive), numbers(jobs.read(alive)))


def test_a_database_that_is_locked_is_told_as_such(jobs: Mounted) -> None:
    """A program that locks the database makes a spawn EAGAIN, and a mount fail with a sentence; then all is well."""
    jobs.run("true")
    with closing(sqlite3.connect(jobs.state / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert errno.EAGAIN == errno_of(lambda: jobs.ctl("spawn true"))
    job = jobs.run("true")
    jobs.umount()
    with closing(sqlite3.connect(jobs.state / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        done = jobs.jobfs("mount", "--state", str(jobs.state), str(jobs.path), check=False)
    assert f"{jobs.state}/jobs.sqlite: another program has locked the state's database" in done.stderr
    jobs.mount()
    assert "done:0" == jobs.status(job)


# Streams


def cut(path: Path) -> None:
    """The end of the file is gone."""
    os.truncate(path, 5000)


def empty(path: Path) -> None:
    """All of it is gone."""
    os.truncate(path, 0)


def scribble(path: Path) -> None:
    """Its first bytes are others."""
    with path.open("r+b") as file:
        file.write(b"\xa5" * 64)


def make_newer(path: Path) -> None:
    """It is of a version that this jobfs does not know."""
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\x07")


def claim_less(path: Path) -> None:
    """It says that less was written than was."""
    with path.open("r+b") as file:
        file.seek(4 * 8)
        file.write(b"\x03")


def put_fifo(path: Path) -> None:
    """A FIFO lies there instead, which nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def put_directory(path: Path) -> None:
    """A directory lies there instead."""
    path.unlink()
    path.mkdir()


def put_link(path: Path) -> None:
    """A link to another stream lies there instead."""
    path.unlink()
    path.symlink_to(path.with_suffix(".stderr"))


DAMAGES: list[Callable[[Path], None]] = [
    cut,
    empty,
    scribble,
    make_newer,
    claim_less,
    Path.unlink,
    put_fifo,
    put_directory,
    put_link,
]


def test_a_damaged_stream_is_an_error_of_its_readers(jobs: Mounted) -> None:
    """Whatever became of its file, a stream that had bytes is EIO from then on; `info` says why; all else is well."""
    sound, *damaged = [jobs.spawn("echo output; echo error >&2") for _ in range(1 + len(DAMAGES))]
    for job in (sound, *damaged):
        jobs.until_closed(job)
    jobs.umount()
    for damage, job in zip(DAMAGES, damaged, strict=True):
        damage(ring(jobs, job))
    for _ in range(2):
        jobs.mount()
        for job in damaged:
            assert [errno.EIO] * 2 == [errno_of(partial(jobs.read, job)) for _ in range(2)], job
            stream = jobs.info(job)["stdout"]
            assert isinstance(stream, dict)
            assert (None, None, True) == (
                stream["written"],
                stream["retained"],
                stream["problem"].startswith("damaged: "),
            )
            assert (b"error\n", "done:0") == (jobs.read(job, "stderr"), jobs.status(job))
            assert f"stdout of job {job} is damaged and cannot be read: " in jobs.log()
        assert (b"output\n", "done:0") == (jobs.read(sound), jobs.status(sound))
        jobs.umount()
    jobs.mount()
    jobs.ctl("clean")
    assert "Traceback" not in jobs.log()


def test_a_stream_that_is_cut_under_a_living_job_harms_nobody(jobs: Mounted) -> None:
    """Daemon and supervisor live, the job runs on, its stream is EIO, and both say so in the log."""
    job = jobs.spawn(WRITES_ON)
    with jobs.file("stdout", job).open("rb", buffering=0) as opened:
        until(lambda: opened.read(10))
        daemon, supervisor = jobs.daemon, jobs.supervisor
        os.truncate(ring(jobs, job), 0)
        assert errno.EIO == errno_of(lambda: opened.read(10))
    assert errno.EIO == errno_of(lambda: jobs.read(job))
    until(
        jobs.log, lambda said: f"{job}.stdout: damaged stream: the file was cut: what is written to it is lost" in said
    )
    assert ("running", daemon, supervisor) == (jobs.status(job), jobs.daemon, jobs.supervisor)
    jobs.ctl(f"kill -9 {job}")
    assert "killed:9" == jobs.until_ended(job)
    assert errno.EIO == errno_of(lambda: jobs.read(job))
    assert "Traceback" not in jobs.log()


def test_damaged_events_are_kept_aside(jobs: Mounted) -> None:
    """Events begin anew, the damaged file is kept, and the log says so."""
    jobs.run("true")
    jobs.umount()
    scribble(jobs.state / "events")
    damaged = (jobs.state / "events").read_bytes()
    jobs.mount()
    job = jobs.run("true")
    assert [job, job] == [json.loads(line)["id"] for line in jobs.file("events").read_bytes().splitlines()]
    assert damaged == (jobs.state / "events.damaged").read_bytes()
    assert "kept as events.damaged, and events begin anew" in jobs.log()


# Records


def kill_all_that_knows(jobs: Mounted) -> None:
    """Ends daemon and supervisor, as crashes do."""
    kill_daemon(jobs)
    supervisor = jobs.supervisor
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not is_running(supervisor))


def test_a_damaged_record_makes_no_wrong_job(jobs: Mounted) -> None:
    """A job of which the record cannot be read is `lost` and nothing else, and all others are as they are."""
    ended, lost, alive = jobs.run("echo ended; exit 3"), jobs.spawn("exec sleep 1000"), jobs.spawn(WRITES_ON)
    pid = jobs.info(lost)["pid"]
    assert isinstance(pid, int)
    kill_all_that_knows(jobs)
    psutil.Process(pid).kill()
    path = jobs.state / JOBS / RECORDS
    slots = path.read_bytes()
    at = next(at for at in range(0, len(slots), SIZE) if slots[at:].startswith(b'{"id": %d,' % lost))
    path.write_bytes(slots[: at + 100] + b"\xa5" * 50 + slots[at + 150 :])
    jobs.mount()
    assert ("lost", b"", "its record was lost") == (jobs.status(lost), jobs.read(lost), jobs.info(lost)["reason"])
    assert ("failed:3", b"ended\n", "running") == (jobs.status(ended), jobs.read(ended), jobs.status(alive))
    assert f"1 records of jobs in {path} make no sense" in jobs.log()
    assert ("done:0", True) == (jobs.status(jobs.run("true")), numbers(jobs.read(alive)))
    assert "Traceback" not in jobs.log()


def test_after_a_reboot_what_was_alive_is_lost(jobs: Mounted) -> None:
    """Jobs of another boot of the machine are `lost`, whoever has their numbers now; ended ones stay, and ids go on."""
    ended, alive = jobs.run("echo ended; exit 3"), jobs.spawn("echo hello; exec sleep 1000")
    jobs.until_output(alive, b"hello\n")
    pid = jobs.info(alive)["pid"]
    assert isinstance(pid, int)
    kill_all_that_knows(jobs)
    another_boot(jobs.state / JOBS / RECORDS)
    for _ in range(2):
        jobs.mount()
        assert ("lost", "the machine was restarted") == (jobs.status(alive), jobs.info(alive)["reason"])
        assert (b"hello\n", b"ended\n", "failed:3") == (jobs.read(alive), jobs.read(ended), jobs.status(ended))
        jobs.umount()
    jobs.mount()
    assert errno.ESRCH == errno_of(lambda: jobs.ctl(f"kill -9 {alive}"))
    assert is_running(pid)
    psutil.Process(pid).kill()
    assert alive + 1 == jobs.spawn("true")


def another_boot(path: Path) -> None:
    """Makes all records those of a boot that is over."""
    records: list[JobRecord] = [{**record, "boot_id": "another"} for record in read_records(str(path)).values()]
    slots = [json.dumps(record).encode().ljust(SIZE, b"\n") for record in records]
    path.write_bytes(b"".join(slots))


def test_what_belongs_to_no_job_is_removed_and_nothing_else(jobs: Mounted) -> None:
    """What writers left unfinished and what was removed goes at the start; what somebody else put there stays."""
    kept, removed = jobs.run("echo kept"), jobs.run("echo removed")
    leftover = ring(jobs, removed).read_bytes()
    jobs.ctl(f"rm {removed}")
    end_everything(jobs)
    directory = jobs.state / JOBS
    ring(jobs, removed).write_bytes(leftover)
    ours = [f"{removed}.stdout", f"{kept}.stderr.new", "7.stdout.new"]
    for name in ours[1:]:
        (directory / name).touch()
    theirs = ["8.txt", "8", "notes", "08.stdout", "8.stdout.old", "x.stdout", "stdout"]
    for name in theirs:
        (directory / name).write_text(name)
    (directory / "9.stdout.new").mkdir()
    jobs.mount()
    until(lambda: {*ours} & {*os.listdir(directory)}, lambda left: not left)
    assert sorted([*theirs, "9.stdout.new", f"{kept}.stdout", RECORDS]) == sorted(os.listdir(directory))
    assert ([kept], b"kept\n") == ([int(name) for name in os.listdir(jobs.path) if name.isdigit()], jobs.read(kept))


# Who owns the jobs


def test_a_supervisor_is_found_also_where_its_address_was_lost(jobs: Mounted) -> None:
    """A `supervisor.json` that makes no sense does not keep a daemon from the supervisor that lives."""
    job = jobs.spawn("exec sleep 1000")
    jobs.umount()
    address = (jobs.state / ADDRESS).read_bytes()
    (jobs.state / ADDRESS).write_text('{"socket": 7, "pid": "x"}')
    try:
        jobs.mount()
        assert "running" == jobs.status(job)
        assert f"{jobs.state}/{ADDRESS} makes no sense" in jobs.log()
    finally:
        (jobs.state / ADDRESS).write_bytes(address)


def test_another_programs_socket_is_waited_for_only_so_long(jobs: Mounted) -> None:
    """An address at which somebody listens and never answers: a supervisor of one's own is started, as the log says."""
    jobs.run("true")
    end_everything(jobs)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(jobs.place / "silent"))
        silent.listen()
        (jobs.state / ADDRESS).write_text(json.dumps({"socket": str(jobs.place / "silent")}))
        jobs.mount()
    assert "done:0" == jobs.status(jobs.run("true"))
    assert f"{jobs.place}/silent does not answer within 2 s" in jobs.log()


def test_the_supervisor_of_another_state_is_not_taken(jobs: Mounted, absent: Mounted) -> None:
    """An address that leads to another state's supervisor is not believed: no job is taken for one of the other."""
    theirs = jobs.spawn("echo theirs; exec sleep 1000")
    absent.mount()
    absent.run("echo mine")
    end_everything(absent)
    shutil.copy(jobs.state / ADDRESS, absent.state / ADDRESS)
    absent.mount()
    absent.note_processes()
    mine = absent.run("echo mine too")
    assert (b"mine too\n", "done:0") == (absent.read(mine), absent.status(mine))
    assert absent.supervisor != jobs.supervisor
    assert "is the supervisor of another state" in absent.log()
    assert ("running", b"theirs\n") == (jobs.status(theirs), jobs.read(theirs))


# A state that is not there any more


def test_a_state_that_is_removed_while_it_is_served(jobs: Mounted) -> None:
    """What is open reads on, a spawn is refused with a sentence, and jobs can be ended; nothing crashes or makes up."""
    job, silent = jobs.spawn(WRITES_ON), jobs.spawn("exec sleep 1000")
    jobs.until_output(job, b"3\n")
    daemon, supervisor, log = jobs.daemon, jobs.supervisor, jobs.state / "log"
    with jobs.file("stdout", job).open("rb", buffering=0) as opened, log.open() as said:
        first = opened.read(4)
        shutil.rmtree(jobs.state)
        assert numbers(first + opened.read(1 << 20))
        assert errno.EIO == errno_of(lambda: jobs.ctl("spawn true"))
        assert f"error: {jobs.state}/jobs.sqlite was removed or replaced while it was in use" in jobs.ask("spawn true")
        assert [errno.EIO] * 2 == [errno_of(lambda: jobs.read(number)) for number in (job, silent)]  # noqa: B023
        assert ["running"] * 2 == [jobs.status(number) for number in (job, silent)]
        jobs.ctl(f"kill {job} {silent}")
        assert ["killed:15"] * 2 == [jobs.until_ended(number) for number in (job, silent)]
        assert daemon is not None
        assert supervisor is not None
        assert (True, True) == (is_running(daemon), is_running(supervisor))
        assert "Traceback" not in said.read()
    assert "2 jobs" not in jobs.umount()
    until(lambda: not is_running(daemon) and not is_running(supervisor))


def test_nothing_is_spawned_where_its_output_would_be_lost(jobs: Mounted) -> None:
    """Where only the jobs' directory was removed, a spawn is refused as well, and leaves nothing."""
    job = jobs.run("echo hello")
    shutil.rmtree(jobs.state / JOBS)
    assert errno.EIO == errno_of(lambda: jobs.ctl("spawn touch made"))
    assert f"error: {jobs.state}/jobs was removed while it was in use: unmount, and mount again" == jobs.ask(
        "spawn true"
    )
    assert (errno.EIO, "done:0") == (errno_of(lambda: jobs.read(job)), jobs.status(job))
    jobs.umount()
    jobs.mount()
    assert (errno.EIO, "done:0", job + 3) == (errno_of(lambda: jobs.read(job)), jobs.status(job), jobs.spawn("true"))


def test_a_state_that_was_removed_is_not_mixed_with_the_next(jobs: Mounted) -> None:
    """A new mount of that name begins anew: the old supervisor writes nothing into it, and takes no socket away."""
    old = jobs.spawn("while [ ! -e go ]; do sleep 0.02; done; echo old; echo old >&2; exec sleep 1000")
    pid, supervisor = jobs.info(old)["pid"], jobs.supervisor
    assert isinstance(pid, int)
    assert supervisor is not None
    cwd = os.readlink(f"/proc/{pid}/cwd")
    jobs.umount()
    shutil.rmtree(jobs.state)
    jobs.mount()
    new = jobs.spawn("echo new; exec sleep 1000")
    assert (old, True) == (new, supervisor != jobs.supervisor)
    jobs.until_output(new, b"new\n")
    go = os.path.join(cwd, "go")
    open(go, "x").close()
    try:
        until(lambda: psutil.Process(pid).name() == "sleep" and not psutil.Process(pid).children())
    finally:
        os.unlink(go)
    assert (b"new\n", b"") == (jobs.read(new), jobs.read(new, "stderr"))
    psutil.Process(pid).kill()
    until(lambda: not is_running(supervisor))
    kill_daemon(jobs)
    jobs.mount()  # the new supervisor is found: the old one left its socket alone
    assert ("running", b"new\n") == (jobs.status(new), jobs.read(new))


def test_a_state_that_is_removed_between_two_mounts_begins_anew(jobs: Mounted) -> None:
    """As if it had never been there."""
    jobs.run("echo old")
    end_everything(jobs)
    shutil.rmtree(jobs.state)
    jobs.mount()
    assert [1, b"new\n"] == [job := jobs.run("echo new"), jobs.read(job)]
    assert not os.path.exists(job_file(str(jobs.state / JOBS), job, "stderr"))
