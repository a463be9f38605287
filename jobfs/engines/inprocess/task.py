"""What an async function that is a job is given: its own side of the job."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from jobfs.errors import StdinClosed

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from jobfs.engines.inprocess.function import FunctionJob
    from jobfs.engines.inprocess.output import StreamWriter

_UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)
_SIGNALS_WAITING = 64  # that a receiver has not taken yet; further ones are dropped, as the kernel merges them


class Task:
    """A job, as the function that it is sees it."""

    def __init__(self, job: FunctionJob, name: str | None) -> None:
        """Made by the table."""
        self._job = job
        self.name = name
        """The name that the job was given, if any."""

    @property
    def id(self) -> int:
        """The job's id."""
        return self._job.job

    @property
    def stdout(self) -> StreamWriter:
        """Where it writes its output."""
        return self._job.outputs["stdout"]

    @property
    def stderr(self) -> StreamWriter:
        """Where it writes its errors. The traceback of what it raises is written there by itself."""
        return self._job.outputs["stderr"]

    @property
    def stdin(self) -> trio.abc.ReceiveStream:
        """What is written to the job's `stdin`. StdinClosed where it was started without one."""
        if self._job.stdin is None:
            raise StdinClosed("it was started without stdin=True")
        return self._job.stdin

    @property
    def stopped(self) -> bool:
        """Whether the job is stopped: the function is to wait, which `checkpoint` and `write` do."""
        return bool(self._job.pause)

    async def checkpoint(self) -> None:
        """Waits as long as the job is stopped; a checkpoint of trio in any case."""
        await trio.lowlevel.checkpoint()
        await self._job.pause.wait_over()

    async def run_process(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Runs a process to its end; gives its exit code, or -N where signal N ended it.

        A str is a command line for /bin/sh, a sequence a program and its arguments. What it writes goes into the job's
        streams; it reads nothing. `cwd` is taken from this program's own directory, and `env` is set beside its
        environment, JOBFS_ID and JOBFS_MOUNT. It leads a process group that is the job's: signals go to it too, it is
        counted in `usage`, and when the function is cancelled it is ended as any job is, SIGKILL after the grace
        period. Raises one of the `jobfs.errors` family where it cannot be started.
        """
        return await self._job.run_process(command, cwd, env)

    def add_process(self, pid: int) -> None:
        """Makes a process that this program started by other means one of the job's, with its group.

        It is signalled, stopped and counted with the job; to wait for it stays the caller's affair. Twice is once.
        Raises ProcessLookupError where it is no child of this program, PermissionError where it leads no process group:
        start it with `start_new_session=True`.
        """
        self._job.add_process(pid)

    @contextmanager
    def open_signal_receiver(self, *signals: int) -> Iterator[AsyncIterator[int]]:
        """Within the block these signals come out of the iterator, and don't cancel the function.

        As trio.open_signal_receiver, but for signals that are sent to this job; where there are several receivers of
        one, the newest gets it. SIGTERM is what `kill` sends first, and SIGKILL follows after the grace period.
        ValueError for SIGKILL and SIGSTOP, which cannot be received.
        """
        if any(number in _UNCATCHABLE for number in signals):
            raise ValueError("SIGKILL and SIGSTOP cannot be received")
        if unknown := [number for number in signals if number not in signal.valid_signals()]:
            raise ValueError(f"no signals: {unknown}")
        send, receive = trio.open_memory_channel[int](_SIGNALS_WAITING)
        for number in set(signals):
            self._job.receivers.setdefault(number, []).append(send)
        try:
            yield receive
        finally:
            for number in set(signals):
                self._job.receivers[number].remove(send)  # which need not be the newest: another task may have one
            send.close()
            receive.close()
