"""Starting a process from a program that has threads and a loop of its own.

Not by a fork that goes on in Python, as the supervisor does it: another thread may hold any lock at that moment. The
standard library's `subprocess` does all between fork and exec in C. What it does not know, a terminal and a niceness,
`entry` does, a small program that execs the job's own, and so it is where this program ignores signals or has them
blocked, which its jobs are not to inherit. All of it may hang, in an exec or on a file system, so call it in a thread.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from jobfs.engines.failures import failure
from jobfs.errors import BadCommand
from jobfs.supervisor.launch import environment_mapping
from jobfs.text import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobfs.model import JobSpec

# Signals that Python ignores, and that `subprocess` sets right by itself.
_RESTORED = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
# Real-time signals that the C library keeps for itself, and lets nobody set right (signal(7)).
_KEPT = 1 << 32 - 1 | 1 << 33 - 1
_SIGNALS = re.compile(rb"^Sig(?:Blk|Ign):\t([0-9a-f]+)$", re.MULTILINE)  # /proc/PID/status (proc(5))

STARTERS = trio.CapacityLimiter(40)
"""The threads that start processes, of their own: one may hang, on a file system that does."""

_ENTRY = Path(__file__).with_name("entry.py")
_REPORT = 4096  # bytes, more than a report has


@dataclass(frozen=True, slots=True)
class Streams:
    """What the process gets as its standard streams; `stdin` None: what the specification says, a file or nothing."""

    stdin: int | None
    stdout: int
    stderr: int


class GivenUp(Exception):  # noqa: N818 - a fact, and nobody's mistake
    """Nobody wants the process any more, and it was not started."""


def launch(
    spec: JobSpec, environment: str, directory: int | None, streams: Streams, is_wanted: Callable[[], bool]
) -> int:
    """Starts the process of `spec`, in a session of its own; gives its number, for the caller to reap.

    Returns when its exec has happened. Raises one of the `jobfs.errors` family, and then nothing was started; GivenUp
    where it is not wanted any more once its stdin is open.
    """
    base = encode(spec.directory) if directory is None else b"/proc/self/fd/%d" % directory
    cwd = base if spec.cwd is None else os.path.join(base, encode(spec.cwd))
    stdin = _open_stdin(spec, base) if streams.stdin is None else streams.stdin
    try:
        if not is_wanted():
            raise GivenUp
        words = [encode(word) for word in spec.words]
        start = _start_by_entry if spec.pty or spec.nice is not None or _minds_signals() else _start
        return start(spec, words, environment, cwd, Streams(stdin, streams.stdout, streams.stderr))
    except ValueError as error:  # a NUL
        raise BadCommand(f"cannot run {spec.words[0]!r}: {error}") from error
    finally:
        if streams.stdin is None:
            os.close(stdin)


def _open_stdin(spec: JobSpec, base: bytes) -> int:
    path = os.devnull.encode() if spec.stdin in ("none", "pipe") else os.path.join(base, encode(spec.stdin))
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise failure(error.errno or errno.EIO, f"open {spec.stdin}") from error
    except ValueError as error:  # a NUL
        raise BadCommand(f"cannot open {spec.stdin!r}: {error}") from error


def _minds_signals() -> bool:
    """Whether this thread has signals blocked, or this program ignores some."""
    with open("/proc/thread-self/status", "rb") as status:
        return any(int(mask, 16) & ~(_RESTORED | _KEPT) for mask in _SIGNALS.findall(status.read()))


def _start(spec: JobSpec, words: Sequence[bytes], environment: str, cwd: bytes, streams: Streams) -> int:
    if not words[0]:
        raise failure(errno.ENOENT, "run ''")
    try:
        return _popen(words, environment_mapping(environment), cwd, spec.umask, streams)
    except OSError as error:
        if error.filename == cwd:
            raise failure(error.errno or errno.EIO, f"enter {spec.working_directory}") from error
        raise failure(error.errno or errno.EIO, f"run {spec.words[0]}") from error


def _start_by_entry(spec: JobSpec, words: Sequence[bytes], environment: str, cwd: bytes, streams: Streams) -> int:
    report, their_report = os.pipe2(os.O_CLOEXEC)
    surroundings = os.memfd_create("environment", os.MFD_CLOEXEC)
    try:
        with open(surroundings, "wb", closefd=False) as file:
            file.write(encode(environment))
        options = [
            str(their_report),
            str(surroundings),
            "tty" if spec.pty else "",
            "" if spec.nice is None else spec.nice,
        ]
        # -I -S: neither the user's site nor the environment has a say; what it is given the job gets.
        command = [sys.executable, "-I", "-S", str(_ENTRY), *map(str, options)]
        through = (their_report, surroundings)
        try:
            pid = _popen([*map(os.fsencode, command), *words], {}, cwd, spec.umask, streams, through)
        except OSError as error:
            what = f"enter {spec.working_directory}" if error.filename == cwd else f"run {sys.executable}"
            raise failure(error.errno or errno.EIO, what) from error
    except BaseException:
        os.close(report)
        raise
    finally:
        os.close(their_report)
        os.close(surroundings)
    with open(report, "rb") as said:
        number, _, doing = said.read(_REPORT).partition(b" ")
    if number:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise failure(int(number), doing.decode("utf-8", "surrogateescape"))
    return pid


def _popen(  # noqa: PLR0913, PLR0917 - what a process is started with
    words: Sequence[bytes],
    environment: dict[bytes, bytes],
    cwd: bytes,
    umask: int,
    streams: Streams,
    through: Sequence[int] = (),
) -> int:
    process = subprocess.Popen(
        words,
        env=environment,
        cwd=cwd,
        umask=umask,
        stdin=streams.stdin,
        stdout=streams.stdout,
        stderr=streams.stderr,
        pass_fds=through,
        start_new_session=True,
    )
    process.returncode = 0  # it is not for Popen to reap: that takes ECHILD for an exit with 0
    return process.pid
