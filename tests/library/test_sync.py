"""`jobfs.sync`: a table for programs that do not run trio, used from plain threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import jobfs
from jobfs import sync
from jobfs.errors import EngineGone
from tests.mounted import PATIENCE, is_running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def table() -> Iterator[sync.Table]:
    """A table in memory; nothing runs any more when it is closed."""
    with sync.open_table() as table:
        yield table
    assert [] == [thread.name for thread in threading.enumerate() if thread.name.startswith("jobfs")]


def word(job: sync.Job) -> str:
    """How it ended."""
    return str(job.wait(PATIENCE))


def until_said(job: sync.Job, text: bytes) -> None:
    """Waits until its output has that in it."""
    until(lambda: text in job.stdout.snapshot().data)


def turning(task: sync.Task) -> None:
    """A job that comes to checkpoints for ever."""
    task.stdout.write(b"turning\n")
    while True:
        task.checkpoint()


# Functions


def counting(task: sync.Task, start: int, stop: int) -> int:
    """A job with arguments, that writes."""
    for number in range(start, stop):
        task.stdout.write(b"%d\n" % number)
    task.stderr.write(f"{task.id} {task.name}".encode())
    return 3


def test_a_function_is_given_its_arguments_and_writes(table: sync.Table) -> None:
    """What it wrote is the job's output, and what it returned is its exit code."""
    job = table.start(counting, 2, 5, name="count")
    assert "failed:3" == word(job)
    assert (b"2\n3\n4\n", b"1 count") == (job.stdout.snapshot().data, job.stderr.snapshot().data)
    assert ("counting", None) == (job.command, job.pid)
    assert "counting" == table.start(partial(counting, start=0, stop=0)).command


@pytest.mark.parametrize(
    ("code", "status"), [(None, "done:0"), (0, "done:0"), (255, "failed:255"), (-9, "killed:9"), (256, "failed:1")]
)
def test_what_a_function_returns_is_how_it_ended(table: sync.Table, code: int | None, status: str) -> None:
    """An exit code, or minus a signal's number; what is neither is a mistake."""
    assert status == word(table.start(lambda _: code, command="returns"))


def test_what_a_function_raises_is_in_its_stderr(table: sync.Table) -> None:
    """With the traceback, and nobody else is harmed."""

    def crash(_: sync.Task) -> None:
        raise ValueError("no such luck")

    job = table.start(crash)
    assert "failed:1" == word(job)
    said = job.stderr.snapshot().data.decode()
    assert said.startswith("Traceback (most recent call last):\n")
    assert said.endswith(', in crash\n    raise ValueError("no such luck")\nValueError: no such luck\n')


@pytest.mark.parametrize(
    ("error", "status"),
    [(SystemExit(7), "failed:7"), (SystemExit("why"), "failed:1"), (KeyboardInterrupt(), "killed:2")],
)
def test_exceptions_that_end_programs_end_the_job(table: sync.Table, error: BaseException, status: str) -> None:
    """SystemExit is its exit code, KeyboardInterrupt signal 2."""

    def leave(_: sync.Task) -> None:
        raise error

    assert status == word(table.start(leave))
    assert "done:0" == word(table.spawn("true"))


def test_a_function_is_ended_at_its_checkpoint(table: sync.Table) -> None:
    """What comes out of the checkpoint is no Exception."""
    seen: list[bool] = []

    def careful(task: sync.Task) -> None:
        try:
            turning(task)
        except Exception:  # noqa: BLE001 - this is what is tested
            seen.append(False)
        finally:
            seen.append(task.cancelled)

    job = table.start(careful)
    until_said(job, b"turning")
    assert "killed:15" == str(job.end(timeout=PATIENCE))
    assert [True] == seen


def test_a_function_is_ended_by_the_signal_that_was_sent(table: sync.Table) -> None:
    """`signal` tells in the status."""
    job = table.start(turning)
    job.signal(signal.SIGHUP)
    assert "killed:1" == word(job)


def test_a_function_is_ended_in_a_write(table: sync.Table) -> None:
    """One that writes for ever needs no checkpoint."""

    def talk(task: sync.Task) -> None:
        while True:
            task.stdout.write(b"on and on\n")

    job = table.start(talk)
    until_said(job, b"on and on\n")
    assert "killed:15" == str(job.end(timeout=PATIENCE))


