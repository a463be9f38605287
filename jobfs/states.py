"""The life of a job as a table: everything that decides which status may follow which stands here.

A status is a word of the contract (`running`, `done:0`, `killed:9` ...). What happens to a job is an `Event`;
`after` says what status that leads to, and raises `IllegalTransition` for what cannot happen, leaving all as it was.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass


class State(enum.Enum):
    """A status without its number."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"
    FAILED = "failed"
    KILLED = "killed"
    CANCELLED = "cancelled"
    LOST = "lost"


class Event(enum.Enum):
    """What can happen to a job."""

    START = "start"  # its exec has happened
    STOP = "stop"  # a signal stopped it
    CONTINUE = "continue"  # a signal continued it
    EXIT_ZERO = "exit zero"
    EXIT_NONZERO = "exit nonzero"
    SIGNAL = "signal"  # a signal ended it
    CANCEL = "cancel"  # it will never start
    LOSE = "lose"  # it was alive when the one that watched it went


FINAL = frozenset({State.DONE, State.FAILED, State.KILLED, State.CANCELLED, State.LOST})

_ENDS = {
    Event.EXIT_ZERO: State.DONE,
    Event.EXIT_NONZERO: State.FAILED,
    Event.SIGNAL: State.KILLED,
    Event.CANCEL: State.CANCELLED,  # its exec hung, so that it was taken for running, and then failed
    Event.LOSE: State.LOST,
}

TRANSITIONS: dict[State, dict[Event, State]] = {
    State.QUEUED: {
        Event.START: State.RUNNING,
        Event.CANCEL: State.CANCELLED,
        Event.LOSE: State.LOST,  # it may have been started, and over, while nobody watched
    },
    State.RUNNING: {Event.STOP: State.STOPPED, Event.CONTINUE: State.RUNNING, **_ENDS},
    State.STOPPED: {Event.STOP: State.STOPPED, Event.CONTINUE: State.RUNNING, **_ENDS},
    **{state: {} for state in FINAL},
}


class IllegalTransition(Exception):  # noqa: N818 - a programming error of ours, named for what it is
    """An event that cannot happen in that state."""


@dataclass(frozen=True, slots=True)
class Status:
    """A state and, for an end by exit or by signal, its number."""

    state: State
    code: int | None = None

    @property
    def final(self) -> bool:
        """Whether it never changes again."""
        return self.state in FINAL

    @property
    def word(self) -> str:
        """The contract's status word, without a newline."""
        return self.state.value if self.code is None else f"{self.state.value}:{self.code}"

    def __str__(self) -> str:
        """The word."""
        return self.word

    @classmethod
    def parse(cls, word: str) -> Status:
        """The status that `word` stands for; ValueError where it is none."""
        name, colon, code = word.partition(":")
        return cls(State(name), int(code) if colon else None)


QUEUED = Status(State.QUEUED)
RUNNING = Status(State.RUNNING)


def after(status: Status, event: Event, code: int | None = None) -> Status:
    """What `event` makes of `status`; `code` is the exit status or the signal's number, where the event has one."""
    try:
        return Status(TRANSITIONS[status.state][event], code)
    except KeyError:
        msg = f"a job that is {status.word} cannot {event.value}"
        raise IllegalTransition(msg) from None


def ending(wait_status: int) -> tuple[Event, int]:
    """The event and its number that a wait status (wait(2)) of a process that ended stands for."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code < 0:
        return Event.SIGNAL, -code
    return (Event.EXIT_NONZERO, code) if code else (Event.EXIT_ZERO, 0)
