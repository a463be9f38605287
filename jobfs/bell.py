"""Whom to tell, once, that something has changed.

Who still cares then listens again; so changes gather while somebody is busy with the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Bell:
    """Calls back, once each, those who listen."""

    def __init__(self) -> None:
        self._listeners: dict[Callable[[], None], None] = {}  # in the order of their coming

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def listen(self, call: Callable[[], None]) -> None:
        """Has `call` called at the next ring, once, however often this was said."""
        self._listeners[call] = None

    def ignore(self, call: Callable[[], None]) -> None:
        """Takes `listen` back, if it was not called yet."""
        self._listeners.pop(call, None)

    def ring(self) -> None:
        """Calls everybody; who listens again meanwhile is called at the next ring."""
        listeners, self._listeners = self._listeners, {}
        for call in listeners:
            call()

    async def wait_rung(self) -> None:
        """Waits for the next ring."""
        event = trio.Event()
        self.listen(event.set)
        try:
            await event.wait()
        finally:
            self.ignore(event.set)
