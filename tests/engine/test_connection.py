"""What goes over a daemon's socket, and what the supervisor never does to a descriptor that is not its own."""

from __future__ import annotations

import gc
import os
import resource
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from jobfs.supervisor.connection import Connection, Request, peer_uid
from jobfs.supervisor.loop import Loop
from jobfs.supervisor.passing import RECEIVE_FLAGS, ROOM, Inbox, ancillary, close_all
from jobfs.supervisor.service import Supervisor
from jobfs.supervisor.wire import Message, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Places = tuple[dict[str, int], dict[str, int]]  # descriptors and inodes by name


class Peers:
    """A daemon's end of a socket, and the supervisor's, whose requests are put into `taken`."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.daemon, sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.inbox = Inbox()  # the daemon's
        self.taken: list[tuple[str, dict[str, int]]] = []
        self.closed = False
        self.then: Callable[[Request], None] = lambda request: request.answer({"ok": True})
        self.connection = Connection(self.loop, sock, self._handle, self._closed)

    def _handle(self, request: Request) -> None:
        inodes = {name: os.fstat(fd).st_ino for name, fd in request.descriptors.items()}
        self.taken.append((request.message["op"], inodes))
        self.then(request)

    def _closed(self, connection: Connection) -> None:
        assert connection is self.connection
        self.closed = True

    def received(self) -> list[tuple[Message, dict[str, int]]]:
        """The messages that have come to the daemon, each with the inodes of what came with it."""
        found = []
        with suppress(BlockingIOError):
            while True:
                said = self.daemon.recvmsg(1 << 16, ROOM, RECEIVE_FLAGS | socket.MSG_DONTWAIT)
                for message in self.inbox.feed(*said[:3]):
                    descriptors = self.inbox.claim(message)
                    found.append((message, {name: os.fstat(fd).st_ino for name, fd in descriptors.items()}))
                    assert not any(map(os.get_inheritable, descriptors.values()))
                    close_all(descriptors.values())
        return found

    def turn(self, *, until: Callable[[], bool]) -> None:
        """Lets the loop run until something is so."""
        self.loop.run(until)


@pytest.fixture
def peers() -> Iterator[Peers]:
    """Both ends of a connection."""
    it = Peers()
    yield it
    it.connection.close()
    it.inbox.close()
    it.daemon.close()


def frame(op: str, *descriptors: str) -> bytes:
    """A request as it travels; what comes along is called so."""
    return encode_frame({"op": op, "seq": 1, "descriptors": list(descriptors)})


def open_descriptors() -> int:
    """How many descriptors this process has, without those of what earlier tests have let go of."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    """Directories a, b and c: a descriptor of each, and the inode of each."""
    fds = {}
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        fds[name] = os.open(tmp_path / name, os.O_PATH)
    yield fds, {name: os.fstat(fd).st_ino for name, fd in fds.items()}
    close_all(fds.values())


def test_each_request_has_the_descriptors_that_came_with_it(peers: Peers, places: Places) -> None:
    """Descriptors go to the requests that name them, in order, and are closed again."""
    fds, inodes = places
    before = open_descriptors()
    peers.daemon.send(frame("plain"))
    peers.daemon.sendmsg([frame("two", "x", "y")], ancillary([fds["a"], fds["b"]]))
    peers.daemon.sendmsg([frame("one", "z"), frame("plain")], ancillary([fds["c"]]))
    peers.turn(until=lambda: len(peers.taken) == 4)
    two, one = {"x": inodes["a"], "y": inodes["b"]}, {"z": inodes["c"]}
    assert [("plain", {}), ("two", two), ("one", one), ("plain", {})] == peers.taken
    assert before == open_descriptors()


def test_a_descriptor_comes_with_the_first_byte_of_its_frame(peers: Peers, places: Places) -> None:
    """Also where the frame comes in pieces, and others follow closely."""
    fds, inodes = places
    for name in ("a", "b"):
        raw = frame(name, "x")
        peers.daemon.sendmsg([raw[:1]], ancillary([fds[name]]))
        peers.daemon.send(raw[1:] + frame("plain"))
    peers.turn(until=lambda: len(peers.taken) == 4)
    assert [("a", {"x": inodes["a"]}), ("b", {"x": inodes["b"]})] == peers.taken[::2]


def test_a_descriptor_that_is_taken_is_not_closed(peers: Peers, places: Places) -> None:
    """A handler that takes one out of the request has it from then on."""
    fds, inodes = places
    kept: list[int] = []
    peers.then = lambda request: kept.append(request.descriptors.pop("x"))
    peers.daemon.sendmsg([frame("keep", "x", "y")], ancillary([fds["a"], fds["b"]]))
    peers.turn(until=lambda: bool(kept))
    assert [inodes["a"]] == [os.fstat(fd).st_ino for fd in kept]
    close_all(kept)


def test_an_answer_brings_its_descriptor(peers: Peers, places: Places) -> None:
    """Under its name, and it is closed at the supervisor's end."""
    fds, inodes = places
    before = open_descriptors()
    peers.then = lambda request: request.answer({"ok": True}, stdin=os.dup(fds["a"]))
    peers.daemon.send(frame("give"))
    peers.turn(until=lambda: bool(peers.taken))
    assert [({"ok": True, "seq": 1, "descriptors": ["stdin"]}, {"stdin": inodes["a"]})] == peers.received()
    assert before == open_descriptors()


