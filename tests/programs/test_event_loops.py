"""Event loops that know nothing of jobfs: they wait for jobs' files with epoll(7), poll(2) and select(2), as for pipes.

Each follows ten jobs at once, to the last byte and the end of each. As with a pipe, what is ready and gives no byte has
ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import selectors
import subprocess
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.mounted import PATIENCE, Mounted, until
from tests.programs.driven import DrivenJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.mount

JOBS = 10
BURSTS, LINES_A_BURST = 30, 10
# It rests between bursts, so that who reads it meets the end of the file and has to wait.
CHATTY = (
    f"for burst in $(seq 0 {BURSTS - 1}); do"
    f" seq -f '%g of {{name}}' $((burst * {LINES_A_BURST} + 1)) $(((burst + 1) * {LINES_A_BURST})); sleep 0.01; done"
)
READ_AT_ONCE = 100  # bytes: less than a burst
NOT_AT_ALL, PATIENTLY_MS = 0, int(PATIENCE * 1000)


def words(name: int) -> bytes:
    """All that the chatty job of that name writes."""
    return b"".join(b"%d of %d\n" % (line, name) for line in range(1, BURSTS * LINES_A_BURST + 1))


@contextmanager
def opened(path: Path, flags: int = os.O_NONBLOCK) -> Iterator[int]:
    """A descriptor of a file, opened for reading."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def chatty(mounted: Mounted, file: str = "stdout") -> Iterator[list[int]]:
    """Descriptors of one file each of ten jobs that write; the jobs are named by their places."""
    with ExitStack() as files:
        jobs = [mounted.spawn(CHATTY.format(name=name)) for name in range(JOBS)]
        yield [files.enter_context(opened(mounted.file(file, job))) for job in jobs]


# Loops


def with_selector(make: Callable[[], selectors.BaseSelector]) -> Callable[[list[int]], list[bytes]]:
    """A loop around one of the standard library's selectors."""

    def follow(fds: list[int]) -> list[bytes]:
        output = dict.fromkeys(fds, b"")
        with make() as selector:
            for fd in fds:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                events = selector.select(PATIENCE)
                assert events, "nothing was ready"
                for key, _ in events:
                    data = os.read(key.fd, READ_AT_ONCE)
                    output[key.fd] += data
                    if not data:
                        selector.unregister(key.fd)
        return list(output.values())

    return follow


def with_edges(fds: list[int]) -> list[bytes]:
    """A loop around edge-triggered epoll: what is ready is read until it gives nothing, and told of once."""
    output = dict.fromkeys(fds, b"")
    ended: set[int] = set()
    with select.epoll() as epoll:
        for fd in fds:
            epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        while len(ended) < len(fds):
            events = epoll.poll(PATIENCE)
            assert events, "nothing was told"
            for fd, event in events:
                while data := os.read(fd, READ_AT_ONCE):
                    output[fd] += data
                if event & select.EPOLLHUP:
                    ended.add(fd)
    return list(output.values())


def with_asyncio(fds: list[int]) -> list[bytes]:
    """The loop of asyncio, by add_reader."""
    output = dict.fromkeys(fds, b"")

    async def follow() -> None:
        loop = asyncio.get_running_loop()
        ended = {fd: asyncio.Event() for fd in fds}

        def read(fd: int) -> None:
            data = os.read(fd, READ_AT_ONCE)
            output[fd] += data
            if not data:
                loop.remove_reader(fd)
                ended[fd].set()

        for fd in fds:
            loop.add_reader(fd, read, fd)
        async with asyncio.timeout(PATIENCE):
            for event in ended.values():
                await event.wait()

    asyncio.run(follow())
    return list(output.values())


LOOPS = [
    pytest.param(with_selector(selectors.EpollSelector), id="epoll"),
    pytest.param(with_selector(selectors.PollSelector), id="poll"),
    pytest.param(with_selector(selectors.SelectSelector), id="select"),
    pytest.param(with_edges, id="edge-triggered epoll"),
    pytest.param(with_asyncio, id="asyncio"),
]


@pytest.mark.parametrize("follow", LOOPS)
def test_an_event_loop_follows_ten_jobs(shared: Mounted, follow: Callable[[list[int]], list[bytes]]) -> None:
    """Every byte of each of ten jobs arrives, in order, and then the end."""
    with chatty(shared) as fds:
        assert [words(name) for name in range(JOBS)] == follow(fds)


@pytest.mark.parametrize("loop", LOOPS[:3] + LOOPS[4:])
def test_an_event_loop_reads_ten_followers(shared: Mounted, loop: Callable[[list[int]], list[bytes]]) -> None:
    """The same by `follow`, which is ready when a read would not block."""
    with chatty(shared, "follow") as fds:
        assert [words(name) for name in range(JOBS)] == loop(fds)


