"""Programs that have the kernel tell them of changes: what happens on the server's side reaches them as on a disk.

inotifywait shows the very events of inotify(7). The others stand for what is built on it: entr, the watchers of VS
Code (@parcel/watcher) and of most of what is written for node (chokidar), and those of Python (watchdog, watchfiles).
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.mounted import Mounted, until
from tests.programs.driven import DrivenJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.mount

SCRIPTS = Path(__file__).parent / "watchers"
IN_CREATE = 0x100
MOST = 20  # events a second for each file


def watches(pid: int) -> int:
    """How many watches a process has, see proc(5) on fdinfo."""
    count = 0
    for descriptor in os.scandir(f"/proc/{pid}/fdinfo"):
        try:
            count += Path(descriptor.path).read_text().count("inotify wd:")
        except FileNotFoundError:  # closed meanwhile
            continue
    return count


class Watcher:
    """A program that watches, beside the test, and the lines that it has printed."""

    def __init__(self, directory: Path, *command: str, given: str = "") -> None:
        """Starts it, in `directory`, where its output goes to a file; `given` is its standard input."""
        self._said = directory / "said"
        (directory / "given").write_text(given)
        with self._said.open("w") as said, (directory / "given").open() as standard_input:
            self._process = subprocess.Popen(command, stdin=standard_input, stdout=said, stderr=subprocess.STDOUT)
        self._forgotten = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def lines(self) -> list[str]:
        """What it has printed and was not forgotten."""
        return self._said.read_text().splitlines()[self._forgotten :]

    def forget(self) -> None:
        """Forgets what it has printed until now."""
        self._forgotten += len(self.lines)

    def until(self, holds: Callable[[list[str]], object]) -> list[str]:
        """Waits until its lines hold, and gives them."""
        return until(lambda: self.lines, holds)

    def until_told(self, *expected: str) -> None:
        """Waits until all of these are among its lines."""
        self.until(lambda lines: set(expected) <= set(lines))

    def until_shown(self, beginning: str, end: str) -> None:
        """Waits until there is a line that begins and ends so."""
        self.until(lambda lines: any(line.startswith(beginning) and line.endswith(end) for line in lines))

    def until_watching(self, count: int = 1) -> None:
        """Waits until it has so many watches."""
        until(lambda: watches(self._process.pid), lambda seen: seen >= count)

    def until_it_waits(self) -> None:
        """Waits until it sleeps in a poll(2) without a time limit: entr passes over what it hears when it begins."""
        until(
            lambda: Path(f"/proc/{self._process.pid}/syscall").read_text().split()[3:4], lambda at: at == ["0xffffffff"]
        )

    def wait(self) -> tuple[int, list[str]]:
        """Waits until it has ended by itself, and gives its exit status and lines."""
        return self._process.wait(), self.lines


def directories(mounted: Mounted) -> int:
    """How many directories the tree has: the root and the jobs'."""
    return 1 + sum(name.isdigit() for name in os.listdir(mounted.path))


def names(events: bytes) -> Iterator[str]:
    """The names in what was read of an inotify file, see inotify(7)."""
    while events:
        *_, length = struct.unpack_from("iIII", events)
        name, events = events[16 : 16 + length], events[16 + length :]
        yield os.fsdecode(name.rstrip(b"\0"))


# inotify's own events


def inotifywait(directory: Path, *words: str) -> Watcher:
    """Prints `path event,event` for what is changed, made, and removed, from when it is ready on."""
    events = ("-e", "modify,close_write,create,delete")
    watcher = Watcher(directory, "inotifywait", "-m", *events, "--format", "%w%f %e", *words)
    watcher.until_told("Watches established.")
    watcher.forget()
    return watcher


@pytest.mark.needs("inotifywait")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_a_modification(shared: Mounted, tmp_path: Path, stream: str) -> None:
    """A watch on a stream sees IN_MODIFY when the job has written, and IN_CLOSE_WRITE when the stream closes."""
    with DrivenJob(shared, stream=stream) as job, inotifywait(tmp_path, str(job.stdout)) as watcher:
        job.write("one\n")
        assert [f"{job.stdout} MODIFY"] == watcher.until(len)
        watcher.forget()
        job.write("two\n")
        watcher.until_told(f"{job.stdout} MODIFY")
        watcher.forget()
        job.end()
        watcher.until_told(f"{job.stdout} CLOSE_WRITE,CLOSE")


