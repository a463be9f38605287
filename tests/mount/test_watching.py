"""inotify(7) on the mount: what jobs do is told as on a disk, to who watches; and what is not watched costs nothing."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from jobfs.stream import RingReader
from jobfs.supervisor import JOBS, job_file
from tests.inotify import Told, Watcher
from tests.mounted import Mounted, is_running, until
from tests.readers import Talker, talker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.mount

MODIFY, CLOSE = "IN_MODIFY", "IN_CLOSE_WRITE"
CREATE, DELETE = "IN_CREATE|IN_ISDIR", "IN_DELETE|IN_ISDIR"
CHATTER = "while :; do echo line; sleep 0.01; done"
REPLACED = 20  # daemons that are killed while they tell watchers


@pytest.fixture
def job(shared: Mounted) -> Iterator[Talker]:
    """A job that says what the test has it say."""
    with talker(shared) as it:
        yield it


def own_client(jobs: Mounted) -> int | None:
    """The process of the daemon that tells the kernel of changes."""
    with_it = psutil.Process(jobs.daemon).children()
    return next((it.pid for it in with_it if is_running(it.pid) and "mount.own_client" in it.cmdline()), None)


@contextmanager
def watched(*paths: Path) -> Iterator[Watcher]:
    """Watches paths."""
    with Watcher(*paths) as watcher:
        yield watcher


# Streams


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("where", ["file", "directory"])
def test_output_is_told_as_a_modification(shared: Mounted, job: Talker, name: str, where: str) -> None:
    """IN_MODIFY on the file, whether it is watched itself or its directory is; the bytes can be read by then."""
    path, event = _place(shared, job.id, name, where)
    with watched(path) as watcher:
        for line in ("one", "two", "three"):
            watcher.forget()
            job.tell(f"{name.removeprefix('std')} {line}")
            told = watcher.until_told(MODIFY, *event)
            assert shared.read(job.id, name).endswith(f"{line}\n".encode())
            assert {MODIFY} == {it.what for it in told}


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("where", ["file", "directory"])
def test_the_close_of_a_stream_is_told_once(shared: Mounted, job: Talker, name: str, where: str) -> None:
    """IN_CLOSE_WRITE when nobody can write to it any more, also where nobody ever has."""
    path, event = _place(shared, job.id, name, where)
    with watched(path, shared.path / "table") as watcher:
        job.tell("exit 0")
        watcher.until_told(CLOSE, *event)
        for _ in range(2):  # what comes after that is told after it
            table = watcher.count(CLOSE, "table")
            shared.run("true")
            watcher.until(lambda _, table=table: watcher.count(CLOSE, "table") > table)  # type: ignore[misc]
        assert (1, 0) == (watcher.count(CLOSE, *event), watcher.count(MODIFY, *event))


def test_the_close_comes_when_a_descendant_lets_go(shared: Mounted, job: Talker, tmp_path: Path) -> None:
    """After the end of the job what it left behind writes on: IN_MODIFY, and at last IN_CLOSE_WRITE."""
    os.mkfifo(tmp_path / "end")
    left = shared.spawn(f"(cat {shared.file('follow', job.id)}) & read now < {tmp_path}/end")
    with watched(shared.path / str(left)) as watcher:
        (tmp_path / "end").write_text("now\n")
        shared.until_ended(left)
        watcher.until_told(CLOSE, str(left), "status")
        job.say("late")
        watcher.until_told(MODIFY, str(left), "stdout")
        assert 0 == watcher.count(CLOSE, str(left), "stdout")
        job.exit()
        watcher.until_told(CLOSE, str(left), "stdout")
        assert b"late\n" == shared.read(left)


def _place(jobs: Mounted, job: int, name: str, where: str) -> tuple[Path, tuple[str, str]]:
    """What to watch, and on which path and of which name its events then are."""
    if where == "file":
        return jobs.file(name, job), (name, "")
    return jobs.path / str(job), (str(job), name)


# Rendered files


@pytest.mark.parametrize("where", ["file", "directory"])
def test_each_status_is_told_as_a_file_that_was_written_and_closed(shared: Mounted, job: Talker, where: str) -> None:
    """IN_MODIFY and IN_CLOSE_WRITE; who reads then reads the new one."""
    path, event = _place(shared, job.id, "status", where)
    with watched(path) as watcher:
        for line, word in (
            (f"stop {job.id}", "stopped"),
            (f"cont {job.id}", "running"),
            (f"kill -9 {job.id}", "killed:9"),
        ):
            watcher.forget()
            shared.ctl(line)
            told = watcher.until_told(CLOSE, *event)
            assert Told(event[0], MODIFY, event[1]) in told
            assert word == shared.status(job.id)


@pytest.mark.parametrize("where", ["file", "root"])
@pytest.mark.parametrize("name", ["table", "table.jsonl"])
def test_each_change_of_the_table_is_told(jobs: Mounted, name: str, where: str) -> None:
    """IN_MODIFY and IN_CLOSE_WRITE, for jobs that come, change and go."""
    path, event = (jobs.path / name, (name, "")) if where == "file" else (jobs.path, (jobs.path.name, name))
    with watched(path) as watcher:
        for line in ("spawn exec sleep 1000", "stop 1", "kill -9 1", "rm 1"):
            if line == "rm 1":
                jobs.until(1, "killed:9")
            watcher.forget()
            jobs.ctl(line)
            watcher.until_told(CLOSE, *event)
            assert watcher.count(MODIFY, *event)


def test_each_event_is_told_as_a_modification(jobs: Mounted) -> None:
    """`events` grows and is never closed."""
    with watched(jobs.path / "events") as watcher:
        for line in ("spawn exec sleep 1000", "stop 1", "kill -9 1"):
            watcher.forget()
            jobs.ctl(line)
            watcher.until_told(MODIFY, "events")
        with pytest.raises(FileNotFoundError):
            jobs.ctl("rm 99")
        watcher.forget()
        with pytest.raises(FileNotFoundError):
            jobs.ctl("rm 98")
        watcher.until_told(MODIFY, "events")
        assert 0 == watcher.count(CLOSE, "events")


# Jobs


def test_jobs_that_come_and_go_are_told_in_the_root(jobs: Mounted) -> None:
    """IN_CREATE when one appears, with its directory there by then; IN_DELETE when it goes, by whatever way."""
    root = jobs.path.name
    with watched(jobs.path) as watcher:
        for number in range(1, 5):
            jobs.spawn("true")
            watcher.until_told(CREATE, root, str(number))
            jobs.until_ended(number)
        jobs.ctl("rm 1")
        watcher.until_told(DELETE, root, "1")
        os.rmdir(jobs.path / "2")
        watcher.until_told(DELETE, root, "2")
        jobs.sh('rm -r "$J/3"')
        watcher.until_told(DELETE, root, "3")
        jobs.ctl("clean")
        watcher.until_told(DELETE, root, "4")
        told = [(it.what, it.name) for it in watcher.told if it.what in (CREATE, DELETE)]
        assert [(CREATE, str(it)) for it in range(1, 5)] + [(DELETE, str(it)) for it in range(1, 5)] == told


def test_jobs_that_the_bounds_drop_are_told_to_go(two_kept: Mounted) -> None:
    """IN_DELETE also where nobody asked for it."""
    jobs = two_kept
    with watched(jobs.path) as watcher:
        for number in range(1, 4):
            assert number == jobs.spawn("true")
            jobs.until_ended(number)
        watcher.until_told(DELETE, jobs.path.name, "1")
        assert 0 == watcher.count(DELETE, jobs.path.name, "3")


@pytest.fixture
def two_kept() -> Iterator[Mounted]:
    """A mount that keeps two ended jobs."""
    mounted = Mounted("--keep", "2")
    try:
        mounted.mount()
        yield mounted
    finally:
        mounted.finish()


def test_a_spawn_that_fails_is_not_told(jobs: Mounted) -> None:
    """No directory comes and goes again for a job that never was; the next job is told."""
    with watched(jobs.path) as watcher:
        assert "error" in jobs.ask('{"op": "spawn", "argv": ["/nonexistent"]}')
        assert "error" in jobs.ask("spawn --cwd /nonexistent true")
        job = jobs.spawn("true")
        watcher.until_told(CREATE, jobs.path.name, str(job))
        assert [str(job)] == [it.name for it in watcher.told if "IN_ISDIR" in it.what]


def test_a_job_whose_start_takes_long_is_told_once(jobs: Mounted, tmp_path: Path) -> None:
    """Its directory appears when it has come, however long that took, and nobody finds it before."""
    os.mkfifo(tmp_path / "fifo")
    with watched(jobs.path) as watcher:
        reply = jobs.ask(f"spawn --stdin {tmp_path}/fifo cat")  # opening it waits for somebody who writes
        assert "1" == reply
        watcher.until_told(CREATE, jobs.path.name, "1")
        assert "running" == jobs.status(1)
        (tmp_path / "fifo").write_text("hello\n")
        jobs.until(1, "done:0")
        assert b"hello\n" == jobs.read(1)
        assert 1 == watcher.count(CREATE, jobs.path.name, "1")


def test_many_spawns_at_once_are_each_told(jobs: Mounted) -> None:
    """By several writers, and many in one write."""
    count = 50
    with watched(jobs.path) as watcher:
        writers = " ".join("for i in $(seq 10); do echo 'spawn true'; done > $J/ctl &" for _ in range(count // 20))
        jobs.sh(f"{writers} wait")
        jobs.ctl("\n".join(["spawn true"] * (count - count // 20 * 10)))
        names = {str(number) for number in range(1, count + 1)}
        watcher.until(lambda told: names == {it.name for it in told if it.what == CREATE})
        assert count == len([it for it in watcher.told if it.what == CREATE])


def test_a_job_can_be_watched_from_its_beginning(jobs: Mounted) -> None:
    """Who is told of a new job and watches its directory then misses nothing that comes later."""
    with watched(jobs.path) as watcher, talker(jobs) as job:
        watcher.until_told(CREATE, jobs.path.name, str(job.id))
        watcher.add(jobs.path / str(job.id))
        job.tell("out hello")
        watcher.until_told(MODIFY, str(job.id), "stdout")
        job.tell("exit 0")
        watcher.until_told(CLOSE, str(job.id), "status")
        watcher.until_told(CLOSE, str(job.id), "stdout")


def test_a_watch_on_a_job_that_is_removed_ends(shared: Mounted) -> None:
    """As on a disk: the watch is gone with what it was on."""
    job = shared.run("echo hello")
    with watched(shared.path / str(job)) as watcher:
        shared.ctl(f"rm {job}")
        watcher.until(lambda told: any("IN_IGNORED" in it.what for it in told))


def test_a_watch_through_a_jobs_name_is_one_on_the_job(shared: Mounted) -> None:
    """The link leads to the same files."""
    name = "watched_by_name"
    with talker(shared, f"--name {name}") as job, watched(shared.path / name / "stdout") as watcher:
        job.tell("out hello")
        watcher.until_told(MODIFY, "stdout")


def test_watches_do_not_keep_a_mount(jobs: Mounted) -> None:
    """`jobfs umount` succeeds, and the watcher is told."""
    with talker(jobs) as job, watched(jobs.path, jobs.path / str(job.id), jobs.file("stdout", job.id)) as watcher:
        job.say("hello")
        watcher.until_told(MODIFY, "stdout")
        job.exit()
        jobs.umount()
        watcher.until(lambda told: sum("IN_UNMOUNT" in it.what for it in told) == 3)
    jobs.mount()


# Times


def test_times_move_with_the_content_and_not_with_what_is_told(shared: Mounted, job: Talker) -> None:
    """Output moves the stream's mtime alone, a status that of `status`; `ctl`'s never moves."""
    names = ["stdout", "stderr", "status", "cmd", "ctl", "stdin"]

    def times() -> dict[str, int]:
        return {name: shared.file(name, job.id).stat().st_mtime_ns for name in names}

    with watched(shared.path / str(job.id)) as watcher:
        before = times()
        job.tell("out hello")
        watcher.until_told(MODIFY, str(job.id), "stdout")
        after = times()
        assert {"stdout"} == {name for name in names if before[name] != after[name]}
        shared.ctl(f"stop {job.id}", job=None)
        watcher.until_told(CLOSE, str(job.id), "status")
        stopped = times()
        assert {"status"} == {name for name in names if after[name] != stopped[name]}
        shared.ctl(f"cont {job.id}")
        job.exit()
        watcher.until_told(CLOSE, str(job.id), "stdout")
        watcher.until_told(CLOSE, str(job.id), "stderr")
        ended = times()
        assert {"status"} == {name for name in names if stopped[name] != ended[name]}


def test_times_of_the_root_move_with_their_files(jobs: Mounted) -> None:
    """`table` and `events` with what happens, never with output, and `ctl` never."""
    names = ["table", "table.jsonl", "events", "ctl"]

    def times() -> dict[str, int]:
        return {name: jobs.file(name).stat().st_mtime_ns for name in names}

    with watched(jobs.path) as watcher, talker(jobs) as job:
        watcher.add(jobs.path / str(job.id))
        watcher.until_told(CLOSE, jobs.path.name, "table")
        before = times()
        job.say("hello")
        watcher.until_told(MODIFY, str(job.id), "stdout")
        assert before == times()
        watcher.forget()
        jobs.ctl(f"stop {job.id}")
        watcher.until_told(CLOSE, jobs.path.name, "table")
        after = times()
        assert {"table", "table.jsonl", "events"} == {name for name in names if before[name] != after[name]}


# What it costs, and what it survives


def test_a_chatty_job_that_nobody_has_looked_at_costs_nothing(jobs: Mounted) -> None:
    """Nothing is touched for it; once its directory was looked at, it is."""
    job = jobs.spawn(CHATTER)
    client = psutil.Process(own_client(jobs))
    ring = job_file(str(jobs.state / JOBS), job, "stdout")  # not through the mount, which would be to look
    until(lambda: os.path.exists(ring))

    def turns_while_it_writes() -> int:
        with RingReader.open(ring) as reader:
            before, first = client.num_ctx_switches().voluntary, reader.snapshot().written
            until(lambda: reader.snapshot().written, lambda written: written >= first + 100 * len("line\n"))
        return client.num_ctx_switches().voluntary - before

    until(turns_while_it_writes, lambda turns: turns == 0)  # the table has changed, which is told a while longer
    assert [0, 0] == [turns_while_it_writes(), turns_while_it_writes()]
    os.stat(jobs.path / str(job))
    assert until(turns_while_it_writes)


def test_the_client_that_tells_can_be_killed(jobs: Mounted) -> None:
    """Jobs are spawned and found meanwhile, and watchers are told again when there is another one."""
    first = own_client(jobs)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    for number in range(1, 4):
        assert number == jobs.spawn("true")
        jobs.until(number, "done:0")
    jobs.ctl("rm 1")
    assert ["2", "3"] == sorted(name for name in os.listdir(jobs.path) if name.isdigit())
    until(lambda: own_client(jobs), lambda pid: pid not in (None, first))
    until(lambda: not (jobs.path / "1").exists())
    with watched(jobs.path) as watcher, talker(jobs) as job:
        watcher.until_told(CREATE, jobs.path.name, str(job.id))
        watcher.add(jobs.file("stdout", job.id))
        job.tell("out hello")
        watcher.until_told(MODIFY, "stdout")


def test_the_client_goes_with_its_daemon(jobs: Mounted) -> None:
    """Nothing is left of either, whichever way the daemon goes."""
    for how in ("umount", "kill"):
        client, daemon = own_client(jobs), jobs.daemon
        assert client is not None
        assert daemon is not None
        if how == "umount":
            jobs.umount()
        else:
            os.kill(daemon, signal.SIGKILL)
        until(lambda client=client, daemon=daemon: not is_running(client) and not is_running(daemon))  # type: ignore[misc]
        jobs.mount()


@pytest.mark.timeout(240)
def test_a_daemon_that_is_killed_while_it_tells_can_always_be_replaced(jobs: Mounted) -> None:
    """However busy it was telling watchers: it ends, and the next one takes its place and tells them on."""
    job = jobs.spawn(CHATTER)
    for _ in range(REPLACED):
        with watched(jobs.path, jobs.path / str(job), jobs.file("stdout", job)) as watcher:
            watcher.until_told(MODIFY, "stdout")
            watcher.until(lambda _, watcher=watcher: watcher.count(MODIFY, "stdout") > 1)  # type: ignore[misc]
            daemon = jobs.daemon
            assert daemon is not None
            os.kill(daemon, signal.SIGKILL)
            until(lambda daemon=daemon: not is_running(daemon))  # type: ignore[misc]
            jobs.mount()
            assert "running" == jobs.status(job)
