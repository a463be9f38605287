"""Processes that are nobody's job, and that nobody may signal; some have the number that a job's process had before.

    python tests/faults/sentinels.py

starts one for each line on its standard input, under the number that stands there where it can be had, and prints the
number; all end with it. A program of its own, because only a process of one thread can be cloned by a plain system
call: clone3(2) with `set_tid` gives a process a number of our choice. It takes CAP_CHECKPOINT_RESTORE.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

_CLONE3 = 435  # on every architecture (clone(2))
_PR_SET_PDEATHSIG = 1


class _CloneArgs(ctypes.Structure):
    """`struct clone_args` of clone(2), as far as `set_tid_size`."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal")),
        *((name, ctypes.c_uint64) for name in ("stack", "stack_size", "tls", "set_tid", "set_tid_size")),
    )


class Sentinels:
    """They block every signal that can be blocked, so that one which was sent to them stays pending."""

    def __init__(self) -> None:
        """Starts the program that starts them."""
        self._program = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._asking = threading.Lock()
        self.pids: list[int] = []
        self.taken = 0  # how many have the number that was asked for

    def __enter__(self) -> Self:
        """Starts one that has any number."""
        self.post(0)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends them all."""
        with self._program as program:
            program.kill()

    def post(self, number: int) -> bool:
        """Starts one, of that number where it is free and we may; whether it has it."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        with self._asking:  # of two that read at once one would wait for ever for what the other one has
            print(number, file=self._program.stdin, flush=True)
            pid = int(self._program.stdout.readline())
            self.pids.append(pid)
            self.taken += pid == number
        return pid == number

    def touched(self) -> list[str]:
        """Those that were sent a signal, a sentence for each."""
        return [f"sentinel {pid}, no job of ours: {why}" for pid in self.pids if (why := _touched(pid))]


def _touched(pid: int) -> str:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return "it is not there any more"
    fields = dict(line.split(":\t", 1) for line in lines)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    if pending:
        return f"it was sent the signals {pending:#x}"
    return "" if fields["State"][0] in "SRD" else f"it is {fields['State']}"


def _clone(number: int) -> int:
    """As fork(2), with that number; where that cannot be, with any."""
    wanted = ctypes.c_int(number)
    arguments = _CloneArgs(exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(wanted), set_tid_size=1)
    # PyDLL keeps the interpreter's lock: the child goes on with it.
    syscall = ctypes.PyDLL(None, use_errno=True).syscall
    pid = syscall(_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)) if number else -1
    return pid if pid >= 0 else os.fork()


def main() -> None:
    """Starts one for each line."""
    prctl = ctypes.CDLL(None).prctl
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGCHLD})
    for line in sys.stdin:
        ready, told = os.pipe()
        pid = _clone(int(line))
        if pid == 0:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.close(0)
            os.set_inheritable(told, False)  # noqa: FBT003 - it is closed by the exec, which tells that it was
            os.execvp("sleep", ["sleep", "infinity"])
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        print(pid, flush=True)  # noqa: T201 - it is who asked that reads it


if __name__ == "__main__":
    main()
