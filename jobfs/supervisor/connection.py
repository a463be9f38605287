"""A daemon that is connected: frames in, with a descriptor now and then; frames out, and never a wait for it."""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
from typing import TYPE_CHECKING

from jobfs.supervisor.wire import FrameDecoder, ProtocolError, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.supervisor.loop import Loop
    from jobfs.supervisor.wire import Message

log = logging.getLogger(__name__)

_READ = 64 * 1024  # bytes; more would be mapped and unmapped for every read
# A daemon that reads nothing for so long that this many bytes wait for it is let go; it can ask for the list again.
_MAX_UNSENT = 64 * 1024 * 1024
_CREDENTIALS = struct.Struct("iii")


class Connection:
    """One daemon that is connected."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        handle: Callable[[Message, int | None, Callable[[Message], None]], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._handle = handle
        self._on_close = closed
        self._decoder = FrameDecoder()
        self._unsent = bytearray()
        self._descriptors: list[int] = []
        self._open = True
        sock.settimeout(0)
        loop.watch(sock.fileno(), self._ready)

    def send(self, message: Message) -> None:
        """Sends what the socket takes and keeps the rest; never blocks."""
        if not self._open:
            return
        self._unsent += encode_frame(message)
        if len(self._unsent) > _MAX_UNSENT:
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
            for fd in self._descriptors:
                os.close(fd)
            self._descriptors.clear()
            self._on_close(self)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.watch(self._socket.fileno(), self._ready, select.EPOLLIN | select.EPOLLOUT)

    def _ready(self, _: int) -> None:
        if self._unsent:
            self._flush()
            if self._open and not self._unsent:
                self._loop.watch(self._socket.fileno(), self._ready)
        if self._open:
            self._receive()

    def _receive(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _READ, 8)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        for fd in descriptors:  # recv_fds of Python 3.11 loses its flags: MSG_CMSG_CLOEXEC is no help
            os.set_inheritable(fd, False)  # noqa: FBT003 - the standard library's signature
        self._descriptors += descriptors
        if not data:
            self.close()
            return
        try:
            messages = self._decoder.feed(data)
        except ProtocolError:
            log.exception("connection dropped")
            self.close()
            return
        for message in messages:
            if self._open:  # an answer to the one before may have found the daemon gone
                self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        directory = self._descriptors.pop(0) if message.get("with_directory") and self._descriptors else None
        seq = message.get("seq", 0)
        try:
            self._handle(message, directory, lambda answer: self.send({**answer, "seq": seq}))
        finally:
            if directory is not None:
                os.close(directory)


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end (unix(7), SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])
