"""The supervisor itself: what it is asked to do, and what happens to its children."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

from jobfs import proc
from jobfs.processes import Stray, all_processes, boot_id, members, ticks
from jobfs.supervisor import RECORDS
from jobfs.supervisor.adoption import Adoption
from jobfs.supervisor.berth import TERMINAL, Berth
from jobfs.supervisor.birth import Birth
from jobfs.supervisor.child import Child
from jobfs.supervisor.launch import Launched, Launcher
from jobfs.supervisor.lease import Lease
from jobfs.supervisor.outlet import Outlet
from jobfs.supervisor.passing import duplicates
from jobfs.supervisor.records import Records, short_line
from jobfs.supervisor.signals import NoGroupSignals, group_lives, signal_group, signal_processes
from jobfs.supervisor.wire import has_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobfs.processes import Process
    from jobfs.supervisor.connection import Request, Sender
    from jobfs.supervisor.loop import Loop
    from jobfs.supervisor.wire import JobRecord, Message, SpawnOrder

log = logging.getLogger(__name__)

# How often a full disk is asked whether there is room again, in seconds.
STALL_RETRY = 0.25
# The number of no process that a session is led by.
_NOBODY = -1
# Characters that a reason may take of the record's one block.
_REASON = 200
_UNKNOWN_END = "its supervisor was killed, and how it ended is not known"
_UNREAD = "its supervisor was killed, and what it wrote last may be lost"


class Tell(Protocol):
    """Who is told what happens to jobs; it never blocks."""

    def __call__(self, message: Message, descriptors: Mapping[str, int] | None = None) -> None:
        """Tells `message`, and duplicates of `descriptors` along with it."""


class Supervisor:
    """Spawns, drains, signals and reaps the jobs of one state directory.

    Requests come through `handle`; what happens to jobs is told to `tell`.
    """

    def __init__(self, loop: Loop, jobs: str, open_files: tuple[int, int], tell: Tell) -> None:
        self._loop = loop
        self._jobs = jobs
        self._records = Records(f"{jobs}/{RECORDS}")
        self._launcher = Launcher(open_files)
        self._spare: Berth | None = None
        self._tell = tell
        self._boot_id = boot_id()
        self._strays = {job.job: job for job in map(self._stray, self._records.found) if job is not None}
        self._children: dict[int, Child] = {}  # by job
        self._by_pid: dict[int, Child] = {}  # those that are not reaped yet
        self._lingering: set[int] = set()  # ended jobs whose remains are being ended
        self._unread: dict[int, JobRecord] = {}  # ends that the daemon has not acknowledged
        self._operations: dict[str, Callable[[Request], None]] = {
            "spawn": self._spawn,
            "stdin": self._stdin,
            "eof": self._eof,
            "resize": self._resize,
            "signal": self._signal,
            "end": self._end,
            "forget": self._forget,
            "acknowledge": self._acknowledge,
            "list": self._list,
            "adopt": self._adopt,
            "watch": self._watch,
        }

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be watched: no child, no pipe, no deadline."""
        return not self._children and not _has_children()

    def close(self) -> None:
        """Gives back what was made for a job that never came."""
        if self._spare is not None:
            self._spare.discard()
            self._spare = None

    def handle(self, request: Request) -> None:
        """Does what `request` asks and answers it, at once or when the answer is known."""
        name = request.message.get("op", "")
        operation = self._operations.get(name)
        if operation is None:
            request.answer({"error": (errno.ENOSYS, f"no such operation: {name}")})
            return
        try:
            operation(request)
        except OSError as error:
            request.answer({"error": (error.errno or errno.EIO, name)})
        except Exception:
            log.exception("a request met an error of the supervisor itself")
            request.answer({"error": (errno.EIO, name)})  # for who asked waits

    def disconnected(self, daemon: Sender) -> None:
        """That daemon has gone: the leases that came from it pass to those who held them."""
        for child in tuple(self._children.values()):
            if child.lease is not None and child.lease.daemon is daemon:
                child.lease.pass_on(partial(self._end_because, child))

    # Spawning

    def _spawn(self, request: Request) -> None:
        job, order = request.message["id"], request.message["order"]
        berth = Berth.make(self._jobs, self._records, TERMINAL) if order["pty"] else self._take_spare()
        try:
            berth.take(job, order, self._hold)
            child = Child(berth, self._first_record(job, order, berth))
            # Before the process is there: should this one be killed now, it can be found that the job may have begun,
            # and nothing of what it writes is lost.
            self._records.write(child.record)
            self._hold(job, **berth.own_ends)
            launched = self._launcher.launch(order, berth.descriptors(order, request.descriptors.get("directory")))
        except OSError:
            berth.discard()
            raise
        if launched.report is not None:
            self._hold(job, report=launched.report)
        if order["lease"]:
            child.lease = Lease(self._loop, request.sender, request.descriptors.pop("holder", None))
        try:
            self._born(child, launched.pid)
        except OSError:
            self._abandon(child, launched)
            raise
        if launched.report is None:
            self._executed(child)
            _answer_spawn(request, child)
        else:
            self._await_exec(child, launched.report, partial(_answer_spawn, request, child))

    def _first_record(self, job: int, order: SpawnOrder, berth: Berth) -> JobRecord:
        now = time.monotonic()
        return {
            "id": job,
            "line": short_line(order["argv"]),
            "reason": None,
            "stopped": False,
            "boot_id": self._boot_id,
            "started_at": time.time(),
            "started_clock": now,
            "start_window": (ticks(), 0),
            "pipes": berth.pipes,
            "limit": order["limit"],
            "grace": order["grace"],
            "deadline": None if order["timeout"] is None else now + order["timeout"],
            "lease": order["lease"],
            "pty": order["pty"],
        }

    def _hold(self, job: int, **descriptors: int) -> None:
        """Has the daemon keep what would be gone with this process: see `Berth`."""
        self._tell({"news": "held", "id": job}, descriptors)

    def _await_exec(self, child: Child, report: int, tell: Callable[[tuple[int, str] | None], None] | None) -> None:
        child.birth = Birth(self._loop, child, report, self._executed, self._never_ran, tell)

    def _take_spare(self) -> Berth:
        berth, self._spare = self._spare or Berth.make(self._jobs, self._records), None
        self._loop.after(0, self._make_spare)
        return berth

    def _make_spare(self) -> None:
        with contextlib.suppress(OSError):  # the spawn that needs it will say so
            self._spare = self._spare or Berth.make(self._jobs, self._records)

    def _born(self, child: Child, pid: int) -> None:
        child.berth.started()  # first, so that there are descriptors for what follows
        child.pidfd = os.pidfd_open(pid)
        child.record |= {"pid": pid, "start_window": (child.record["start_window"][0], ticks())}
        self._records.write(child.record)
        self._by_pid[pid] = child
        self._look_after(child)

    def _look_after(self, child: Child) -> None:
        """From now on its pipes are drained and its deadline is kept."""
        self._children[child.job] = child
        for name in child.open_streams:
            self._watch_outlet(child, name)
        deadline = child.record.get("deadline")
        if deadline is not None and not child.gone:
            timeout = deadline - child.record["started_clock"]
            reason = f"it was ended after its timeout of {timeout:.6g} s"
            left = max(0.0, deadline - time.monotonic())
            child.timeout = self._loop.after(left, lambda: self._end_because(child, reason))

    def _abandon(self, child: Child, launched: Launched) -> None:
        """It runs and cannot be watched: it must not run. Until it is reaped, its number is its own."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(launched.pid, signal.SIGKILL)
        if launched.report is not None:
            os.close(launched.report)
        self._children.pop(child.job, None)
        self._by_pid.pop(launched.pid, None)
        self._dismantle(child)

    def _executed(self, child: Child) -> None:
        child.executed = True
        for number in child.queued_signals:
            with contextlib.suppress(OSError):
                self._signal_group(child, number)
        child.queued_signals.clear()

    def _never_ran(self, child: Child, error: tuple[int, str], answered: bool) -> None:  # noqa: FBT001 - a callback
        """Its exec failed: forget it where the spawn can still say so, else it ends as one that never started."""
        if answered:
            child.record["never_ran"] = True
            child.record["reason"] = f"could not {error[1][:_REASON]}: {os.strerror(error[0])}"
            return
        self._remove_child(child)
        self._dismantle(child)

    def _dismantle(self, child: Child) -> None:
        for outlet in child.outlets.values():
            self._close_outlet(outlet)
        child.cancel_timers()
        child.close_lease()
        if child.pidfd >= 0:
            os.close(child.pidfd)
        child.berth.discard()

    def _remove_child(self, child: Child) -> None:
        del self._children[child.job]
        if self._by_pid.get(child.pid) is child:
            del self._by_pid[child.pid]

    # Adopting

    def _stray(self, record: JobRecord) -> Stray | None:
        """What a job is known by that was not started by this supervisor."""
        if record.get("boot_id") != self._boot_id or not {"pid", "start_window"} <= record.keys():
            return None  # it is gone, or was never there, or an older version wrote down too little of it
        return Stray(record["id"], record["pid"], *record["start_window"])

    def _adopt(self, request: Request) -> None:
        """Goes on with a job whose supervisor was killed: what was kept of it, or found, comes along."""
        record = request.message["record"]
        if record["id"] not in self._children:
            child = Child(Berth.adopt(self._jobs, self._records, record, request.descriptors, self._hold), record)
            report = request.descriptors.pop("report", None)
            if report is None:
                child.executed = True
            else:
                self._await_exec(child, report, None)
            child.pidfd = request.descriptors.pop("process", -1)
            child.gone = child.ended = has_ended(record)
            if child.outlets.keys() < record["pipes"].keys() and not child.gone:
                child.record["reason"] = record["reason"] or _UNREAD
            stray = self._stray(record)
            if stray is not None:
                self._strays[child.job] = stray
            self._look_after(child)
            if record.get("lease") and not child.gone:
                child.lease = Lease(self._loop, request.sender, request.descriptors.pop("holder", None))
            self._take_up_end(child)
        request.answer({"ok": True})

    def _take_up_end(self, child: Child) -> None:
        if "kill_clock" in child.record:
            child.ending = True
            left = max(0.0, child.record["kill_clock"] - time.monotonic())
            child.kill = self._loop.after(left, lambda: self._grace_over(child))
        if child.ended:
            self._write_end(child)
            self._settle(child)
        elif child.pidfd < 0:
            self._exited(child, None)
        else:
            child.adoption = Adoption(self._loop, child, self._exited, self._stopped_or_continued)

    # What is written to jobs

    def _stdin(self, request: Request) -> None:
        child = self._children.get(request.message["id"])
        if child is None or child.stdin < 0:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        request.answer({"ok": True}, stdin=os.dup(child.stdin))

    def _eof(self, request: Request) -> None:
        child = self._children.get(request.message["id"])
        if child is None or child.gone:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        child.berth.end_of_file()
        request.answer({"ok": True})

    def _resize(self, request: Request) -> None:
        asked = request.message
        child = self._children.get(asked["id"])
        if child is None or child.gone:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if child.berth.terminal is None:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        child.berth.terminal.resize(asked["rows"], asked["columns"])
        request.answer({"ok": True})

    # Draining

    def _watch_outlet(self, child: Child, name: str) -> None:
        self._loop.watch(child.outlets[name].reader, lambda events: self._ready(child, name, events))

    def _ready(self, child: Child, name: str, events: int) -> None:
        child.outlets[name].notice(events)
        self._drain(child, name)

    def _close_outlet(self, outlet: Outlet) -> None:
        if not outlet.closed:
            self._loop.unwatch(outlet.reader)  # before the number can become another file's
            outlet.close()

    def _drain(self, child: Child, name: str) -> None:
        outlet = child.outlets[name]
        if outlet.closed:
            return
        was_stalled = outlet.stalled
        outlet.drain()
        self._tell_if_grown(child, name)
        if outlet.at_end:
            self._close_outlet(outlet)
            self._closed(child)
        elif outlet.stalled:
            self._stall(child, name, first=not was_stalled)
        elif was_stalled:
            self._watch_outlet(child, name)
            log.info("job %d goes on", child.job)
        if was_stalled and not outlet.stalled:
            self._tell_stalled(child)
        if was_stalled and not outlet.stalled and child.gone and not child.ended:
            self._try_to_finish(child)

    def _watch(self, request: Request) -> None:
        """Not answered: who asks does not wait for that, but for the news."""
        for job, name, past in request.message["watch"]:
            child = self._children.get(job)
            outlet = None if child is None else child.outlets.get(name)  # a terminal has one for both streams
            if child is not None and outlet is not None:
                outlet.watch(past)
                self._tell_if_grown(child, name)

    def _tell_if_grown(self, child: Child, name: str) -> None:
        if child.outlets[name].is_news():
            self._tell({"news": "grown", "id": child.job, "stream": name})

    def _stall(self, child: Child, name: str, *, first: bool) -> None:
        """The disk is full: leave the bytes in the pipe, where they make the job wait, and look again soon."""
        self._loop.unwatch(child.outlets[name].reader)
        child.retries[name] = self._loop.after(STALL_RETRY, lambda: self._drain(child, name))
        if first:
            log.warning("job %d waits: its %s cannot be written: %s", child.job, name, child.outlets[name].obstacle)
            self._tell_stalled(child)

    def _tell_stalled(self, child: Child) -> None:
        self._tell({"news": "stalled", "id": child.job, "stalled": child.stalled})

    def _closed(self, child: Child) -> None:
        if child.ended:
            self._write_end(child)
            self._tell({"news": "closed", "record": self._described(child), "id": child.job})
            self._settle(child)

    # Reaping

    def reap(self) -> None:
        """Takes note of every child that stopped, continued or ended. Call it on SIGCHLD."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self._by_pid.get(pid)
            if child is None:
                self._remains_ended()
                continue
            if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                self._stopped_or_continued(child, os.WIFSTOPPED(status))
            else:
                self._reaped(child, status, usage)

    def _reaped(self, child: Child, status: int, usage: resource.struct_rusage) -> None:
        del self._by_pid[child.pid]
        child.record |= {"cpu_user_s": usage.ru_utime, "cpu_system_s": usage.ru_stime}
        # The high-water mark starts with the supervisor's own, which the child was before its exec (getrusage(2)).
        if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
            child.record["max_rss_bytes"] = usage.ru_maxrss * 1024
        self._exited(child, status)

    def _exited(self, child: Child, status: int | None) -> None:
        """Its process has ended, with that wait status; None: nobody knows with which."""
        if child.birth is not None:
            child.birth.reported()  # what it said before it ended counts first
            if child.job not in self._children:
                return  # it never ran, and the spawn was answered so
        child.gone = True
        child.berth.process_ended()
        child.close_lease()
        if child.timeout is not None:
            child.timeout.cancel()
        child.record |= {"ended_at": time.time(), "elapsed": time.monotonic() - child.record["started_clock"]}
        if status is None:
            child.record |= {"lost": True, "reason": child.record["reason"] or _UNKNOWN_END}
        child.wait_status = status
        self._try_to_finish(child)

    def _remains_ended(self) -> None:
        """Something that a job left behind has ended, perhaps the last of a group that was to be killed."""
        for child in [child for child in self._children.values() if child.ended]:
            self._settle(child)

    def _stopped_or_continued(self, child: Child, stopped: bool) -> None:  # noqa: FBT001 - a callback
        if child.record["stopped"] != stopped:
            child.record["stopped"] = stopped
            self._tell({"news": "stopped" if stopped else "continued", "id": child.job, "record": child.record})

    def _try_to_finish(self, child: Child) -> None:
        """The process has ended: the job has when what its pipes held at that moment is in the streams."""
        for name in child.open_streams:
            self._drain_what_waits(child, name)
        if child.stalled:
            self._tell_stalled(child)  # anew: it has ended meanwhile
            return  # the disk is full; `_drain` comes back here when there is room
        if child.wait_status is not None:
            child.record["wait_status"] = child.wait_status
        child.ended = True
        self._write_end(child)
        self._unread[child.job] = child.record
        self._tell({"news": "ended", "id": child.job, "record": self._described(child)})
        self._settle(child)

    def _write_end(self, child: Child) -> None:
        """Its record says how it ended, and which streams another supervisor would have to go on with."""
        with contextlib.suppress(OSError):  # its block is there; and what waits for the end is not to wait for ever
            self._records.write(self._described(child))

    def _drain_what_waits(self, child: Child, name: str) -> None:
        outlet = child.outlets[name]
        left = outlet.waiting()
        while left > 0 and not outlet.stalled and (moved := outlet.drain()):
            left -= moved
        # So that the end of the pipe is known at once. Less may be there than was told: a descendant can read it too.
        if not outlet.stalled:
            outlet.drain()
        self._tell_if_grown(child, name)  # now: the stream may grow no more, or not soon
        if outlet.at_end:
            self._close_outlet(outlet)
        elif outlet.stalled and (name not in child.retries or not child.retries[name].pending):
            self._stall(child, name, first=True)

    def _settle(self, child: Child) -> None:
        """Lets go of a job that has ended and of which nothing is left to do."""
        if child.kill is not None and child.kill.pending and child.ended and not group_lives(child.pidfd):
            child.kill.cancel()
        if child.ended and not child.open_streams and (child.kill is None or not child.kill.pending):
            del self._children[child.job]
            if child.pidfd >= 0:
                os.close(child.pidfd)

    # Signals and ends

    def _signal(self, request: Request) -> None:
        job, number = request.message["id"], request.message["signal"]
        child = self._children.get(job)
        if child is None or child.ended:
            reached = signal_processes(self._members(job, request.message["leader"]), number)
            if not reached:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        elif child.executed:
            self._signal_group(child, number)
        elif number == signal.SIGKILL:
            signal.pidfd_send_signal(child.pidfd, number)
        else:
            child.queued_signals.append(number)  # it could not heed them before its exec
        if child is not None and child.adoption is not None:
            child.adoption.look_soon()
        request.answer({"ok": True})

    def _signal_group(self, child: Child, number: int) -> None:
        try:
            signal_group(child.pidfd, number)
        except NoGroupSignals:
            group = [p for p in self._members(child.job, child.pid) if p.group == child.pid]
            signal_processes(group, number)

    def _members(self, job: int, leader: int) -> list[Process]:
        """What is left of an ended job, or all of one that is alive."""
        processes = proc.patiently(all_processes)
        # The leader of an ended job is gone: who has its number now is a stranger, and so is who is in its session.
        leaders = {_NOBODY if leader in processes else leader: job}
        leaders |= {child.pid: child.job for child in self._children.values() if not child.ended}
        return members(processes, leaders, os.getpid(), self._strays.values()).get(job, [])

    def _end(self, request: Request) -> None:
        asked = request.message
        child = self._children.get(asked["id"])
        if child is None or child.ended:
            self._end_lingering(asked["id"], asked["leader"], asked["grace"])
        else:
            self._end_because(child, asked.get("reason"))
        request.answer({"ok": True})

    def _end_because(self, child: Child, reason: str | None) -> None:
        if not child.gone and not child.ending:
            child.record["reason"] = reason
            self._end_child(child)

    def _end_child(self, child: Child) -> None:
        if child.executed:
            self._signal_group(child, signal.SIGTERM)
            with contextlib.suppress(ProcessLookupError):  # SIGTERM was enough
                self._signal_group(child, signal.SIGCONT)
        else:
            child.queued_signals += [signal.SIGTERM, signal.SIGCONT]
        child.ending = True
        grace = child.record["grace"]
        child.record["kill_clock"] = time.monotonic() + grace
        child.kill = self._loop.after(grace, lambda: self._grace_over(child))
        with contextlib.suppress(OSError):
            self._records.write(child.record)

    def _grace_over(self, child: Child) -> None:
        # ProcessLookupError: nobody is left; PermissionError: those who are left are another user's by now (setuid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if child.pidfd < 0:
                signal_processes(self._members(child.job, child.pid), signal.SIGKILL)
            elif child.executed:
                self._signal_group(child, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        self._settle(child)

    def _end_lingering(self, job: int, leader: int, grace: float) -> None:
        left = self._members(job, leader)
        if not left:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if job in self._lingering:
            return
        self._lingering.add(job)
        signal_processes(left, signal.SIGTERM)
        signal_processes(left, signal.SIGCONT)
        self._loop.after(grace, lambda: self._lingering_grace_over(job, leader))

    def _lingering_grace_over(self, job: int, leader: int) -> None:
        self._lingering.discard(job)
        signal_processes(self._members(job, leader), signal.SIGKILL)

    # What the daemon has, and has not

    def _forget(self, request: Request) -> None:
        for job in request.message["ids"]:
            self._unread.pop(job, None)
            self._strays.pop(job, None)
            self._records.release(job)
            child = self._children.get(job)
            if child is not None:
                for outlet in child.outlets.values():
                    outlet.forget()
        request.answer({"ok": True})

    def _acknowledge(self, request: Request) -> None:
        for job in request.message["ids"]:
            self._unread.pop(job, None)
        request.answer({"ok": True})

    def _list(self, request: Request) -> None:
        """A daemon takes up its work: what the last one watched is no concern of it."""
        for child in self._children.values():
            for outlet in child.outlets.values():
                outlet.unwatch()
            request.sender.send({"news": "held", "id": child.job}, duplicates(child.own_ends))
        records = dict(self._unread)
        records |= {child.job: self._described(child) for child in self._children.values()}
        strays = [(job.job, job.pid, job.first, job.last) for job in self._strays.values()]
        request.answer({"ok": True, "records": list(records.values()), "strays": strays})

    def _described(self, child: Child) -> JobRecord:
        return {**child.record, "open_streams": child.open_streams, "stalled": child.stalled}


def _answer_spawn(request: Request, child: Child, failure: tuple[int, str] | None = None) -> None:
    if failure is not None:
        request.answer({"error": failure})
    else:
        request.answer({"ok": True, "record": child.record}, **duplicates({"process": child.pidfd}))


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
