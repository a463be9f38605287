"""Processes that read, poll and watch files of a mount, and jobs that write what a test says.

A process that waits for the daemon in a read is known by where it sleeps, and in which system call (proc(5),
/proc/PID/wchan and /proc/PID/syscall): so the tests need no pause to be sure that it is blocked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mount.caller import WAITS_FOR_ANSWER, sleeps_in
from tests.mounted import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mounted import Mounted

# The number of read(2): of x86-64, and of the machines that came later.
_READ = b"0" if os.uname().machine == "x86_64" else b"63"

# Writes what it is told to, where it is told to, until it is told to end: `out abc`, `err abc`, `exit 3`.
_TALK = """
while read -r where text; do
    case $where in out) echo "$text";; err) echo "$text" >&2;; exit) exit "$text";; esac
done <> "$1"
"""


class Talker:
    """A job that says what a test has it say."""

    def __init__(self, jobs: Mounted, fifo: Path, options: str = "") -> None:
        self._jobs = jobs
        script = fifo.with_suffix(".sh")
        script.write_text(_TALK)
        os.mkfifo(fifo)
        self._fifo = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
        self.id = jobs.spawn(f"{options} exec sh {script} {fifo}")

    def tell(self, line: str) -> None:
        """Has it do what `line` says."""
        os.write(self._fifo, f"{line}\n".encode())

    def say(self, text: str, stream: str = "stdout") -> None:
        """Has it write a line, and waits until that can be read."""
        self.tell(f"{stream.removeprefix('std')} {text}")
        self._jobs.until_output(self.id, f"{text}\n".encode(), stream)

    def exit(self, status: int = 0) -> None:
        """Has it exit, and waits until it has."""
        self.tell(f"exit {status}")
        self._jobs.until_ended(self.id)

    def close(self) -> None:
        """Ends it."""
        with suppress(OSError):  # it has ended, or the mount has
            self._jobs.ctl(f"kill -9 {self.id}")
        os.close(self._fifo)


@contextmanager
def talker(jobs: Mounted, options: str = "") -> Iterator[Talker]:
    """A job that says what a test has it say, until the test ends."""
    with tempfile.TemporaryDirectory(prefix="jobfs-talk-") as place:
        it = Talker(jobs, Path(place) / "fifo", options)
        try:
            yield it
        finally:
            it.close()


class Reader:
    """A process of a test, with all that it started."""

    def __init__(self, *command: str, stdin: int = subprocess.DEVNULL) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="jobfs-reader-"))
        with (self._place / "out").open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C"},
                pass_fds=[] if stdin == subprocess.DEVNULL else [stdin],
            )

    @property
    def said(self) -> str:
        """What it has written, to stdout and stderr."""
        return (self._place / "out").read_text(errors="replace")

    def until_said(self, text: str) -> None:
        """Waits until it has written `text`."""
        until(lambda: self.said, lambda said: text in said)

    def until_blocked(self, count: int = 1) -> list[int]:
        """Waits until so many of its tasks, its children's included, are blocked in a read; gives their numbers."""
        return until(self.blocked, lambda tasks: len(tasks) == count)

    def until_asleep(self, tasks: list[int]) -> int:
        """Waits until another process of it than `tasks` sleeps where no signal reaches it; gives its number."""

        def look() -> list[int]:
            return [it.pid for it in self._family() if it.pid not in tasks and it.status() == psutil.STATUS_DISK_SLEEP]

        return until(look)[0]

    def blocked(self) -> list[int]:
        """The tasks that wait for a daemon in a read now."""
        found = []
        for process in self._family():
            with suppress(OSError):
                tasks = map(int, os.listdir(f"/proc/{process.pid}/task"))
                found += [task for task in tasks if sleeps_in(task) == WAITS_FOR_ANSWER and _reads(task)]
        return found

    def until_ended(self) -> int:
        """Waits until it has ended; gives its status, as `subprocess` does."""
        return self.process.wait(PATIENCE)

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def close(self) -> None:
        """Ends it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in self._family():  # those that a shell with job control has put into groups of their own
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE)
        for file in self._place.iterdir():
            file.unlink()
        self._place.rmdir()

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []


def _reads(task: int) -> bool:
    return Path(f"/proc/{task}/syscall").read_bytes().partition(b" ")[0] == _READ


class Readers:
    """The processes of one test; all of them end with it."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []

    def program(self, *command: str, stdin: int = subprocess.DEVNULL) -> Reader:
        """Starts a program."""
        self._readers.append(Reader(*command, stdin=stdin))
        return self._readers[-1]

    def sh(self, script: str, *arguments: str | Path) -> Reader:
        """Starts a script of bash, in which $1 ... are `arguments`."""
        return self.program("bash", "-c", script, "sh", *map(str, arguments))

    def python(self, script: str, *arguments: str | Path) -> Reader:
        """Starts a script of Python, in which sys.argv[1] ... are `arguments`."""
        return self.program(sys.executable, "-c", script, *map(str, arguments))

    def close(self) -> None:
        """Ends all of them."""
        for reader in self._readers:
            reader.close()
