"""Every engine of jobfs passes every check that it ships for everybody's: see `jobfs.testing`."""

# ruff: noqa: ARG001 - a test that asks for autojump_clock runs on it: what hangs is told at once

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from jobfs.beside import beside
from jobfs.engines.inprocess import InProcessEngine
from jobfs.engines.local import LocalEngine
from jobfs.testing import CHECKS, Check, Feature, ProcessRig, fake_rig
from tests.engine.function_rig import FunctionRig
from tests.engine.workshop import Workshop, workshop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import trio.testing

ALL = frozenset(Feature)


def every_check(features: frozenset[Feature]) -> pytest.MarkDecorator:
    """The test is run with each check that is about an engine of these features."""
    chosen = {name: check for name, check in CHECKS.items() if check.is_about(features)}
    return pytest.mark.parametrize("check", chosen.values(), ids=chosen)


class LocalRig(ProcessRig):
    """The engine of this machine, on a workshop's state."""

    def __init__(self, shop: Workshop) -> None:
        super().__init__(shop.state, shop.mark)
        self._shop = shop

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LocalEngine]:
        """See `Rig`."""
        engine = LocalEngine(self._shop.state)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            self._shop.supervisors.add(self._shop.supervisor)
            yield engine
            nursery.cancel_scope.cancel()


class InProcessRig(ProcessRig):
    """The engine of the program itself, whose jobs are its children."""

    features = ALL - {Feature.OUTLIVES}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[InProcessEngine]:
        """See `Rig`."""
        engine = InProcessEngine(self._directory)
        async with beside(engine.close) as nursery:
            await nursery.start(engine.run)
            yield engine


@every_check(ALL)
async def test_the_local_engine(check: Check) -> None:
    """The engine of this machine passes the check, and leaves neither process nor supervisor."""
    async with workshop() as shop:
        with LocalRig(shop) as rig:
            await check(rig)


@every_check(ALL)
async def test_the_fake_engine(check: Check, tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The scripted engine passes the check; on a clock that jumps, so what hangs is told at once."""
    async with fake_rig(tmp_path) as rig:
        await check(rig)


@every_check(InProcessRig.features)
async def test_the_programs_own_engine(check: Check, tmp_path: Path) -> None:
    """The engine without a supervisor passes the check with processes."""
    with InProcessRig(tmp_path) as rig:
        await check(rig)


@every_check(FunctionRig.features)
async def test_the_programs_own_engine_with_functions(check: Check, tmp_path: Path) -> None:
    """And with async functions."""
    await check(FunctionRig(tmp_path))
