"""The job table: which jobs there are, what they are called, what becomes of them. It decides; an engine does.

Everything here is done in one trio task's time unless a method is async, so that readers always see whole states.
Ctrl-C does not come amid it, but when the program's own code goes on.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from jobfs import render
from jobfs.bell import Bell
from jobfs.ended import EndedJobs
from jobfs.engines.base import Closed, Continued, Ended, Grown, News, Stalled, Started, Stopped
from jobfs.errors import EngineGone, JobAlive, JobEnded, JobfsError, MachineError, NameTaken, NoSuchJob
from jobfs.face import NoFace
from jobfs.job import Job
from jobfs.model import JobSpec
from jobfs.states import RUNNING, Event, IllegalTransition, after
from jobfs.stdin import Stdin
from jobfs.text import with_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jobfs.engines.base import Engine, Trace
    from jobfs.face import Face
    from jobfs.model import JobInfo, Usage, Writer
    from jobfs.store import Store
    from jobfs.stream import RingWriter

log = logging.getLogger(__name__)

# How long a spawn waits for another engine after its own has gone, in seconds, to learn whether it has happened.
_TAKING_UP = 5.0
_UNKNOWN = "(its command line is not known any more)"
_MAX_RETAINED_ERROR = 500  # characters of an error that go into `events`


class JobTable:
    """The jobs of one state directory. `keep` and `keep_bytes` bound how many ended ones stay."""

    def __init__(self, store: Store, engine: Engine, events: RingWriter, *, keep: int, keep_bytes: int) -> None:
        self._store = store
        self._engine = engine
        self._events = events
        self._jobs: dict[int, Job] = {}  # in the order of their ids
        self._starting: dict[int, Job] = {}  # stored, and on their way to exec
        self._never_started: set[int] = set()  # of those, the ones that the engine says have not begun
        self._names: dict[str, Job] = {}
        self._stdins: dict[int, Stdin] = {}  # of the jobs that are alive and were asked for theirs
        self._taken_up = trio.Event()  # set, and another one made, whenever an engine's jobs were taken up
        self.face: Face = NoFace()
        self.ended = EndedJobs(store, engine, self.remove, (keep, keep_bytes))
        self.mount = ""
        self.bell = Bell()  # rung when any job has changed, come or gone
        self.recorded = Bell()  # rung when `events` has grown
        self.version = 0  # raised by every change that a reader could see, so that what was rendered can be kept
        self.changed_at = time.time()  # when a job last changed
        self.listed_at = time.time()  # when a job last came or went

    # Looking

    def __contains__(self, job: int) -> bool:
        """Whether there is a job of that id."""
        return job in self._jobs

    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        return list(self._jobs.values())

    def get(self, job: int) -> Job | None:
        """The job of that id, if there is one."""
        return self._jobs.get(job)

    def named(self, name: str) -> Job | None:
        """The job that has that name, if one has."""
        return self._names.get(name)

    def names(self) -> Mapping[str, Job]:
        """The jobs that have names."""
        return self._names

    def newest(self, session: int | None) -> Job | None:
        """The newest job that `session` spawned."""
        if session is None:
            return None
        return next((job for job in reversed(self._jobs.values()) if job.spec.writer.session == session), None)

    def last(self, session: int | None) -> Job | None:
        """What the link `last` means to a reader of `session`: its own newest job, else the newest."""
        return self.newest(session) or next(reversed(self._jobs.values()), None)

    def resolve(self, word: str, writer: Writer) -> Job:
        """The job that a command's word means; NoSuchJob where there is none."""
        if word == "last":
            job = self.newest(writer.session)
        elif word.isdigit():
            job = self._jobs.get(int(word))
        else:
            job = self._names.get(word)
        if job is None:
            msg = f"no such job: {word}"
            raise NoSuchJob(msg)
        return job

    @trio.lowlevel.enable_ki_protection
    def snapshots(self, jobs: Iterable[Job]) -> list[JobInfo]:
        """Snapshots of `jobs`, all of one moment."""
        listed = list(jobs)
        living: Mapping[int, Usage] = {}
        handles = {job.id: job.handle for job in listed if job.handle is not None}
        if handles:
            living = self._engine.usage(handles)
        return [job.snapshot(living.get(job.id)) for job in listed]

    # Changing

    async def attach(self) -> None:
        """Takes up the jobs that are stored, and what has become of them meanwhile."""
        for row in self._store.jobs():
            self._admit(Job.from_row(row, self._engine))
        self._take_up_names()
        await self.attach_engine()
        # Only now: which streams of ended jobs may still grow was the engine's to say.
        self.ended.take_up(job for job in self._jobs.values() if job.ended)

    def _take_up_names(self) -> None:
        """A name is that of the newest job that was given it, or, where that one was removed, nobody's."""
        holders = self._store.holders()
        given = {job.spec.name for job in self._jobs.values()}
        held = {name: self._jobs[job] for name, job in holders.items() if job in self._jobs}
        self._names = {name: job for name, job in held.items() if job.spec.name == name}
        try:
            self._store.release(holders.keys() - given)
        except MachineError as error:  # a full disk is no reason not to begin; the next one does it
            log.warning("names that nobody has stay in the database: %s", error)

    def _recall(self) -> list[int]:
        """Takes up the jobs that the engine remembers and that the database has lost; gives those that were removed.

        What was removed had ended, and has an id that the database gave. So one that lives, or whose id the database
        never gave, shows that it was lost, or replaced by an older one.
        """
        known = self._engine.known()
        strangers = {job: known[job] for job in sorted(known.keys() - self._jobs.keys() - self._starting.keys())}
        last = self._store.last_id
        lost = {job: trace for job, trace in strangers.items() if job > last or trace.may_live}
        if not lost:
            return list(strangers)
        log.error("the database has lost %d jobs; what is on record of them is shown: %s", len(lost), [*lost])
        jobs = [
            Job(id_, _recovered(trace), trace.started_at or time.time(), self._engine) for id_, trace in lost.items()
        ]
        for job in jobs:
            self._admit(job)
        try:
            self._store.restore(job.row() for job in jobs)
        except MachineError as error:
            log.error("they could not be stored: %s", error)  # noqa: TRY400 - the sentence says it
        return [job for job in strangers if job not in lost]

    async def attach_engine(self) -> None:
        """Learns from the engine what has become of the jobs, and from now on takes its news."""
        removed = self._recall()
        alive = {job.id: job.handle for job in self._jobs.values() if not job.ended}
        alive |= dict.fromkeys(self._starting)
        early: list[News] = []
        answered = False

        def tell(news: News) -> None:
            # News may overtake the answer that they follow on from; of a job spawned meanwhile nothing stands in it.
            if answered or news.job not in alive:
                self.take(news)
            else:
                early.append(news)

        try:
            answer = await self._engine.attach(alive, tell)
            for news in answer:
                self.take(news)
            self._close_streams(but_of={news.job for news in answer})
        finally:
            answered = True
            for news in early:
                self.take(news)
        if removed:
            log.info("removing the output of %d jobs that are not in the table", len(removed))
            await self._engine.forget(removed)
        for job in self._jobs.values():
            job.look_again()  # what was to be told of its streams the engine has forgotten
        self._taken_up.set()
        self._taken_up = trio.Event()
        self.ended.look()

    def _close_streams(self, but_of: set[int]) -> None:
        """Nobody writes any more to the streams of ended jobs of which the engine told nothing."""
        for job in self._jobs.values():
            if job.ended and job.open_streams and job.id not in but_of:
                job.grows(frozenset())
                self._changed()

    @trio.lowlevel.enable_ki_protection
    async def spawn(self, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None) -> Job:
        """Starts a job and gives it, running; nothing is changed where that fails. See `Engine.spawn`."""
        self.check_name(spec.name)
        now = time.time()  # once, so that the next mount tells the same
        job = Job(self._store.add(spec, now), spec, now, self._engine)
        self._starting[job.id] = job
        face = self.face  # another one may come meanwhile, which was not told to expect it
        face.expect(job.id)
        try:
            await self._spawned(job, environment, directory, holder)
        except trio.Cancelled:
            face.failed(job.id)
            if job.id in self._never_started:  # else it may have been, and the next one to attach finds out
                self._starting.pop(job.id, None)
                self._forget_row(job)
            raise
        except Exception:
            self._starting.pop(job.id, None)
            face.failed(job.id)
            self._forget_row(job)
            raise
        finally:
            self._never_started.discard(job.id)
        await face.appeared(job.id)
        return job

    @trio.lowlevel.enable_ki_protection
    def spawn_nowait(self, spec: JobSpec, environment: str, start: Callable[[int, JobSpec, str], None]) -> Job:
        """Starts a job that takes no time to be started, by `start`, upon which `Started` was told; see `spawn`."""
        self.check_name(spec.name)
        now = time.time()
        job = Job(self._store.add(spec, now), spec, now, self._engine)
        self._starting[job.id] = job
        try:
            start(job.id, spec, self.environment(job.id, environment))
        except Exception:
            self._starting.pop(job.id, None)
            self._forget_row(job)
            raise
        self.face.came(job.id)
        return job

    async def _spawned(self, job: Job, environment: str, directory: int | None, holder: int | None) -> None:
        """Has the engine start it. Whether a job has begun whose engine went meanwhile the next one finds out."""
        try:
            await self._engine.spawn(job.id, job.spec, self.environment(job.id, environment), directory, holder)
        except EngineGone:
            with trio.move_on_after(_TAKING_UP):
                await self._taken_up.wait()
            if job.id not in self._jobs:
                raise

    def environment(self, job: int, base: str) -> str:
        """A job's environment: `base` with JOBFS_ID, and with JOBFS_MOUNT, or without, where the table has no mount."""
        return with_variables(base, {"JOBFS_ID": str(job), "JOBFS_MOUNT": self.mount or None})

    def check_name(self, name: str | None) -> None:
        """NameTaken where a job that is alive has that name."""
        holder = None if name is None else self._names.get(name)
        on_the_way = any(job.spec.name == name for job in self._starting.values())
        if name is not None and (on_the_way or (holder is not None and not holder.ended)):
            msg = f"the name {name} is taken by a job that is alive"
            raise NameTaken(msg)

    @trio.lowlevel.enable_ki_protection
    async def signal(self, job: Job, number: int) -> None:
        """Signals a job's process group; JobEnded where nobody is left."""
        await self._engine.signal(job.id, _handle(job), number)

    @trio.lowlevel.enable_ki_protection
    async def end(self, job: Job, reason: str | None = None, grace: float | None = None) -> None:
        """Ends a job, or what an ended one left behind; JobEnded where nobody is left. `grace`: seconds, its own."""
        await self._engine.end(job.id, _handle(job), job.spec.grace if grace is None else grace, reason)

    def stdin(self, job: Job) -> Stdin:
        """What is written to for the job to read it, the same for all who ask; closed where it reads nothing."""
        stdin = self._stdins.get(job.id)
        if stdin is None:
            stdin = Stdin(partial(self._engine.open_stdin, job.id))
            if job.ended or not job.spec.takes_input:
                stdin.close()
            else:
                self._stdins[job.id] = stdin
        return stdin

    @trio.lowlevel.enable_ki_protection
    async def close_stdin(self, job: Job) -> None:
        """Has the job read end of file; whoever still writes to a pipe fails. JobEnded where the job has ended."""
        _require_alive(job)
        if not job.spec.pty:
            self.stdin(job).close()  # first: as long as one duplicate is open, so is the pipe
        await self._engine.close_stdin(job.id)

    @trio.lowlevel.enable_ki_protection
    async def resize(self, job: Job, rows: int, columns: int) -> None:
        """Sets the size of a job's terminal; JobEnded where the job has ended."""
        _require_alive(job)
        await self._engine.resize(job.id, rows, columns)

    @trio.lowlevel.enable_ki_protection
    async def remove(self, jobs: list[Job], *, by_rmdir: int | None = None) -> None:
        """Forgets ended jobs; JobAlive, and nothing is changed, where one has not ended."""
        for job in jobs:
            if not job.ended:
                msg = f"job {job.id} is {job.status.word}: only one that has ended can be removed"
                raise JobAlive(msg)
        gone = [job for job in jobs if not job.removed]
        if not gone:
            return
        self._store.remove([job.id for job in gone])
        for job in gone:
            self._dismiss(job)
        await self.face.removed(gone, by_rmdir=by_rmdir)
        try:
            await self._engine.forget([job.id for job in gone])
        except EngineGone:
            log.warning("the output of %d removed jobs is left for the next start to remove", len(gone))

    def freeze(self) -> None:
        """Nothing changes any more: what is looked at is what it was, and nobody waits for more output."""
        for job in self._jobs.values():
            for view in job.streams.values():
                view.freeze()

    def report_error(self, error: JobfsError) -> None:
        """Puts an error of a command into `events`, for those whose shell shows only its number."""
        self._record("error", {"errno": error.errno, "error": str(error)[:_MAX_RETAINED_ERROR]})

    # News of the engine

    def take(self, news: News) -> None:
        """Notes what an engine tells. What cannot be is logged and changes nothing."""
        try:
            match news:
                case Started():
                    self._started(news)
                case Ended():
                    self._ended(news)
                case Stopped() | Continued():
                    self._happened(news)
                case Closed():
                    self._closed(news)
                case Grown():
                    self._grown(news)
                case Stalled():
                    self._stalled(news)
        except IllegalTransition as error:
            log.warning("%s: %s", news, error)
        except Exception:
            log.exception("news that could not be noted: %s", news)

    def _started(self, news: Started) -> None:
        known = self._jobs.get(news.job)
        if known is not None:  # it was started before this daemon
            known.start(news)
            self._changed()
        elif (job := self._starting.get(news.job)) is not None:
            job.start(news)
            self._admit_started(job.id)
            self._publish("started", {"id": job.id, "name": job.spec.name, "status": job.status.word})

    def _admit_started(self, job_id: int) -> None:
        """A job that was on its way to exec is there now."""
        job = self._starting.pop(job_id, None)
        if job is not None:
            self._admit(job)
            if job.spec.name is not None:
                self._name(job.spec.name, job)

    def _name(self, name: str, job: Job) -> None:
        self._names[name] = job
        try:
            self._store.hold(name, job.id)
        except MachineError as error:
            log.warning("after a restart job %d will not have its name: %s", job.id, error)

    def _happened(self, news: Stopped | Continued) -> None:
        job = self._jobs.get(news.job)
        if job is None:
            return
        before = job.status
        job.happen(Event.STOP if isinstance(news, Stopped) else Event.CONTINUE)
        if job.status != before:
            self._publish(job.status.word if isinstance(news, Stopped) else "continued", self._standing(job))

    def _ended(self, news: Ended) -> None:
        if news.event is not Event.CANCEL:
            self._admit_started(news.job)
        elif news.job in self._starting:
            self._never_started.add(news.job)
        job = self._jobs.get(news.job)
        if job is None:
            return
        if job.ended and (job.ended_at, job.status) == (news.ended_at, after(RUNNING, news.event, news.code)):
            return  # told in the answer to an attach, and as news
        job.end(news)
        if (stdin := self._stdins.pop(job.id, None)) is not None:
            stdin.close()
        self._publish("ended", self._standing(job))
        self.ended.note(job)

    def _closed(self, news: Closed) -> None:
        job = self._jobs.get(news.job)
        if job is not None and job.ended:
            job.grows(news.open_streams)
            self.ended.note_closed(job)
            self._changed()

    def _grown(self, news: Grown) -> None:
        job = self._jobs.get(news.job)
        if job is not None:
            job.streams[news.stream].grew()

    def _stalled(self, news: Stalled) -> None:
        job = self._jobs.get(news.job)
        if job is not None:
            for name, view in job.streams.items():
                view.stalled = news.streams.get(name)
            self._changed()

    def _standing(self, job: Job) -> dict[str, int | str | None]:
        return {"id": job.id, "name": job.spec.name, "status": job.status.word, "reason": job.reason}

    # Keeping

    def _admit(self, job: Job) -> None:
        late = bool(self._jobs) and job.id < next(reversed(self._jobs))
        self._jobs[job.id] = job
        if late:  # its exec took longer than a newer one's
            self._jobs = dict(sorted(self._jobs.items()))
        self._changed()
        self.listed_at = self.changed_at

    def _dismiss(self, job: Job) -> None:
        job.removed = True
        self._jobs.pop(job.id, None)
        self.ended.forget(job)
        if job.spec.name is not None and self._names.get(job.spec.name) is job:
            del self._names[job.spec.name]
        for view in job.streams.values():
            view.freeze()
        self._publish("removed", {"id": job.id, "name": job.spec.name})
        self.listed_at = self.changed_at

    def _changed(self) -> None:
        self.version += 1
        self.changed_at = time.time()
        self.bell.ring()

    def _publish(self, what: str, details: dict[str, int | str | None]) -> None:
        self._changed()
        self._record(what, details)

    def _record(self, what: str, details: dict[str, int | str | None]) -> None:
        try:
            self._events.append(render.event(time.time(), what, details))
        except OSError as error:
            log.warning("an event was not recorded: %s", error)
        else:
            self.recorded.ring()

    def _forget_row(self, job: Job) -> None:
        try:
            self._store.remove([job.id])
        except MachineError as error:
            log.warning("job %d, which was not started, stays in the database: %s", job.id, error)


def _recovered(trace: Trace) -> JobSpec:
    """What is still known of what a job was to be. Whether it reads what is written to it the engine knows."""
    line = trace.line or _UNKNOWN
    return JobSpec(line, None, "", "", stdin="pipe", limit=trace.limit, pty=trace.pty, recovered=True)


def _require_alive(job: Job) -> None:
    if job.ended:
        msg = f"job {job.id} has ended"
        raise JobEnded(msg)


def _handle(job: Job) -> str:
    if job.handle is None:
        msg = f"job {job.id} was never started"
        raise JobEnded(msg)
    return job.handle
