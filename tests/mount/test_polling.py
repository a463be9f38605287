"""poll(2), select(2) and epoll(7) on a job's files: ready when the contract says so, and woken when they get so."""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.mounted import PATIENCE, Mounted, until
from tests.readers import Readers, Talker, talker

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount

IN, OUT, HUP = select.POLLIN, select.POLLOUT, select.POLLHUP
STREAMS = ["stdout", "stderr"]
_FOR_LONG = PATIENCE * 1000  # milliseconds: a bound for what hangs


@pytest.fixture
def job(shared: Mounted) -> Iterator[Talker]:
    """A job that says what the test has it say."""
    with talker(shared) as it:
        yield it


class Polled:
    """An open file that is polled and read."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._poll = select.poll()
        self._poll.register(fd, IN | OUT)

    def now(self) -> int:
        """The events that hold now."""
        return self._ask(0)

    def next(self) -> int:
        """The events that hold when some do; AssertionError where there are never any."""
        events = self._ask(_FOR_LONG)
        assert events, "nobody was woken"
        return events

    def until(self, wanted: int) -> None:
        """Waits for these events, and no others."""
        until(self.now, lambda events: events == wanted)

    def read(self) -> bytes:
        """Reads once."""
        return os.read(self.fd, 1 << 16)

    def _ask(self, milliseconds: float) -> int:
        return next((events for _, events in self._poll.poll(milliseconds)), 0)


@contextmanager
def polled(jobs: Mounted, name: str, job: int | None = None) -> Iterator[Polled]:
    """Opens a file to poll it."""
    fd = os.open(jobs.file(name, job), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Polled(fd)
    finally:
        os.close(fd)


# Streams


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_readable_while_there_is_more_than_was_read(shared: Mounted, job: Talker, name: str) -> None:
    """POLLIN while there are bytes past the last read, nothing when there are none and the job lives."""
    with polled(shared, name, job.id) as file:
        assert 0 == file.now()
        for line in ("one", "two"):
            job.tell(f"{name.removeprefix('std')} {line}")
            assert IN == file.next()
            assert IN == file.now()
            until(file.read, lambda said, line=line: said == f"{line}\n".encode())  # type: ignore[misc]
            assert 0 == file.now()


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_hangs_up_once_the_job_has_ended_and_all_was_read(shared: Mounted, job: Talker, name: str) -> None:
    """POLLIN first, as long as something is left; then POLLHUP alone, for good."""
    with polled(shared, name, job.id) as file:
        job.say("last", name)
        job.exit()
        assert IN == file.next()
        assert b"la" == os.read(file.fd, 2)
        assert IN == file.now()
        assert b"st\n" == file.read()
        assert [HUP, HUP] == [file.next(), file.now()]
        assert b"" == file.read()
        assert HUP == file.now()


@pytest.mark.parametrize("name", STREAMS)
def test_the_end_wakes_who_polls_a_stream(shared: Mounted, job: Talker, name: str) -> None:
    """Also of a job that never wrote."""
    with polled(shared, name, job.id) as file:
        assert 0 == file.now()
        job.tell("exit 0")
        assert HUP == file.next()


def test_a_stream_is_readable_again_when_a_descendant_writes(shared: Mounted, job: Talker) -> None:
    """After POLLHUP, POLLIN; and POLLHUP again."""
    left = shared.spawn(f"(cat {shared.file('follow', job.id)}) & exit 3")
    with polled(shared, "stdout", left) as file:
        assert HUP == file.next()
        job.tell("out late")
        file.until(IN)
        assert b"late\n" == file.read()
        assert HUP == file.now()


def test_a_stream_that_was_there_before_it_was_polled_is_readable(shared: Mounted) -> None:
    """An ended job's stream: POLLIN to its end, then POLLHUP."""
    done = shared.run("seq 3")
    with polled(shared, "stdout", done) as file:
        assert [IN, b"1\n2\n3\n", HUP] == [file.now(), file.read(), file.now()]


def test_a_stream_that_the_kernel_has_hangs_up_too(shared: Mounted) -> None:
    """Of a file that others have read no read is heard of: who waits for POLLHUP gets it all the same."""
    done = shared.run("seq 3")
    for _ in range(2):  # now it is in the page cache
        assert b"1\n2\n3\n" == shared.read(done)
    with polled(shared, "stdout", done) as file:
        assert [IN, b"1\n2\n3\n"] == [file.now(), file.read()]
        assert HUP == file.now() & HUP


def test_a_file_that_was_read_backwards_is_always_ready(shared: Mounted, job: Talker) -> None:
    """As a regular file: `less` asks before each read."""
    job.say("one")
    with polled(shared, "stdout", job.id) as file:
        assert IN == file.now()
        for _ in range(2):
            os.lseek(file.fd, 0, os.SEEK_SET)
            assert b"one\n" == file.read()
        assert IN | OUT == file.now()


