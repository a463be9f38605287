"""The engine of this machine: it talks to the supervisor, starts one where there is none, and reads its ring files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jobfs.engines.base import Closed, Continued, Ended, Grown, News, Started, Stopped
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
from jobfs.processes import Process, all_processes, boot_id, members
from jobfs.states import Event, ending
from jobfs.stream import RingReader
from jobfs.supervisor import ADDRESS, EXIT_LOCKED, JOBS, RECORDS, job_file
from jobfs.supervisor.passing import RECEIVE_FLAGS, ROOM, Inbox, ancillary, close_all
from jobfs.supervisor.records import read_records
from jobfs.supervisor.wire import PROTOCOL, ProtocolError, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jobfs.model import JobSpec
    from jobfs.supervisor.wire import JobRecord, Message

log = logging.getLogger(__name__)

_READ = 64 * 1024  # bytes; more would be mapped and unmapped for every read
_START_PATIENCE = 10.0  # seconds that a supervisor may take to listen
_SOCKET_PATH_MAX = 107  # bytes, unix(7)
# Those that this process started: they outlive it, but one that ends first must not stay a zombie.
_supervisors: list[subprocess.Popen[bytes]] = []
# Looking at every process of the machine takes milliseconds; a table that is read again and again need not do it anew.
_PROCESSES_KEPT = 0.1


class LocalEngine:
    """Runs jobs as processes of this machine, below a supervisor of their own that outlives this object."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._jobs = str(state / JOBS)
        self._socket: trio.socket.SocketType | None = None
        self._sending = trio.StrictFIFOLock()
        self._serial = 0
        self._waiting: dict[int, _Answer] = {}
        self._tell: Callable[[News], None] = lambda _: None
        self._hello: Message = {}
        self._processes: tuple[float, dict[int, Process]] = (float("-inf"), {})
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
        written = read_records(f"{self._jobs}/{RECORDS}") if missing else {}
        news: list[News] = []
        for job in alive:
            if job in records:
                news += _story(records.pop(job))
            else:
                news += self._story_without_supervisor(job, written.get(job))
        news += [Closed(job, frozenset(record.get("open_streams", ()))) for job, record in records.items()]
        return news

    def _story_without_supervisor(self, job: int, record: JobRecord | None) -> list[News]:
        """What became of a job that the supervisor does not know: what its record says, else nobody knows."""
        if record is None or "pid" not in record:
            return [Ended(job, Event.CANCEL, None, time.time(), None, "the daemon ended before it was started")]
        if "wait_status" in record:
            return _story(record)
        gone = "the machine was restarted" if record["boot_id"] != boot_id() else "its supervisor ended before it"
        return [_started(record), Ended(job, Event.LOSE, None, time.time(), None, gone)]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connects to the supervisor and takes what it says, until the connection breaks (`gone`)."""
        self._socket, self._hello, inbox = await _connect(self._state)
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
            while (said := await self._socket.recvmsg(_READ, ROOM, RECEIVE_FLAGS))[0]:
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
                self._processes = (float("-inf"), {})
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

    def known(self) -> Iterable[int]:
        """See `Engine`."""
        ids = (name.partition(".")[0] for name in os.listdir(self._jobs))
        return {int(name) for name in ids if name.isdigit()} | read_records(f"{self._jobs}/{RECORDS}").keys()

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
        at, processes = self._processes
        if time.monotonic() - at > _PROCESSES_KEPT:
            processes = all_processes()
            self._processes = (time.monotonic(), processes)
        leaders = {_leader(handle): job for job, handle in sorted(handles.items())}
        found = members(processes, leaders, self._hello["pid"])
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


# Finding or starting the supervisor


async def _connect(state: Path) -> tuple[trio.socket.SocketType, Message, Inbox]:
    """A connection, what the supervisor said of itself, and the inbox of what follows."""
    with trio.move_on_after(_START_PATIENCE):
        while True:
            for address in _known_addresses(state):
                sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
                try:
                    await sock.connect(address)
                    inbox = Inbox()
                    return sock, await _greet(sock, inbox), inbox
                except (OSError, ProtocolError):
                    sock.close()
            if not await trio.to_thread.run_sync(_start, state):
                await trio.sleep(0.05)  # another one holds the lock and is about to listen, or to end
    msg = f"no supervisor can be started for {state}; see {state}/log"
    raise EngineGone(msg)


async def _greet(sock: trio.socket.SocketType, inbox: Inbox) -> Message:
    """What a supervisor answers to a greeting; OSError where it was just about to end and never will."""
    await sock.send(encode_frame({"op": "hello", "seq": 0}))
    while data := await sock.recv(_READ):
        for message in inbox.feed(data, [], 0):
            if "seq" in message:
                return message
    raise ConnectionResetError


def _known_addresses(state: Path) -> list[str]:
    try:
        return [json.loads((state / ADDRESS).read_text(encoding="utf-8"))["socket"]]
    except (OSError, ValueError, KeyError):
        return []


def _start(state: Path) -> bool:
    """Starts a supervisor as a daemon of its own; False where another one has the state."""
    _supervisors[:] = [earlier for earlier in _supervisors if earlier.poll() is None]
    with (state / "log").open("ab") as said:
        command = [sys.executable, "-m", "jobfs.supervisor", str(state), str(_socket_path(state))]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert process.stdout is not None
    ready = process.stdout.readline()
    process.stdout.close()
    if ready:
        _supervisors.append(process)
        return True
    if process.wait() != EXIT_LOCKED:
        msg = f"the supervisor does not start: see {state}/log"
        raise EngineGone(msg)
    return False


def _socket_path(state: Path) -> Path:
    """A path short enough for a socket, in a directory that only this user can enter."""
    name = hashlib.sha256(os.fsencode(state)).hexdigest()[:16] + ".sock"
    uid = os.geteuid()
    for directory in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}", f"{tempfile.gettempdir()}/jobfs-{uid}"):
        if (
            directory
            and len(os.fsencode(f"{directory}/jobfs/{name}")) <= _SOCKET_PATH_MAX
            and _private(Path(directory))
        ):
            place = Path(directory) / "jobfs"
            place.mkdir(mode=0o700, exist_ok=True)
            return place / name
    msg = "no private directory for the supervisor's socket: set XDG_RUNTIME_DIR to one"
    raise EngineGone(msg)


def _private(directory: Path) -> bool:
    try:
        if directory.parent == Path(tempfile.gettempdir()):
            directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
