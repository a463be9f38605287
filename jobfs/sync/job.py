"""A job, as any thread of the program that has the table sees it."""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs.errors import JobEnded
from jobfs.sync.streams import StreamReader
from jobfs.sync.task import Task

if TYPE_CHECKING:
    from jobfs.library import job
    from jobfs.model import JobInfo
    from jobfs.states import Status
    from jobfs.sync.portal import Portal


class Job:
    """A job in a table. What it was stays to be seen when it was removed, and when the table is closed.

    Methods that ask for something raise one of the `jobfs.errors` family: JobEnded where the job has ended and left
    nothing behind, EngineGone where the table is closed.
    """

    def __init__(self, portal: Portal, inner: job.Job) -> None:
        """Made by the table; `inner` is for the trio thread."""
        self._portal = portal
        self.inner = inner

    def __repr__(self) -> str:
        """For people who look for mistakes."""
        return self._portal.ask(lambda: repr(self.inner))

    def __eq__(self, other: object) -> bool:
        """Whether it is the same job of the same table."""
        return isinstance(other, Job) and other.inner == self.inner

    def __hash__(self) -> int:
        """As equality has it."""
        return hash(self.inner)

    # Looking

    @property
    def id(self) -> int:
        """Its number: the name of its directory, too."""
        return self.inner.id

    @property
    def name(self) -> str | None:
        """The name that it was given."""
        return self.inner.name

    @property
    def command(self) -> str:
        """Its command line, or what its function is called."""
        return self.inner.command

    @property
    def status(self) -> Status:
        """How it stands; `str` of it is the status word."""
        return self._portal.ask(lambda: self.inner.status)

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.status.final

    @property
    def pid(self) -> int | None:
        """The number of its process; None for a function."""
        return self._portal.ask(lambda: self.inner.pid)

    @property
    def stdout(self) -> StreamReader:
        """What it writes."""
        return StreamReader(self._portal, self.inner.stdout)

    @property
    def stderr(self) -> StreamReader:
        """What it writes to its error output; of a job with a terminal that comes out of `stdout`."""
        return StreamReader(self._portal, self.inner.stderr)

    def info(self) -> JobInfo:
        """All about it, at this moment; frozen."""
        return self._portal.ask(self.inner.info)

    # Waiting

    def wait(self, timeout: float | None = None) -> Status:
        """Waits until it has ended and gives its status: all that its process wrote is readable then.

        TimeoutError after `timeout` seconds.
        """
        status = self.status
        return status if status.final else self._portal.wait(self.inner.wait, timeout, f"job {self.id} has not ended")

    def wait_nowait(self) -> Status:
        """Its final status; BlockingIOError where it has not ended."""
        try:
            return self._portal.ask(self.inner.wait_nowait)
        except trio.WouldBlock:
            raise BlockingIOError(f"job {self.id} has not ended") from None

    def wait_changed(self, status: Status, timeout: float | None = None) -> Status:
        """Waits until its status is another one than `status`, and gives that; TimeoutError after `timeout` seconds."""
        now = self.status
        if now != status or now.final:
            return now
        late = f"job {self.id} is still {status}"
        return self._portal.wait(partial(self.inner.wait_changed, status), timeout, late)

    # Acting

    def signal(self, number: int) -> None:
        """Sends a signal to its process group, or to all groups of a function, which is cancelled by what ends one."""
        self._portal.wait(partial(self.inner.signal, number))

    def stop(self) -> None:
        """SIGSTOP: its processes stop; a function waits at its next `write` or `checkpoint`."""
        self.signal(signal.SIGSTOP)

    def cont(self) -> None:
        """SIGCONT: it goes on."""
        self.signal(signal.SIGCONT)

    def kill(self, grace: float | None = None) -> None:
        """Begins to end it, or what it left behind: SIGTERM, and SIGKILL after `grace` seconds, of its own by default.

        A function is cancelled. Returns when that is on its way; a second time changes nothing.
        """
        self._portal.wait(partial(self.inner.kill, grace))

    def end(self, grace: float | None = None, timeout: float | None = None) -> Status:
        """Ends it, as `kill`, and waits until it has; gives its status. One that has ended already is fine.

        TimeoutError when that takes more than `timeout` seconds; it goes on then.
        """
        if not self.ended:
            with suppress(JobEnded):  # in this very moment
                self.kill(grace)
        return self.wait(timeout)

    def write(self, data: bytes) -> None:
        """Writes all of `data` to its stdin, and waits while its pipe is full.

        Raises StdinClosed where nobody reads it. Where that, or Ctrl-C, comes amid it, a part was written.
        """
        self._portal.wait(partial(self.inner.write, data))

    def close_stdin(self) -> None:
        """It reads end of file, after what was written."""
        self._portal.wait(self.inner.close_stdin)

    def resize(self, rows: int, columns: int) -> None:
        """Sets the size of its terminal."""
        self._portal.wait(partial(self.inner.resize, rows, columns))

    def restart(self) -> Job:
        """Starts it again, the same, under a new id; JobAlive where it has not ended."""
        return Job(self._portal, self._portal.wait(self.inner.restart))

    def remove(self) -> None:
        """Forgets it, and its output; JobAlive where it has not ended."""
        self._portal.wait(self.inner.remove)


class Feed(Task):
    """A job that the program feeds itself: the writing ends of its streams, and a way to finish it.

    It can be killed as any: then it has ended, writing raises JobEnded, and `job.wait` tells.
    """

    def __init__(self, portal: Portal, inner: job.Feed) -> None:
        """Made by the table."""
        super().__init__(portal, inner, None)
        self._feed = inner
        self.job = Job(portal, inner.job)
        """The job, as others see it."""

    @property
    def cancelled(self) -> bool:
        """Whether the job has ended: whoever feeds it may stop."""
        return self.job.ended

    def finish(self, code: int = 0) -> None:
        """Ends the job with that exit code, or -N: as if signal N had ended it; returns when it has ended.

        Raises ValueError for what is no exit code, and JobEnded where it has ended.
        """
        self._portal.wait(partial(self._feed.finish, code))

    def finish_nowait(self, code: int = 0) -> None:
        """As `finish`, and does not wait."""
        self._portal.act(lambda: self._feed.finish_nowait(code))