@pytest.mark.needs("inotifywait")
def test_a_job_that_wrote_nothing_closes_its_streams(shared: Mounted, tmp_path: Path) -> None:
    """IN_CLOSE_WRITE comes also for a stream that stayed empty, and without IN_MODIFY."""
    with DrivenJob(shared) as job, inotifywait(tmp_path, str(job.stdout)) as watcher:
        job.end()
        assert [f"{job.stdout} CLOSE_WRITE,CLOSE"] == watcher.until(len)


@pytest.mark.needs("inotifywait")
def test_a_descendant_keeps_a_stream_from_closing(shared: Mounted, tmp_path: Path) -> None:
    """A stream closes when nobody holds the job's pipe any more, which may be after its end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    job = shared.spawn(f"(read x < {fifo}; echo late) &")
    stdout = shared.file("stdout", job)
    shared.until_ended(job)
    with inotifywait(tmp_path, str(stdout)) as watcher:
        fifo.write_text("go\n")
        watcher.until_told(f"{stdout} MODIFY", f"{stdout} CLOSE_WRITE,CLOSE")


@pytest.mark.needs("inotifywait")
def test_a_status_is_modified_and_closed_at_each_change(shared: Mounted, tmp_path: Path) -> None:
    """A watch on `status` sees IN_MODIFY and IN_CLOSE_WRITE at each change, and then reads the new word."""
    with DrivenJob(shared) as job:
        status = job.file("status")
        with inotifywait(tmp_path, str(status)) as watcher:
            for verb, word in (("stop", "stopped"), ("cont", "running"), ("kill -9", "killed:9")):
                shared.ctl(f"{verb} {job.id}")
                watcher.until_told(f"{status} MODIFY", f"{status} CLOSE_WRITE,CLOSE")
                assert word == shared.until(job.id, word)
                watcher.forget()


@pytest.mark.needs("inotifywait")
def test_a_watch_on_a_job_sees_its_files(shared: Mounted, tmp_path: Path) -> None:
    """A watch on a job's directory is told of its files by name, also of those that nobody has looked at."""
    with DrivenJob(shared) as job:
        directory = shared.path / str(job.id)
        with inotifywait(tmp_path, str(directory)) as watcher:
            job.write("one\n")
            watcher.until_told(f"{directory}/stdout MODIFY")
            job.end()
            watcher.until_told(
                f"{directory}/status MODIFY",
                f"{directory}/status CLOSE_WRITE,CLOSE",
                f"{directory}/stdout CLOSE_WRITE,CLOSE",
                f"{directory}/stderr CLOSE_WRITE,CLOSE",
            )


@pytest.mark.needs("inotifywait")
@pytest.mark.parametrize("remove", ["ctl", "rmdir", "clean"])
def test_a_watch_on_the_root_sees_jobs_come_and_go(jobs: Mounted, tmp_path: Path, remove: str) -> None:
    """IN_CREATE and IN_DELETE with IN_ISDIR come in the root when a job appears and when it goes, each once."""
    with inotifywait(tmp_path, str(jobs.path)) as watcher:
        job = jobs.run("true")
        directory = jobs.path / str(job)
        watcher.until_told(f"{directory} CREATE,ISDIR")
        if remove == "rmdir":
            directory.rmdir()
        else:
            jobs.ctl("clean" if remove == "clean" else f"rm {job}")
        watcher.until_told(f"{directory} DELETE,ISDIR")
        assert not directory.exists()
        told = [line.partition(" ")[2] for line in watcher.lines if line.startswith(f"{directory} ")]
        assert ["CREATE,ISDIR", "DELETE,ISDIR"] == told


