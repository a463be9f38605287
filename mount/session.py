"""The tuned session loop: pyfuse3's own, with another lock and another way to wait.

pyfuse3 takes `trio` from an attribute of its module that a program may replace, as its asyncio support does. With
trio's own lock and wait every operation makes two trips through epoll. Here the lock does not yield when it is free,
and a request that is there already is taken without asking trio; every so often the other tasks get their turn.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pyfuse3
import trio

from jobfs.beside import undisturbed_nursery

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Requests served in a row before other tasks are let run, and the seconds that these may take: listing a large table
# takes a millisecond a request.
_TURN = 64
_TURN_TIME = 0.002
# How often to look for the next request before sleeping. A client that was just answered asks again within a few
# microseconds; sleeping and being woken would cost fifty. Not where the last request is still being worked on, by
# another task: its answer would come later for it.
_LOOKS = 10


class Receipt:
    """Whether the request that was received last has called a handler, as all do but the kernel's interrupts."""

    def __init__(self) -> None:
        self.handled = True


receipt = Receipt()


class SessionLock:
    """A lock whose holder lets it go and takes it back without yielding; who waits gets it when it is free by then."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._woken = False

    async def __aenter__(self) -> None:
        """Takes the lock, at once where it is free."""
        while self._held:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def give_up(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(give_up)
            self._woken = False
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets the lock go and wakes one who waits; while that one is on its way, no second one."""
        self._held = False
        if self._waiting and not self._woken:
            self._woken = True
            trio.lowlevel.reschedule(self._waiting.popleft())


class RequestWait:
    """Waits for the next request of the kernel; calls `interrupted` after one that called no handler."""

    def __init__(self, interrupted: Callable[[], None]) -> None:
        self._interrupted = interrupted
        self._poll = select.poll()
        self._fd = -1
        self._begun = trio.Event()
        self._served = 0
        self._turn_ends = 0.0
        self._last: trio.lowlevel.Task | None = None

    async def wait_readable(self, fd: int) -> None:
        """Returns when `fd` is readable, most often without yielding."""
        if not receipt.handled:
            receipt.handled = True
            self._interrupted()
        await self._wait(fd)
        receipt.handled = False  # what called us receives and handles a request now, without yielding in between

    async def wait_disconnected(self) -> None:
        """Returns when the kernel has ended the session: it was unmounted everywhere, or aborted."""
        await self._begun.wait()
        with select.epoll() as connection:
            connection.register(self._fd, 0)  # tells of POLLERR all the same, and of no request
            await trio.lowlevel.wait_readable(connection.fileno())

    async def _wait(self, fd: int) -> None:
        if fd != self._fd:
            self._fd = fd
            self._begun.set()
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        task = trio.lowlevel.current_task()
        looks, self._last = (_LOOKS if task is self._last else 0), task
        self._served += 1
        # Others get their turn in trio's own wait, which `pyfuse3.terminate` can end; a checkpoint would not hear it.
        while self._served < _TURN and time.monotonic() < self._turn_ends:
            if self._poll.poll(0):
                return
            if not looks:
                break
            looks -= 1
            os.sched_yield()
        await trio.lowlevel.wait_readable(fd)
        self._served = 0
        self._turn_ends = time.monotonic() + _TURN_TIME


def tune(interrupted: Callable[[], None]) -> RequestWait:
    """Makes pyfuse3 wait our way, which it gives, and tell of interrupts. Call it before `pyfuse3.init`."""
    requests = RequestWait(interrupted)
    pyfuse3.trio = SimpleNamespace(  # type: ignore[attr-defined]
        Lock=SessionLock,
        ClosedResourceError=trio.ClosedResourceError,
        open_nursery=undisturbed_nursery,
        lowlevel=SimpleNamespace(
            wait_readable=requests.wait_readable,
            notify_closing=trio.lowlevel.notify_closing,
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
        ),
    )
    return requests
