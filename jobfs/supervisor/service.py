"""The supervisor itself: what it is asked to do, and what happens to its children."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
from functools import partial
from typing import TYPE_CHECKING, Protocol

from jobfs.processes import max_rss_bytes, ticks
from jobfs.supervisor import RECORDS
from jobfs.supervisor.adoption import Adoption
from jobfs.supervisor.berth import Berths
from jobfs.supervisor.birth import Birth
from jobfs.supervisor.child import Child, first_record
from jobfs.supervisor.draining import Draining
from jobfs.supervisor.ending import Ending
from jobfs.supervisor.launch import EXEC_FAILED, Launched, Launcher
from jobfs.supervisor.lease import Lease
from jobfs.supervisor.members import Members
from jobfs.supervisor.passing import duplicates
from jobfs.supervisor.records import Records
from jobfs.supervisor.wire import has_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobfs.supervisor.connection import Request, Sender
    from jobfs.supervisor.loop import Loop
    from jobfs.supervisor.wire import JobRecord, Message

log = logging.getLogger(__name__)

# Characters that a reason may take of the record's one block.
_REASON = 200
_UNBORN = "its supervisor was killed as it was started, and it may never have begun"
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
        self._records = Records(f"{jobs}/{RECORDS}")
        self._launcher = Launcher(open_files)
        self._berths = Berths(loop, jobs, self._records, self._hold)
        self._tell = tell
        self._children: dict[int, Child] = {}  # by job
        self._by_pid: dict[int, Child] = {}  # those that are not reaped yet
        self._members = Members(self._children, self._records.found)
        self._draining = Draining(loop, tell, self._closed, self._try_to_finish)
        self._ending = Ending(loop, self._records, self._members, self._settle)
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
        self._berths.close()

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
                child.lease.pass_on(partial(self._ending.end, child))

    # Spawning

    def _spawn(self, request: Request) -> None:
        job, order = request.message["id"], request.message["order"]
        berth = self._berths.give(job, order)
        try:
            child = Child(berth, first_record(job, order, berth, self._members.boot_id))
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
            self._born(child, launched)
        except OSError:
            self._abandon(child, launched)
            raise
        if launched.report is None:
            self._ending.executed(child)
            _answer_spawn(request, child)
        else:
            self._await_exec(child, launched.report, partial(_answer_spawn, request, child))

    def _hold(self, job: int, **descriptors: int) -> None:
        """Has the daemon keep what would be gone with this process: see `Berth`."""
        self._tell({"news": "held", "id": job}, descriptors)

    def _await_exec(self, child: Child, report: int, tell: Callable[[tuple[int, str] | None], None] | None) -> None:
        child.birth = Birth(self._loop, child, report, self._executed, self._never_ran, tell)

    def _executed(self, child: Child) -> None:
        if child.record.pop("awaits_exec", False):
            with contextlib.suppress(OSError):  # its block is there; what is lost is a doubt that can be lived with
                self._records.write(child.record)
        self._ending.executed(child)

    def _born(self, child: Child, launched: Launched) -> None:
        child.berth.started()  # first, so that there are descriptors for what follows
        child.pidfd = os.pidfd_open(launched.pid)
        child.record |= {"pid": launched.pid, "start_window": (child.record["start_window"][0], ticks())}
        if launched.report is not None:
            child.record["awaits_exec"] = True
        self._records.write(child.record)
        self._by_pid[launched.pid] = child
        self._look_after(child)

    def _look_after(self, child: Child) -> None:
        """From now on its pipes are drained and its deadline is kept."""
        self._children[child.job] = child
        self._draining.begin(child)
        self._ending.keep_deadline(child)

    def _abandon(self, child: Child, launched: Launched) -> None:
        """It runs and cannot be watched: it must not run. Until it is reaped, its number is its own."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(launched.pid, signal.SIGKILL)
        if launched.report is not None:
            os.close(launched.report)
        self._children.pop(child.job, None)
        self._by_pid.pop(launched.pid, None)
        self._dismantle(child)

    def _never_ran(self, child: Child, error: tuple[int, str], answered: bool) -> None:  # noqa: FBT001 - a callback
        """Its exec failed: forget it where the spawn can still say so, else it ends as one that never started."""
        if answered:
            child.record["never_ran"] = True
            child.record["reason"] = f"could not {error[1][:_REASON]}: {os.strerror(error[0])}"
            return
        del self._children[child.job]
        if self._by_pid.get(child.pid) is child:
            del self._by_pid[child.pid]
        self._dismantle(child)

    def _dismantle(self, child: Child) -> None:
        self._draining.close(child)
        child.cancel_timers()
        child.close_lease()
        if child.pidfd >= 0:
            os.close(child.pidfd)
        child.berth.discard()

    # Adopting

    def _adopt(self, request: Request) -> None:
        """Goes on with a job whose supervisor was killed: what was kept of it, or found, comes along."""
        record = request.message["record"]
        if record["id"] not in self._children:
            child = Child(self._berths.adopt(record, request.descriptors), record)
            report = request.descriptors.pop("report", None)
            if report is None:
                child.executed = True
            else:
                self._await_exec(child, report, None)
            child.pidfd = request.descriptors.pop("process", -1)
            child.gone = child.ended = has_ended(record)
            if child.outlets.keys() < record["pipes"].keys() and not child.gone:
                child.record["reason"] = record["reason"] or _UNREAD
            self._members.add_stray(record)
            self._look_after(child)
            if record.get("lease") and not child.gone:
                child.lease = Lease(self._loop, request.sender, request.descriptors.pop("holder", None))
            self._take_up_end(child)
        request.answer({"ok": True})

    def _take_up_end(self, child: Child) -> None:
        self._ending.resume(child)
        if child.ended:
            child.berth.process_ended()
            self._write_end(child)
            self._settle(child)
        elif child.pidfd < 0:
            self._exited(child, None)
        else:
            child.adoption = Adoption(self._loop, child, self._exited, self._stopped_or_continued)

    # What is written to jobs, and by them

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

    def _watch(self, request: Request) -> None:
        """Not answered: who asks does not wait for that, but for the news."""
        for job, name, past in request.message["watch"]:
            child = self._children.get(job)
            if child is not None:
                self._draining.tell_when_past(child, name, past)

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
        most = max_rss_bytes(usage)
        if most is not None:
            child.record["max_rss_bytes"] = most
        self._exited(child, status)

    def _exited(self, child: Child, status: int | None) -> None:
        """Its process has ended, with that wait status; None: nobody knows with which."""
        if child.birth is not None:
            child.birth.reported()  # what it said before it ended counts first
            if child.job not in self._children:
                return  # it never ran, and the spawn was answered so
        if child.record.get("awaits_exec") and status == EXEC_FAILED << 8:
            # Nobody was there to hear of it: it may have been a program's own exit.
            child.record["reason"] = child.record["reason"] or _UNBORN
            status = None
        child.process_ended(status)
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
        if not self._draining.drain_the_last(child):
            return  # the disk is full; this is called again when there is room
        if child.wait_status is not None:
            child.record["wait_status"] = child.wait_status
        child.ended = True
        self._write_end(child)
        self._unread[child.job] = child.record
        self._tell({"news": "ended", "id": child.job, "record": child.described})
        self._settle(child)

    def _write_end(self, child: Child) -> None:
        """Its record says how it ended, and which streams another supervisor would have to go on with."""
        with contextlib.suppress(OSError):  # its block is there; and what waits for the end is not to wait for ever
            self._records.write(child.described)

    def _closed(self, child: Child) -> None:
        """One of its streams has come to its end."""
        if child.ended:
            self._write_end(child)
            self._tell({"news": "closed", "record": child.described, "id": child.job})
            self._settle(child)

    def _settle(self, child: Child) -> None:
        """Lets go of a job that has ended and of which nothing is left to do."""
        if child.ended and not self._ending.awaits_kill(child) and not child.open_streams:
            del self._children[child.job]
            if child.pidfd >= 0:
                os.close(child.pidfd)

    # Signals and ends

    def _signal(self, request: Request) -> None:
        job, number = request.message["id"], request.message["signal"]
        child = self._children.get(job)
        if child is None or child.ended:
            self._ending.signal_remains(job, request.message["leader"], number)
        else:
            self._ending.signal(child, number)
        if child is not None and child.adoption is not None:
            child.adoption.look_soon()
        request.answer({"ok": True})

    def _end(self, request: Request) -> None:
        asked = request.message
        child = self._children.get(asked["id"])
        if child is None or child.ended:
            self._ending.end_remains(asked["id"], asked["leader"], asked["grace"])
        else:
            self._ending.end(child, asked.get("reason"))
        request.answer({"ok": True})

    # What the daemon has, and has not

    def _forget(self, request: Request) -> None:
        for job in request.message["ids"]:
            self._unread.pop(job, None)
            self._members.forget(job)
            self._records.release(job)
            child = self._children.get(job)
            if child is not None:
                self._draining.forget(child)
        request.answer({"ok": True})

    def _acknowledge(self, request: Request) -> None:
        for job in request.message["ids"]:
            self._unread.pop(job, None)
        request.answer({"ok": True})

    def _list(self, request: Request) -> None:
        """A daemon takes up its work: what the last one watched is no concern of it."""
        for child in self._children.values():
            self._draining.tell_no_more(child)
            request.sender.send({"news": "held", "id": child.job}, duplicates(child.own_ends))
        records = dict(self._unread)
        records |= {child.job: child.described for child in self._children.values()}
        request.answer({"ok": True, "records": list(records.values()), "strays": self._members.strays})


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
