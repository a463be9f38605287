"""The Python client on a real mount: what it waits for, reads, writes and says of jobs that live."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobfs.client import (
    Client,
    CommandError,
    Event,
    EvictedError,
    Info,
    NoSuchJobError,
    NotMountedError,
    Stream,
    StreamInfo,
    Usage,
    Writer,
)
from tests.mounted import PATIENCE, Mounted, until
from tests.readers import Readers, talker

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount

STREAMS: list[Stream] = ["stdout", "stderr"]
CAPACITY = 4096  # bytes, the smallest


@pytest.fixture
def client(shared: Mounted) -> Client:
    """The client of the module's mount."""
    return Client(shared.path)


@pytest.fixture
def readers() -> Iterator[Readers]:
    """Processes that end with the test."""
    it = Readers()
    try:
        yield it
    finally:
        it.close()


# Spawning and finding


def test_a_string_is_a_command_line_and_a_sequence_a_program(client: Client) -> None:
    """The shell reads the one, and nobody the other."""
    line, words = client.spawn("echo $((1 + 1))"), client.spawn(["printf", "%s", "$((1 + 1))"])
    assert ["done:0", "done:0"] == [line.wait(PATIENCE), words.wait(PATIENCE)]
    assert [b"2\n", b"$((1 + 1))"] == [line.read(), words.read()]


def test_options_reach_the_job(client: Client, tmp_path: Path) -> None:
    """Directory, environment, stdin, limit and niceness are the job's."""
    (tmp_path / "environment").write_bytes(b"FROM=file\0PATH=/usr/bin:/bin\0")
    (tmp_path / "pipe").write_text("read\n")
    job = client.spawn(
        'cat; pwd; echo "$FROM $ONE"',
        cwd=tmp_path,
        env={"ONE": "1"},
        env_file=tmp_path / "environment",
        stdin=tmp_path / "pipe",
        limit="64K",
        timeout=3600,
        grace="2s",
        nice=1,
    )
    assert "done:0" == job.wait(PATIENCE)
    assert f"read\n{tmp_path}\nfile 1\n" == job.read().decode()
    assert 64 * 1024 == job.info()["stdout"]["capacity"]


def test_what_cannot_be_spawned_is_a_command_error(client: Client) -> None:
    """The errno is that of the write, and the sentence names what is at fault."""
    with pytest.raises(CommandError, match="no-such-program") as caught:
        client.spawn(["no-such-program"])
    assert errno.ENOENT == caught.value.errno


def test_jobs_are_found_by_name(client: Client) -> None:
    """By its name, its id and in the list it is the same job."""
    job = client.spawn("true", name="found")
    assert [job, job, job] == [client.job("found"), client.job(job.id), client.job("last")]
    assert job in client.jobs()
    assert "found" == next(info["name"] for info in client.infos() if info["id"] == job.id)


def test_a_name_that_no_job_has_is_no_such_job(client: Client) -> None:
    """It is a FileNotFoundError, too."""
    with pytest.raises(NoSuchJobError, match="nobody"):
        client.job("nobody")
    with pytest.raises(FileNotFoundError):
        client.job(999_999)


def test_info_has_the_keys_that_its_type_names(client: Client) -> None:
    """The types say all that `info` says, and nothing else."""
    info = client.spawn("true").info()
    parts = [set(info), set(info["stdout"]), set(info["stderr"]), set(info["usage"]), set(info["spawned_by"])]
    kinds = (Info, StreamInfo, StreamInfo, Usage, Writer)
    assert [set(kind.__required_keys__) for kind in kinds] == parts


def test_events_have_the_keys_that_their_type_names(jobs: Mounted) -> None:
    """From the first event that is there to the last; every key of theirs is of the type."""
    client = Client(jobs.path)
    job = client.spawn("true")
    job.wait(PATIENCE)
    job.remove()
    with pytest.raises(CommandError):
        client.command("nonsense")
    events = list(client.events())
    assert ["started", "ended", "removed", "error"] == [event["event"] for event in events]
    assert Event.__required_keys__ | Event.__optional_keys__ == set().union(*events)


def test_events_are_followed(jobs: Mounted) -> None:
    """With `follow`, the iterator waits for the next event."""
    client = Client(jobs.path)
    events = client.events(follow=True)
    for number in (1, 2):
        client.spawn("true").wait(PATIENCE)
        assert [("started", number), ("ended", number)] == [
            (it["event"], it["id"]) for _, it in zip("12", events, strict=False)
        ]