@pytest.mark.parametrize("loop", LOOPS[:3] + LOOPS[4:])
def test_an_event_loop_waits_for_ten_jobs(shared: Mounted, loop: Callable[[list[int]], list[bytes]]) -> None:
    """`wait` is ready when the job has ended, and then gives what `status` gives."""
    with ExitStack() as files:
        jobs = [shared.spawn(f"sleep 0.{number}; exit {number}") for number in range(JOBS)]
        fds = [files.enter_context(opened(shared.file("wait", job))) for job in jobs]
        assert [b"done:0\n", *(b"failed:%d\n" % number for number in range(1, JOBS))] == loop(fds)


@pytest.mark.parametrize("follow", LOOPS)
def test_an_event_loop_follows_a_job_that_outruns_it(
    shared: Mounted, follow: Callable[[list[int]], list[bytes]]
) -> None:
    """A loop that is slower than the job skips what was evicted, goes forward, and gets the last byte and the end."""
    job = shared.spawn("--limit 64K seq -f %015.0f 1 100000")
    with opened(shared.file("stdout", job)) as fd:
        until(lambda: os.fstat(fd).st_size, lambda size: size > 65536)
        (output,) = follow([fd])
    numbers = [int(line) for line in output.splitlines() if len(line) == 15]
    assert sorted(set(numbers)) == numbers
    assert 100_000 == numbers[-1]


# What poll(2) says


def events_of(fd: int, timeout_ms: int = NOT_AT_ALL) -> int:
    """What poll(2) says of a file, waiting for it or not; 0 where there is nothing."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return dict(poll.poll(timeout_ms)).get(fd, 0)


def test_a_stream_polls_as_readable_while_there_are_bytes(shared: Mounted) -> None:
    """POLLIN while there are bytes past the last read, and POLLHUP once the job has ended and all was read."""
    with DrivenJob(shared) as job, opened(job.stdout) as fd:
        assert 0 == events_of(fd)
        job.write("one\n")
        assert select.POLLIN == events_of(fd, PATIENTLY_MS)
        assert b"on" == os.read(fd, 2)
        assert select.POLLIN == events_of(fd)
        assert b"e\n" == os.read(fd, 100)
        assert 0 == events_of(fd)
        assert b"" == os.read(fd, 100)
        assert 0 == events_of(fd)
        job.write("two\n")
        job.end()
        assert select.POLLIN == events_of(fd) & select.POLLIN
        assert b"two\n" == os.read(fd, 100)
        assert select.POLLHUP == events_of(fd)


def test_a_descendant_that_writes_makes_a_stream_readable_again(shared: Mounted, tmp_path: Path) -> None:
    """After POLLHUP comes POLLIN again, should a descendant still write."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    job = shared.spawn(f"(read x < {fifo}; echo late) & echo early")
    shared.until_ended(job)
    with opened(shared.file("stdout", job)) as fd:
        assert b"early\n" == os.read(fd, 100)
        assert select.POLLHUP == events_of(fd)
        fifo.write_text("go\n")
        until(lambda: events_of(fd) & select.POLLIN)
        assert b"late\n" == os.read(fd, 100)


def test_a_stream_that_was_read_backwards_polls_as_a_file(shared: Mounted) -> None:
    """A handle that was read backwards is always ready, as a regular file is."""
    with DrivenJob(shared) as job, opened(job.stdout) as fd:
        job.write("one\n")
        assert [b"one\n", b"one\n"] == [os.pread(fd, 100, 0), os.pread(fd, 100, 0)]
        assert select.POLLIN == events_of(fd)


@pytest.mark.parametrize("name", ["status", "wait"])
def test_the_end_is_an_event(shared: Mounted, name: str) -> None:
    """`status` and `wait` report POLLIN once the job has ended, and nothing before."""
    with DrivenJob(shared) as job, opened(job.file(name)) as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        assert (0, []) == (events_of(fd), epoll.poll(0))
        shared.ctl(f"stop {job.id}")
        shared.until(job.id, "stopped")
        shared.ctl(f"cont {job.id}")
        shared.until(job.id, "running")
        assert 0 == events_of(fd)
        shared.ctl(f"kill -9 {job.id}")
        assert select.POLLIN == events_of(fd, PATIENTLY_MS)
        assert [(fd, select.EPOLLIN)] == epoll.poll(PATIENCE)
        assert b"killed:9\n" == os.read(fd, 100)


