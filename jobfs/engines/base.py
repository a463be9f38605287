"""What an engine is: it runs jobs, keeps their output, and tells what becomes of them.

The table decides, the engine does. An engine is told the job's id and specification; what it needs to find the job
again after a restart is its own business, an opaque `handle` that the table keeps for it. No process number is part of
the protocol, for not every engine has processes on this machine: `pid` is only shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jobfs.model import DEFAULT_CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jobfs.model import JobSpec, Usage
    from jobfs.states import Event
    from jobfs.stream import RingReader


@dataclass(frozen=True, slots=True)
class Started:
    """A job runs: seconds since the epoch and of CLOCK_MONOTONIC, and the engine's handle."""

    job: int
    started_at: float
    started_clock: float
    pid: int | None
    handle: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A signal stopped the job."""

    job: int


@dataclass(frozen=True, slots=True)
class Continued:
    """A signal continued the job."""

    job: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A job has ended, and all that its process wrote can be read.

    `open_streams` are those that something it left behind may still write to. Times as in `Started`; `elapsed`, CPU in
    seconds, memory in bytes; None where it is not known.
    """

    job: int
    event: Event
    code: int | None
    ended_at: float
    elapsed: float | None
    reason: str | None = None
    open_streams: frozenset[str] = frozenset()
    cpu_user_s: float | None = None
    cpu_system_s: float | None = None
    max_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """Of an ended job's streams, only `open_streams` may still grow."""

    job: int
    open_streams: frozenset[str]


@dataclass(frozen=True, slots=True)
class Grown:
    """A stream has bytes past the offset that `Engine.watch` was asked about."""

    job: int
    stream: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """Why what is written to a job's streams cannot be kept, by stream, while that is so; empty once it is not."""

    job: int
    streams: Mapping[str, str]


News = Started | Stopped | Continued | Ended | Closed | Grown | Stalled


@dataclass(frozen=True, slots=True)
class Trace:
    """What an engine itself remembers of a job: the beginning of its command line, and some of what was asked for."""

    line: str | None = None
    started_at: float | None = None
    limit: int = DEFAULT_CAPACITY
    pty: bool = False
    may_live: bool = False


class Engine(Protocol):
    """Runs jobs. Errors are of the `jobfs.errors` family."""

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """Takes up its work again; from now on `tell` is called with news, in order, and never blocks.

        `alive` are the jobs that the table holds for alive, with their handles. What has become of each stands in the
        answer: it was started, or it has ended, or first the one and then the other.
        """

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """Starts a job; `Started` is told before this returns. `directory`: a descriptor of `spec.directory`.

        `holder`: a pidfd of the process that holds the job's lease, where it has one and that is known. While this
        engine is attached, whoever uses it ends the job with the lease; afterwards the job ends with that process.
        """

    async def signal(self, job: int, handle: str, number: int) -> None:
        """Signals the job's process group, or what an ended one left behind; JobEnded where nobody is left."""

    async def end(self, job: int, handle: str, grace: float, reason: str | None = None) -> None:
        """Ends the job, or what an ended one left behind: SIGTERM, then SIGKILL after `grace` seconds.

        `reason` is that of the job's end, where it is not being ended already.
        """

    async def open_stdin(self, job: int) -> int:
        """A descriptor of what the job reads, to be written to and closed by the caller, and not blocking.

        StdinClosed where there is none: the job has ended, its stdin was closed, or it has none that can be written.
        """

    async def close_stdin(self, job: int) -> None:
        """Has the job read end of file after what was written; JobEnded where it has ended. A second time is fine.

        The descriptors of `open_stdin` must be closed too. To a job with a terminal end of file is typed, and what it
        makes of that is its own affair.
        """

    async def resize(self, job: int, rows: int, columns: int) -> None:
        """Sets the size of the job's terminal; JobEnded where the job has ended."""

    async def acknowledge(self, jobs: Iterable[int]) -> None:
        """The ends of these jobs are stored: the engine need not tell them again."""

    def known(self) -> Mapping[int, Trace]:
        """Every job of which the engine keeps anything, asked for or not, and what it remembers of it."""

    async def forget(self, jobs: Iterable[int]) -> None:
        """Drops the output of ended jobs. What they left behind is not harmed, and its output goes nowhere."""

    def open_stream(self, job: int, name: str) -> RingReader | None:
        """The output stream `name` of a job, to be closed by the caller; None as long as it has no byte."""

    def watch(self, job: int, name: str, past: int) -> None:
        """Has `Grown` told, once, when the stream has bytes past the offset `past`: at once where it has.

        Never waits and never fails. Nothing is told of a stream that cannot grow any more, nor after the engine was
        attached anew.
        """

    def usage(self, handles: Mapping[int, str]) -> Mapping[int, Usage]:
        """What the jobs' living processes use now. `lingering` is not its to tell: it does not know who has ended."""