def test_polling_lets_a_reader_see_what_comes_after_its_first_read(shared: Mounted, job: Talker) -> None:
    """End of file is the current end once the handle was polled."""
    job.say("one")
    with polled(shared, "stdout", job.id) as file:
        assert b"o" == os.read(file.fd, 1)
        assert IN == file.now()
        job.say("two")
        assert b"ne\ntwo\n" == file.read()


def test_events_are_readable_when_something_has_happened_and_never_hang_up(jobs: Mounted) -> None:
    """`events` is polled as a stream is."""
    job = jobs.spawn("exec sleep 1000")
    with polled(jobs, "events") as file:
        file.now()
        until(file.read, lambda data: not data)
        assert 0 == file.now()
        for verb, event in (("stop", b'"stopped"'), ("cont", b'"continued"'), ("kill -9", b'"ended"')):
            jobs.ctl(f"{verb} {job}")
            assert IN == file.next()
            assert event in file.read()
            assert 0 == file.now()


# What has ended


@pytest.mark.parametrize("name", ["status", "wait"])
def test_status_and_wait_are_readable_once_the_job_has_ended(shared: Mounted, job: Talker, name: str) -> None:
    """Neither output nor a stop is an end."""
    with polled(shared, name, job.id) as file:
        assert 0 == file.now()
        job.say("hello")
        shared.ctl(f"stop {job.id}")
        shared.until(job.id, "stopped")
        assert 0 == file.now()
        shared.ctl(f"cont {job.id}")
        job.tell("exit 3")
        assert IN == file.next()
        assert b"failed:3\n" == os.pread(file.fd, 100, 0)
        assert file.now() & IN


def test_a_status_that_was_read_can_be_polled_for_the_end(shared: Mounted, job: Talker) -> None:
    """Who reads `running` first waits for the final word with the same open file."""
    with polled(shared, "status", job.id) as file:
        assert b"running\n" == file.read()
        assert 0 == file.now()
        job.tell("exit 3")
        assert IN == file.next()
        assert b"failed:3\n" == os.pread(file.fd, 100, 0)


def test_follow_is_readable_when_a_read_would_not_block(shared: Mounted, job: Talker) -> None:
    """Something to read, or the end."""
    with polled(shared, "follow", job.id) as file:
        assert 0 == file.now()
        job.tell("out hello")
        assert IN == file.next()
        assert b"hello\n" == file.read()
        assert 0 == file.now()
        job.tell("exit 0")
        assert file.next() & IN
        assert b"" == file.read()


@pytest.mark.parametrize("name", ["ctl", "table", "table.jsonl"])
def test_other_files_are_always_ready(shared: Mounted, name: str) -> None:
    """As on a disk."""
    with polled(shared, name) as file:
        assert IN | OUT == file.now()


@pytest.mark.parametrize("name", ["cmd", "info", "env", "ctl"])
def test_other_files_of_a_job_are_always_ready(shared: Mounted, job: Talker, name: str) -> None:
    """As on a disk."""
    with polled(shared, name, job.id) as file:
        assert IN | OUT == file.now()


# The ways to poll


def test_select_waits_for_several_jobs(shared: Mounted) -> None:
    """Of those asked about, the one that got ready is given."""
    with (
        talker(shared) as first,
        talker(shared) as second,
        polled(shared, "wait", first.id) as one,
        polled(shared, "follow", second.id) as two,
    ):
        second.tell("out hello")
        assert [two.fd] == select.select([one.fd, two.fd], [], [], PATIENCE)[0]
        assert b"hello\n" == two.read()
        first.tell("exit 0")
        assert [one.fd] == select.select([one.fd, two.fd], [], [], PATIENCE)[0]


@pytest.mark.parametrize("name", ["stdout", "follow"])
def test_level_triggered_epoll_tells_as_long_as_it_holds(shared: Mounted, job: Talker, name: str) -> None:
    """Again and again until it was read."""
    with polled(shared, name, job.id) as file, select.epoll() as epoll:
        epoll.register(file.fd, select.EPOLLIN)
        assert [] == epoll.poll(0)
        job.tell("out hello")
        for _ in range(3):
            assert [(file.fd, select.EPOLLIN)] == epoll.poll(PATIENCE)
        assert b"hello\n" == file.read()
        assert [] == epoll.poll(0)


