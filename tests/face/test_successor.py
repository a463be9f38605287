"""How a daemon is made to end for another one: which process that is, and what it is sent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobfs.state import Serving, StateDirectory, serving, this_process
from mount import successor
from mount.successor import end, predecessor

if TYPE_CHECKING:
    from collections.abc import Iterator

POINT = Path("/v/jobs")


@contextmanager
def daemon(script: str) -> Iterator[tuple[subprocess.Popen[bytes], Serving]]:
    """A process that runs `script`, and what it would say of itself."""
    announce = (
        "from jobfs.state import this_process; from pathlib import Path; print(this_process(Path('/v/jobs'), []).born)"
    )
    command = [sys.executable, "-c", f"{script}; {announce}; import sys; sys.stdout.flush(); signal.pause()"]
    environment = {**os.environ, "PYTHONPATH": str(Path(successor.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        born = process.stdout.readline().decode().strip()
        try:
            yield process, replace(this_process(POINT, []), pid=process.pid, born=born)
        finally:
            process.kill()


def test_a_daemon_that_hears_ends_by_itself() -> None:
    """It is sent SIGTERM."""
    with daemon("import signal") as (process, who):
        assert end(who)
        assert -signal.SIGTERM == process.wait()


def test_a_stopped_one_is_woken_to_hear() -> None:
    """A process that is stopped handles no SIGTERM before it goes on."""
    with daemon("import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))") as (process, who):
        process.send_signal(signal.SIGSTOP)
        assert end(who)
        assert 5 == process.wait()


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, and that is told."""
    monkeypatch.setattr(successor, "_PATIENCE", 0.1)
    with daemon("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)") as (process, who):
        assert not end(who)
        assert -signal.SIGKILL == process.wait()


def test_another_process_of_that_number_is_left_alone() -> None:
    """The number of a daemon that has ended may be somebody else's by now."""
    with daemon("import signal") as (process, who):
        stranger = replace(who, born="1 another-boot")
        assert end(stranger)
        assert not stranger.alive
        assert (True, None) == (who.alive, process.poll())


def test_who_says_nothing_of_its_birth_is_known_by_its_start() -> None:
    """As older versions have it."""
    with daemon("import signal") as (_, who):
        assert not replace(who, born=None).alive  # that is the start of this process


def test_nobody_is_replaced_who_does_not_serve_that(tmp_path: Path) -> None:
    """Where no daemon serves the state, or one that has ended did, there is no predecessor."""
    path = tmp_path / "state"
    assert predecessor(POINT, path) is None
    state = StateDirectory(path)
    state.announce(replace(this_process(POINT, []), born="1 another-boot"))
    assert serving(path) is not None
    assert predecessor(POINT, path) is None
    state.leave()