# Waiting


def test_waiting_gives_the_final_status(client: Client) -> None:
    """Whatever it is, also of a job that has ended already."""
    jobs = [client.spawn("exit 3"), client.spawn("kill -9 $$")]
    assert ["failed:3", "killed:9"] * 2 == [job.wait() for job in jobs * 2]
    assert [True, True] == [job.ended for job in jobs]


def test_waiting_ends_when_the_job_does(shared: Mounted, client: Client) -> None:
    """Who waits is woken by the end."""
    with talker(shared) as speaker, ThreadPoolExecutor(1) as pool:
        job = client.job(speaker.id)
        waiting = pool.submit(job.wait, PATIENCE)
        assert "running" == job.status
        speaker.tell("exit 4")
        assert "failed:4" == waiting.result(PATIENCE)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_waiting_gives_up_after_the_timeout(client: Client, timeout: float) -> None:
    """It is a TimeoutError, and the job goes on."""
    job = client.spawn("exec sleep 1000")
    with pytest.raises(TimeoutError, match=f"job {job.id} has not ended"):
        job.wait(timeout)
    assert "running" == job.status
    job.kill()


WAITER = """
import sys
from jobfs.client import Client
print("waiting", flush=True)
job = Client(sys.argv[1]).job(int(sys.argv[2]))
try:
    job.wait() if sys.argv[3] == "wait" else list(job.follow())
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("method", ["wait", "follow"])
def test_who_waits_can_be_interrupted(client: Client, readers: Readers, method: str) -> None:
    """Control-C is a KeyboardInterrupt in a program that waits for a job."""
    job = client.spawn("exec sleep 1000")
    waiter = readers.python(WAITER, client.directory, str(job.id), method)
    waiter.until_said("waiting")
    until(lambda: "poll" in Path(f"/proc/{waiter.process.pid}/wchan").read_text())
    waiter.signal(signal.SIGINT)
    assert 7 == waiter.until_ended()
    assert "running" == job.status
    job.kill()


# Following


@pytest.mark.parametrize("stream", STREAMS)
def test_following_gives_what_comes_as_it_comes(shared: Mounted, client: Client, stream: Stream) -> None:
    """A line can be had before the next one is written, and the job's end is the end."""
    with talker(shared) as speaker:
        lines = client.job(speaker.id).lines(stream)
        for text in ("one", "two"):
            speaker.tell(f"{stream.removeprefix('std')} {text}")
            assert f"{text}\n".encode() == next(lines)
        speaker.tell("exit 0")
        assert [] == list(lines)


def test_following_gives_every_byte_of_a_job_that_has_room(client: Client) -> None:
    """What is written while it is read, and what was there before."""
    job = client.spawn("seq 300000")
    assert b"".join(b"%d\n" % number for number in range(1, 300_001)) == b"".join(job.follow())


def test_following_ends_on_an_output_that_the_kernel_has_cached(shared: Mounted, client: Client) -> None:
    """Of a closed stream that was read before; both times all of it."""
    job = client.spawn("seq 30000")
    shared.until_closed(job.id)
    assert [job.read()] * 2 == [b"".join(job.follow()) for _ in range(2)]


def test_who_is_outrun_skips_to_whole_lines(client: Client, tmp_path: Path) -> None:
    """A job that writes more than is kept goes on, and its reader with it: ever later lines, to the last."""
    gate = tmp_path / "gate"
    job = client.spawn(f"seq 1000; until [ -e {gate} ]; do sleep 0.01; done; seq 1001 100000", limit=CAPACITY)
    output = job.follow()
    begin = next(output)
    gate.touch()
    job.wait(PATIENCE)
    numbers = [int(line) for line in (begin + b"".join(output)).split()]
    assert sorted(set(numbers)) == numbers
    assert 100_000 == numbers[-1]
    assert len(numbers) < 100_000


def test_following_ends_while_a_descendant_holds_the_pipe(client: Client, tmp_path: Path) -> None:
    """The job's end is the end, whoever it left behind."""
    gate = tmp_path / "gate"
    job = client.spawn(f"(until [ -e {gate} ]; do sleep 0.01; done) & echo out")
    assert b"out\n" == b"".join(job.follow())
    gate.touch()


