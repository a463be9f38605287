"""The checks, by theme. Each is a function of a `Bench`; its docstring says what every engine owes."""

from jobfs.testing.checks import (
    attaching,
    ending,
    keeping,
    remains,
    signals,
    starting,
    stdin,
    streams,
    terminal,
    watching,
)

__all__ = [
    "attaching",
    "ending",
    "keeping",
    "remains",
    "signals",
    "starting",
    "stdin",
    "streams",
    "terminal",
    "watching",
]
