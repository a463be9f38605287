"""The engine of this machine: it talks to the supervisor, starts one where there is none, and reads its ring files."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import weakref
from typing import TYPE_CHECKING

import trio

from jobfs import proc
from jobfs.engines.base import Closed, Ended, News, Started, Trace
from jobfs.engines.connecting import READ, connect
from jobfs.engines.failures import failure
from jobfs.engines.keeper import Keeper
from jobfs.engines.orphans import Orphan, find, is_orphan
from jobfs.engines.story import news_of, started, story, story_without_supervisor
from jobfs.errors import EngineGone, JobfsError, LimitReached, MachineError
from jobfs.model import DEFAULT_CAPACITY, STREAMS, Usage
from jobfs.processes import ProcessTable, Stray, boot_id, usage_of
from jobfs.stream import RingReader, StreamDamaged
from jobfs.supervisor import JOBS, RECORDS, job_file
from jobfs.supervisor.passing import RECEIVE_FLAGS, ROOM, Inbox, ancillary, close_all, duplicates
from jobfs.supervisor.records import read_records, read_slots
from jobfs.supervisor.wire import OLDEST, PROTOCOL, ProtocolError, encode_frame, has_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from jobfs.model import JobSpec
    from jobfs.supervisor.wire import JobRecord, Message

log = logging.getLogger(__name__)

# What is asked while there is no supervisor waits this long for the next one, in seconds. One is there in 0.3.
_WITHOUT_SUPERVISOR = 5.0
# What is left of jobs is looked for in /proc for so many seconds: a process may hang there.
_FIND_PATIENCE = 2.0
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
        self._keeper = Keeper()
        self._strays: list[Stray] = []
        self._leave = False  # the supervisor is to be left, upon which it ends
        self._busy: set[int] = set()  # jobs with a process, or with a stream that may grow
        self._attached = trio.Event()  # the supervisor has every job that lives
        self.gone = trio.Event()  # the supervisor is: set once, when the connection breaks

    # Attaching

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`. Needs `run` to be running already."""
        self._tell = tell
        self._check_protocol()
        written, damaged = await trio.to_thread.run_sync(read_slots, f"{self._jobs}/{RECORDS}")
        if damaged:
            log.error("%d records of jobs in %s make no sense", damaged, self._state / JOBS / RECORDS)
        listed = await self._list()
        boot = boot_id()
        orphans = [record for job, record in written.items() if job not in listed and is_orphan(record, boot)]
        if orphans:
            await self._adopt(orphans)
            listed = await self._list()
        self._attached.set()
        news: list[News] = []
        for job, handle in alive.items():
            if job in listed:
                news += story(listed[job])
            else:
                begun = handle is not None or self._has_output(job)
                lost = job not in written and (begun or damaged > 0)
                news += story_without_supervisor(job, written.get(job), record_lost=lost)
        news += [
            Closed(job, frozenset(record.get("open_streams", ()))) for job, record in listed.items() if job not in alive
        ]
        for each in news:
            self._note(each)
        return news

    def _check_protocol(self) -> None:
        """EngineGone where the supervisor is not one that can be worked with; says so where it is an old one."""
        protocol = self._hello["protocol"]
        if protocol > PROTOCOL:
            msg = f"the jobs are a newer jobfs's (protocol {protocol}, this one knows {PROTOCOL}): use that one"
            raise EngineGone(msg)
        if protocol < OLDEST:
            msg = f"the jobs are a much older jobfs's (protocol {protocol}, this one knows {OLDEST} on): use that one"
            raise EngineGone(msg)
        if self._outdated:
            log.warning(
                "supervisor %d is an older jobfs's; it is replaced when its jobs have ended", self._hello["pid"]
            )

    @property
    def _outdated(self) -> bool:
        return self._hello["protocol"] < PROTOCOL

    async def _list(self) -> dict[int, JobRecord]:
        """What the supervisor knows of each job that it has or whose end nobody has acknowledged."""
        answer = (await self._exchange({"op": "list"}, taking_up=True)).message
        assert answer is not None
        self._strays = [Stray(*values) for values in answer.get("strays", [])]
        return {record["id"]: record for record in answer["records"]}

    async def _adopt(self, records: list[JobRecord]) -> None:
        """Gives jobs whose supervisor was killed to the one that is there now, with all that is left of them."""
        kept = {job: frozenset(self._keeper.of(job)) for job in self._keeper.jobs()}
        orphans = await _found(records, kept)
        try:
            for orphan in orphans:
                along = {**self._keeper.of(orphan.record["id"]), **orphan.descriptors}
                await self._exchange({"op": "adopt", "record": orphan.record}, along, taking_up=True)
        finally:
            for orphan in orphans:
                close_all(orphan.descriptors.values())
        log.warning("%d jobs whose supervisor had gone have another one", len(orphans))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connects to the supervisor and takes what it says, until the connection breaks (`gone`)."""
        self._socket, self._hello, inbox = await connect(self._state)
        gone = self.gone
        self._leave = False
        self._watches.clear()  # a new supervisor's table asks for them again
        task_status.started()
        over = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_watches)
                await self._receive(inbox, gone)
                nursery.cancel_scope.cancel()
            over = True
        finally:
            if not over:  # it is this daemon that ends
                self._keeper.close()

    async def _receive(self, inbox: Inbox, gone: trio.Event) -> None:
        assert self._socket is not None
        try:
            while not self._leave and (said := await self._socket.recvmsg(READ, ROOM, RECEIVE_FLAGS))[0]:
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
            if self._attached.is_set():
                self._attached = trio.Event()
            gone.set()
            for answer in self._waiting.values():
                answer.arrived.set()

    def _take(self, message: Message, descriptors: dict[str, int]) -> None:
        if message.get("news") == "held":
            self._keeper.keep(message["id"], descriptors)
        elif "seq" in message:
            if "record" in message:
                self._keeper.keep(message["record"]["id"], descriptors)
                descriptors = {}
                self._note(started(message["record"]))
            answer = self._waiting.pop(message["seq"], None)
            if answer is None:  # who asked was cancelled
                close_all(descriptors.values())
            else:
                answer.message = message
                answer.descriptors = descriptors
                if "record" in message:
                    self._tell(started(message["record"]))
                answer.arrived.set()
        else:
            news = news_of(message)
            if isinstance(news, Ended):  # what it left behind is lingering from now on: look anew
                self._processes.forget()
            self._tell(news)
            self._note(news)

    def _note(self, news: News) -> None:
        """Keeps count of what the supervisor has to do, and lets go of what is kept of a job that needs it no more."""
        if isinstance(news, Started):
            self._busy.add(news.job)
        elif isinstance(news, Ended | Closed):
            self._keeper.drop_all(news.job, but_streams=news.open_streams)
            if not news.open_streams and news.job in self._busy:
                self._busy.discard(news.job)
                if self._outdated and not self._busy:
                    log.info("the older jobfs's supervisor has nothing left to do: another one takes over")
                    self._leave = True

    # Doing

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        if self._is_removed():  # its output would go nowhere
            msg = f"{self._state / JOBS} was removed while it was in use: unmount, and mount again"
            raise MachineError(msg)
        request: Message = {
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
        }
        if holder is not None:
            self._keeper.keep(job, duplicates({"holder": holder}))
        try:
            await self._ask(request, {"directory": directory, "holder": holder})
        except EngineGone:
            raise  # it may have been started: what is kept of it is for the next supervisor
        except JobfsError:
            self._keeper.drop_all(job)
            raise

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
        self._keeper.drop(job, ["stdin"])  # first: as long as one duplicate is open, so is the pipe
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
            over = has_ended(record) or record.get("boot_id") != boot
            found[job] = Trace(
                line=record.get("line"),
                started_at=record.get("started_at"),
                limit=record.get("limit", DEFAULT_CAPACITY),
                pty=record.get("pty", False),
                may_live=not over and os.path.exists(f"/proc/{record.get('pid')}"),
            )
        return found

    def _is_removed(self) -> bool:
        """Whether somebody has removed the jobs' directory."""
        return not os.path.exists(f"{self._jobs}/{RECORDS}")

    def _has_output(self, job: int) -> bool:
        return any(os.path.lexists(job_file(self._jobs, job, name)) for name in STREAMS)

    async def forget(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        gone = list(jobs)
        for job in gone:
            self._keeper.drop_all(job)
        await self._ask({"op": "forget", "ids": gone})
        await trio.to_thread.run_sync(_remove_files, self._jobs, gone)

    def open_stream(self, job: int, name: str) -> RingReader | None:
        """See `Engine`."""
        try:
            return RingReader.open(job_file(self._jobs, job, name))
        except FileNotFoundError:
            if self._is_removed():
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
        found = self._processes.members(leaders, self._hello["pid"], self._strays)
        return {job: usage_of(found.get(job, [])) for job in handles}

    async def _ask(self, request: Message, descriptors: Mapping[str, int | None] | None = None) -> Message:
        """The answer to `request`, with which those of `descriptors` go along that are not None."""
        answer = await self._exchange(request, descriptors)
        assert answer.message is not None
        return answer.message

    async def _exchange(
        self, request: Message, descriptors: Mapping[str, int | None] | None = None, *, taking_up: bool = False
    ) -> _Answer:
        """The answer to `request`; `taking_up`: it needs no supervisor that has taken up the jobs of the last one."""
        if not (taking_up or self._attached.is_set()):
            with trio.move_on_after(_WITHOUT_SUPERVISOR):
                await self._attached.wait()
            if not self._attached.is_set():
                msg = "the supervisor has gone, and no other one can be had"
                raise EngineGone(msg)
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
            raise failure(*answer.message["error"])
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


async def _found(records: list[JobRecord], kept: Mapping[int, frozenset[str]]) -> list[Orphan]:
    """What `find` finds; EngineGone where that hangs again and again."""
    try:
        return await trio.to_thread.run_sync(proc.patiently, lambda: find(records, kept), _FIND_PATIENCE)
    except TimeoutError as error:
        msg = "what is left of the jobs of the last supervisor cannot be found: /proc hangs"
        raise EngineGone(msg) from error


class _Answer:
    """A request that waits for its answer; whoever gets that closes the `descriptors` that came along."""

    __slots__ = ("arrived", "descriptors", "message")

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.message: Message | None = None
        self.descriptors: dict[str, int] = {}


def _leader(handle: str) -> int:
    return int(handle.partition(" ")[0])


def _remove_files(jobs: str, gone: list[int]) -> None:
    for job in gone:
        for name in STREAMS:
            with contextlib.suppress(OSError):  # most have not written to both streams
                os.unlink(job_file(jobs, job, name))
