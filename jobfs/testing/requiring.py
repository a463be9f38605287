"""What checks require, and what they say where it is not so: nobody rewrites the asserts of an installed package."""

from __future__ import annotations

from jobfs.engines.base import Closed, Continued, Ended, News, Started, Stopped
from jobfs.states import Event

_SHOWN = 500  # characters of a value, which are read at a glance


def require(holds: object, what: str) -> None:
    """AssertionError unless something holds."""
    if not holds:
        raise AssertionError(f"this must hold, and does not: {what}")


def require_same(expected: object, seen: object, what: str) -> None:
    """AssertionError unless both are the same."""
    if expected != seen:
        raise AssertionError(f"{what}\n  expected: {_short(expected)}\n  seen:     {_short(seen)}")


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= _SHOWN else f"{said[:250]} ... {said[-250:]}"


def require_sense(told: list[News]) -> None:
    """AssertionError unless what was told of a job, from its spawn on, can be, and was told once."""
    story = [news for news in told if isinstance(news, Started | Stopped | Continued | Ended | Closed)]
    kinds = [type(news).__name__ for news in story]
    require(kinds[:1] == ["Started"], f"a job's first news is that it was started: {story}")
    require_same(1, kinds.count("Started"), f"times that a job was told to be started: {story}")
    require(kinds.count("Ended") <= 1, f"a job ends once: {story}")
    end = kinds.index("Ended") if "Ended" in kinds else len(kinds)
    early, late = {*kinds[:end]}, {*kinds[end + 1 :]}
    require("Closed" not in early or end == len(kinds), f"streams are closed after the end: {story}")
    require(late <= {"Closed"}, f"after the end nothing but its streams may change: {story}")
    last: frozenset[str] | None = None
    for news in story:
        if isinstance(news, Ended | Closed):
            require(last is None or news.open_streams < last, f"fewer and fewer streams are open: {story}")
            last = news.open_streams
    if end < len(story):
        _require_possible(story[end])


def _require_possible(end: News) -> None:
    assert isinstance(end, Ended)
    codes = {Event.EXIT_ZERO: range(1), Event.EXIT_NONZERO: range(1, 256), Event.SIGNAL: range(1, 65)}
    require(end.event in {*codes, Event.CANCEL, Event.LOSE}, f"a job cannot end like that: {end}")
    possible = end.code in codes[end.event] if end.event in codes else end.code is None
    require(possible, f"an end has a code that fits it: {end}")
    require(end.elapsed is None or end.elapsed >= 0, f"time goes on: {end}")
    require(end.open_streams <= {"stdout", "stderr"}, f"a job has two streams: {end}")
