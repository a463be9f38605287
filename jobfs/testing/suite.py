"""What a check is, and how all of them are run."""

from __future__ import annotations

import unittest
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from jobfs.testing.bench import Bench, run_on_bench
from jobfs.testing.rigs import Feature, Rig


class LacksFeature(unittest.SkipTest):
    """The engine does not have what a check is about. unittest takes it for a skipped test."""

    def __init__(self, needs: frozenset[Feature], without: frozenset[Feature]) -> None:
        said = [f"not so: {feature.value}" for feature in needs] + [f"it is so: {feature.value}" for feature in without]
        super().__init__("not about this engine: " + "; ".join(sorted(said)))


@dataclass(frozen=True)
class Check:
    """One thing that every engine owes; called with a rig, it raises unless the engine keeps to that.

    AssertionError says what was expected and what was seen, and LacksFeature that the engine has not all that it
    `needs`, or has what it is `without`. What the engine itself raises unasked passes through. Nothing is left behind.
    """

    name: str
    says: str
    needs: frozenset[Feature]
    without: frozenset[Feature]
    body: Callable[[Bench], Awaitable[None]]

    def is_about(self, features: frozenset[Feature]) -> bool:
        """Whether it is about an engine of such features."""
        return self.needs <= features and not self.without & features

    async def __call__(self, rig: Rig) -> None:
        """Checks the engine of `rig`."""
        if not self.is_about(rig.features):
            raise LacksFeature(self.needs - rig.features, self.without & rig.features)
        await run_on_bench(self.body, rig)


_checks: dict[str, Check] = {}


def check(
    *needs: Feature, without: Feature | None = None
) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    """Makes a check of a function: its name is the function's, and what it says the docstring."""

    def add(body: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        name = getattr(body, "__name__", "")
        assert name not in _checks
        lacks = frozenset[Feature]() if without is None else frozenset({without})
        _checks[name] = Check(name, body.__doc__ or "", frozenset(needs), lacks, body)
        return body

    return add


def checks() -> Mapping[str, Check]:
    """Every check that was made, by name."""
    return _checks


async def check_engine(rig: Rig) -> Mapping[str, str]:
    """Runs every check; gives those that were skipped, and why.

    Raises an ExceptionGroup of what the failed ones raised, each with a note that names the check.
    """
    skipped: dict[str, str] = {}
    failures: list[Exception] = []
    for name, one in _checks.items():
        try:
            await one(rig)
        except LacksFeature as lack:
            skipped[name] = str(lack)
        except Exception as error:  # noqa: BLE001 - all of them are raised below
            error.add_note(f"check {name}: {one.says}")
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(_checks)} checks failed", failures)
    return skipped
