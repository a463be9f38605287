"""The way into a trio that runs in a thread of its own: what other threads ask of it, and wait for.

A question (`ask`, `act`) is answered between two steps of trio's tasks. What waits (`wait`) is a task there; when its
caller gives up, by a timeout, Ctrl-C, or because it is a job that is being ended, the task is cancelled.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from jobfs.beside import beside
from jobfs.errors import EngineGone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


class Cancelled(BaseException):
    """The job that the function is, is being ended: let it pass.

    It comes out of whatever waits in the function's thread. As other BaseExceptions it is caught by no `except
    Exception`; and as trio's own, it comes again wherever the function waits again.
    """


class Cancellation:
    """Whether a job is being ended, and what its function waits for. For the trio thread, but for `come`."""

    def __init__(self) -> None:
        self.come = False
        self._waiting: set[trio.CancelScope] = set()

    def cancel(self) -> None:
        """It is to end: what it waits for now, and later, raises Cancelled."""
        self.come = True
        for scope in self._waiting:
            scope.cancel()

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Runs what the job's function waits for."""
        with trio.CancelScope() as scope:
            self._waiting.add(scope)
            if self.come:
                scope.cancel()
            try:
                return await function()
            finally:
                self._waiting.discard(scope)
        raise Cancelled("the job is being ended")


own_cancellation: ContextVar[Cancellation | None] = ContextVar("own_cancellation", default=None)
"""That of the job whose function runs in this thread."""


class _Call(Generic[T]):
    """A task that a thread waits for."""

    def __init__(self, function: Callable[[], Awaitable[T]], timeout: float | None, late: str) -> None:
        self.answer: Future[T] = Future()
        self.scope = trio.CancelScope()
        self._function = function
        self._timeout = timeout
        self._late = late

    async def run(self) -> None:
        """The task: raises nothing but what cancels it."""
        try:
            with self.scope:
                if self._timeout is not None:
                    self.scope.deadline = trio.current_time() + self._timeout
                self.answer.set_result(await self._function())
                return
            self.answer.set_exception(TimeoutError(errno.ETIMEDOUT, f"{self._late} after {self._timeout} seconds"))
        except trio.Cancelled:
            self.answer.set_exception(_gone())
            raise
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self.answer.set_exception(error)


class Portal:
    """A trio in a thread of its own, as other threads reach it. Any of them may call all of this, but never trio's."""

    def __init__(self) -> None:
        """Made by `opened`."""
        self._token: Future[trio.lowlevel.TrioToken] = Future()
        self._left = trio.Event()
        self._calls: trio.Nursery | None = None
        self._lock = threading.Lock()

    # Asking

    def ask(self, look: Callable[[], T]) -> T:
        """What `look` gives in the trio thread. When that has ended, in this one: what was stays to be seen."""
        answer: Future[T] = Future()
        try:
            self._token.result().run_sync_soon(_answer, answer, look)
        except trio.RunFinishedError:
            with self._lock:
                return look()
        return answer.result()

    def act(self, function: Callable[[], T]) -> T:
        """What `function` gives, called in the trio thread; EngineGone when the table is closed."""
        answer: Future[T] = Future()

        def answered() -> T:
            if self._calls is None:
                raise _gone()
            return function()

        if not self.soon(partial(_answer, answer, answered)):
            raise _gone()
        return answer.result()

    def wait(
        self,
        function: Callable[[], Awaitable[T]],
        timeout: float | None = None,
        late: str = "it has not happened",
        cancellation: Cancellation | None = None,
    ) -> T:
        """What the async `function` gives, awaited in the trio thread.

        After `timeout` seconds it is cancelled, and TimeoutError raised, of which `late` is the beginning. Where this
        thread is a job's function, or else where a `cancellation` is given, Cancelled is raised when that comes.
        EngineGone when the table is closed meanwhile.
        """
        cancellation = own_cancellation.get() or cancellation
        awaited = function if cancellation is None else partial(cancellation.run, function)
        call = self._begin(awaited, timeout, late)
        try:
            return call.answer.result()
        except BaseException:
            self.soon(call.scope.cancel)  # of Ctrl-C the task knows nothing
            raise

    def _begin(self, function: Callable[[], Awaitable[T]], timeout: float | None = None, late: str = "") -> _Call[T]:
        call = _Call(function, timeout, late)

        def start() -> None:
            if self._calls is None:
                call.answer.set_exception(_gone())
            else:
                self._calls.start_soon(call.run)

        if not self.soon(start):
            call.answer.set_exception(_gone())
        return call

    def soon(self, function: Callable[[], object]) -> bool:
        """Has `function` called in the trio thread, and does not wait; False where that has ended."""
        try:
            self._token.result().run_sync_soon(function)
        except trio.RunFinishedError:
            return False
        return True

    @contextmanager
    def within(self, block: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
        """The async context manager that `block` makes, as one of this thread: it is entered and left in a task."""
        entered: Future[T] = Future()
        left = trio.Event()

        async def run() -> None:
            async with block() as value:
                entered.set_result(value)
                await left.wait()

        def unless_entered(answer: Future[None]) -> None:
            error = answer.exception()
            if error is not None and not entered.done():
                entered.set_exception(error)

        call = self._begin(run)
        call.answer.add_done_callback(unless_entered)
        try:
            yield entered.result()
        finally:
            self.soon(left.set)
            futures.wait([call.answer])
        call.answer.result()

    # Its thread

    @classmethod
    @contextmanager
    def opened(cls, block: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[tuple[Portal, T]]:
        """Runs trio, and in it the async context manager that `block` makes, in a thread, as long as the block lasts.

        What entering and leaving it raises is raised here.
        """
        portal, entered, over = cls(), Future[T](), Future[None]()
        thread = threading.Thread(target=portal._run, args=(block, entered, over), name="jobfs")
        thread.start()
        try:
            yield portal, entered.result()
        finally:
            portal.soon(portal._left.set)
            futures.wait([over])  # not `join`, which Ctrl-C would have believe that the thread has ended (bpo-45274)
            thread.join()
        over.result()

    def _run(self, block: Callable[[], AbstractAsyncContextManager[T]], entered: Future[T], over: Future[None]) -> None:
        try:
            trio.run(self._serve, block, entered)
        except BaseException as error:  # noqa: BLE001 - it is raised in the other thread
            if not entered.done():
                entered.set_exception(error)
            if not self._token.done():
                self._token.set_exception(trio.RunFinishedError())
            over.set_exception(error)
        else:
            over.set_result(None)

    async def _serve(self, block: Callable[[], AbstractAsyncContextManager[T]], entered: Future[T]) -> None:
        self._token.set_result(trio.lowlevel.current_trio_token())
        async with beside(trio.lowlevel.checkpoint) as calls:
            self._calls = calls
            try:
                async with block() as value:
                    entered.set_result(value)
                    await self._left.wait()
            finally:
                self._calls = None  # those that wait still learn how the jobs ended; no more are begun


class Items(Iterator[T]):
    """What an async iterator of the trio thread gives, to any thread. Nothing is left of one that is dropped."""

    def __init__(self, portal: Portal, source: AsyncIterator[T]) -> None:
        """`source` is taken over: it is to be dropped in the trio thread."""
        self._portal = portal
        self._source = [source]
        self._turn = trio.Lock()
        self._over = False

    def __iter__(self) -> Items[T]:
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next one, which is waited for."""
        if self._over:
            raise StopIteration
        for item in self._portal.wait(self._next):
            return item
        self._over = True
        raise StopIteration

    def __del__(self) -> None:
        """Has the source dropped in its own thread."""
        self._portal.soon(self._source.clear)

    async def _next(self) -> list[T]:
        async with self._turn:
            with suppress(StopAsyncIteration):
                return [await anext(self._source[0])]
        return []


def _answer(answer: Future[T], function: Callable[[], T]) -> None:
    try:
        answer.set_result(function())
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        answer.set_exception(error)


def _gone() -> EngineGone:
    return EngineGone("the table is closed")
