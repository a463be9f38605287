"""The daemon's side of `mount.own_client`: asks that process for what only a client of the mount can do."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from jobfs.bell import Bell
from mount.own_client import PACKET

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

_RESTART_PAUSE = 2.0  # seconds
_LAST_MOMENTS = 2.0  # seconds until it is killed that has not ended by itself: it takes milliseconds
# Files that are touched for one request, a few milliseconds' worth: what else there is to do gets its turn in between.
_AT_ONCE = 8
_JOBS_AT_ONCE = PACKET // 20  # their numbers fit in a packet


class Touch(NamedTuple):
    """What is to be told of a file: that it was modified, that one who wrote it closed it, or both."""

    path: str  # below the mount's root
    modified: bool
    closed: bool

    @property
    def word(self) -> str:
        """As `own_client` takes it."""
        return f"{'m' * self.modified}{'c' * self.closed}:{self.path}"


class OwnClientGone(Exception):  # noqa: N818 - a fact about that process
    """Nobody is there to be asked, or it went before it had answered."""


class Answer:
    """What the process says to one request: `lines`, each a failure; None where it ended before."""

    def __init__(self) -> None:
        self.bell = Bell()  # rung when it is there, or never will be
        self.over = False
        self.lines: list[str] | None = None

    def settle(self, lines: list[str] | None) -> None:
        """This is it."""
        self.over, self.lines = True, lines
        self.bell.ring()


class OwnMount:
    """The mount as its own client; `run` keeps that running."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._waiting: deque[Answer] = deque()
        self._ending: list[subprocess.Popen[bytes]] = []
        self.came = Bell()  # rung when the process was started, again or for the first time

    def is_own(self, task: int) -> bool:
        """Whether it is us who ask."""
        return self._process is not None and task == self._process.pid

    def begin_to_make(self, job: int) -> Answer:
        """Has a job's directory made (IN_CREATE); OwnClientGone where nobody is there to do it."""
        return self._ask(f"make {job}")

    async def remove(self, jobs: Iterable[int]) -> None:
        """Has the directories of jobs removed (IN_DELETE)."""
        await self._ask_in_parts("remove", [str(job) for job in jobs], _JOBS_AT_ONCE)

    async def touch(self, files: Iterable[Touch]) -> None:
        """Has the kernel tell what `files` say (IN_MODIFY, IN_CLOSE_WRITE)."""
        await self._ask_in_parts("touch", [file.word for file in files], _AT_ONCE)

    async def run(
        self, directory: Path, mount: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Runs the process for the mount of that number at `directory`, for ever."""
        while True:
            try:
                receiver = await self._start(directory, mount)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                self.came.ring()
                await self._receive(receiver)
            except OSError as error:
                log.warning("watchers are told of nothing: %s", error)
            finally:
                self._stop()
            await trio.sleep(_RESTART_PAUSE)

    def rest(self) -> None:
        """Ends the process, so that it has nothing open in the mount; it comes back after a while."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def reap(self) -> None:
        """Waits for the end of what `run` has started; in a thread, and when the mount has gone."""
        for process in self._ending:
            try:
                process.wait(_LAST_MOMENTS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def _ask_in_parts(self, verb: str, words: list[str], size: int) -> None:
        for start in range(0, len(words), size):
            answer = self._ask(" ".join([verb, *words[start : start + size]]))
            await answer.bell.wait_rung()
            if answer.lines is None:
                raise OwnClientGone

    def _ask(self, request: str) -> Answer:
        if self._socket is None:
            raise OwnClientGone
        try:
            # Never too much for the socket: each who asks waits for the answer, and there are a few of them.
            self._socket.send(request.encode("ascii"))
        except OSError:
            raise OwnClientGone from None
        answer = Answer()
        self._waiting.append(answer)
        return answer

    async def _start(self, directory: Path, mount: int) -> trio.socket.SocketType:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            command = [sys.executable, "-m", "mount.own_client", str(theirs.fileno()), str(directory), str(mount)]
            # In a thread: before its exec the child closes the files that this process has open, and one that a program
            # has open in its own mount has to be answered for.
            self._process = await trio.to_thread.run_sync(_popen, command, theirs.fileno())
            self._socket = ours.dup()
            self._socket.settimeout(0)
            return trio.socket.from_stdlib_socket(ours)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    async def _receive(self, receiver: trio.socket.SocketType) -> None:
        with receiver:
            while packet := await receiver.recv(PACKET * 4):
                lines = packet.decode("utf-8", "replace").splitlines()
                for line in filter(None, lines):
                    log.debug("the mount's own client failed: %s", line)
                self._waiting.popleft().settle(lines)

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            # It ends with its socket, unless it waits for the mount, which is about to go.
            self._ending = [process for process in [*self._ending, self._process] if process.poll() is None]
            self._process = None
        waiting, self._waiting = self._waiting, deque()
        for answer in waiting:
            answer.settle(None)


def _popen(command: list[str], inherited: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        pass_fds=[inherited],
        stdin=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        start_new_session=True,
    )
