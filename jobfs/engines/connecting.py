"""Finding the supervisor of a state directory, or starting it."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jobfs.errors import EngineGone
from jobfs.files import read_object
from jobfs.supervisor import ADDRESS, EXIT_LOCKED, LOCK, identity
from jobfs.supervisor.passing import RECEIVE_FLAGS, ROOM, Inbox, close_all
from jobfs.supervisor.wire import PROTOCOL, ProtocolError, encode_frame, has_ended

if TYPE_CHECKING:
    from jobfs.supervisor.wire import JobRecord, Message

log = logging.getLogger(__name__)

READ = 64 * 1024  # bytes; more would be mapped and unmapped for every read
_START_PATIENCE = 10.0  # seconds that a supervisor may take to listen
_GREETING_PATIENCE = 2.0  # seconds that it may take to answer
# So often one of an older version is let go: it does not end as long as there is anything that its jobs left behind.
_RENEWALS = 3
_SOCKET_PATH_MAX = 107  # bytes, unix(7)
_CREDENTIALS = struct.Struct("iii")  # pid, uid, gid: unix(7), SO_PEERCRED
# How many files this process may have open, as it was given that: a daemon raises it later, for itself.
_OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
# Those that this process started: they outlive it, but one that ends first must not stay a zombie.
_supervisors: list[subprocess.Popen[bytes]] = []


class _NotIt(Exception):  # noqa: N818 - the rest of the sentence that begins with the address
    """Who listens is not the supervisor of this state, or not one that answers."""


async def connect(state: Path) -> tuple[trio.socket.SocketType, Message, Inbox]:
    """A connection, what the supervisor said of itself, and the inbox of what follows.

    One of an older version that has nothing to do is let go, upon which it ends.
    """
    renewals = _RENEWALS
    refusals: dict[str, str] = {}  # by address; said once, as this goes round and round
    with trio.move_on_after(_START_PATIENCE):
        while True:
            for address, is_named in _known_addresses(state):
                sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
                try:
                    await sock.connect(address)
                    inbox = Inbox()
                    hello = await _greet(sock, inbox, state, trusted=is_named)
                    current = hello["protocol"] >= PROTOCOL
                    if current or not renewals or any(map(_is_busy, (await _ask(sock, inbox, "list"))["records"])):
                        return sock, hello, inbox
                    renewals -= 1
                except _NotIt as error:
                    if refusals.get(address) != str(error):
                        log.warning("the socket %s %s", address, error)
                    refusals[address] = str(error)
                except (OSError, ValueError, ProtocolError):  # nobody listens there any more; it is no path
                    pass
                except trio.Cancelled:
                    sock.close()
                    raise
                sock.close()
            if not await trio.to_thread.run_sync(_start, state):
                await trio.sleep(0.05)  # another one holds the lock and is about to listen, or to end
    why = "; ".join(f"{address} {refusal}" for address, refusal in refusals.items())
    msg = f"no supervisor can be had for {state}: another process holds {state / LOCK}, and does not answer"
    raise EngineGone(f"{msg}: {why}" if why else msg)


async def _greet(sock: trio.socket.SocketType, inbox: Inbox, state: Path, *, trusted: bool) -> Message:
    """What the supervisor of `state` answers to a greeting; _NotIt where it is another's or no supervisor.

    One that does not say of which state it is must be `trusted`. OSError where it was just about to end, and never will
    answer.
    """
    _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user != os.geteuid():
        raise _NotIt(f"belongs to user {user}")
    with trio.move_on_after(_GREETING_PATIENCE):
        try:
            hello = await _ask(sock, inbox, "hello")
        except ProtocolError:
            hello = {}
        if not isinstance(hello.get("protocol"), int) or not isinstance(hello.get("pid"), int):
            raise _NotIt("is no supervisor's")
        said = hello.get("state")  # which those of before protocol 3 do not say
        if not trusted if said is None else tuple(said) != identity(state / LOCK):
            raise _NotIt("is the supervisor of another state")
        return hello
    raise _NotIt(f"does not answer within {_GREETING_PATIENCE:g} s")


async def _ask(sock: trio.socket.SocketType, inbox: Inbox, operation: str) -> Message:
    """What a supervisor answers to that; OSError where it was just about to end and never will."""
    await sock.send(encode_frame({"op": operation, "seq": 0}))
    while (said := await sock.recvmsg(READ, ROOM, RECEIVE_FLAGS))[0]:
        messages = inbox.feed(*said[:3])
        for message in messages:
            close_all(inbox.claim(message).values())  # news: it is all in the list that is asked for next
        if answers := [message for message in messages if "seq" in message]:
            return answers[0]
    raise ConnectionResetError


def _is_busy(record: JobRecord) -> bool:
    """Whether a supervisor has anything to do for a job."""
    return not has_ended(record) or bool(record.get("open_streams"))


def _known_addresses(state: Path) -> list[tuple[str, bool]]:
    """Where the supervisor may listen: where it said, if that can be read, and where one is started by default."""
    said = read_object(state / ADDRESS)
    named = None if said is None else said.get("socket")
    if not isinstance(named, str) and (state / ADDRESS).exists():
        log.warning("%s makes no sense", state / ADDRESS)
    usual = str(_socket_path(state))
    return ([(named, True)] if isinstance(named, str) else []) + ([(usual, False)] if named != usual else [])


def _start(state: Path) -> bool:
    """Starts a supervisor as a daemon of its own; False where another one has the state."""
    _supervisors[:] = [earlier for earlier in _supervisors if earlier.poll() is None]
    with (state / "log").open("ab") as said:
        command = [sys.executable, "-m", "jobfs.supervisor", str(state), str(_socket_path(state)), str(_OPEN_FILES)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert process.stdout is not None
    ready = process.stdout.readline()
    process.stdout.close()
    if ready:
        _supervisors.append(process)
        return True
    if process.wait() != EXIT_LOCKED:
        msg = f"the supervisor does not start: see {state}/log"
        raise EngineGone(msg)
    return False


def _socket_path(state: Path) -> Path:
    """A path short enough for a socket, in a directory that only this user can enter."""
    name = hashlib.sha256(os.fsencode(state)).hexdigest()[:16] + ".sock"
    uid = os.geteuid()
    for directory in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}", f"{tempfile.gettempdir()}/jobfs-{uid}"):
        if (
            directory
            and len(os.fsencode(f"{directory}/jobfs/{name}")) <= _SOCKET_PATH_MAX
            and _private(Path(directory))
        ):
            place = Path(directory) / "jobfs"
            place.mkdir(mode=0o700, exist_ok=True)
            return place / name
    msg = "no private directory for the supervisor's socket: set XDG_RUNTIME_DIR to one"
    raise EngineGone(msg)


def _private(directory: Path) -> bool:
    try:
        if directory.parent == Path(tempfile.gettempdir()):
            directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