def test_a_function_that_waits_for_another_job_is_ended(table: sync.Table) -> None:
    """Whatever of the table its thread waits for, the other job goes on."""
    other = table.spawn(["sleep", "1000"])

    def waiting(task: sync.Task) -> None:
        task.stdout.write(b"waiting\n")
        other.wait()

    job = table.start(waiting)
    until_said(job, b"waiting\n")
    assert "killed:15" == str(job.end(timeout=PATIENCE))
    assert "running" == str(other.status)


def test_a_thread_that_a_function_started_is_ended_by_its_writes(table: sync.Table) -> None:
    """The job's own side of it works in any thread."""
    ended = threading.Event()

    def talk(task: sync.Task) -> None:
        try:
            while True:
                task.stdout.write(b"helper\n")
        except sync.Cancelled:
            ended.set()

    def parent(task: sync.Task) -> None:
        helper = threading.Thread(target=talk, args=(task,))
        helper.start()
        helper.join()
        task.checkpoint()

    job = table.start(parent)
    until_said(job, b"helper\n")
    assert "killed:15" == str(job.end(timeout=PATIENCE))
    assert ended.is_set()


def test_a_function_may_finish_all_the_same(table: sync.Table) -> None:
    """What returns has not been cancelled, and its last words are kept."""

    def finishing(task: sync.Task) -> int:
        try:
            turning(task)
        except sync.Cancelled:
            task.stdout.write_nowait(b"last words\n")
        return 0

    job = table.start(finishing)
    until_said(job, b"turning\n")
    assert "done:0" == str(job.end(timeout=PATIENCE))
    assert b"turning\nlast words\n" == job.stdout.snapshot().data


def test_a_stopped_function_waits(table: sync.Table) -> None:
    """At its checkpoint, until it is continued; `write_nowait` says so."""
    seen: list[str] = []
    go = threading.Event()

    def stepping(task: sync.Task) -> None:
        go.wait()
        try:
            task.stdout.write_nowait(b"no")
        except BlockingIOError:
            seen.append("stopped" if task.stopped else "running")
        task.checkpoint()
        seen.append("went on")

    job = table.start(stepping)
    running = job.status
    job.stop()
    assert "stopped" == str(job.wait_changed(running, PATIENCE))
    assert job == table.last_stopped
    go.set()
    until(lambda: seen)
    job.cont()
    assert "done:0" == word(job)
    assert ["stopped", "went on"] == seen


def test_a_process_of_a_function_is_a_part_of_the_job(table: sync.Table, tmp_path: Path) -> None:
    """Its output and exit code are had, and it is ended with the job."""

    def builder(task: sync.Task) -> None:
        code = task.run_process('echo "in $PWD: $X"; exit 4', cwd=tmp_path, env={"X": "1"})
        task.stdout.write(b"%d\n" % code)
        task.run_process("echo $$; exec sleep 1000")

    job = table.start(builder)
    until_said(job, b"\n4\n")
    lines = until(job.stdout.snapshot, lambda said: said.data.count(b"\n") == 3).data.splitlines()
    assert [f"in {tmp_path}: 1".encode(), b"4"] == lines[:2]
    assert "killed:15" == str(job.end(timeout=PATIENCE))
    assert not is_running(int(lines[2]))


def test_a_function_reads_what_is_written_to_it(table: sync.Table) -> None:
    """In pieces, until it is closed."""

    def upper(task: sync.Task) -> None:
        task.stdout.write(task.stdin.receive_some(2).upper())
        for piece in task.stdin:
            task.stdout.write(piece.upper())

    job = table.start(upper, stdin=True)
    job.write(b"some text\n")
    job.close_stdin()
    assert "done:0" == word(job)
    assert b"SOME TEXT\n" == job.stdout.snapshot().data


def test_a_function_can_be_started_again(table: sync.Table) -> None:
    """With the same arguments, once it has ended."""
    job = table.start(counting, 0, 2)
    word(job)
    again = job.restart()
    assert "failed:3" == word(again)
    assert (b"0\n1\n", 2) == (again.stdout.snapshot().data, again.id)
    with pytest.raises(jobfs.JobAlive):
        table.start(turning).restart()


# Waiting


def test_a_wait_that_takes_too_long_is_given_up(table: sync.Table) -> None:
    """All that wait take a timeout, and the job does not notice."""
    job = table.spawn(["sleep", "1000"])
    with pytest.raises(TimeoutError, match=r"job 1 has not ended after 0 seconds"):
        job.wait(0)
    with pytest.raises(TimeoutError, match=r"job 1 is still running after 0\.001 seconds"):
        job.wait_changed(job.status, 0.001)
    with pytest.raises(TimeoutError, match=r"nothing was written after -1 seconds"):
        job.stdout.wait_changed(0, -1)
    with pytest.raises(BlockingIOError):
        job.wait_nowait()
    assert "running" == str(job.status)