def test_answers_that_wait_keep_their_descriptors(peers: Peers, places: Places) -> None:
    """A daemon that does not read for a while gets each with its own message, and none is lost or left."""
    fds, inodes = places
    before = open_descriptors()
    for n in range(300):
        name = "abc"[n % 3]
        along = {"it": os.dup(fds[name])} if n % 5 == 0 else None
        peers.connection.send({"id": n, "news": "x" * 3000}, along)
    assert before < open_descriptors()  # it could not send all of that yet
    got: list[tuple[int, dict[str, int]]] = []

    def read() -> bool:
        got.extend((message["id"], inodes) for message, inodes in peers.received())
        return len(got) == 300

    peers.turn(until=read)
    assert [(n, {"it": inodes["abc"[n % 3]]} if n % 5 == 0 else {}) for n in range(300)] == got
    assert before == open_descriptors()


def test_descriptors_that_were_not_sent_are_closed_with_the_connection(peers: Peers, places: Places) -> None:
    """And so are those of messages that come after."""
    fds, _ = places
    before = open_descriptors()
    for n in range(300):
        peers.connection.send({"id": n, "news": "x" * 3000}, {"it": os.dup(fds["a"])})
    peers.connection.close()
    peers.connection.send({"id": 1}, {"it": os.dup(fds["a"])})
    assert before - 1 == open_descriptors()  # its end of the socket is closed as well


def test_descriptors_that_no_message_names_are_closed(peers: Peers, places: Places) -> None:
    """A message that names another number of them than came has none."""
    fds, _ = places
    before = open_descriptors()
    peers.daemon.sendmsg([frame("three", "x", "y", "z")], ancillary([fds["a"], fds["b"]]))
    peers.daemon.sendmsg([frame("one", "x")], ancillary([fds["a"]]))
    peers.turn(until=lambda: len(peers.taken) == 2)
    assert [{}, ["x"]] == [peers.taken[0][1], list(peers.taken[1][1])]
    assert before == open_descriptors()


def test_descriptors_lost_for_want_of_numbers_leave_the_later_ones_where_they_belong(places: Places) -> None:
    """A request that lost its descriptors has none, and the next one has its own."""
    fds, inodes = places
    daemon, sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    inbox = Inbox()
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    with daemon, sock:
        for name in ("a", "b"):
            daemon.sendmsg([frame(name, "x")], ancillary([fds[name]]))
        spare = os.dup(fds["a"])  # the lowest number that is free, and the last that may be had
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, own[1]))
        try:
            lost = inbox.feed(*sock.recvmsg(len(frame("a", "x")), ROOM, RECEIVE_FLAGS)[:3])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, own)
            os.close(spare)
        assert [{}] == [inbox.claim(message) for message in lost]
        (message,) = inbox.feed(*sock.recvmsg(1 << 16, ROOM, RECEIVE_FLAGS)[:3])
        claimed = inbox.claim(message)
        assert {"x": inodes["b"]} == {name: os.fstat(fd).st_ino for name, fd in claimed.items()}
        close_all(claimed.values())


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
    for name in ("one", "two"):
        peers.daemon.sendmsg([frame(name, "x")], ancillary([fd]))
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
    got: list[int] = []

    def read() -> bool:
        got.extend(message["id"] for message, _ in peers.received())
        return len(got) == 500

    peers.turn(until=read)
    assert list(range(500)) == got


def test_the_user_at_the_other_end_is_known(peers: Peers) -> None:
    """By the kernel, not by what the peer says."""
    assert os.geteuid() == peer_uid(peers.daemon)


class Asker:
    """Who sent a request, without a socket."""

    def __init__(self) -> None:
        self.answers: list[Message] = []

    def send(self, message: Message, descriptors: Mapping[str, int] | None = None) -> None:
        """Stands for `Connection.send`."""
        assert not descriptors
        self.answers.append(message)


@pytest.mark.parametrize(
    "request_", [{"op": "spawn"}, {"op": "spawn", "id": 1, "order": {}}, {"op": "end"}, {"op": "x"}, {}]
)
def test_every_request_is_answered_also_one_that_makes_no_sense(tmp_path: Path, request_: Message) -> None:
    """Who asks waits for the answer: there is one whatever happens."""
    supervisor = Supervisor(Loop(), str(tmp_path), (1024, 1024), lambda *_: None)
    asker = Asker()
    supervisor.handle(Request(request_, asker))
    supervisor.close()
    assert [True] == ["error" in answer for answer in asker.answers]
