"""Requests that wait for something to happen before they are answered: reads of `wait` and `follow`, writes to `stdin`.

Their callers must be as easy to interrupt and to kill as in any blocking call. The kernel asks for that with
FUSE_INTERRUPT, of which the session loop sees no more than a request without a handler; then it calls `interrupted`,
and whoever wants out is looked for and its request answered with EINTR: a signal that kills then does, and a program
that retries goes on.

A second reader of the same open file, or a second writer of the same `stdin`, sleeps in the kernel behind the first
one, and nothing tells when it wants out. Where there can be such a one, it is looked at every now and then; most often
there cannot, and then nothing is done while nothing happens.
"""

from __future__ import annotations

import errno
import logging
import math
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio

from jobfs.errors import JobfsError
from mount import pending
from mount.caller import ALL_PATIENCE, look
from mount.pending import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mount.caller import File
    from mount.pending import Process

log = logging.getLogger(__name__)

# How many requests may wait: each is a task of the daemon, and a buffer of which some pages are used.
_MOST = 10_000
# Pauses in seconds before each look after an interrupt: of several tasks some may not be asleep again at the first.
_LOOKS = (0.0, 0.02, 0.1)
# How often those are looked at, in seconds, of whom the kernel tells nothing.
_LOOK_AGAIN = 0.05
_PAUSE_FOR_LOOK = 5  # that takes a fifth of the time at most
# They are searched for when things have settled, which reads all of /proc: for a twentieth of the time at most.
_SETTLED = 0.1
_PAUSE_FOR_SEARCH = 20


class _Blocked:
    """One request that waits, and the errno that it fails with where it is to wait no longer."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.errno = errno.EINTR


class BlockedRequests:
    """All requests of one mount that wait; `run` is the task that answers those who want out."""

    def __init__(self) -> None:
        self._blocked: dict[Waiting, set[_Blocked]] = {}
        self._count = 0
        self._refusal: int | None = None
        self._woken = trio.Event()
        self._heard = False  # of an interrupt that was not looked into yet
        self._search_at = math.inf  # trio's clock
        self._search_pause = _SETTLED
        self._look_pause = _LOOK_AGAIN
        self._suspects: dict[Process, set[File]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    @contextmanager
    def waiting(self, file: File, opener: int) -> Iterator[None]:
        """The body waits for what the answer needs; FUSEError where it is to wait no longer, or not at all."""
        if self._refusal is not None or self._count >= _MOST:
            raise pyfuse3.FUSEError(self._refusal or errno.EAGAIN)
        request = Waiting(file, opener)
        blocked = _Blocked()
        same = self._blocked.setdefault(request, set())
        same.add(blocked)
        self._count += 1
        self._search_soon()
        try:
            with blocked.scope:
                yield
        finally:
            self._count -= 1
            same.discard(blocked)
            if not same:
                del self._blocked[request]
        if blocked.scope.cancelled_caught:
            raise pyfuse3.FUSEError(blocked.errno)

    def opened(self, file: File) -> None:
        """Somebody has opened `file`, perhaps to wait behind one who waits already."""
        if any(request.file == file for request in self._blocked):
            self._search_soon()

    def interrupted(self) -> None:
        """The kernel has said that a request is to be interrupted, but not which."""
        if self._blocked:
            self._heard = True
            self._woken.set()

    def refuse(self, number: int) -> None:
        """The mount is going: whoever waits, or is about to, gets the errno `number`."""
        self._refusal = number
        self.answer_all(number)

    def answer_all(self, number: int) -> None:
        """Whoever waits gets the errno `number`."""
        self._answer(list(self._blocked), number)

    async def run(self) -> None:
        """Answers those who want out; runs for ever."""
        while True:
            with trio.move_on_after(self._until_next_look()):
                await self._woken.wait()
            self._woken = trio.Event()
            try:
                await self._look()
            except (OSError, JobfsError) as error:  # no descriptor is left, for one
                log.warning("cannot look for interrupted processes: %s", error)
                await trio.sleep(_LOOK_AGAIN)

    def _until_next_look(self) -> float:
        return self._look_pause if self._suspects else max(0.0, self._search_at - trio.current_time())

    def _search_soon(self) -> None:
        at = trio.current_time() + self._search_pause
        if at < self._search_at:
            self._search_at = at
            self._woken.set()

    async def _look(self) -> None:
        if not self._blocked:
            self._suspects, self._search_at, self._heard = {}, math.inf, False
            self._search_pause, self._look_pause = _SETTLED, _LOOK_AGAIN
            return
        if self._heard:
            self._heard = False
            await self._look_for_interrupted()
        if self._suspects:
            began = trio.current_time()
            at = partial(pending.interrupted_behind, self._suspects, list(self._blocked))
            self._answer(await look(at, ALL_PATIENCE) or ())
            self._look_pause = max(_LOOK_AGAIN, (trio.current_time() - began) * _PAUSE_FOR_LOOK)
        if trio.current_time() >= self._search_at:
            await self._search()

    async def _look_for_interrupted(self) -> None:
        for pause in _LOOKS:
            await trio.sleep(pause)
            self._answer(await look(partial(pending.interrupted, list(self._blocked)), ALL_PATIENCE) or ())

    async def _search(self) -> None:
        self._search_at = math.inf  # who comes meanwhile is searched for the next time
        began = trio.current_time()
        found = await look(partial(pending.suspects, list(self._blocked)), ALL_PATIENCE)
        if found is None:  # it took too long: somebody's files cannot be read, and are left out the next time
            self._search_soon()
            return
        self._suspects = found
        self._search_pause = max(_SETTLED, (trio.current_time() - began) * _PAUSE_FOR_SEARCH)
        if self._suspects:
            self._search_soon()

    def _answer(self, requests: Iterable[Waiting], number: int = errno.EINTR) -> None:
        for request in requests:
            for blocked in self._blocked.get(request, ()):
                blocked.errno = number
                blocked.scope.cancel()
