"""The load: writers that spawn jobs of every kind, end them, stop them, feed them and remove them, all at once.

Each command has a tag of its own, and each writer notes what it was told; see `truth`. Writers live with a mount that
goes: they wait until it is there again. What they do is a matter of chance.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Self

from tests.faults.audit import LIVING, table
from tests.faults.plans import KINDS, RECORD, Plan, exits, expected, tag_of
from tests.faults.sentinels import Sentinels
from tests.faults.truth import Answer, Command, Truth, read_marks
from tests.mounted import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mounted import Mounted

# The daemon was gone before it had answered: it may have done what it was asked for.
UNANSWERED = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
# EIO is what a daemon says that lost its supervisor while it asked it: a job was not spawned then, as with all errors,
# but a signal may have been sent.
_ANSWERS = dict.fromkeys(UNANSWERED, Answer.NONE) | {errno.EIO: Answer.BROKEN}
# Likewise, and of a file that could not even be opened: nothing was asked for.
# EISDIR: beneath a mount, a directory stands where `ctl` is in it, so that nobody makes a file there.
_AWAY = UNANSWERED | {errno.ENOENT, errno.EISDIR}
_REPLIES = 1 << 16
_LOOK_AGAIN = 0.01  # seconds
_LOOK_AT_TABLE = 0.1  # seconds
_HELD = 8  # jobs that a writer leaves running
_HAUNTED = 8  # numbers of ended jobs that are taken at most


class Away(Exception):  # noqa: N818 - it is what a mount may be
    """The file could not be opened, because there is no daemon: nothing has happened."""


class Load:
    """Everything that is going on at one mount; a context manager, in which the writers run.

    `place` is a directory outside of the mount. `unwatched`: see `Truth`. `pause`: seconds that a writer waits at most
    between two commands.
    """

    def __init__(
        self, jobs: Mounted, place: Path, *, writers: int = 3, pause: float = 0.03, unwatched: bool = False
    ) -> None:
        self.jobs = jobs
        self.marks = place / "marks"
        self.marks.touch()
        self.sentinels = Sentinels()
        self.pause = pause
        self.unwatched = unwatched
        self.supervisor_killed: list[tuple[float, float]] = []  # see `Truth`
        self.going = threading.Event()
        self._tags = count(1)
        self._batches = count(1)
        self._commands: dict[int, Command] = {}
        self._watch = _Watch(self)
        self._threads = [self._watch, *(_Writer(self) for _ in range(writers))]

    def __enter__(self) -> Self:
        """Begins."""
        self.sentinels.__enter__()
        self.going.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what has not ended yet."""
        self.going.clear()
        for thread in self._threads:
            thread.join(PATIENCE)
        self.sentinels.__exit__()

    def stop(self) -> None:
        """Lets the writers end what they are at, and waits until all is still."""
        self.going.clear()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} waits in vain: {_place_of(thread)}"
        broken = [thread.broken for thread in self._threads if thread.broken is not None]
        if broken:
            raise broken[0]
        until(self._unsettled, lambda left: not left)

    def truth(self) -> Truth:
        """What is known by now."""
        wrong = [*self._watch.glimpses.wrong, *self.sentinels.touched()]
        return Truth(self._commands, read_marks(self.marks, RECORD), wrong, self.supervisor_killed, self.unwatched)

    def figures(self) -> Counter[str]:
        """How many commands were answered how, and what was done beside."""
        started = read_marks(self.marks, RECORD)
        found = Counter(f"spawns: {command.answer.value}" for command in self._commands.values())
        unanswered = [command.tag for command in self._commands.values() if command.answer is Answer.NONE]
        found["spawns: no answer, and ran"] = sum(tag in started for tag in unanswered)
        found["jobs signalled"] = sum(command.signals > command.plan.ends_by for command in self._commands.values())
        found["numbers of ended jobs taken"] = self.sentinels.taken
        return found

    def spawn(self, plans: list[Plan], piece: int | None = None) -> list[Command]:
        """Has all of `plans` run by one write, or by writes of `piece` bytes; the commands, with what was told of them.

        Raises Away where there was no file to write to; nobody spawned them then.
        """
        batch = next(self._batches)
        commands = [Command(next(self._tags), plan, batch, signals=set(plan.ends_by)) for plan in plans]
        text = "".join(command.plan.line(command.tag, self.marks) + "\n" for command in commands)
        began = time.monotonic()
        answers = exchange(self.jobs, text, piece)
        for command, (answer, said) in zip(commands, answers, strict=True):
            command.answer, command.why, command.asked = answer, said, (began, time.monotonic())
            if answer is Answer.DONE and said:
                command.id = int(said)
        self._commands.update({command.tag: command for command in commands})
        return commands

    def _unsettled(self) -> list[str]:
        """The jobs that are about to change without anybody's doing."""
        left = []
        for info in table(self.jobs):
            command = self._commands.get(tag_of(str(info["cmd"])) or 0)
            if command is None:
                continue
            status, streams = info["status"], (info["stdout"], info["stderr"])
            if status in LIVING:
                settled = not command.must_end and (command.plan.holds or command.plan.fed)
                settled &= command.stopped is None or command.stopped == (status == "stopped")
            else:
                settled = all(isinstance(stream, dict) and stream["closed"] for stream in streams)
            if not settled:
                left.append(f"{command}: {info}")
        return left


