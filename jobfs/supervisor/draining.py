"""Jobs' output on its way into their streams: when it is moved, when it waits, and who is told what becomes of it."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from jobfs.supervisor.outlet import STALL_RETRY

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobfs.supervisor.child import Child
    from jobfs.supervisor.loop import Loop
    from jobfs.supervisor.outlet import Outlet
    from jobfs.supervisor.wire import Message

log = logging.getLogger(__name__)


class Draining:
    """Drains the outlets of jobs: when they are readable and, while the disk is full, now and then.

    That a stream has grown or has stalled is told to `tell`.
    """

    def __init__(
        self,
        loop: Loop,
        tell: Callable[[Message], None],
        closed: Callable[[Child], None],
        unstalled: Callable[[Child], None],
    ) -> None:
        """`closed` is called when a stream of a job has come to its end.

        `unstalled` is called when there is room again for the last output of a process that has ended meanwhile: see
        `drain_the_last`.
        """
        self._loop = loop
        self._tell = tell
        self._closed = closed
        self._unstalled = unstalled

    def begin(self, child: Child) -> None:
        """From now on its output is drained."""
        for name in child.open_streams:
            self._watch(child, name)

    def tell_when_past(self, child: Child, name: str, offset: int) -> None:
        """Tells, now or later and once, that the stream has bytes past `offset`; never where it is not there."""
        outlet = child.outlets.get(name)  # a terminal has one for both streams
        if outlet is not None:
            outlet.watch(offset)
            self._tell_if_grown(child, name)

    def tell_no_more(self, child: Child) -> None:
        """Who asked `tell_when_past` has gone."""
        for outlet in child.outlets.values():
            outlet.unwatch()

    def drain_the_last(self, child: Child) -> bool:
        """The process has ended: drains what its pipes hold at this moment; gives whether all of that is kept.

        Where it is not, the disk is full, and `unstalled` is called when there is room. Descendants may write on.
        """
        for name in child.open_streams:
            self._drain_what_waits(child, name)
        if child.stalled:
            self._tell_stalled(child)  # anew: it has ended meanwhile
            return False
        return True

    def forget(self, child: Child) -> None:
        """The job was removed: what is still written is drained and goes nowhere."""
        for outlet in child.outlets.values():
            outlet.forget()

    def close(self, child: Child) -> None:
        """Nothing of it is drained any more: its streams are at their end."""
        for outlet in child.outlets.values():
            self._close_outlet(outlet)

    def _watch(self, child: Child, name: str) -> None:
        self._loop.watch(child.outlets[name].reader, partial(self._ready, child, name))

    def _ready(self, child: Child, name: str, events: int) -> None:
        child.outlets[name].notice(events)
        self._drain(child, name)

    def _close_outlet(self, outlet: Outlet) -> None:
        if not outlet.closed:
            self._loop.unwatch(outlet.reader)  # before the number can become another file's
            outlet.close()

    def _drain(self, child: Child, name: str) -> None:
        outlet = child.outlets[name]
        if outlet.closed:
            return
        was_stalled = outlet.stalled
        outlet.drain()
        self._tell_if_grown(child, name)
        if outlet.at_end:
            self._close_outlet(outlet)
            self._closed(child)
        elif outlet.stalled:
            self._stall(child, name, first=not was_stalled)
        elif was_stalled:
            self._watch(child, name)
            log.info("job %d goes on", child.job)
        if was_stalled and not outlet.stalled:
            self._tell_stalled(child)
        if was_stalled and not outlet.stalled and child.gone and not child.ended:
            self._unstalled(child)

    def _drain_what_waits(self, child: Child, name: str) -> None:
        outlet = child.outlets[name]
        left = outlet.waiting()
        while left > 0 and not outlet.stalled and (moved := outlet.drain()):
            left -= moved
        # So that the end of the pipe is known at once. Less may be there than was told: a descendant can read it too.
        if not outlet.stalled:
            outlet.drain()
        self._tell_if_grown(child, name)  # now: the stream may grow no more, or not soon
        if outlet.at_end:
            self._close_outlet(outlet)
        elif outlet.stalled and (name not in child.retries or not child.retries[name].pending):
            self._stall(child, name, first=True)

    def _stall(self, child: Child, name: str, *, first: bool) -> None:
        """The disk is full: leave the bytes in the pipe, where they make the job wait, and look again soon."""
        self._loop.unwatch(child.outlets[name].reader)
        child.retries[name] = self._loop.after(STALL_RETRY, lambda: self._drain(child, name))
        if first:
            log.warning("job %d waits: its %s cannot be written: %s", child.job, name, child.outlets[name].obstacle)
            self._tell_stalled(child)

    def _tell_if_grown(self, child: Child, name: str) -> None:
        if child.outlets[name].is_news():
            self._tell({"news": "grown", "id": child.job, "stream": name})

    def _tell_stalled(self, child: Child) -> None:
        self._tell({"news": "stalled", "id": child.job, "stalled": child.stalled})
