"""How the checks are run, and what a failed one says."""

# ruff: noqa: ARG001 - a test that asks for autojump_clock runs on it: what hangs is told at once

from __future__ import annotations

import os
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from jobfs.testing import (
    CHECKS,
    Await,
    CopyInput,
    Count,
    Exit,
    FakeEngine,
    FakeRig,
    Feature,
    LacksFeature,
    LeaveBehind,
    OnTerm,
    Script,
    ScriptedEngine,
    Stage,
    Wait,
    Write,
    check_engine,
    fake_rig,
    shell_line,
)
from tests.testing.faults_life import EndsTwice, SpeaksShell
from tests.testing.faults_output import NeverGrows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import trio.testing

LOST = CHECKS["a_job_that_does_not_outlive_the_program_is_lost"]


class Frail(FakeRig):
    """An engine whose jobs go with the program that uses it."""

    features = frozenset(Feature) - {Feature.OUTLIVES}

    def __init__(self, place: Path, stage: Stage) -> None:
        super().__init__(ScriptedEngine(place, stage), stage)
        self._place = place
        self._frail = stage

    @asynccontextmanager
    async def open(self) -> AsyncIterator[FakeEngine]:
        """See `Rig`."""
        yield self.engine
        self.engine.disconnect()
        await self.engine.forget(list(self.engine.jobs))
        self.engine = ScriptedEngine(self._place, self._frail)


@asynccontextmanager
async def frail_rig(place: Path) -> AsyncIterator[Frail]:
    """A rig for such an engine."""
    async with trio.open_nursery() as nursery:
        yield Frail(place, Stage(nursery))
        nursery.cancel_scope.cancel()


async def test_all_checks_can_be_run_without_pytest(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """One after another on the same engine; what is not about it is named, and why."""
    async with fake_rig(tmp_path) as rig:
        skipped = await check_engine(rig)
    reason = "not about this engine: it is so: its jobs outlive the program that uses it"
    assert {LOST.name: reason} == skipped


async def test_an_engine_whose_jobs_do_not_outlive_it_is_checked_for_that(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """It answers that they are lost, and what it need not be able to do is skipped."""
    async with frail_rig(tmp_path) as rig:
        skipped = await check_engine(rig)
    assert {name for name, check in CHECKS.items() if Feature.OUTLIVES in check.needs} == {*skipped}


async def test_an_engine_that_takes_its_jobs_for_living_ones_fails(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Jobs that went on are not what a rig without OUTLIVES promises."""
    async with fake_rig(tmp_path) as rig:
        rig.features = Frail.features
        with pytest.raises(AssertionError, match="the ends of a job that went with the program"):
            await LOST(rig)


async def test_all_failures_are_told_each_with_its_check(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Those who run all of them learn what else is wrong, too."""
    async with fake_rig(tmp_path, SpeaksShell) as rig:
        with pytest.raises(ExceptionGroup, match="checks failed") as raised:
            await check_engine(rig)
    notes = [note for error in raised.value.exceptions for note in error.__notes__]
    assert "check a_signal_reaches_the_job: A job that does not heed a signal dies of it" in " ".join(notes)
    assert len(notes) < len(CHECKS) / 2  # the others passed


async def test_a_failed_check_says_what_was_expected_and_seen(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Without the help of pytest, which rewrites no assert of an installed package."""
    async with fake_rig(tmp_path, EndsTwice) as rig:
        with pytest.raises(AssertionError) as raised:
            await CHECKS["an_end_is_told_once"](rig)
    expected = (
        "what was told of a job that writes and exits\n  expected: ['Started', 'Ended']\n  seen:     ['Started', "
    )
    assert str(raised.value).startswith(expected)


async def test_a_check_that_waits_in_vain_says_for_what(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """And what was learned until then."""
    async with fake_rig(tmp_path, NeverGrows) as rig:
        with pytest.raises(
            AssertionError, match=r"waited in vain for b'ready\\n' in the stdout of job \d+, (.|\n)+Started"
        ):
            await CHECKS["a_job_that_runs_can_be_read"](rig)


async def test_a_failed_check_leaves_nothing_behind(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Its jobs are ended and forgotten all the same."""
    async with fake_rig(tmp_path, NeverGrows) as rig:
        with pytest.raises(AssertionError):
            await CHECKS["a_job_that_runs_can_be_read"](rig)
        assert {} == rig.engine.known()
    assert [] == os.listdir(tmp_path)


async def test_a_check_that_is_not_about_the_engine_is_skipped(tmp_path: Path) -> None:
    """Before anything is done with it; the message says what it lacks."""
    async with fake_rig(tmp_path) as rig:
        rig.features = frozenset()
        with pytest.raises(LacksFeature, match="not about this engine: not so: its jobs can be sent any signal"):
            await CHECKS["a_signal_reaches_the_job"](rig)
        assert {} == rig.engine.jobs


SCRIPTS: list[tuple[Script, int, bytes]] = [
    ((), 0, b""),
    ((Exit(7), Write(b"not reached")), 7, b""),
    ((Write(bytes(range(256))), Write(b"%s \\n 'a' $b\n")), 0, bytes(range(256)) + b"%s \\n 'a' $b\n"),
    ((Count(3),), 0, b"1\n2\n3\n"),
    ((CopyInput(), Write(b"end")), 0, b"input\nend"),
    ((LeaveBehind((Write(b"child"),)),), 0, b"child"),
]


@pytest.mark.parametrize(("script", "code", "output"), SCRIPTS)
def test_a_shell_plays_a_script(script: Script, code: int, output: bytes, tmp_path: Path) -> None:
    """What is rendered does as the steps say."""
    command = ["/bin/sh", "-c", shell_line(script, tmp_path)]
    done = subprocess.run(command, input=b"input\n", capture_output=True, check=False)
    assert (code, output, b"") == (done.returncode, done.stdout, done.stderr)


def test_cues_may_be_anywhere(tmp_path: Path) -> None:
    """The directory's name may have blanks and quotes in it."""
    line = shell_line((OnTerm(7, after="b"), Await("a"), Wait()), tmp_path / "it's here")
    assert 0 == subprocess.run(["/bin/sh", "-n", "-c", line], check=False).returncode