class _Thread(threading.Thread):
    """One that tells, when it is joined, what it ended of."""

    def __init__(self, load: Load, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.load = load
        self.broken: BaseException | None = None

    def run(self) -> None:
        try:
            while self.load.going.is_set():
                try:
                    self.step()
                except Away:
                    time.sleep(_LOOK_AGAIN)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that joins this one
            self.broken = error

    def step(self) -> None:
        """One thing of what it does."""
        raise NotImplementedError


class Glimpses:
    """What was seen: what had ended must never change, nor an id be another job's. `wrong`: where it did."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.wrong: list[str] = []
        self._commands: dict[object, object] = {}
        self._ends: dict[object, object] = {}

    def take(self, infos: list[dict[str, object]]) -> None:
        """Looks at the `info` of every job."""
        for info in infos:
            job, cmd, status = info["id"], info["cmd"], info["status"]
            if self._commands.setdefault(job, cmd) != cmd:
                self.wrong.append(f"the id {job} was that of {self._commands[job]}, and is that of {cmd}")
            if status not in LIVING:
                self._ends.setdefault(job, status)
            if self._ends.get(job, status) != status:
                self.wrong.append(f"job {job} had ended as {self._ends[job]}, and is {status}")


class _Watch(_Thread):
    """Looks at the table all the time."""

    def __init__(self, load: Load) -> None:
        super().__init__(load, "the watch")
        self.glimpses = Glimpses()

    def step(self) -> None:
        try:
            infos = table(self.load.jobs)
        except OSError as error:
            if error.errno not in _AWAY:
                raise
            raise Away from error
        self.glimpses.take(infos)
        time.sleep(_LOOK_AT_TABLE)


class _Writer(_Thread):
    """Does one thing after another, each time another one."""

    def __init__(self, load: Load) -> None:
        super().__init__(load, "a writer")
        self._chance = random.Random()  # noqa: S311 - a game of chance
        self._held: list[Command] = []  # run on, for all that this writer knows
        self._ended: list[Command] = []
        self._haunted = 0
        self._deeds: dict[Callable[[], None], int] = {
            self._spawn_one: 8,
            self._spawn_some: 3,
            self._spawn_in_vain: 1,
            self._signal_one: 5,
            self._remove_one: 2,
            self._haunt: 1,
        }

    def step(self) -> None:
        deeds = self._deeds
        self._chance.choices([*deeds], [*deeds.values()])[0]()
        time.sleep(self._chance.uniform(0, self.load.pause))

    # Spawning

    def _spawn_one(self) -> None:
        self._spawn([self._plan()])

    def _spawn_some(self) -> None:
        self._spawn([self._plan() for _ in range(self._chance.randrange(2, 6))])

    def _spawn_in_vain(self) -> None:
        """The last but one cannot be run, and so the last is not."""
        refused = Plan("finish 0", "--cwd /there/is/no/such/place")
        self._spawn([exits(self._chance), refused, exits(self._chance)])

    def _plan(self) -> Plan:
        plan = self._chance.choices([*KINDS], [*KINDS.values()])[0](self._chance)
        return exits(self._chance) if plan.holds and len(self._held) >= _HELD else plan

    def _spawn(self, plans: list[Plan]) -> None:
        for command in self.load.spawn(plans):
            if command.id is not None:
                self._take_care(command)

    def _take_care(self, command: Command) -> None:
        if command.plan.fed:
            self._feed(command)
        if command.plan.holds:
            self._held.append(command)
        elif not command.plan.leaves:
            self._ended.append(command)  # soon

    def _feed(self, command: Command) -> None:
        """Writes numbered records to its stdin, more than its pipe holds, and then has it read the end."""
        try:
            fd = _open(self.load.jobs, f"{command.id}/stdin", os.O_WRONLY)
        except Away:
            return
        try:
            for _ in range(self._chance.randrange(1, 6)):
                data = expected(command.tag, "stdout", command.offered, self._chance.randrange(1, 40_000))
                command.offered += len(data)
                while data:
                    taken = os.write(fd, data)
                    command.fed += taken
                    data = data[taken:]
        except OSError as error:
            # Its pipe is gone for good where nobody was there that had it open, or where it may never have begun.
            gone = error.errno == errno.EPIPE and (self.load.unwatched or self._is_lost(command))
            if error.errno not in _ANSWERS and not gone:
                raise
            return  # nobody knows how much of it was taken, and so what would have to follow
        finally:
            _close(fd)
        self._ask_about(command, "eof")

    def _is_lost(self, command: Command) -> bool:
        try:
            fd = _open(self.load.jobs, f"{command.id}/status", os.O_RDONLY)
        except Away:
            return False
        try:
            return os.read(fd, _REPLIES) == b"lost\n"
        except OSError as error:
            if error.errno not in UNANSWERED:
                raise
            return False
        finally:
            _close(fd)

    # What is done to jobs

    def _signal_one(self) -> None:
        if not self._held:
            return
        command = self._chance.choice(self._held)
        what, number = self._chance.choice((("kill", 15), ("kill -9", 9), ("kill -USR1", 10), ("stop", 0), ("cont", 0)))
        before = command.stopped
        if number:
            command.signals |= {number, 9} if what == "kill" else {number}
        else:
            command.stopped = None
        answer, _ = self._ask_about(command, what)
        if number and answer is Answer.DONE:
            # A stopped process takes no signal but SIGKILL; `kill` continues it.
            command.must_end |= what != "kill -USR1" or before is False
            self._held.remove(command)
        elif not number:
            known = {Answer.DONE: what == "stop", Answer.REFUSED: before}
            command.stopped = known.get(answer)

    def _remove_one(self) -> None:
        """One of those that ended long ago: EBUSY of one that has not."""
        if len(self._ended) < 2 * _HELD:
            return
        command = self._ended.pop(0)
        if self._is_lost(command):  # the audit is to see that
            return
        command.removed = None
        answer, _ = self._ask_about(command, "rm")
        command.removed = {Answer.DONE: True, Answer.REFUSED: False}.get(answer)

    def _haunt(self) -> None:
        """The number of one that has ended becomes a stranger's, and then the job is to be ended once more."""
        if len(self._ended) < _HELD or self._haunted == _HAUNTED:
            return
        command = self._chance.choice(self._ended)
        fd = _open(self.load.jobs, f"{command.id}/info", os.O_RDONLY)
        try:
            info = json.loads(os.read(fd, _REPLIES))
        except OSError as error:
            if error.errno not in UNANSWERED:
                raise
            raise Away from error
        finally:
            _close(fd)
        if info["status"] in LIVING or info["pid"] is None:
            return
        self._haunted += 1
        self.load.sentinels.post(info["pid"])
        for what in ("kill -9", "kill", "stop"):
            answer, why = self._ask_about(command, what)
            assert answer is not Answer.DONE, f"{what} of {command}, which has ended and left nothing: {why}"

    def _ask_about(self, command: Command, what: str) -> tuple[Answer, str]:
        """Writes one command about a job; Answer.NONE also where there is nobody to be asked."""
        try:
            return exchange(self.load.jobs, f"{what} {command.id}\n")[0]
        except Away:
            return Answer.NONE, ""


# The files


def exchange(jobs: Mounted, text: str, piece: int | None = None) -> list[tuple[Answer, str]]:
    """Writes `text` to `ctl`, at once or in pieces; what became of each of its lines, and what was said of it.

    Of the lines of a write that was not answered nothing is known. Those after one that failed were not run.
    """
    raw, lines = text.encode(), text.count("\n")
    fd = _open(jobs, "ctl", os.O_RDWR)
    try:
        written, outcome = _write(fd, raw, piece or len(raw))
        done = raw[:written].count(b"\n")
        try:
            replies = os.read(fd, _REPLIES).decode().splitlines()
        except OSError as error:
            if error.errno not in UNANSWERED:
                raise
            replies = [""] * done
    finally:
        _close(fd)
    assert done <= len(replies) <= done + 1, f"{replies} for {done} of {lines} commands"
    asked = raw[: written + (piece or len(raw))].count(b"\n")  # what was not asked for cannot have happened
    why = replies[-1] if replies else ""
    return [
        *((Answer.DONE, reply) for reply in replies[:done]),
        *[(outcome, why)] * (asked - done),
        *[(Answer.REFUSED, f"nobody came to it: {why}")] * (lines - asked),
    ]


def _write(fd: int, raw: bytes, piece: int) -> tuple[int, Answer]:
    """How many bytes were taken, and how the write of the next one ended."""
    at = 0
    while at < len(raw):
        wanted = raw[at : at + piece]
        try:
            taken = os.write(fd, wanted)
        except OSError as error:
            return at, _ANSWERS.get(error.errno or 0, Answer.REFUSED)
        at += taken
        if taken < len(wanted):
            return at, Answer.REFUSED
    return at, Answer.DONE


def _place_of(thread: threading.Thread) -> str:
    """What a thread is at."""
    return "".join(traceback.format_stack(sys._current_frames()[thread.ident or 0]))  # noqa: SLF001 - there is no other


def _open(jobs: Mounted, name: str, flags: int) -> int:
    try:
        return os.open(jobs.path / name, flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _AWAY:
            raise
        msg = f"there is no {name}: {error.strerror}"
        raise Away(msg) from error


def _close(fd: int) -> None:
    """What close(2) says of a mount that has gone is of no interest, the descriptor is closed all the same."""
    try:
        os.close(fd)
    except OSError as error:
        if error.errno not in UNANSWERED:
            raise
