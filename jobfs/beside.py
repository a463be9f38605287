"""Tasks that run beside the body of an `async with` block, and are over when it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVarTuple

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Ts = TypeVarTuple("Ts")


@asynccontextmanager
@trio.lowlevel.enable_ki_protection  # of these lines; the body is none of them
async def beside(stop: Callable[[], Awaitable[object]]) -> AsyncIterator[trio.Nursery]:
    """A nursery of which the body notices nothing: what the body raises gets out as it is, and not in a group.

    When the body is over, also because it was cancelled, `stop` is waited for, which no cancellation reaches, and no
    Ctrl-C; then whatever still runs in the nursery is cancelled. What a task raises cancels the body, and gets out; in
    a group with what the body has raised, where that is more than that it was cancelled.
    """
    raised: BaseException | None = None
    failed: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:  # noqa: BLE001 - it is raised again, below
                raised = error
            # In a task of its own: Ctrl-C comes to the task that is the body's.
            nursery.start_soon(_stop, stop, nursery)
    except BaseExceptionGroup as group:
        failed = group.split(trio.Cancelled)[1]
        if failed is None and raised is None:
            raise first_of(group) from None
    try:
        if failed is None and raised is not None:
            raise raised
        if failed is not None:
            raise _all_of(failed, raised) from None
    finally:
        del raised, failed  # or they and this frame would keep each other


@trio.lowlevel.enable_ki_protection
async def _stop(stop: Callable[[], Awaitable[object]], nursery: trio.Nursery) -> None:
    with trio.CancelScope(shield=True):
        await stop()
    nursery.cancel_scope.cancel()


def first_of(error: BaseException) -> BaseException:
    """The first error of a group, and of groups in it, where one says all that a person or a cancel scope needs."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _all_of(failed: BaseException, raised: BaseException | None) -> BaseException:
    """What the tasks raised, and what the body did, unless that was only its cancellation."""
    own = raised
    if isinstance(raised, BaseExceptionGroup):
        own = raised.split(trio.Cancelled)[1]
    failed = only_one(failed)
    if own is None or isinstance(own, trio.Cancelled):
        return failed
    if isinstance(own, KeyboardInterrupt) and isinstance(failed, KeyboardInterrupt):  # Ctrl-C was typed twice
        return own
    return BaseExceptionGroup("the block and what ran beside it failed", [failed, own])


def only_one(error: BaseException) -> BaseException:
    """What a group of one holds, which is what a person wants to read; else the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class Starting(Protocol):
    """A task that says when it has started."""

    def __call__(self, *, task_status: trio.TaskStatus[None]) -> Awaitable[object]:
        """It runs."""


class Undisturbed:
    """A nursery to whose tasks Ctrl-C does not come.

    trio raises KeyboardInterrupt in whatever runs at that moment, and what runs jobs or serves a mount can do nothing
    sensible with it. So it waits, until code of the program's own runs.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """See `trio.Nursery`."""
        return self._nursery.cancel_scope

    def start_soon(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts, name: object = None) -> None:
        """See `trio.Nursery`."""
        self._nursery.start_soon(_undisturbed, partial(function, *args), name=name)

    async def start(self, function: Starting) -> None:
        """See `trio.Nursery`."""
        await self._nursery.start(_undisturbed_start, function)


@asynccontextmanager
async def undisturbed_nursery() -> AsyncIterator[Undisturbed]:
    """As trio.open_nursery, but see `Undisturbed`."""
    async with trio.open_nursery() as nursery:
        yield Undisturbed(nursery)


@trio.lowlevel.enable_ki_protection
async def _undisturbed(function: Callable[[], Awaitable[object]]) -> None:
    await function()


@trio.lowlevel.enable_ki_protection
async def _undisturbed_start(function: Starting, *, task_status: trio.TaskStatus[None]) -> None:
    await function(task_status=task_status)
