"""The way of a forked child to its exec, and what the one who asked for it is told."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from jobfs.supervisor import birth
from jobfs.supervisor.birth import Birth
from jobfs.supervisor.loop import Loop

if TYPE_CHECKING:
    from jobfs.supervisor.child import Child


@pytest.mark.parametrize(("said", "failure"), [(b"2 enter /nowhere", (errno.ENOENT, "enter /nowhere")), (b"", None)])
def test_what_was_said_counts_though_patience_is_over(
    monkeypatch: pytest.MonkeyPatch, said: bytes, failure: tuple[int, str] | None
) -> None:
    """A supervisor that stood still until patience was over answers what the child has said meanwhile, and once."""
    monkeypatch.setattr(birth, "EXEC_PATIENCE", 0.0)
    loop, child, answers = Loop(), cast("Child", SimpleNamespace(birth=None, record={})), list[object]()
    asked, asks = os.pipe()
    report, reports = os.pipe2(os.O_NONBLOCK)

    def spawn(_: int) -> None:
        loop.unwatch(asked)
        Birth(loop, child, report, lambda _: None, lambda *_: None, answers.append)
        os.write(reports, said)
        os.close(reports)

    loop.watch(asked, spawn)
    os.write(asks, b"x")
    loop.run(lambda: bool(answers))
    os.close(asked)
    os.close(asks)
    assert [failure] == answers