@pytest.mark.needs("inotifywait")
def test_jobs_are_there_when_they_are_told_of(shared: Mounted, tmp_path: Path) -> None:
    """Who is told of a job finds its directory, however many come at once, and each is told of once."""
    with inotifywait(tmp_path, str(shared.path)) as watcher:
        ids = [shared.spawn("true") for _ in range(30)]
        expected = [f"{shared.path / str(job)} CREATE,ISDIR" for job in ids]
        watcher.until_told(*expected)
        assert sorted(expected) == sorted(line for line in watcher.lines if line.endswith("CREATE,ISDIR"))
        assert all((shared.path / str(job) / "status").exists() for job in ids)


def test_a_job_is_found_as_soon_as_it_is_told_of(shared: Mounted) -> None:
    """Who looks a job up the moment that inotify tells of it finds it, as watchers of trees do to watch it too."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    missed = []
    try:
        assert libc.inotify_add_watch(fd, os.fsencode(shared.path), IN_CREATE) >= 0
        with ThreadPoolExecutor(1) as spawner:
            ids = [spawner.submit(shared.spawn, "true") for _ in range(50)]
            told: list[int] = []
            while len(told) < len(ids):
                for name in names(os.read(fd, 4096)):
                    if not os.path.isdir(shared.path / name):
                        missed.append(name)
                    told.append(int(name))
    finally:
        os.close(fd)
    assert [] == missed
    assert [job.result() for job in ids] == sorted(told)


@pytest.mark.needs("inotifywait")
def test_a_watch_on_the_root_sees_its_files(shared: Mounted, tmp_path: Path) -> None:
    """IN_MODIFY comes on `table`, `table.jsonl` and `events` at a change, and IN_CLOSE_WRITE on the two tables."""
    with inotifywait(tmp_path, str(shared.path)) as watcher:
        shared.spawn("true")
        tables = [shared.file(name) for name in ("table", "table.jsonl")]
        watcher.until_told(*(f"{path} {event}" for path in tables for event in ("MODIFY", "CLOSE_WRITE,CLOSE")))
        watcher.until_told(f"{shared.file('events')} MODIFY")


@pytest.mark.needs("inotifywait")
@pytest.mark.parametrize("name", ["table", "table.jsonl", "events"])
def test_a_watch_on_a_file_of_the_root(shared: Mounted, tmp_path: Path, name: str) -> None:
    """The same comes where only that one file is watched."""
    path = shared.file(name)
    with inotifywait(tmp_path, str(path)) as watcher:
        shared.spawn("true")
        watcher.until_told(f"{path} MODIFY", *([] if name == "events" else [f"{path} CLOSE_WRITE,CLOSE"]))


@pytest.mark.needs("inotifywait")
def test_a_recursive_watch_sees_the_files_of_jobs_to_come(shared: Mounted, tmp_path: Path) -> None:
    """`inotifywait -r` of the root hears of a new job, watches it too, and hears of its output and its end."""
    with inotifywait(tmp_path, "-r", str(shared.path)) as watcher:
        with DrivenJob(shared) as job:
            directory = shared.path / str(job.id)
            watcher.until_told(f"{directory} CREATE,ISDIR")
            watcher.until_watching(directories(shared))
            job.write("one\n")
            watcher.until_told(f"{directory}/stdout MODIFY")
            job.end()
            watcher.until_told(f"{directory}/status CLOSE_WRITE,CLOSE", f"{directory}/stdout CLOSE_WRITE,CLOSE")
        shared.ctl(f"rm {job.id}")
        watcher.until_told(f"{directory} DELETE,ISDIR")


@pytest.mark.needs("inotifywait")
def test_events_come_at_most_twenty_times_a_second(shared: Mounted, tmp_path: Path) -> None:
    """A job that writes without a pause is told of at most 20 times a second, and of its last byte too."""
    with DrivenJob(shared) as job, inotifywait(tmp_path, str(job.stdout)) as watcher:
        began = time.monotonic()
        for number in range(500):
            job.write(f"{number}\n")
        watcher.until_told(f"{job.stdout} MODIFY")
        elapsed = time.monotonic() - began
        told = watcher.lines.count(f"{job.stdout} MODIFY")
        assert 1 <= told <= MOST * elapsed + 1
        watcher.forget()
        job.write("the last\n")
        watcher.until_told(f"{job.stdout} MODIFY")


@pytest.mark.needs("inotifywait")
def test_a_watch_sees_what_is_written_to_ctl(shared: Mounted, tmp_path: Path) -> None:
    """A write to `ctl` through the mount is an event as on a disk, and nothing else is one there."""
    ctl = shared.file("ctl")
    with inotifywait(tmp_path, str(ctl)) as watcher:
        shared.ctl("spawn true")
        watcher.until_told(f"{ctl} MODIFY", f"{ctl} CLOSE_WRITE,CLOSE")
        assert 2 == len(watcher.lines)


# entr


@pytest.mark.needs("entr")
def test_entr_runs_its_command_when_the_status_changes(shared: Mounted, tmp_path: Path) -> None:
    """`entr -z` on `status` waits, runs its command when the job has ended, and ends."""
    with DrivenJob(shared) as job:
        status = str(job.file("status"))
        with Watcher(tmp_path, "entr", "-npz", "cat", status, given=f"{status}\n") as entr:
            entr.until_it_waits()
            job.end()
            assert (0, ["done:0"]) == entr.wait()


@pytest.mark.needs("entr")
def test_entr_runs_its_command_when_the_output_is_complete(shared: Mounted, tmp_path: Path) -> None:
    """`entr -z` on `stdout` runs its command, at the latest when the stream closes, and all is readable then."""
    with DrivenJob(shared) as job:
        stdout = str(job.stdout)
        job.write("one\n")
        with Watcher(tmp_path, "entr", "-npz", "cat", stdout, given=f"{stdout}\n") as entr:
            entr.until_it_waits()
            job.end()
            assert (0, ["one"]) == entr.wait()


@pytest.mark.needs("entr")
def test_entr_runs_its_command_at_each_change_of_the_table(shared: Mounted, tmp_path: Path) -> None:
    """`entr` on `table` runs its command again when a job has come."""
    table = str(shared.file("table"))
    with Watcher(tmp_path, "entr", "-np", "cat", table, given=f"{table}\n") as entr:
        entr.until_it_waits()
        for line in (": first", ": second"):
            job = shared.spawn(line)
            entr.until_shown(f"{job} ", line)
            entr.until_it_waits()


# Watchers of whole trees


def tree_watcher(name: str, *needs: str) -> object:
    """A parameter of a test with watchers of trees: the script that runs one."""
    script = next(SCRIPTS.glob(f"with_{name}.*"))
    interpreter = (sys.executable, "-u") if script.suffix == ".py" else ("node",)
    return pytest.param((*interpreter, str(script)), id=name, marks=pytest.mark.needs(*needs))


TREE_WATCHERS = [
    tree_watcher("parcel", "node", "npm:@parcel/watcher"),
    tree_watcher("chokidar", "node", "npm:chokidar"),
    tree_watcher("watchdog", "python:watchdog"),
    tree_watcher("watchfiles", "python:watchfiles"),
]


@pytest.mark.parametrize("command", TREE_WATCHERS)
def test_a_watcher_of_the_tree_is_told_of_a_jobs_life(jobs: Mounted, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A watcher of the whole tree is told of a job that appears, its output, its status, its end, and when it goes."""
    jobs.run("echo of a job that was there before")
    with Watcher(tmp_path, *command, str(jobs.path)) as watcher:
        watcher.until_told("ready")
        with DrivenJob(jobs) as job:
            watcher.until_told(f"created {job.id}")
            watcher.until_told("modified table", "modified table.jsonl", "modified events")
            watcher.until_watching(directories(jobs))
            job.write("one\n")
            watcher.until_told(f"modified {job.id}/stdout")
            # Once only: chokidar passes over what changes again within 50 ms, on a disk too.
            job.end()
            watcher.until_told(f"modified {job.id}/status")
        jobs.ctl(f"rm {job.id}")
        watcher.until_told(f"deleted {job.id}")
