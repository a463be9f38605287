"""What the jobs of the load do: shell text for `job.sh`, and what is known of it beforehand."""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

RECORD = 16  # bytes
_FIRST = 10**14  # numbers of 15 digits
_JOB_NUMBERS = 10**8  # numbers that a job has for itself
_STDERR = _JOB_NUMBERS // 2  # where those of its stderr begin
_SCRIPT = Path(__file__).with_name("job.sh")
_DEADLY = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job will do if nobody ends it; `out` and `err` are the records that it writes, None where it never ends.

    `fed`: it copies its stdin instead. `holds`: it goes on until it is ended. `leaves`: something outlives it.
    `ends_by`: signals that it may end by without the load's doing. `terminal`: it has one, which goes where daemon and
    supervisor go both.
    """

    steps: str
    options: str = ""
    out: int | None = 0
    err: int = 0
    fed: bool = False
    holds: bool = False
    leaves: bool = False
    ends_by: frozenset[int] = frozenset()
    terminal: bool = False

    def line(self, tag: int, marks: Path) -> str:
        """The command that spawns it."""
        words = shlex.join(["set", "--", str(marks), str(tag), str(first_number(tag))])
        return f"spawn {self.options} -- {words}; . {shlex.quote(str(_SCRIPT))}; {self.steps}"


def tag_of(command_line: str) -> int | None:
    """The tag of the job that has this command line; None where it is none of the load's."""
    words, _, rest = command_line.partition(f"; . {shlex.quote(str(_SCRIPT))}; ")
    if not rest or not words.startswith("set -- "):
        return None
    return int(shlex.split(words)[3])


def first_number(tag: int) -> int:
    """The number with which a job's stdout begins."""
    return _FIRST + tag * _JOB_NUMBERS


def expected(tag: int, stream: str, offset: int, size: int) -> bytes:
    """What a job writes at an offset of a stream."""
    base = first_number(tag) + (_STDERR if stream == "stderr" else 0)
    skipped, at = divmod(offset, RECORD)
    numbers = range(base + skipped, base + (offset + size) // RECORD + 1)
    return b"".join(b"%d\n" % number for number in numbers)[at : at + size]


def exits(chance: random.Random) -> Plan:
    """Ends at once."""
    return Plan(f"finish {chance.choice((0, 0, 1, 3, 127, 255))}")


def dies(chance: random.Random) -> Plan:
    """Ends by a signal of its own."""
    return Plan(f"die {chance.choice(_DEADLY):d}")


def chats(chance: random.Random) -> Plan:
    """Writes to both streams, often more than is kept."""
    out, err = chance.randrange(1, 9000), chance.randrange(1, 900)
    limit = chance.choice(("4096", "10000", "64K", "10M"))
    return Plan(f"out {out // 2 + 1}; err {err}; out {out}; finish 0", f"--limit {limit}", out // 2 + 1 + out, err)


def leaves(chance: random.Random) -> Plan:
    """Ends, and leaves something that writes on."""
    before, after = chance.randrange(1, 500), chance.randrange(1, 500)
    return Plan(f"out {before}; leave {after}; finish 4", out=before + after, leaves=True)


def times_out(_: random.Random) -> Plan:
    """Is ended by its timeout."""
    return Plan("exec sleep 1000", "--timeout 0.3", ends_by=frozenset({signal.SIGTERM}))


def types(chance: random.Random) -> Plan:
    """Writes to a terminal, which is to leave it as it is."""
    out = chance.randrange(1, 2000)
    return Plan(f"stty raw; out {out}; finish 0", "--pty", out=out, terminal=True)


def copies(_: random.Random) -> Plan:
    """Copies what it is given until that ends."""
    return Plan("cat; finish 0", "--stdin pipe", fed=True)


def holds(chance: random.Random) -> Plan:
    """Goes on until it is ended, in one of the ways that there are to take SIGTERM."""
    return chance.choice(
        (
            Plan("exec sleep 1000", holds=True),
            Plan("trap 'finish 7' TERM; hold", holds=True),
            Plan("trap '' TERM; hold", "--grace 0.2", holds=True),
            Plan("talk", out=None, holds=True),
        )
    )


KINDS: dict[Callable[[random.Random], Plan], int] = {
    exits: 6,
    dies: 3,
    chats: 4,
    leaves: 1,
    times_out: 1,
    types: 1,
    copies: 2,
    holds: 3,
}
"""Every kind of job, and how often it comes among the others."""
