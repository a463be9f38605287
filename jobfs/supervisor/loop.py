"""An event loop as small as it gets: descriptors, timers, nothing else. One thread, so that forking is safe."""

from __future__ import annotations

import heapq
import itertools
import logging
import select
import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Timer:
    """Something to be done at a time; `cancel` it to forget it."""

    __slots__ = ("action", "when")

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when = when
        self.action: Callable[[], None] | None = action

    @property
    def pending(self) -> bool:
        """Whether it is still to be done."""
        return self.action is not None

    def cancel(self) -> None:
        """It will not be done; it may have been done already."""
        self.action = None


class Loop:
    """Calls back when descriptors are readable or writable and when times have come (CLOCK_MONOTONIC, seconds)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial = itertools.count()

    def watch(self, fd: int, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Has `callback` called while `fd` is ready for `events` (and on error or hang-up, always), with what it is.

        Events are those of epoll_ctl(2).
        """
        known = fd in self._callbacks
        self._callbacks[fd] = callback
        (self._epoll.modify if known else self._epoll.register)(fd, events)

    def unwatch(self, fd: int) -> None:
        """Undoes `watch`; call it before the descriptor is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Has `action` done in `seconds`."""
        timer = Timer(time.monotonic() + seconds, action)
        heapq.heappush(self._timers, (timer.when, next(self._serial), timer))
        return timer

    def run(self, finished: Callable[[], bool]) -> None:
        """Runs until `finished`, which is asked after each round. What a callback raises is logged, no more."""
        while not finished():
            ready = self._epoll.poll(self._until_next_timer())
            callbacks = [self._callbacks.get(fd) for fd, _ in ready]
            for (fd, events), callback in zip(ready, callbacks, strict=True):
                # An earlier callback of this round may have closed it, and the number may be another file's by now.
                if callback is not None and self._callbacks.get(fd) == callback:
                    _guarded(partial(callback, events))
            self._run_timers()

    def _until_next_timer(self) -> float | None:
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            action, timer.action = timer.action, None
            if action is not None:
                _guarded(action)


def _guarded(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception:
        log.exception("a callback failed")
