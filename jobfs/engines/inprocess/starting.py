"""A process on its way to exec, in a thread: whoever waits for it may give up, and then nothing of it is left."""

from __future__ import annotations

import errno
import os
import signal
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs.engines.failures import failure
from jobfs.engines.inprocess.launch import STARTERS, GivenUp, Streams, launch
from jobfs.engines.inprocess.leader import Leader
from jobfs.processes import ticks

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.model import JobSpec
    from jobfs.processes import Process


async def start(
    spec: JobSpec, environment: str, directory: int | None, streams: Streams, members: Callable[[], list[Process]]
) -> Leader:
    """Starts the process of `spec`; returns when its exec has happened.

    Raises one of the `jobfs.errors` family, and then nothing was started. Where it is cancelled, what has begun is
    ended: the exec may hang, and so may the opening of a file that is to be its stdin. See `Leader` for `members`.
    """
    attempt = _Attempt(spec, environment, directory, streams, members)
    try:
        return await trio.to_thread.run_sync(attempt.run, limiter=STARTERS, abandon_on_cancel=True)
    except BaseException:  # it is cancelled; or no thread can be started, and what is its own is to go
        attempt.give_up()
        raise


def undo(leader: Leader) -> None:
    """Kills a process that nobody wants any more, in the background, and what it has started."""
    with suppress(OSError):  # it has ended
        leader.signal(signal.SIGKILL)
    threading.Thread(target=partial(_reap, leader), daemon=True).start()


def _take_hold(pid: int, first: int, members: Callable[[], list[Process]]) -> Leader:
    try:
        return Leader(pid, first, members)
    except OSError as error:  # no descriptor is left, for one: nobody could end it
        with suppress(ProcessLookupError, ChildProcessError):  # something else in this program has reaped it
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise failure(error.errno or errno.EIO, "take hold of it") from error


def _reap(leader: Leader) -> None:
    with suppress(ChildProcessError):
        os.waitpid(leader.pid, 0)
    leader.close()


class _Attempt:
    """One attempt, with descriptors of its own: the thread may go on when whose they are has closed them."""

    def __init__(
        self,
        spec: JobSpec,
        environment: str,
        directory: int | None,
        streams: Streams,
        members: Callable[[], list[Process]],
    ) -> None:
        self._spec = spec
        self._environment = environment
        self._members = members
        self._descriptors: list[int] = []  # that are its own
        self._lock = threading.Lock()
        self._begun = False
        self._given_up = False
        self._leader: Leader | None = None
        try:
            self._directory = None if directory is None else self._own(directory)
            stdin = None if streams.stdin is None else self._own(streams.stdin)
            self._streams = Streams(stdin, self._own(streams.stdout), self._own(streams.stderr))
        except OSError as error:
            self._close()
            raise failure(error.errno or errno.EIO, "start it") from error

    def run(self) -> Leader:
        """In the thread."""
        with self._lock:
            if not self._is_wanted():
                raise GivenUp
            self._begun = True
        try:
            first = ticks()
            pid = launch(self._spec, self._environment, self._directory, self._streams, self._is_wanted)
            leader = _take_hold(pid, first, self._members)
        finally:
            self._close()
        with self._lock:
            self._leader = leader
            if not self._is_wanted():
                undo(leader)
            return leader

    def _is_wanted(self) -> bool:
        return not self._given_up

    def _own(self, fd: int) -> int:
        duplicate = os.dup(fd)
        self._descriptors.append(duplicate)
        return duplicate

    def _close(self) -> None:
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors.clear()

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._given_up = True
            if not self._begun:
                self._close()
            if self._leader is not None:
                undo(self._leader)
