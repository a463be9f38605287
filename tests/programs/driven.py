"""A job that writes what a test tells it to, when it tells it to: `cat` of a FIFO, whose other end the test holds."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Self

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from pathlib import Path


class DrivenJob:
    """A job that a test drives. `id`: the job's; `stdout`: its path in the mount; `written`: bytes until now."""

    def __init__(self, mounted: Mounted, options: str = "", *, stream: str = "stdout") -> None:
        """Spawns the job; `options` are spawn's; it writes to `stream`."""
        self._mounted = mounted
        with tempfile.TemporaryDirectory(prefix="jobfs-job-") as directory:
            fifo = os.path.join(directory, "fifo")
            os.mkfifo(fifo)
            redirection = ">&2" if stream == "stderr" else ""
            self.id = mounted.spawn(f"{options} exec cat {fifo} {redirection}")
            self._fd = os.open(fifo, os.O_WRONLY | os.O_CLOEXEC)  # returns when the job has opened it
        self.stdout = self.file(stream)
        self.written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def file(self, name: str) -> Path:
        """The path of one of the job's files."""
        return self._mounted.file(name, self.id)

    def write(self, text: str) -> None:
        """Has the job write `text`; returns when it has."""
        self.written += len(text.encode())
        with open(self._fd, "w", encoding="utf-8", closefd=False) as fifo:
            fifo.write(text)
        until(lambda: self.stdout.stat().st_size, lambda size: size == self.written)

    def evict(self) -> None:
        """Has a job with `--limit 64K` write three times as much: the numbers below 5000, in lines of 40 bytes."""
        self.write("".join(f"{number:039}\n" for number in range(5000)))

    def end(self) -> None:
        """Has the job end, with 0; returns when its status says so and its streams are closed."""
        self._close()
        self._mounted.until_closed(self.id)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
