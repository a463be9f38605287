"""The engine of this machine: it talks to the supervisor, starts one where there is none, and reads its ring files."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import time
import weakref
from typing import TYPE_CHECKING

import trio

from jobfs.engines.base import Closed, Continued, Ended, Grown, News, Stalled, Started, Stopped, Trace
from jobfs.engines.connecting import READ, connect
from jobfs.errors import (
    EngineGone,
    JobEnded,
    JobfsError,
    LimitReached,
    NotPermitted,
    SpawnFailed,
    StateFull,
    StdinClosed,
)
from jobfs.model import STREAMS, Usage
from jobfs.processes import Process, ProcessTable, boot_id
from jobfs.states import Event, ending
from jobfs.stream import RingReader, StreamDamaged
from jobfs.supervisor import JOBS, RECORDS, job_file
from jobfs.supervisor.passing import RECEIVE_FLAGS, ROOM, Inbox, ancillary, close_all
from jobfs.supervisor.records import read_records, read_slots
from jobfs.supervisor.wire import PROTOCOL, ProtocolError, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from jobfs.model import JobSpec
    from jobfs.supervisor.wire import JobRecord, Message

log = logging.getLogger(__name__)

# The streams in the directory of jobs, and nothing else that somebody may have put there.
_STREAM = re.compile(rf"([1-9][0-9]{{0,17}})\.({'|'.join(STREAMS)})")


class LocalEngine:
    """Runs jobs as processes of this machine, below a supervisor of their own that outlives this object."""

    def __init__(self, state: Path) -> None:
        self._state = state
        # Not by its name, which may be another directory's by now: a state that was removed and made anew.
        directory = os.open(state / JOBS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, directory)
        self._jobs = f"/proc/self/fd/{directory}"
        self._socket: trio.socket.SocketType | None = None
        self._sending = trio.StrictFIFOLock()
        self._serial = 0
        self._waiting: dict[int, _Answer] = {}
        self._tell: Callable[[News], None] = lambda _: None
        self._hello: Message = {}
        self._processes = ProcessTable()
        self._watches: list[tuple[int, str, int]] = []  # to be sent
        self._has_watches = trio.Event()
        self.gone = trio.Event()  # the supervisor is: set once, when the connection breaks

    # Attaching

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`. Needs `run` to be running already."""
        self._tell = tell
        if self._hello["protocol"] != PROTOCOL:
            msg = f"the supervisor speaks protocol {self._hello['protocol']}, this jobfs speaks {PROTOCOL}"
            raise EngineGone(msg)
        records = {record["id"]: record for record in (await self._ask({"op": "list"}))["records"]}
        # Most often there is no such job: then the file, of a block for each job, need not be read.
        missing = alive.keys() - records.keys()
        written, damaged = read_slots(f"{self._jobs}/{RECORDS}") if missing else ({}, 0)
        if damaged:
            log.error("%d records of jobs make no sense in %s", damaged, self._state / JOBS / RECORDS)
        news: list[News] = []
        for job in alive:
            if job in records:
                news += _story(records.pop(job))
            else:
                news += self._story_without_supervisor(job, written.get(job), records_damaged=damaged > 0)
        news += [Closed(job, frozenset(record.get("open_streams", ()))) for job, record in records.items()]
        return news

    def _story_without_supervisor(
        self, job: int, record: JobRecord | None, *, records_damaged: bool = False
    ) -> list[News]:
        """What became of a job that the supervisor does not know: what its record says, else nobody knows."""
        if record is None and (records_damaged or self._has_output(job)):
            return [Ended(job, Event.LOSE, None, time.time(), None, "its record was lost")]
        if record is None or "pid" not in record:
            return [Ended(job, Event.CANCEL, None, time.time(), None, "the daemon ended before it was started")]
        if "wait_status" in record:
            return _story(record)
        gone = "the machine was restarted" if record["boot_id"] != boot_id() else "its supervisor ended before it"
        return [_started(record), Ended(job, Event.LOSE, None, time.time(), None, gone)]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connects to the supervisor and takes what it says, until the connection breaks (`gone`)."""
        self._socket, self._hello, inbox = await connect(self._state)
        gone = self.gone
        self._watches.clear()  # a new supervisor's table asks for them again
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_watches)
            await self._receive(inbox, gone)
            nursery.cancel_scope.cancel()

    async def _receive(self, inbox: Inbox, gone: trio.Event) -> None:
        assert self._socket is not None
        try:
            while (said := await self._socket.recvmsg(READ, ROOM, RECEIVE_FLAGS))[0]:
                for message in inbox.feed(*said[:3]):
                    self._take(message, inbox.claim(message))
        except (OSError, ProtocolError, trio.ClosedResourceError) as error:
            log.error("the supervisor's connection broke: %s", error)  # noqa: TRY400 - no fault of this code
        except Exception:
            log.exception("the supervisor said what makes no sense")  # one of another version, perhaps
        finally:
            self._socket.close()
            self._socket = None
            inbox.close()
            gone.set()
            for answer in self._waiting.values():
                answer.arrived.set()

    def _take(self, message: Message, descriptors: dict[str, int]) -> None:
        if "seq" in message:
            answer = self._waiting.pop(message["seq"], None)
            if answer is None:  # who asked was cancelled
                close_all(descriptors.values())
            else:
                answer.message = message
                answer.descriptors = descriptors
                if "record" in message:
                    self._tell(_started(message["record"]))
                answer.arrived.set()
        else:
            news = _news(message)
            if isinstance(news, Ended):  # what it left behind is lingering from now on: look anew
                self._processes.forget()
            self._tell(news)

    # Doing

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        await self._ask(
            {
                "op": "spawn",
                "id": job,
                "order": {
                    "argv": spec.words,
                    "environment": environment,
                    "directory": spec.directory,
                    "cwd": spec.cwd,
                    "umask": spec.umask,
                    "stdin": spec.stdin,
                    "limit": spec.limit,
                    "timeout": spec.timeout,
                    "grace": spec.grace,
                    "nice": spec.nice,
                    "pty": spec.pty,
                    "lease": spec.lease,
                },
            },
            {"directory": directory, "holder": holder},
        )

    async def signal(self, job: int, handle: str, number: int) -> None:
        """See `Engine`."""
        await self._ask({"op": "signal", "id": job, "leader": _leader(handle), "signal": number})

    async def end(self, job: int, handle: str, grace: float, reason: str | None = None) -> None:
        """See `Engine`."""
        await self._ask({"op": "end", "id": job, "leader": _leader(handle), "grace": grace, "reason": reason})

    async def open_stdin(self, job: int) -> int:
        """See `Engine`."""
        answer = await self._exchange({"op": "stdin", "id": job})
        if "stdin" not in answer.descriptors:
            msg = "the daemon has no descriptor left"
            raise LimitReached(msg)
        return answer.descriptors["stdin"]

    async def close_stdin(self, job: int) -> None:
        """See `Engine`."""
        try:
            await self._ask({"op": "eof", "id": job})
        except LimitReached as error:
            msg = "its terminal takes nothing more: the job does not read it"
            raise LimitReached(msg) from error

    async def resize(self, job: int, rows: int, columns: int) -> None:
        """See `Engine`."""
        await self._ask({"op": "resize", "id": job, "rows": rows, "columns": columns})

    async def acknowledge(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        await self._ask({"op": "acknowledge", "ids": list(jobs)})

    def known(self) -> Mapping[int, Trace]:
        """See `Engine`."""
        streams = filter(None, map(_STREAM.fullmatch, os.listdir(self._jobs)))
        found = {int(match[1]): Trace() for match in streams}
        boot = boot_id()
        for job, record in read_records(f"{self._jobs}/{RECORDS}").items():
            over = "wait_status" in record or record.get("boot_id") != boot
            may_live = not over and os.path.exists(f"/proc/{record.get('pid')}")
            found[job] = Trace(record.get("line"), record.get("started_at"), may_live)
        return found

    def _has_output(self, job: int) -> bool:
        return any(os.path.lexists(job_file(self._jobs, job, name)) for name in STREAMS)

    async def forget(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        gone = list(jobs)
        await self._ask({"op": "forget", "ids": gone})
        await trio.to_thread.run_sync(_remove_files, self._jobs, gone)

    def open_stream(self, job: int, name: str) -> RingReader | None:
        """See `Engine`."""
        try:
            return RingReader.open(job_file(self._jobs, job, name))
        except FileNotFoundError:
            if not os.path.exists(f"{self._jobs}/{RECORDS}"):  # nothing is: the state was removed
                msg = "it was removed, with the state"
                raise StreamDamaged(msg) from None
            return None

    def watch(self, job: int, name: str, past: int) -> None:
        """See `Engine`."""
        self._watches.append((job, name, past))
        self._has_watches.set()

    async def _send_watches(self) -> None:
        """Those that gather while others are on their way go together."""
        while True:
            await self._has_watches.wait()
            self._has_watches = trio.Event()
            watches, self._watches = self._watches, []
            if watches:
                with contextlib.suppress(EngineGone):  # who watches is told to look again when there is another one
                    async with self._sending:
                        await self._send(encode_frame({"op": "watch", "watch": watches}), [])

    def usage(self, handles: Mapping[int, str]) -> Mapping[int, Usage]:
        """See `Engine`."""
        leaders = {_leader(handle): job for job, handle in sorted(handles.items())}
        found = self._processes.members(leaders, self._hello["pid"])
        return {job: _used(found.get(job, [])) for job in handles}

    async def _ask(self, request: Message, descriptors: Mapping[str, int | None] | None = None) -> Message:
        """The answer to `request`, with which those of `descriptors` go along that are not None."""
        answer = await self._exchange(request, descriptors)
        assert answer.message is not None
        return answer.message

    async def _exchange(self, request: Message, descriptors: Mapping[str, int | None] | None = None) -> _Answer:
        along = {name: fd for name, fd in (descriptors or {}).items() if fd is not None}
        self._serial += 1
        seq = self._serial
        answer = self._waiting[seq] = _Answer()
        frame = encode_frame({**request, "seq": seq, "descriptors": list(along)})
        try:
            async with self._sending:
                with trio.CancelScope(shield=True):  # half a frame would make nonsense of all that follows
                    await self._send(frame, along.values())
            await answer.arrived.wait()
        except BaseException:
            close_all(answer.descriptors.values())  # it came, and is not waited for any more
            raise
        finally:
            self._waiting.pop(seq, None)
        if answer.message is None:
            msg = "the supervisor has gone"
            raise EngineGone(msg)
        if "error" in answer.message:
            raise _error(*answer.message["error"])
        return answer

    async def _send(self, frame: bytes, descriptors: Iterable[int]) -> None:
        sock = self._socket  # the one for the whole frame: it may be another supervisor's after an await
        if sock is None:
            msg = "the supervisor is not connected"
            raise EngineGone(msg)
        try:
            sent = await sock.sendmsg([frame], ancillary(descriptors))
            while sent < len(frame):
                sent += await sock.send(memoryview(frame)[sent:])
        except (OSError, trio.ClosedResourceError) as error:
            msg = f"the supervisor does not listen: {error}"
            raise EngineGone(msg) from error


class _Answer:
    """A request that waits for its answer; whoever gets that closes the `descriptors` that came along."""

    __slots__ = ("arrived", "descriptors", "message")

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.message: Message | None = None
        self.descriptors: dict[str, int] = {}


# What the supervisor says, in the engine's words


def _started(record: JobRecord) -> Started:
    handle = f"{record['pid']} {record['boot_id']}"
    return Started(record["id"], record["started_at"], record["started_clock"], record["pid"], handle)


def _story(record: JobRecord) -> list[News]:
    """All that happened to a job until now."""
    story: list[News] = [_started(record)]
    if "wait_status" in record:
        story.append(_ended(record))
    else:
        story.append(Stopped(record["id"]) if record["stopped"] else Continued(record["id"]))
    if record.get("stalled"):
        story.append(Stalled(record["id"], record["stalled"]))
    return story


def _ended(record: JobRecord) -> Ended:
    event: Event
    code: int | None
    if record.get("never_ran"):
        event, code = Event.CANCEL, None
    else:
        event, code = ending(record["wait_status"])
    return Ended(
        job=record["id"],
        event=event,
        code=code,
        ended_at=record["ended_at"],
        elapsed=record["elapsed"],
        reason=record["reason"],
        open_streams=frozenset(record.get("open_streams", ())),
        cpu_user_s=record.get("cpu_user_s"),
        cpu_system_s=record.get("cpu_system_s"),
        max_rss_bytes=record.get("max_rss_bytes"),
    )


def _news(message: Message) -> News:
    if message["news"] == "grown":
        return Grown(message["id"], message["stream"])
    if message["news"] == "stalled":
        return Stalled(message["id"], message["stalled"])
    record = message["record"]
    match message["news"]:
        case "stopped":
            return Stopped(record["id"])
        case "continued":
            return Continued(record["id"])
        case "closed":
            return Closed(record["id"], frozenset(record.get("open_streams", ())))
        case _:
            return _ended(record)


def _leader(handle: str) -> int:
    return int(handle.partition(" ")[0])


_ERRORS: dict[int, tuple[type[JobfsError], str]] = {
    errno.ESRCH: (JobEnded, "nothing is left of it"),
    errno.EPIPE: (StdinClosed, "nobody reads its stdin any more"),
    errno.EPERM: (NotPermitted, "its processes are another user's"),
    errno.ENOSPC: (StateFull, "the disk that holds the state is full"),
    errno.EDQUOT: (StateFull, "the disk quota of the state is used up"),
    errno.EMFILE: (LimitReached, "the supervisor has no descriptor left"),
    errno.ENFILE: (LimitReached, "the machine has no descriptor left"),
    errno.EAGAIN: (LimitReached, "no process or terminal can be made: a limit is reached"),
    errno.ENOMEM: (LimitReached, "there is no memory for another process"),
}


def _error(number: int, about: str) -> JobfsError:
    if number in _ERRORS:
        kind, sentence = _ERRORS[number]
        return kind(sentence)
    return SpawnFailed(f"cannot {about}: {os.strerror(number)}", number)


def _used(processes: list[Process]) -> Usage:
    return Usage(
        cpu_user_s=sum(process.cpu_user_s for process in processes),
        cpu_system_s=sum(process.cpu_system_s for process in processes),
        rss_bytes=sum(process.rss_bytes for process in processes),
        processes=len(processes),
    )


def _remove_files(jobs: str, gone: list[int]) -> None:
    for job in gone:
        for name in STREAMS:
            with contextlib.suppress(OSError):  # most have not written to both streams
                os.unlink(job_file(jobs, job, name))
