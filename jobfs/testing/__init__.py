"""Tests for engines: what every engine owes, as checks that anybody's engine can be run against; and a scripted engine.

An engine's author writes a `Rig`, which opens the engine and makes jobs for it. For one that runs programs that is:

    class MyRig(jobfs.testing.ProcessRig):
        @asynccontextmanager
        async def open(self):
            async with trio.open_nursery() as nursery:
                engine = MyEngine(...)
                await nursery.start(engine.run)
                yield engine
                nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("check", jobfs.testing.CHECKS.values(), ids=jobfs.testing.CHECKS)
    async def test_conformance(check, tmp_path):
        with MyRig(tmp_path) as rig:
            try:
                await check(rig)
            except jobfs.testing.LacksFeature as lack:
                pytest.skip(str(lack))

What an engine cannot do its rig leaves out of `features`; checks of that are skipped. Without pytest,
`await check_engine(rig)` runs them all. Nothing here needs pytest.

`FakeEngine` runs nothing and does what a test says: it is for the tests of programs that use an engine. `FakeRig` plays
scripts on it. docs/engines.md has the whole of it.
"""

from collections.abc import Mapping
from types import MappingProxyType

from jobfs.engines.fake import FakeEngine
from jobfs.testing import checks as _checks
from jobfs.testing.fake_rig import FakeRig, ScriptedEngine, Stage, fake_rig
from jobfs.testing.rigs import Feature, ProcessRig, Rig
from jobfs.testing.scripts import (
    Await,
    CloseInput,
    CopyInput,
    Count,
    DieOf,
    Exit,
    Fact,
    IgnoreTerm,
    LeaveBehind,
    OnTerm,
    Report,
    Script,
    Step,
    Wait,
    Write,
    shell_line,
    shell_spec,
)
from jobfs.testing.suite import Check, LacksFeature, check_engine
from jobfs.testing.suite import checks as _all

__all__ = [
    "CHECKS",
    "Await",
    "Check",
    "CloseInput",
    "CopyInput",
    "Count",
    "DieOf",
    "Exit",
    "Fact",
    "FakeEngine",
    "FakeRig",
    "Feature",
    "IgnoreTerm",
    "LacksFeature",
    "LeaveBehind",
    "OnTerm",
    "ProcessRig",
    "Report",
    "Rig",
    "Script",
    "ScriptedEngine",
    "Stage",
    "Step",
    "Wait",
    "Write",
    "check_engine",
    "fake_rig",
    "shell_line",
    "shell_spec",
]

assert _checks.__all__  # imported for its effect: it makes the checks
CHECKS: Mapping[str, Check] = MappingProxyType(_all())
"""Every check, by name."""