@pytest.mark.parametrize("name", ["stdout", "stderr", "follow"])
def test_edge_triggered_epoll_tells_of_each_change_once(shared: Mounted, job: Talker, name: str) -> None:
    """New bytes are an edge, whether the last ones were read or not; the end is one too."""
    stream = "err" if name == "stderr" else "out"
    with polled(shared, name, job.id) as file, select.epoll() as epoll:
        epoll.register(file.fd, select.EPOLLIN | select.EPOLLET)
        assert [] == epoll.poll(0)
        for count in range(1, 4):
            job.tell(f"{stream} {count}")
            assert [(file.fd, select.EPOLLIN)] == epoll.poll(PATIENCE)
            job_wrote = b"".join(b"%d\n" % number for number in range(1, count + 1))
            shared.until_output(job.id, job_wrote, "stderr" if name == "stderr" else "stdout")
        assert b"1\n2\n3\n" == file.read()
        job.tell("exit 0")
        (told,) = epoll.poll(PATIENCE)
        assert told[1] & (select.EPOLLHUP | select.EPOLLIN)


def test_edge_triggered_epoll_loses_no_line(shared: Mounted) -> None:
    """A program that reads to the end at each edge has all of it, however fast the job writes."""
    done = shared.spawn("for i in $(seq 200); do seq 100; sleep 0.001; done")
    expected = b"".join(b"%d\n" % number for number in range(1, 101)) * 200
    said = b""
    with polled(shared, "stdout", done) as file, select.epoll() as epoll:
        epoll.register(file.fd, select.EPOLLIN | select.EPOLLET)
        events = 0
        while not events & select.EPOLLHUP:
            told = epoll.poll(PATIENCE)
            assert told, "nobody was woken"
            events = told[0][1]
            while piece := file.read():
                said += piece
    assert expected == said


def test_an_epoll_of_many_jobs_hears_of_each(shared: Mounted) -> None:
    """One loop waits for the ends of a hundred jobs."""
    count = 100
    fds = {}
    with talker(shared) as gate, select.epoll() as epoll:
        for _ in range(count):
            job = shared.spawn(f"read -r line < {shared.file('wait', gate.id)}; exit 3")
            fds[os.open(shared.file("wait", job), os.O_RDONLY | os.O_CLOEXEC)] = job
        for fd in fds:
            epoll.register(fd, select.EPOLLIN)
        assert [] == epoll.poll(0)
        gate.exit()
        while fds:
            told = epoll.poll(PATIENCE)
            assert told, "nobody was woken"
            for fd, _ in told:
                assert b"failed:3\n" == os.read(fd, 100)
                os.close(fd)
                del fds[fd]


POLLER = """
import os, select, sys
fds = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
poll = select.poll()
for fd in fds: poll.register(fd, select.POLLIN)
assert not poll.poll(0)
print("polls", flush=True)
print(*(events for _, events in poll.poll()), flush=True)
"""


def test_who_polls_can_be_killed_and_leaves_nothing_behind(shared: Mounted, job: Talker, readers: Readers) -> None:
    """A poll is a wait like any other; the others are woken all the same."""
    pollers = [readers.python(POLLER, *(shared.file(name, job.id) for name in ("wait", "stdout"))) for _ in range(2)]
    for poller in pollers:
        poller.until_said("polls\n")
    pollers[0].signal(signal.SIGTERM)
    assert -signal.SIGTERM == pollers[0].until_ended()
    job.tell("out hello")
    assert (0, f"polls\n{IN}\n") == (pollers[1].until_ended(), pollers[1].said)


@pytest.fixture
def readers() -> Iterator[Readers]:
    """The processes that poll."""
    them = Readers()
    yield them
    them.close()


def test_the_end_of_the_daemon_wakes_who_polls(jobs: Mounted, readers: Readers) -> None:
    """Nobody waits for what can come no more."""
    job = jobs.spawn("exec sleep 1000")
    poller = readers.python(POLLER, jobs.file("wait", job))
    poller.until_said("polls\n")
    assert jobs.daemon is not None
    os.kill(jobs.daemon, signal.SIGTERM)
    assert 0 == poller.until_ended()
    jobs.mount()


def test_an_edge_tells_that_stdin_has_room_again(shared: Mounted) -> None:
    """Who fills `stdin`, polled with EPOLLET, is told when the job has read."""
    job = shared.spawn("--stdin pipe sleep 0.2; exec cat > /dev/null")
    fd = os.open(shared.file("stdin", job), os.O_WRONLY | os.O_NONBLOCK)
    try:
        with select.epoll() as epoll:
            epoll.register(fd, select.EPOLLOUT | select.EPOLLET)
            assert [(fd, select.EPOLLOUT)] == epoll.poll(PATIENCE)
            with suppress(BlockingIOError):
                while os.write(fd, b"x" * 4096):
                    pass
            assert [(fd, select.EPOLLOUT)] == epoll.poll(PATIENCE)
    finally:
        os.close(fd)
