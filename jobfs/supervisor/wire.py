"""What daemon and supervisor say to each other: frames of JSON on a Unix stream socket, each after its length.

Sans-IO: bytes in, messages out. Requests carry `seq` and `op`; each is answered by one message with the same `seq`
and either `ok` or `error` (an errno and a sentence). Messages without `seq` are news of a job. `descriptors` names what
comes along beside the bytes, see `passing`. Text that is not UTF-8 travels as JSON's lone surrogates, see `jobfs.text`.
"""

from __future__ import annotations

import json
import struct
from typing import TypedDict, cast

PROTOCOL = 3
"""2 added stdin, terminals, leases and `watch`; 3 what a supervisor needs to go on where a killed one stood."""
OLDEST = 2
"""The oldest protocol of a supervisor that a daemon works with."""

MAX_FRAME = 64 * 1024 * 1024  # bytes; a spawn holds a command line and an environment, which execve bounds far below
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # kept: making one costs as much as a message
_LENGTH = struct.Struct("<I")


class SpawnOrder(TypedDict):
    """What the supervisor needs to know to start a job; paths are relative to `directory`."""

    argv: list[str]
    environment: str  # NAME=value entries, NUL-terminated
    directory: str  # the text of the writer's working directory, whose descriptor may come along
    cwd: str | None
    umask: int
    stdin: str
    limit: int
    timeout: float | None
    grace: float
    nice: int | None
    pty: bool
    lease: bool  # who holds it comes along as the descriptor `holder`, where that is known


class JobRecord(TypedDict, total=False):
    """What the supervisor knows of a job; kept in a file beside its output, and told to the daemon.

    Times are seconds since the epoch, clocks seconds of CLOCK_MONOTONIC. `wait_status` is that of wait(2); it is there
    once the job has ended, or `lost` is. Before its process was started there is no `pid`.
    """

    id: int
    line: str  # the beginning of the command line
    pid: int
    start_window: tuple[int, int]  # clock ticks since the boot as in proc(5), between which the process was started
    boot_id: str
    pipes: dict[str, int]  # the inode number of each output pipe, by which whoever holds it is found
    limit: int  # bytes that each stream retains
    grace: float
    deadline: float | None  # the clock at which its timeout is over
    kill_clock: float  # at which its grace period is over; it is there once the job is being ended
    lease: bool
    pty: bool
    started_at: float
    started_clock: float
    stopped: bool
    wait_status: int
    lost: bool  # it has ended, nobody knows how
    ended_at: float
    elapsed: float
    reason: str | None
    open_streams: list[str]  # those that somebody may still write to
    stalled: dict[str, str]  # by stream: why what is written to it cannot be kept; told, and not kept
    awaits_exec: bool  # it was forked, and has not said yet how its exec ended
    never_ran: bool  # the exec failed after the spawn had been answered
    cpu_user_s: float
    cpu_system_s: float
    max_rss_bytes: int


Stray = tuple[int, int, int, int]
"""A job that an earlier supervisor started: its id, the number of its process, and its `start_window`."""


def has_ended(record: JobRecord) -> bool:
    """Whether the job's process has ended, known how or not."""
    return "wait_status" in record or "lost" in record


class Message(TypedDict, total=False):
    """Every key that a message may have; which go together is said where they are made."""

    seq: int
    op: str
    ok: bool
    error: tuple[int, str]
    protocol: int
    state: tuple[int, int] | None  # the identity of the lock: of which state it is the supervisor
    pid: int
    id: int
    ids: list[int]
    signal: int
    grace: float
    reason: str | None
    leader: int
    rows: int
    columns: int
    order: SpawnOrder
    descriptors: list[str]
    watch: list[tuple[int, str, int]]  # job, stream, offset
    stream: str
    stalled: dict[str, str]
    news: str
    record: JobRecord
    records: list[JobRecord]
    strays: list[Stray]


class ProtocolError(Exception):
    """The other end sent what is no frame of ours; the connection is of no more use."""


def encode_frame(message: Message) -> bytes:
    """One message as it travels."""
    body = _ENCODER.encode(message).encode("ascii")
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Collects bytes and gives whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes; raises ProtocolError for what can be none."""
        self._buffer += data
        messages: list[Message] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                msg = f"a frame of {length} bytes"
                raise ProtocolError(msg)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(_parse(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages


def _parse(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except ValueError as error:
        msg = f"a frame that is no JSON: {error}"
        raise ProtocolError(msg) from None
    if not isinstance(message, dict):
        msg = "a frame that is no object"
        raise ProtocolError(msg)
    return cast("Message", message)