# Reading


def test_reading_goes_on_where_it_was(shared: Mounted, client: Client) -> None:
    """From offset to offset, every byte once."""
    with talker(shared) as speaker:
        job = client.job(speaker.id)
        seen = b""
        for text in ("one", "two", "three"):
            speaker.say(text)
            seen += job.read(len(seen))
        speaker.say("wrong", "stderr")
        assert (b"one\ntwo\nthree\n", b"wrong\n") == (seen, job.read(stream="stderr"))
        assert [b"wo\nthree\n", b""] == [job.read(5), job.read(len(seen))]


def test_reading_what_was_evicted_says_what_is_left(shared: Mounted, client: Client) -> None:
    """An offset below the oldest byte is an error that has the oldest, from which the bytes are exact."""
    job = client.spawn("seq 100000", limit=CAPACITY)
    shared.until_closed(job.id)
    whole = b"".join(b"%d\n" % number for number in range(1, 100_001))
    oldest = len(whole) - CAPACITY
    for offset in (0, oldest - 1):
        with pytest.raises(EvictedError, match="evicted") as caught:
            job.read(offset)
        assert oldest == caught.value.oldest
    assert [whole[oldest:], whole[-10:]] == [job.read(oldest), job.read(len(whole) - 10)]
    assert whole.endswith(job.read())


