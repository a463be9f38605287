"""What the load knows for sure: what it asked for and was told, and what the jobs themselves noted down."""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.plans import Plan


class Answer(enum.Enum):
    """What became of a command, as far as its writer was told."""

    DONE = "done"
    REFUSED = "refused"
    BROKEN = "refused with EIO"
    NONE = "no answer"  # the daemon was gone before it came


@dataclass(slots=True)
class Command:
    """One command that spawns a job. Its writer alone changes it, while the load runs."""

    tag: int
    plan: Plan
    batch: int  # the write that it was part of: lines of one are run in order
    answer: Answer = Answer.NONE
    why: str = ""  # it was refused
    asked: tuple[float, float] = (
        0.0,
        0.0,
    )  # when it was written and when it was answered, seconds of a monotonic clock
    id: int | None = None  # where that was told: a daemon may be killed between the write and the reply
    signals: set[int] = field(default_factory=set)  # that it may have been sent
    must_end: bool = False  # it was told that the job was sent one that is deadly
    stopped: bool | None = False  # None: nobody knows
    removed: bool | None = False
    fed: int = 0  # bytes of its stdin that were taken
    offered: int = 0  # bytes that were tried


@dataclass(slots=True)
class Deeds:
    """What the processes of one tag noted down; `out` and `err`: bytes that were written for sure."""

    starts: list[tuple[int, int]] = field(default_factory=list)  # the process, and the JOBFS_ID that it was given
    out: int = 0
    err: int = 0
    end: tuple[str, int] | None = None  # `exit` and a status, or `signal` and a number

    def note(self, what: str, numbers: list[int], record: int) -> None:
        """Takes one line in."""
        match what, numbers:
            case "start", [pid, job]:
                self.starts.append((pid, job))
            case "out", [records]:
                self.out = records * record
            case "err", [records]:
                self.err = records * record
            case (("exit" | "signal"), [number]):
                self.end = (what, number)
            case _:
                msg = f"a note that makes no sense: {what} {numbers}"
                raise ValueError(msg)


@dataclass(slots=True)
class Truth:
    """All of it. `seen_wrong`: what somebody saw while the load ran that must never be seen.

    `supervisor_killed`: from when to when that took. A job that was being spawned at that moment may be `lost`.
    `unwatched`: the daemon was killed with it, so that nobody was there. Any job may be `lost` then that ended
    meanwhile, and what a pipe held of which nobody had an end any more; its `reason` has to say so.
    """

    commands: dict[int, Command]
    deeds: dict[int, Deeds]
    seen_wrong: list[str] = field(default_factory=list)
    supervisor_killed: list[tuple[float, float]] = field(default_factory=list)
    unwatched: bool = False

    def may_be_lost(self, command: Command) -> bool:
        """Whether nobody could know how its job ended."""
        begin, end = command.asked
        return self.unwatched or any(begin <= after and before <= end for before, after in self.supervisor_killed)


def read_marks(path: Path, record: int) -> dict[int, Deeds]:
    """What the jobs have noted down by now, by tag."""
    deeds: dict[int, Deeds] = defaultdict(Deeds)
    for line in path.read_text().splitlines():
        tag, what, *numbers = line.split()
        deeds[int(tag)].note(what, [int(number) for number in numbers], record)
    return dict(deeds)
