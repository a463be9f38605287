"""What the supervisor takes from a daemon's socket, and what it never does to a descriptor that is not its own."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from jobfs.supervisor.connection import Connection, peer_uid
from jobfs.supervisor.loop import Loop
from jobfs.supervisor.service import Supervisor
from jobfs.supervisor.wire import FrameDecoder, Message, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Peers:
    """A daemon's end of a socket, and the supervisor's, whose requests are put into `taken`."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.daemon, sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.taken: list[tuple[str, int | None]] = []
        self.closed = False
        self.then: Callable[[Callable[[Message], None]], None] = lambda reply: reply({"ok": True})
        self.connection = Connection(self.loop, sock, self._handle, self._closed)

    def _handle(self, request: Message, directory: int | None, reply: Callable[[Message], None]) -> None:
        inode = None if directory is None else os.fstat(directory).st_ino
        self.taken.append((request["op"], inode))
        self.then(reply)

    def _closed(self, connection: Connection) -> None:
        assert connection is self.connection
        self.closed = True

    def turn(self, *, until: Callable[[], bool]) -> None:
        """Lets the loop run until something is so."""
        self.loop.run(until)


@pytest.fixture
def peers() -> Iterator[Peers]:
    """Both ends of a connection."""
    it = Peers()
    yield it
    it.connection.close()
    it.daemon.close()


def frame(op: str, *, directory: bool = False) -> bytes:
    """A request as it travels."""
    return encode_frame({"op": op, "seq": 1, "with_directory": directory})


def test_each_request_has_the_descriptor_that_came_with_it(peers: Peers, tmp_path: Path) -> None:
    """Descriptors go to the requests that say that they have one, in order, and are closed again."""
    before = len(os.listdir("/proc/self/fd"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fd = os.open(tmp_path / name, os.O_PATH)
        socket.send_fds(peers.daemon, [frame("plain"), frame(name, directory=True)], [fd])
        os.close(fd)
    peers.turn(until=lambda: len(peers.taken) == 4)
    inodes = [os.stat(tmp_path / name).st_ino for name in ("a", "b")]
    assert [("plain", None), ("a", inodes[0]), ("plain", None), ("b", inodes[1])] == peers.taken
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_request_that_comes_in_pieces_is_taken_when_it_is_whole(peers: Peers) -> None:
    """However the bytes arrive."""
    sent = frame("first") + frame("second")
    for at in range(len(sent)):
        peers.daemon.send(sent[at : at + 1])
        if at in (len(frame("first")) - 1, len(sent) - 1):
            peers.turn(until=lambda at=at: len(peers.taken) == (1 if at < len(sent) - 1 else 2))  # type: ignore[misc]
    assert ["first", "second"] == [op for op, _ in peers.taken]


def test_a_connection_that_closes_amid_requests_closes_no_descriptor_twice(peers: Peers, tmp_path: Path) -> None:
    """A number that is given back may be another file's at once."""
    fd = os.open(tmp_path, os.O_PATH)
    peers.then = lambda _: peers.connection.close()
    socket.send_fds(peers.daemon, [frame("one", directory=True) + frame("two", directory=True)], [fd, fd])
    os.close(fd)
    peers.turn(until=lambda: peers.closed)
    others = [os.open(tmp_path, os.O_PATH) for _ in range(4)]
    assert ["one"] == [op for op, _ in peers.taken]
    for other in others:
        os.close(other)  # OSError where it was closed already


@pytest.mark.parametrize(
    "junk", [struct.pack("<I", 1 << 31), struct.pack("<I", 3) + b"{[}", struct.pack("<I", 2) + b"[]"]
)
def test_what_is_no_frame_ends_the_connection(peers: Peers, junk: bytes) -> None:
    """And only that."""
    peers.daemon.send(frame("good") + junk)
    peers.turn(until=lambda: peers.closed)
    assert len(peers.taken) <= 1


def test_a_daemon_that_does_not_read_holds_up_nothing(peers: Peers) -> None:
    """What the socket does not take is kept, and comes whole and in order when it is read."""
    for n in range(500):
        peers.connection.send({"id": n, "news": "x" * 1000})
    decoder = FrameDecoder()
    got: list[int] = []

    def read() -> bool:
        with suppress(BlockingIOError):
            while True:
                got.extend(message["id"] for message in decoder.feed(peers.daemon.recv(1 << 16, socket.MSG_DONTWAIT)))
        return len(got) == 500

    peers.turn(until=read)
    assert list(range(500)) == got


def test_the_user_at_the_other_end_is_known(peers: Peers) -> None:
    """By the kernel, not by what the peer says."""
    assert os.geteuid() == peer_uid(peers.daemon)


@pytest.mark.parametrize(
    "request_", [{"op": "spawn"}, {"op": "spawn", "id": 1, "order": {}}, {"op": "end"}, {"op": "x"}, {}]
)
def test_every_request_is_answered_also_one_that_makes_no_sense(tmp_path: Path, request_: Message) -> None:
    """Who asks waits for the answer: there is one whatever happens."""
    supervisor = Supervisor(Loop(), str(tmp_path), (1024, 1024), lambda _: None)
    answers: list[Message] = []
    supervisor.handle(request_, None, answers.append)
    supervisor.close()
    assert [True] == ["error" in answer for answer in answers]