def test_bytes_at_an_offset_are_right_or_an_error_while_the_job_writes(client: Client) -> None:
    """A collector that is outrun all the time never gets a byte that is another offset's."""
    job = client.spawn("exec seq 10000000000 99999999999", limit=CAPACITY)  # 12 bytes a line, for long
    offset, gaps = 0, [0]
    while len(gaps) < 20:
        try:
            data = job.read(offset)
        except EvictedError as error:
            offset = error.oldest
            gaps.append(offset)
            continue
        numbers = range(10**10 + offset // 12, 10**10 + (offset + len(data)) // 12 + 1)
        assert b"".join(b"%d\n" % number for number in numbers)[offset % 12 :].startswith(data)
        offset += len(data)
    job.kill(9)
    assert sorted(set(gaps)) == gaps


# Control


def test_killing_ends_or_sends_just_the_signal(client: Client) -> None:
    """SIGTERM by itself; else the signal that is named, by number or name."""
    jobs = [client.spawn("exec sleep 1000") for _ in range(4)]
    for job, number in zip(jobs, (None, 9, signal.SIGHUP, "INT"), strict=True):
        job.kill(number)
    assert ["killed:15", "killed:9", "killed:1", "killed:2"] == [job.wait(PATIENCE) for job in jobs]
    with pytest.raises(CommandError) as caught:
        jobs[0].kill()
    assert errno.ESRCH == caught.value.errno


def test_stopping_and_continuing(client: Client) -> None:
    """The status tells."""
    job = client.spawn("exec sleep 1000")
    job.stop()
    until(lambda: job.status, lambda word: word == "stopped")
    job.cont()
    until(lambda: job.status, lambda word: word == "running")
    job.kill()


def test_what_is_written_the_job_reads(client: Client) -> None:
    """More than its pipe holds, until end of file; then nobody reads it."""
    job = client.spawn(["wc", "-c"], stdin="pipe")
    job.write(b"x" * 1_000_000)
    job.write(b"y")
    job.eof()
    assert ("done:0", b"1000001\n") == (job.wait(PATIENCE), job.read())
    with pytest.raises(BrokenPipeError):
        job.write(b"z")


def test_a_terminal_has_a_size_and_is_typed_into(client: Client) -> None:
    """What is written is typed, and the size is what was set last."""
    job = client.spawn("read x; stty size", pty=True)
    job.winsize(33, 99)
    job.write(b"go\n")
    assert "done:0" == job.wait(PATIENCE)
    assert b"33 99" in job.read()


def test_restarting_gives_a_new_job(client: Client) -> None:
    """The same command under a new id; one that lives is not restarted, nor removed."""
    job = client.spawn("echo again")
    job.wait(PATIENCE)
    again = job.restart()
    assert again.id > job.id
    assert ("done:0", b"again\n") == (again.wait(PATIENCE), again.read())
    live = client.spawn("exec sleep 1000")
    for refused in (live.restart, live.remove):
        with pytest.raises(CommandError) as caught:
            refused()
        assert errno.EBUSY == caught.value.errno
    live.kill()


def test_a_removed_job_is_gone(client: Client) -> None:
    """Every method says so from then on."""
    job = client.spawn("true")
    job.wait(PATIENCE)
    job.remove()
    for ask in (lambda: job.status, job.info, job.wait, job.read, job.kill, lambda: next(job.follow())):
        with pytest.raises(NoSuchJobError, match=f"no such job: {job.id}"):
            ask()


def test_cleaning_leaves_what_lives(jobs: Mounted) -> None:
    """Ended jobs go, all of them."""
    client = Client(jobs.path)
    live = client.spawn("exec sleep 1000")
    for _ in range(3):
        client.spawn("true").wait(PATIENCE)
    client.clean()
    assert [live] == client.jobs()


# Many at once


def test_threads_share_a_client(client: Client) -> None:
    """Each spawns, feeds, follows and waits, and gets what is its own."""

    def work(number: int) -> tuple[str, bytes]:
        job = client.spawn(["cat"], stdin="pipe")
        job.write(b"%d\n" % number * 1000)
        job.eof()
        output = b"".join(job.follow())
        return job.wait(PATIENCE), output

    with ThreadPoolExecutor(8) as pool:
        assert [("done:0", b"%d\n" % number * 1000) for number in range(24)] == list(pool.map(work, range(24)))


def test_many_wait_for_one_job(shared: Mounted, client: Client) -> None:
    """All of them are told."""
    with talker(shared) as speaker, ThreadPoolExecutor(8) as pool:
        ready = threading.Barrier(9)

        def wait() -> str:
            ready.wait(PATIENCE)
            return client.job(speaker.id).wait(PATIENCE)

        waiting = [pool.submit(wait) for _ in range(8)]
        ready.wait(PATIENCE)
        speaker.tell("exit 0")
        assert ["done:0"] * 8 == [it.result(PATIENCE) for it in waiting]


def test_an_asyncio_program_calls_it_in_threads(client: Client) -> None:
    """Jobs are waited for at once with `asyncio.to_thread`, and an output is followed chunk by chunk."""

    async def program() -> tuple[list[str], bytes]:
        jobs = await asyncio.gather(*(asyncio.to_thread(client.spawn, f"echo {n}; exit {n}") for n in range(4)))
        chunks = jobs[3].follow()
        output = b""
        while chunk := await asyncio.to_thread(next, chunks, b""):
            output += chunk
        return await asyncio.gather(*(asyncio.to_thread(job.wait, PATIENCE) for job in jobs)), output

    assert (["done:0", "failed:1", "failed:2", "failed:3"], b"3\n") == asyncio.run(program())


# The mount goes


def test_who_waits_is_told_that_the_daemon_was_replaced(jobs: Mounted) -> None:
    """It is ENOTCONN, the job goes on, and the same object is good for the new daemon."""
    client = Client(jobs.path)
    job = client.spawn("exec sleep 1000")
    with ThreadPoolExecutor(2) as pool:
        output, events = job.follow(), client.events(follow=True)
        next(events)
        waiting = [pool.submit(job.wait, PATIENCE), pool.submit(lambda: os.fsdecode(next(output)))]
        fds = Path("/proc/self/fd")
        until(lambda: {"wait", "stdout"} <= {_target(fd).name for fd in fds.iterdir()})
        jobs.mount("--replace")
        for one in waiting:
            with pytest.raises(NotMountedError) as caught:
                one.result(PATIENCE)
            assert errno.ENOTCONN == caught.value.errno
        with pytest.raises(NotMountedError):
            next(events)
    assert "running" == job.status
    job.kill()
    assert "killed:15" == job.wait(PATIENCE)


def test_after_the_unmount_it_is_not_mounted(jobs: Mounted) -> None:
    """Whatever is asked of jobs or mount."""
    client = Client(jobs.path)
    job = client.spawn("true")
    job.wait(PATIENCE)
    jobs.umount()
    for ask in (lambda: job.status, job.wait, client.jobs, client.infos, client.clean, lambda: client.spawn("true")):
        with pytest.raises(NotMountedError, match="not mounted"):
            ask()
    jobs.mount()
    assert "done:0" == job.status


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except OSError:
        return link