def test_follow_is_ready_when_a_read_would_not_block(shared: Mounted) -> None:
    """Opened with O_NONBLOCK, `follow` gives EAGAIN where it would block, and reports POLLIN where it would not."""
    with DrivenJob(shared) as job, opened(job.file("follow")) as fd:
        assert 0 == events_of(fd)
        with pytest.raises(BlockingIOError):
            os.read(fd, 100)
        job.write("one\n")
        assert select.POLLIN == events_of(fd, PATIENTLY_MS)
        assert b"one\n" == os.read(fd, 100)
        assert 0 == events_of(fd)
        job.end()
        assert events_of(fd, PATIENTLY_MS) & select.POLLIN
        assert b"" == os.read(fd, 100)


def test_wait_opened_not_to_block(shared: Mounted) -> None:
    """Opened with O_NONBLOCK, `wait` gives EAGAIN until the job has ended."""
    with DrivenJob(shared) as job, opened(job.file("wait")) as fd:
        with pytest.raises(BlockingIOError):
            os.read(fd, 100)
        job.end()
        assert b"done:0\n" == os.read(fd, 100)


def test_events_are_followed_by_poll(shared: Mounted) -> None:
    """`events` reports POLLIN when there is another line, and tells all that happens to a job, in order."""
    with opened(shared.file("events")) as fd, select.epoll() as epoll:
        os.lseek(fd, 0, os.SEEK_END)
        epoll.register(fd, select.EPOLLIN)
        job = shared.spawn("true")
        text = b""
        statuses: list[str] = []
        while "done:0" not in statuses:
            assert [(fd, select.EPOLLIN)] == epoll.poll(PATIENCE)
            text += os.read(fd, READ_AT_ONCE)
            lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
            statuses = [line["status"] for line in lines if line.get("id") == job and "status" in line]
    assert ["running", "done:0"] == [status for status in statuses if status != "queued"]


def test_many_may_wait_for_the_same(shared: Mounted) -> None:
    """Each of many open files of one stream, and each of many pollers of one open file, is woken."""
    with DrivenJob(shared) as job, ExitStack() as files:
        fds = [files.enter_context(opened(job.stdout)) for _ in range(50)]
        loops = [files.enter_context(select.epoll()) for _ in range(3)]
        for loop in loops:
            for fd in fds:
                loop.register(fd, select.EPOLLIN)
        assert [[], [], []] == [loop.poll(0) for loop in loops]
        job.write("one\n")
        for loop in loops:
            until(partial(loop.poll, 0), lambda events: len(events) == len(fds))


# Other languages


PERL = """
use strict; use IO::Poll qw(POLLIN POLLHUP); use IO::Handle;
my $poll = IO::Poll->new; my (%output, @files);
for my $path (@ARGV) {
    open(my $file, '<', $path) or die "$path: $!";
    push @files, $file; $output{fileno $file} = ''; $poll->mask($file => POLLIN | POLLHUP);
}
while ($poll->handles) {
    $poll->poll(30) > 0 or die "nothing was ready: $!";
    for my $file ($poll->handles(POLLIN | POLLHUP)) {
        my $count = sysread($file, $output{fileno $file}, 100, length $output{fileno $file}) // die $!;
        $poll->remove($file) unless $count;
    }
}
print $output{fileno $_} for @files;
"""


@pytest.mark.needs("perl")
def test_perl_follows_ten_jobs(shared: Mounted) -> None:
    """Perl's IO::Poll gets every byte of each of ten jobs, in order, and then the end."""
    jobs = [shared.spawn(CHATTY.format(name=name)) for name in range(JOBS)]
    paths = [str(shared.file("stdout", job)) for job in jobs]
    done = subprocess.run(["perl", "-e", PERL, *paths], capture_output=True, timeout=PATIENCE, check=False)
    assert (b"", b"".join(words(name) for name in range(JOBS))) == (done.stderr, done.stdout)


NODE = """
const { createReadStream } = require("node:fs");
const all = process.argv.slice(1).map(async (path) => {
  let text = "";
  for await (const chunk of createReadStream(path, "latin1")) text += chunk;
  return text;
});
Promise.all(all).then((texts) => process.stdout.write(texts.join("")));
"""


@pytest.mark.needs("node")
def test_node_follows_ten_jobs(shared: Mounted) -> None:
    """Node's file streams, which read in threads, read ten jobs' `follow` to the last byte and end."""
    jobs = [shared.spawn(CHATTY.format(name=name)) for name in range(JOBS)]
    paths = [str(shared.file("follow", job)) for job in jobs]
    done = subprocess.run(["node", "-e", NODE, *paths], capture_output=True, timeout=PATIENCE, check=False)
    assert (b"", b"".join(words(name) for name in range(JOBS))) == (done.stderr, done.stdout)
