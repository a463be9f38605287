"""Tasks that run beside the body of an `async with` block, and are over when it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@asynccontextmanager
async def beside(stop: Callable[[], Awaitable[object]]) -> AsyncIterator[trio.Nursery]:
    """A nursery of which the body notices nothing: what the body raises gets out as it is, and not in a group.

    When the body is over, also because it was cancelled, `stop` is waited for, which no cancellation reaches; then
    whatever still runs in the nursery is cancelled. What a task raises cancels the body, and gets out.
    """
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:  # noqa: BLE001 - it is raised again, below
                raised = error
            with trio.CancelScope(shield=True):
                await stop()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise only_one(group) from None
    if raised is not None:
        raise raised


def only_one(error: BaseException) -> BaseException:
    """What a group of one holds, which is what a person wants to read; else the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
