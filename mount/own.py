"""The daemon's side of `mount.own_client`: asks that process for what only a client of the mount can do."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from mount.own_client import PACKET

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

_RESTART_PAUSE = 0.5  # seconds, where the process ends for no reason of ours
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


class _Answer:
    """What the process says to one request; None where it ended before."""

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.lines: list[str] | None = None


class OwnMount:
    """The mount as its own client; `run` keeps that running."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: trio.socket.SocketType | None = None
        self._sending = trio.StrictFIFOLock()
        self._waiting: deque[_Answer] = deque()

    def is_own(self, task: int) -> bool:
        """Whether it is us who ask."""
        return self._process is not None and task == self._process.pid

    async def make(self, job: int) -> None:
        """Has a job's directory made (IN_CREATE)."""
        self._report(await self._ask(f"make {job}"))

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
                self._start(directory, mount)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await self._receive()
            except OSError as error:
                log.warning("watchers are told of nothing: %s", error)
            finally:
                self._stop()
            await trio.sleep(_RESTART_PAUSE)

    async def _ask_in_parts(self, verb: str, words: list[str], size: int) -> None:
        for start in range(0, len(words), size):
            self._report(await self._ask(" ".join([verb, *words[start : start + size]])))

    async def _ask(self, request: str) -> list[str]:
        answer = _Answer()
        async with self._sending:
            if self._socket is None:
                raise OwnClientGone
            self._waiting.append(answer)
            try:
                await self._socket.send(request.encode("ascii"))
            except OSError:
                raise OwnClientGone from None
        await answer.arrived.wait()
        if answer.lines is None:
            raise OwnClientGone
        return answer.lines

    def _report(self, said: list[str]) -> None:
        for line in filter(None, said):
            log.warning("watchers are not told: %s", line)

    def _start(self, directory: Path, mount: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            command = [sys.executable, "-m", "mount.own_client", str(theirs.fileno()), str(directory), str(mount)]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            )
            self._socket = trio.socket.from_stdlib_socket(ours)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    async def _receive(self) -> None:
        assert self._socket is not None
        while packet := await self._socket.recv(PACKET * 4):
            answer = self._waiting.popleft()
            answer.lines = packet.decode("utf-8", "replace").splitlines()
            answer.arrived.set()

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.poll()  # it ends with its socket, unless it waits for the mount, which is about to go
            self._process = None
        for answer in self._waiting:
            answer.arrived.set()
        self._waiting.clear()
