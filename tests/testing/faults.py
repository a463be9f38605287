"""Engines that are each wrong in one way, as somebody's engine might be; `FAULTS` says which checks tell.

Each is the fake engine, which passes every check, but for what its docstring says. They are in the modules beside this
one, whose names begin with its.
"""

from __future__ import annotations

from collections.abc import Callable

from jobfs.engines.base import News
from jobfs.testing import ScriptedEngine

FAULTS: dict[type[ScriptedEngine], tuple[str, ...]] = {}


def told_by(*checks: str) -> Callable[[type[ScriptedEngine]], type[ScriptedEngine]]:
    """Says which checks fail on an engine."""

    def add(engine: type[ScriptedEngine]) -> type[ScriptedEngine]:
        FAULTS[engine] = checks
        return engine

    return add


class Gossip(ScriptedEngine):
    """One that tells something else than what happens."""

    def retell(self, news: News) -> list[News]:
        """What it tells where it should tell `news`."""
        return [news]

    def _say(self, news: News) -> None:
        for said in self.retell(news):
            super()._say(said)
