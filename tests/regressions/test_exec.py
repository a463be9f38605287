"""A process amid its exec, which waits for a file system that does not answer, holds up nobody who looks at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.mounted import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mounted import Mounted

pytestmark = pytest.mark.mount

# Freezes a daemon, and execs with a file of its mount open that the exec closes: it waits for the answer to that.
EXECS = """
import os, signal, sys
os.open(sys.argv[1], os.O_RDONLY | os.O_CLOEXEC)
os.kill(int(sys.argv[2]), signal.SIGSTOP)
print("frozen", flush=True)
os.execv("/bin/true", ["true"])
"""


@contextmanager
def amid_exec(hanging: Mounted) -> Iterator[None]:
    """A process whose exec is not over before the block is."""
    assert hanging.daemon is not None
    command = [sys.executable, "-S", "-c", EXECS, str(hanging.file("table")), str(hanging.daemon)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        thaw = threading.Timer(PATIENCE, os.kill, (hanging.daemon, signal.SIGCONT))  # whatever hangs, not for ever
        thaw.start()
        try:
            assert process.stdout is not None
            assert b"frozen\n" == process.stdout.readline()
            until(lambda: _state(process.pid) in "SD")
            yield
        finally:
            thaw.cancel()
            os.kill(hanging.daemon, signal.SIGCONT)
    assert 0 == process.returncode


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(line.split()[1] for line in status if line.startswith("State:"))


def test_a_process_amid_its_exec_holds_up_no_reader_and_no_command(jobs: Mounted, hanging: Mounted) -> None:
    """Tables are read, commands of inherited files are run, and blocked readers are ended."""
    with amid_exec(hanging):
        job = jobs.spawn("sleep infinity")
        assert jobs.file("table.jsonl").read_text()
        assert "running" == jobs.info(job)["status"]
        # Whose write it is has to be looked for among all processes: the opener is not the writer.
        assert b"2\n" == jobs.sh('exec 3<>"$J"/ctl; (sh -c "echo spawn true" >&3); head -n 1 <&3').stdout
        with subprocess.Popen(["cat", jobs.file("wait", job)]) as reader:
            until(lambda: _state(reader.pid) in "SD")
            reader.terminate()
            assert -signal.SIGTERM == reader.wait()


def test_a_shell_may_exec_with_a_line_begun(jobs: Mounted) -> None:
    """The exec closes the file, which runs the line; who opened it is looked at amid that."""
    script = """
import os, sys
ctl = os.open(sys.argv[1], os.O_WRONLY | os.O_CLOEXEC)
os.write(ctl, b"spawn true")
os.execv("/bin/true", ["true"])
"""
    done = subprocess.run([sys.executable, "-S", "-c", script, jobs.file("ctl")], check=False)
    assert 0 == done.returncode
    assert "done:0" == jobs.until_ended(1)
