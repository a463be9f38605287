"""What a job does in a check, in words that every engine can play: a shell, a task, or a scripted fake.

A script is a tuple of steps, taken in order; past the last one the job exits with 0. What waits, waits for a cue that
the check gives (`Rig.give`) or for the job's end, never for time. `shell_line` renders a script for whatever runs
programs; other engines play it step by step, and say with a `Feature` which steps they cannot.
"""

from __future__ import annotations

import enum
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from jobfs.model import JobSpec

VARIABLE = "JOBFS_CHECK"
"""The environment variable that `Fact.VARIABLE` is about."""


@dataclass(frozen=True, slots=True)
class Write:
    """Writes `data`, a few thousand bytes at most, to a stream."""

    data: bytes
    stream: str = "stdout"


@dataclass(frozen=True, slots=True)
class Count:
    """Writes the numbers from 1 to `last`, each on a line: see `counted`."""

    last: int
    stream: str = "stdout"


@dataclass(frozen=True, slots=True)
class Exit:
    """Exits with `code`, 0 to 255."""

    code: int = 0


@dataclass(frozen=True, slots=True)
class DieOf:
    """Dies of the signal `number`, which it sends to itself; only the job, not what it left behind.

    Needs `Feature.SIGNALS`.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Waits until the job is ended or signalled; no step after it is reached."""


@dataclass(frozen=True, slots=True)
class Await:
    """Waits until the check gives `cue`. A SIGTERM that `OnTerm` is about may go unheard meanwhile."""

    cue: str


@dataclass(frozen=True, slots=True)
class OnTerm:
    """From here on, when it is asked to end it exits with `code`; where there is `after`, once that cue was given."""

    code: int
    after: str | None = None


@dataclass(frozen=True, slots=True)
class IgnoreTerm:
    """From here on it ignores that it is asked to end. Needs `Feature.KILLS`."""


@dataclass(frozen=True, slots=True)
class CopyInput:
    """Copies its stdin to its stdout as it comes, up to end of file."""


@dataclass(frozen=True, slots=True)
class CloseInput:
    """Closes its stdin: nobody reads what is written to it from then on. Needs `Feature.STDIN`."""


@dataclass(frozen=True, slots=True)
class LeaveBehind:
    """Starts something that holds the job's streams, plays `script` by itself and may outlive the job.

    It ignores SIGTERM if the job does by then. Needs `Feature.LINGERS`.
    """

    script: Script


class Fact(enum.Enum):
    """What a program finds itself to have."""

    DIRECTORY = "directory"  # its working directory, as a path
    VARIABLE = "variable"  # the value of JOBFS_CHECK in its environment
    UMASK = "umask"  # four octal digits
    NICENESS = "niceness"  # a decimal number


@dataclass(frozen=True, slots=True)
class Report:
    """Writes a fact and a newline to its stdout. Needs `Feature.PROGRAMS`."""

    fact: Fact


Step = Write | Count | Exit | DieOf | Wait | Await | OnTerm | IgnoreTerm | CopyInput | CloseInput | LeaveBehind | Report
Script = tuple[Step, ...]


def counted(last: int) -> bytes:
    """What `Count(last)` writes."""
    return b"".join(b"%d\n" % number for number in range(1, last + 1))


def cues(script: Script) -> Iterator[str]:
    """The cues that a script waits for, those of what it leaves behind included."""
    for step in script:
        match step:
            case Await(cue):
                yield cue
            case OnTerm(after=str(cue)):
                yield cue
            case LeaveBehind(left):
                yield from cues(left)
            case _:
                pass


# How the facts are printed by a POSIX shell with the usual programs.
_REPORTS = {
    Fact.DIRECTORY: "pwd -P",
    Fact.VARIABLE: f'printf "%s\\n" "${VARIABLE}"',
    Fact.UMASK: "umask",
    Fact.NICENESS: "nice",
}
# A trap is heeded amid a wait, not amid another command. Always in the background: a shell that waits in vfork(2) for a
# child that is stopped amid its exec is not stopped itself. The sleep holds no stream of the job's, and goes with it.
_WAIT_WITH_TRAP = "sleep 1000000 >/dev/null 2>&1 &\nsleeper=$!\nwhile :; do wait $sleeper; done"
_WAIT = "exec sleep 1000000"


def shell_line(script: Script, directory: str | os.PathLike[str]) -> str:
    """A command line for /bin/sh that plays `script`.

    Each cue is a FIFO of that name in `directory`, from which one line is read; who gives cues holds it open for
    reading and writing, so that nobody waits to open it. The signals go to the process group, or to the shell alone.
    """
    return "\n".join(_rendered(script, os.fspath(directory)))


def shell_spec(
    script: Script, directory: str | os.PathLike[str], *, environment: str = f"PATH={os.defpath}\0"
) -> JobSpec:
    """A job that plays `script` by /bin/sh, see `shell_line`; `environment`: NUL-terminated entries, with a PATH."""
    return JobSpec(shell_line(script, directory), None, "/", environment)


def _rendered(script: Script, directory: str) -> Iterator[str]:
    trapped = False
    for step in script:
        match step:
            case Wait():
                yield _WAIT_WITH_TRAP if trapped else _WAIT
            case OnTerm(code, after):
                trapped = True
                awaited = "" if after is None else f"{_await(directory, after)}; "
                action = f"trap '' TERM; kill $sleeper 2>/dev/null; {awaited}exit {code}"
                yield f"trap {shlex.quote(action)} TERM"
            case LeaveBehind(left):
                yield "(\n" + "\n".join(_rendered(left, directory)) + "\n) &"
            case _:
                yield _line(step, directory)


_SimpleStep = Write | Count | Exit | DieOf | Await | IgnoreTerm | CopyInput | CloseInput | Report


def _line(step: _SimpleStep, directory: str) -> str:
    match step:
        case Write(data, stream):
            line = f"printf {shlex.quote(_escaped(data))}{_into(stream)}"
        case Count(last, stream):
            line = f"awk 'BEGIN {{ for (i = 1; i <= {last}; i++) print i }}'{_into(stream)}"
        case Exit(code):
            line = f"exit {code}"
        case DieOf(number):
            line = f"kill -{number} $$"
        case Await(cue):
            line = _await(directory, cue)
        case IgnoreTerm():
            line = "trap '' TERM"
        case CopyInput():
            line = "cat"
        case CloseInput():
            line = "exec <&-"
        case _:
            line = _REPORTS[step.fact]
    return line


def _await(directory: str, cue: str) -> str:
    return f"read -r cue < {shlex.quote(f'{directory}/{cue}')}"


def _into(stream: str) -> str:
    return " >&2" if stream == "stderr" else ""


def _escaped(data: bytes) -> str:
    """`data` as a format of printf(1)."""
    return "".join(f"\\{byte:03o}" for byte in data)
