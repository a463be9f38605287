"""A job that is a synchronous function in a thread, and what that function is given."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVarTuple

import trio

from jobfs.sync.portal import Cancellation, Cancelled, own_cancellation
from jobfs.sync.streams import StdinReader, StreamWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from jobfs.engines.inprocess import task
    from jobfs.sync.portal import Portal

Ts = TypeVarTuple("Ts")


class Task:
    """A job, as the function that it is sees it. Other threads that the function has started may use it too."""

    def __init__(self, portal: Portal, inner: task.Task, cancellation: Cancellation | None) -> None:
        """Made by the table."""
        self._portal = portal
        self._inner = inner
        self._cancellation = cancellation

    @property
    def id(self) -> int:
        """The job's id."""
        return self._inner.id

    @property
    def name(self) -> str | None:
        """The name that the job was given, if any."""
        return self._inner.name

    @property
    def stdout(self) -> StreamWriter:
        """Where it writes its output."""
        return StreamWriter(self._portal, self._inner.stdout, self._cancellation)

    @property
    def stderr(self) -> StreamWriter:
        """Where it writes its errors. The traceback of what it raises is written there by itself."""
        return StreamWriter(self._portal, self._inner.stderr, self._cancellation)

    @property
    def stdin(self) -> StdinReader:
        """What is written to the job's `stdin`. StdinClosed where it was started without one."""
        return StdinReader(self._portal, self._inner.stdin, self._cancellation)

    @property
    def cancelled(self) -> bool:
        """Whether the job is being ended: the function is to return, which `checkpoint` and `write` see to."""
        return self._cancellation is not None and self._cancellation.come

    @property
    def stopped(self) -> bool:
        """Whether the job is stopped: the function is to wait, which `checkpoint` and `write` do."""
        return self._inner.stopped

    def checkpoint(self) -> None:
        """Waits as long as the job is stopped; raises Cancelled when it is being ended. It costs next to nothing."""
        if self.cancelled or self.stopped:
            self._portal.wait(self._inner.checkpoint, cancellation=self._cancellation)

    def run_process(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Runs a process to its end; gives its exit code, or -N where signal N ended it.

        A str is a command line for /bin/sh, a sequence a program and its arguments. What it writes goes into the job's
        streams; it reads nothing. `cwd` is taken from this program's own directory, and `env` is set beside its
        environment, JOBFS_ID and JOBFS_MOUNT. It is a part of the job: signals go to it too, and when the job is ended
        so is it, with SIGTERM, and SIGKILL after the grace period; then Cancelled is raised. Raises one of the
        `jobfs.errors` family where it cannot be started.
        """
        run = partial(self._inner.run_process, command, cwd=cwd, env=env)
        return self._portal.wait(run, cancellation=self._cancellation)

    def add_process(self, pid: int) -> None:
        """Makes a process that this program started by other means one of the job's, with its group.

        It is signalled, stopped and counted with the job; to wait for it stays the caller's affair. Twice is once.
        Raises ProcessLookupError where it is no child of this program, PermissionError where it leads no process group:
        start it with `start_new_session=True`.
        """
        self._portal.act(lambda: self._inner.add_process(pid))


async def run_in_thread(
    portal: Portal, function: Callable[[Task, *Ts], int | None], args: tuple[*Ts], inner: task.Task
) -> int | None:
    """The async function that such a job is. Cancelled, it tells that to the thread, and waits for it all the same."""
    cancellation, host = Cancellation(), trio.lowlevel.current_task()
    results: list[int | None] = []
    errors: list[BaseException] = []

    def run() -> None:
        own_cancellation.set(cancellation)
        try:
            results.append(function(Task(portal, inner, cancellation), *args))
        except KeyboardInterrupt:  # Ctrl-C comes in the main thread only: it is the function's own
            results.append(-signal.SIGINT)
        except BaseException as error:  # noqa: BLE001 - it is raised where that is told
            errors.append(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        finally:
            portal.soon(partial(trio.lowlevel.reschedule, host))

    thread = threading.Thread(target=run, name=f"jobfs job {inner.id}")
    thread.start()
    cancelled: list[Callable[[], NoReturn]] = []

    def abort(raise_cancelled: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        # At once, and not when it is this task's turn: what is cancelled is then not taken for having failed by itself.
        cancellation.cancel()
        cancelled.append(raise_cancelled)
        return trio.lowlevel.Abort.FAILED

    await trio.lowlevel.wait_task_rescheduled(abort)
    thread.join()  # it is through
    for error in errors:
        if isinstance(error, Cancelled) and cancelled:
            cancelled[0]()
        raise error
    return results[0]