def test_what_has_happened_is_not_waited_for(table: sync.Table) -> None:
    """Also with a timeout of no time at all."""
    job = table.spawn("echo said")
    word(job)
    until(lambda: job.stdout.state.closed)
    assert "done:0" == str(job.wait(0)) == str(job.wait_nowait()) == str(job.end(timeout=0))
    assert "done:0" == str(job.wait_changed(job.status, 0))
    assert 5 == job.stdout.wait_changed(0, 0).written == job.stdout.wait_changed(5, 0).written


def test_an_end_that_takes_too_long_goes_on(table: sync.Table) -> None:
    """The job was told; only its end is not waited for."""
    go = threading.Event()
    job = table.start(lambda _: go.wait() and None, command="deaf")
    try:
        with pytest.raises(TimeoutError):
            job.end(timeout=0)
    finally:
        go.set()
    assert "done:0" == word(job)


def test_output_is_followed_to_its_end(table: sync.Table) -> None:
    """Piece by piece as it comes, from an offset."""
    job = table.spawn("echo one; read x; echo $x", stdin="pipe")
    chunks = job.stdout.follow(1)
    assert b"ne\n" == next(chunks)
    job.write(b"two\n")
    assert [b"two\n"] == list(chunks)
    assert [] == list(chunks)


def test_jobs_are_had_in_the_order_of_their_ends(table: sync.Table) -> None:
    """`wait_all` gives each when it has ended."""
    jobs = [table.spawn("read x", stdin="pipe") for _ in range(3)]
    ends = table.wait_all()
    for job in (jobs[1], jobs[2], jobs[0]):
        job.close_stdin()
        assert job == next(ends)
    assert [] == list(ends)
    assert jobs[:1] == list(table.wait_all(jobs[:1]))


def test_a_dropped_iterator_leaves_nothing_behind(table: sync.Table) -> None:
    """Neither a task in the trio thread nor an open file, also when it was waiting a moment ago."""
    job = table.spawn("echo one; exec sleep 1000")
    until_said(job, b"one\n")
    before = len(os.listdir("/proc/self/fd"))
    chunks, ends, unused = job.stdout.follow(), table.wait_all(), job.stdout.follow()
    assert b"one\n" == next(chunks)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(next, ends)
        del ends, chunks, unused
        assert not waiting.done()
        job.kill()
        assert job == waiting.result(PATIENCE)
    waiting.cancel()
    until(lambda: len(os.listdir("/proc/self/fd")), lambda number: number <= before)


def test_many_threads_wait_at_once(table: sync.Table) -> None:
    """Each for its own, and all for the same."""

    def exit_with(code: int) -> str:
        return word(table.spawn(f"exit {code}"))

    gate = table.spawn("read x", stdin="pipe")
    with ThreadPoolExecutor(20) as threads:
        waits = [threads.submit(gate.wait, PATIENCE) for _ in range(10)]
        others = [threads.submit(exit_with, n) for n in range(1, 11)]
        assert [f"failed:{n}" for n in range(1, 11)] == [other.result(PATIENCE) for other in others]
        assert not any(wait.done() for wait in waits)
        gate.close_stdin()
        assert {"failed:1"} == {str(wait.result()) for wait in waits}


# Feeds


def test_a_feed_is_finished_by_the_program(table: sync.Table) -> None:
    """With an exit code, after what it wrote."""
    feed = table.register("a pipeline", name="p")
    feed.stdout.write(b"out")
    feed.stderr.write_nowait(b"err")
    assert (3, 3, False, 10 << 20) == (
        feed.stdout.written,
        feed.stderr.written,
        feed.stdout.closed,
        feed.stdout.capacity,
    )
    assert ("running", False) == (str(table["p"].status), feed.cancelled)
    feed.finish(2)
    assert ("failed:2", True, True) == (str(feed.job.status), feed.cancelled, feed.stdout.closed)
    with pytest.raises(jobfs.JobEnded):
        feed.finish_nowait()


