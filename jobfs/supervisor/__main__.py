"""`python -m jobfs.supervisor STATE SOCKET`: runs the supervisor of one state directory.

It writes one line to its standard output when it listens, and closes that. It ends by itself when it has no job and
nobody is connected. Exit status 3: another one has the state.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jobfs.supervisor import ADDRESS, EXIT_LOCKED, JOBS, LOCK
from jobfs.supervisor.connection import Connection, Request, peer_uid
from jobfs.supervisor.loop import Loop
from jobfs.supervisor.passing import duplicates
from jobfs.supervisor.service import Supervisor
from jobfs.supervisor.wire import PROTOCOL, Message

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("jobfs.supervisor")

_PR_SET_CHILD_SUBREAPER = 36
# What a session's end or a slip of somebody's hand sends; each would end the supervisor, and lose its jobs.
_IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
# A daemon that starts the supervisor has this long to connect, in seconds, before it ends for having nothing to do.
_FIRST_CONNECTION = 10.0
# How long it does not accept any, in seconds, after it could not: it had no descriptor left.
_ACCEPT_RETRY = 0.25


class Server:
    """Accepts daemons, tells all of them the news, and knows when nothing is left to do."""

    def __init__(self, loop: Loop, state: Path, listener: socket.socket, open_files: tuple[int, int]) -> None:
        self._loop = loop
        self._listener = listener
        self._connections: set[Connection] = set()
        self.supervisor = Supervisor(loop, str(state / JOBS), open_files, self._tell)
        loop.watch(listener.fileno(), self._accept)
        self._may_end = False
        loop.after(_FIRST_CONNECTION, self._nobody_came)

    def finished(self) -> bool:
        """Whether there is neither a job nor a daemon any more."""
        return self._may_end and not self._connections and self.supervisor.idle

    def _nobody_came(self) -> None:
        self._may_end = True

    def _accept(self, _: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # EMFILE: who waits would have us called again at once, and for ever
            log.warning("a daemon must wait: %s", error)
            self._loop.unwatch(self._listener.fileno())
            self._loop.after(_ACCEPT_RETRY, lambda: self._loop.watch(self._listener.fileno(), self._accept))
            return
        if peer_uid(sock) != os.geteuid():
            sock.close()
            return
        self._connections.add(Connection(self._loop, sock, self._handle, self._disconnected))

    def _handle(self, request: Request) -> None:
        if request.message.get("op") == "hello":
            request.answer({"ok": True, "protocol": PROTOCOL, "pid": os.getpid()})
        else:
            self.supervisor.handle(request)

    def _disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.supervisor.disconnected(connection)
        self._may_end = True

    def _tell(self, message: Message, descriptors: Mapping[str, int] | None = None) -> None:
        for connection in tuple(self._connections):
            connection.send(message, duplicates(descriptors or {}))


def main(state: Path, address: str) -> int:
    """Runs until there is nothing to do; gives the exit status."""
    lock = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return EXIT_LOCKED
    os.chdir("/")
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files[1], open_files[1]))
    loop = Loop()
    wake_up = _signals_wake()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        Path(address).unlink(missing_ok=True)
        listener.bind(address)
        listener.listen()
        server = Server(loop, state, listener, open_files)
        _on_child(loop, wake_up, server)
        _write_address(state, address)
        log.info("supervisor %d listens", os.getpid())
        with contextlib.suppress(BrokenPipeError):  # the daemon that started it was killed; another one may come
            os.write(1, b"ready\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        gc.collect()
        gc.freeze()  # what is forked shares these pages as long as the collector does not touch them
        loop.run(server.finished)
        server.supervisor.close()
        Path(address).unlink(missing_ok=True)
    log.info("supervisor %d ends: nothing is left to do", os.getpid())
    return 0


def _signals_wake() -> int:
    """Makes SIGCHLD readable at a descriptor, and the signals that end a session no concern of ours."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    return reader


def _on_child(loop: Loop, wake_up: int, server: Server) -> None:
    def woken(_: int) -> None:
        os.read(wake_up, 65536)
        server.supervisor.reap()

    loop.watch(wake_up, woken)


def _write_address(state: Path, address: str) -> None:
    new = state / f"{ADDRESS}.new"
    new.write_text(json.dumps({"pid": os.getpid(), "socket": address, "protocol": PROTOCOL}), encoding="utf-8")
    new.replace(state / ADDRESS)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
