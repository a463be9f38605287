"""Descriptors that travel with messages (unix(7), SCM_RIGHTS); each message names those that come with it, in order.

All of a message's descriptors go with the first byte of its frame, in one call of sendmsg(2). The kernel never gives
those of two calls to one recvmsg(2), so what one brings belongs to one message.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from typing import TYPE_CHECKING

from jobfs.supervisor.wire import FrameDecoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobfs.supervisor.wire import Message

_MAX = 8  # descriptors of one message
# What to give to recvmsg(2): the room for descriptors, in bytes, and a flag, so that none leaks into a child.
ROOM = socket.CMSG_SPACE(_MAX * array.array("i").itemsize)
RECEIVE_FLAGS = socket.MSG_CMSG_CLOEXEC

Ancillary = list[tuple[int, int, bytes]]


def ancillary(descriptors: Iterable[int]) -> list[tuple[int, int, array.array[int]]]:
    """What to give to sendmsg(2) so that `descriptors` go along."""
    numbers = array.array("i", descriptors)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []


def duplicates(descriptors: Mapping[str, int]) -> dict[str, int]:
    """One more of each; none where this process has no number left for them all."""
    made: dict[str, int] = {}
    try:
        for name, fd in descriptors.items():
            made[name] = os.dup(fd)
    except OSError:
        close_all(made.values())
        return {}
    return made


def close_all(descriptors: Iterable[int]) -> None:
    """Closes each of them."""
    for fd in descriptors:
        os.close(fd)


class Inbox:
    """What arrives at one end of a socket: messages, and descriptors that wait for the message that names them."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._batches: deque[list[int]] = deque()

    def feed(self, data: bytes, said: Ancillary, flags: int) -> list[Message]:
        """The messages that what recvmsg(2) gave completes; ProtocolError where it is no frame of ours."""
        for level, kind, raw in said:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
                self._batches.append(list(numbers))
        if flags & socket.MSG_CTRUNC and not said:  # they were lost: this process has no descriptor left
            self._batches.append([])
        return self._decoder.feed(data)

    def claim(self, message: Message) -> dict[str, int]:
        """The descriptors that came with `message`, by name, for the caller to close. Call it for each, in order.

        None where some were lost on the way, because this process had no number left for them.
        """
        names = message.get("descriptors", [])
        if not names:
            return {}
        batch = self._batches.popleft() if self._batches else []
        if len(batch) != len(names):
            close_all(batch)
            return {}
        return dict(zip(names, batch, strict=True))

    def close(self) -> None:
        """Closes the descriptors that no message has claimed."""
        while self._batches:
            close_all(self._batches.popleft())
