"""How an async function ended, as the end of a job: its answer or what it raised in, an event and its number out."""

from __future__ import annotations

import os
import signal
import traceback
from dataclasses import dataclass

import trio

import jobfs
from jobfs.beside import only_one
from jobfs.states import Event

CRASHED = 1
"""The exit code of a function that raised."""

_PACKAGE = os.path.dirname(jobfs.__file__) + os.sep
_NOT_AN_EXIT_CODE = "a job's function returns its exit code, or None, and not"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job has ended that is a function, and what its end tells others."""

    event: Event
    code: int
    said: str = ""
    """For its stderr."""
    passed_on: BaseException | None = None
    """What is not its own affair."""


def outcome_of(code: object) -> tuple[Event, int]:
    """What a function's answer means; raises where it means nothing, which is its own fault."""
    # True is an int to Python only: nobody who returns it means exit code 1.
    if not isinstance(code, int | None) or isinstance(code, bool):
        raise TypeError(f"{_NOT_AN_EXIT_CODE} {code!r}")
    code = 0 if code is None else int(code)  # of an enumeration, for one
    if code < 0 and -code in signal.valid_signals():
        return Event.SIGNAL, -code
    if not 0 <= code <= 255:  # noqa: PLR2004 - wait(2)
        raise ValueError(f"an exit code is from 0 to 255, or minus a signal's number: {code}")
    return (Event.EXIT_NONZERO, code) if code else (Event.EXIT_ZERO, 0)


def outcome_of_error(error: BaseException, *, cancelled: bool) -> Outcome:
    """What it means that a function raised `error`.

    `cancelled`: whether the task is being cancelled from outside. Then a trio.Cancelled is passed on; else it is one
    that the function kept and raised again, which nobody waits for. A KeyboardInterrupt is passed on always.
    """
    foreign, own = _split(error, (trio.Cancelled, KeyboardInterrupt) if cancelled else (KeyboardInterrupt,))
    said = "" if own is None else _traceback(own)
    if foreign is not None:
        interrupted = _split(foreign, (KeyboardInterrupt,))[0] is not None
        number = signal.SIGINT if interrupted else signal.SIGTERM
        if own is None or interrupted:
            return Outcome(Event.SIGNAL, int(number), said, foreign)
        return Outcome(Event.EXIT_NONZERO, CRASHED, said, foreign)
    alone = only_one(error)
    if isinstance(alone, SystemExit):
        return _outcome_of_exit(alone)
    return Outcome(Event.EXIT_NONZERO, CRASHED, said)


def _outcome_of_exit(error: SystemExit) -> Outcome:
    if error.code is not None and not isinstance(error.code, int):  # as Python has it for a program
        return Outcome(Event.EXIT_NONZERO, CRASHED, f"{error.code}\n")
    try:
        return Outcome(*outcome_of(error.code))
    except (TypeError, ValueError) as wrong:
        return Outcome(Event.EXIT_NONZERO, CRASHED, "".join(traceback.format_exception_only(wrong)))


def _split(
    error: BaseException, kinds: tuple[type[BaseException], ...]
) -> tuple[BaseException | None, BaseException | None]:
    """What in `error` is of those kinds, and the rest; each as it is where it is alone."""
    if not isinstance(error, BaseExceptionGroup):
        return (error, None) if isinstance(error, kinds) else (None, error)
    found, rest = error.split(kinds)
    return None if found is None else only_one(found), rest


def _traceback(error: BaseException) -> str:
    """As Python prints it, without the lines above the function's own."""
    lines = error.__traceback__
    while lines is not None and lines.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        lines = lines.tb_next
    return "".join(traceback.format_exception(type(error), error, lines))
