"""A daemon that is connected: requests in, with descriptors now and then; messages out, and never a wait for it."""

from __future__ import annotations

import errno
import logging
import select
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from jobfs.supervisor.passing import RECEIVE_FLAGS, ROOM, Ancillary, Inbox, ancillary, close_all
from jobfs.supervisor.wire import FrameDecoder, ProtocolError, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobfs.supervisor.loop import Loop
    from jobfs.supervisor.wire import Message

log = logging.getLogger(__name__)

_READ = 64 * 1024  # bytes; more would be mapped and unmapped for every read
# A daemon that reads nothing for so long that this many bytes wait for it is let go; it can ask for the list again.
_MAX_UNSENT = 64 * 1024 * 1024
_CREDENTIALS = struct.Struct("iii")


class Sender(Protocol):
    """Who sent a request."""

    def send(self, message: Message, descriptors: Mapping[str, int] | None = None) -> None:
        """Sends a message, and takes over `descriptors`, which go along under their names."""


@dataclass(slots=True)
class Request:
    """What is asked, by whom. The `descriptors` that came along are closed when it was handled, but for those taken."""

    message: Message
    sender: Sender
    descriptors: dict[str, int] = field(default_factory=dict)

    def answer(self, message: Message, **descriptors: int) -> None:
        """Answers, at once or later; `descriptors` go along, and are closed here."""
        self.sender.send({**message, "seq": self.message.get("seq", 0)}, descriptors)


class Connection:
    """One daemon that is connected."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        handle: Callable[[Request], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._handle = handle
        self._on_close = closed
        self._inbox = Inbox()
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()  # what is left of frames, and what goes with each
        self._waiting = 0  # bytes in those
        self._open = True
        sock.settimeout(0)
        loop.watch(sock.fileno(), self._ready)

    def send(self, message: Message, descriptors: Mapping[str, int] | None = None) -> None:
        """Sends what the socket takes and keeps the rest; never blocks.

        The `descriptors` go along under their names. They are closed when that is done, or can't be any more.
        """
        numbers = list(descriptors.values()) if descriptors else []
        if not self._open:
            close_all(numbers)
            return
        frame = encode_frame({**message, "descriptors": list(descriptors)} if descriptors else message)
        self._unsent.append((memoryview(frame), numbers))
        self._waiting += len(frame)
        if self._waiting > _MAX_UNSENT:
            log.warning("the daemon reads nothing: connection dropped")
            self.close()
            return
        self._flush()

    def close(self) -> None:
        """Lets go of the daemon. The jobs stay."""
        if self._open:
            self._open = False
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._inbox.close()
            for _, numbers in self._unsent:
                close_all(numbers)
            self._unsent.clear()
            self._on_close(self)

    def _flush(self) -> None:
        try:
            while self._unsent:
                frame, numbers = self._unsent[0]
                try:
                    sent = self._socket.sendmsg([frame], ancillary(numbers), socket.MSG_NOSIGNAL)
                except OSError as error:
                    if error.errno != errno.ETOOMANYREFS or not numbers:
                        raise
                    # More descriptors are on their way in this user's sockets than one process may have (unix(7)).
                    self._unsent[0] = (memoryview(_without_descriptors(frame)), [])
                    self._waiting += len(self._unsent[0][0]) - len(frame)
                    close_all(numbers)
                    continue
                self._waiting -= sent
                if sent < len(frame):
                    self._unsent[0] = (frame[sent:], [])
                else:
                    self._unsent.popleft()
                close_all(numbers)  # they went with the first byte
        except BlockingIOError:
            self._loop.watch(self._socket.fileno(), self._ready, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self.close()

    def _ready(self, _: int) -> None:
        if self._unsent:
            self._flush()
            if self._open and not self._unsent:
                self._loop.watch(self._socket.fileno(), self._ready)
        if self._open:
            self._receive()

    def _receive(self) -> None:
        said: Ancillary
        try:
            data, said, flags, _ = self._socket.recvmsg(_READ, ROOM, RECEIVE_FLAGS)
        except BlockingIOError:
            return
        except OSError:
            data, said, flags = b"", [], 0
        if not data:
            self.close()
            return
        try:
            messages = self._inbox.feed(data, said, flags)
        except ProtocolError:
            log.exception("connection dropped")
            self.close()
            return
        for message in messages:
            if self._open:  # an answer to the one before may have found the daemon gone
                self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        request = Request(message, self, self._inbox.claim(message))
        try:
            self._handle(request)
        finally:
            close_all(request.descriptors.values())


def _without_descriptors(frame: memoryview) -> bytes:
    """The frame of the same message where nothing comes along: a name without its descriptor would take another's."""
    (message,) = FrameDecoder().feed(bytes(frame))
    return encode_frame({**message, "descriptors": []})


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end (unix(7), SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])
