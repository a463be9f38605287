"""Every check can fail, and names what is wrong: each is run on engines that break what it is about."""

# ruff: noqa: ARG001 - a test that asks for autojump_clock runs on it: what hangs is told at once

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jobfs.testing import CHECKS, Check, LacksFeature, Rig, ScriptedEngine, fake_rig
from tests.testing import faults_keeping, faults_life, faults_output
from tests.testing.faults import FAULTS

if TYPE_CHECKING:
    from pathlib import Path

    import trio.testing

MODULES = (faults_life, faults_output, faults_keeping)  # each adds its engines to FAULTS
PAIRS = [(engine, check) for engine, checks in FAULTS.items() for check in checks]


async def failure(check: Check, rig: Rig) -> Exception | None:
    """What the check fails with, if it does."""
    try:
        await check(rig)
    except LacksFeature:
        raise
    except Exception as error:  # noqa: BLE001 - an engine may raise anything
        return error
    return None


@pytest.mark.parametrize(("engine", "name"), PAIRS, ids=[f"{engine.__name__}-{name}" for engine, name in PAIRS])
async def test_a_faulty_engine_fails(
    engine: type[ScriptedEngine], name: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The check that is about the fault fails on an engine that has it; where something hangs the clock jumps."""
    async with fake_rig(tmp_path, engine) as rig:
        assert await failure(CHECKS[name], rig) is not None


def test_every_check_has_a_fault_that_it_finds() -> None:
    """A check that no fault makes fail would state nothing."""
    found = {name for names in FAULTS.values() for name in names}
    assert {*CHECKS} - {"a_job_that_does_not_outlive_the_program_is_lost"} == found