def test_a_feed_that_is_killed_tells_who_writes(table: sync.Table) -> None:
    """JobEnded, also where it was stopped and the writer had been waiting."""
    feed = table.register("fed")
    feed.job.stop()
    with ThreadPoolExecutor() as threads:
        write = threads.submit(feed.stdout.write, b"late")
        feed.job.signal(signal.SIGKILL)
        with pytest.raises(jobfs.JobEnded):
            write.result(PATIENCE)
    assert "killed:9" == word(feed.job)
    with pytest.raises(jobfs.JobEnded):
        feed.stdout.write_nowait(b"later")


def test_a_child_of_the_program_is_the_feed_s_process(table: sync.Table) -> None:
    """It is stopped and ended with the job; what is no child is refused."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as child:
        feed = table.register("sleep 1000", process=child.pid)
        feed.add_process(child.pid)
        feed.job.kill()
        assert -signal.SIGTERM == child.wait(PATIENCE)
    assert "killed:15" == word(feed.job)
    with pytest.raises(ProcessLookupError):
        table.register("nobody", process=1)


# The table


def test_jobs_are_found_by_id_and_name(table: sync.Table) -> None:
    """As in the trio table."""
    first = table.spawn("read x", name="first", stdin="pipe")
    second = table.spawn(["true"], name="second")
    word(second)
    assert [first, second] == table.jobs() == list(table)
    assert ([1, 2], 2, 1) == (table.ids(), len(table), table.running_count)
    assert (first, second, None, None) == (table[1], table.get("second"), table.get("third"), table.last_stopped)
    assert (True, False, second) == ("first" in table, 3 in table, table.last)
    assert ["first", "second"] == [info.spec.name for info in table.infos()]
    assert {first} == {first, table["first"]} != {second}
    with pytest.raises(jobfs.NoSuchJob):
        table["third"]
    with pytest.raises(jobfs.NameTaken):
        table.spawn("true", name="first")
    with pytest.raises(jobfs.BadCommand):
        table.start(turning, limit="much")
    with pytest.raises(jobfs.SpawnFailed):
        table.spawn(["/nowhere"])


def test_jobs_are_forgotten(table: sync.Table) -> None:
    """Those that have ended, and nothing else; the last event tells of it."""
    jobs = [table.spawn("true") for _ in range(5)]
    for job in jobs:
        word(job)
    jobs[0].remove()
    table.remove(jobs[1])
    table.prune(2)
    assert [4, 5] == table.ids()
    live = table.start(turning)
    with pytest.raises(jobfs.JobAlive):
        live.remove()
    table.clean()
    assert [live] == table.jobs()
    assert "done:0" == str(jobs[0].status)
    assert b'"removed"' in table.events.snapshot().data


def test_a_terminal_has_a_size(table: sync.Table) -> None:
    """`resize` reaches it."""
    job = table.spawn("read x; stty size", pty=True)
    job.resize(10, 20)
    job.write(b"\n")
    word(job)
    assert b"10 20" in job.stdout.snapshot().data


def test_evicted_bytes_are_told(table: sync.Table) -> None:
    """By the offset of the oldest that is kept."""
    job = table.spawn("seq 10000", limit=4096)
    word(job)
    with pytest.raises(jobfs.Evicted) as gap:
        job.stdout.read(0)
    assert b"9999\n10000\n" == job.stdout.read(gap.value.oldest)[-11:]
    assert b"99" == job.stdout.read(job.stdout.state.written - 11, 2)


# Opening and leaving


def test_leaving_ends_everything() -> None:
    """Functions, processes, feeds, and who waits for them in other threads learns how they ended."""
    with ThreadPoolExecutor() as threads:
        with sync.open_table() as table:
            function, process, feed = table.start(turning), table.spawn(["sleep", "1000"]), table.register("fed")
            pid = process.pid
            wait = threads.submit(process.wait)
            until_said(function, b"turning")
        assert "killed:15" == str(wait.result(PATIENCE))
    assert {"killed:15"} == {str(job.status) for job in (function, process, feed.job)}
    assert pid is not None
    assert not is_running(pid)


def test_a_closed_table_can_be_looked_at_and_no_more() -> None:
    """What was is still to be seen; what acts or waits raises EngineGone."""
    with sync.open_table() as table:
        job = table.spawn("echo said")
        feed = table.register("fed")
        word(job)
        chunks = job.stdout.follow()
        assert b"said\n" == next(chunks)
    assert ("done:0", "echo said", [1, 2]) == (word(job), job.info().spec.line, table.ids())
    for act in (
        lambda: table.spawn("true"),
        lambda: table.start(turning),
        lambda: table.register("fed"),
        feed.finish_nowait,
        lambda: next(chunks),
        job.restart,
    ):
        with pytest.raises(EngineGone, match="the table is closed"):
            act()


def test_a_follower_of_everything_does_not_hold_up_the_end() -> None:
    """A job that follows the events, which have no end, is ended with the table; so is a thread that is none."""

    def copy(task: sync.Task, events: sync.StreamReader) -> None:
        for line in events.follow():
            task.stdout.write(line)

    with ThreadPoolExecutor() as threads:
        with sync.open_table() as table:
            job = table.start(copy, table.events)
            thread = threads.submit(list[bytes], table.events.follow())
            until_said(job, b"started")
        with suppress(EngineGone):  # where it asks for more only now
            thread.result(PATIENCE)
    assert "killed:15" == str(job.status)


def test_the_state_is_found_again(tmp_path: Path) -> None:
    """By the next one who opens it; by one at a time."""
    with sync.open_table(tmp_path / "state", keep=1) as table:
        word(table.spawn("echo first"))
        word(table.spawn("echo second", name="kept"))
        with pytest.raises(jobfs.StateUnusable), sync.open_table(tmp_path / "state"):
            pass
    with sync.open_table(tmp_path / "state", keep=1) as table:
        until(table.ids, lambda ids: ids == [2])
        assert b"second\n" == table["kept"].stdout.snapshot().data


def test_what_the_block_raises_gets_out_as_it_is() -> None:
    """And what opening raises, too: no group, no other type."""
    with pytest.raises(ZeroDivisionError), sync.open_table():
        raise ZeroDivisionError
    with pytest.raises(jobfs.StateUnusable), sync.open_table("/proc/none"):
        pass


def test_tables_are_apart() -> None:
    """Any number of them, each with its own ids and thread."""
    with ExitStack() as stack:
        tables = [stack.enter_context(sync.open_table()) for _ in range(3)]
        assert [1, 1, 1] == [table.spawn("true").id for table in tables]


def test_without_trio_nothing_is_loaded() -> None:
    """`import jobfs` stays light, and the table's module is loaded by who asks for it."""
    program = (
        "import sys, jobfs; assert 'trio' not in sys.modules; import jobfs.sync; assert 'pyfuse3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True)


INTERRUPTED = """\
import sys, threading
from jobfs import sync

def turning(task):
    while True:
        task.checkpoint()

with sync.open_table() as table:
    jobs = [table.spawn("echo $$; exec sleep 1000"), table.start(turning)]
    jobs[0].stdout.wait_changed(0)
    try:
        print(jobs[0].stdout.snapshot().data.decode(), end="", flush=True)
        jobs[0].wait()
    except KeyboardInterrupt:
        print(*(job.status for job in jobs), flush=True)
print(*(job.status for job in jobs), [thread.name for thread in threading.enumerate() if not thread.daemon])
"""


def test_ctrl_c_interrupts_a_wait_and_leaves_all_well() -> None:
    """The jobs run on until the block is left, which ends them."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", INTERRUPTED],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        # Who was started with it ignored, as in the background of a script, could not be interrupted.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        until(lambda: "futex" in Path(f"/proc/{program.pid}/wchan").read_text())
        program.send_signal(signal.SIGINT)
        said = program.communicate(timeout=PATIENCE)[0].decode()
    assert ("running running\nkilled:15 killed:15 ['MainThread']\n", 0) == (said, program.returncode)
    assert not is_running(pid)


LEFT = """\
import sys
from jobfs import sync

try:
    with sync.open_table() as table:
        job = table.spawn(f"trap ': > {sys.argv[1]}' TERM; echo $$; while :; do sleep 0.01; done", grace=0.5)
        job.stdout.wait_changed(0)
        print(job.stdout.snapshot().data.decode(), end="", flush=True)
except KeyboardInterrupt:
    print("not waited for", flush=True)
"""


def test_ctrl_c_while_the_block_is_left_loses_nothing(tmp_path: Path) -> None:
    """The program goes on, and ends when the jobs have ended."""
    told = tmp_path / "told"
    with subprocess.Popen(
        [sys.executable, "-c", LEFT, str(told)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        until(told.exists)
        program.send_signal(signal.SIGINT)
        said = program.communicate(timeout=PATIENCE)[0]
    assert (b"not waited for\n", 0) == (said, program.returncode)
    assert not is_running(pid)
