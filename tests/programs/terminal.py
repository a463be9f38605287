"""Full-screen programs in a terminal: tmux holds it, types the keys, and tells what is on the screen.

Each terminal has a tmux server of its own, in a directory of its own, which ends with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.mounted import is_running, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROWS, COLUMNS = 24, 100


class Terminal:
    """A program in a terminal of 24 rows and 100 columns. `pid` is the program's."""

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        # Short, as a socket's path has to be; and a home, so that the user's own settings change nothing.
        self._place = Path(tempfile.mkdtemp(prefix="jobfs-tty-"))
        inherited = {name: value for name, value in os.environ.items() if name not in ("TMUX", "LESS", "LESSOPEN")}
        self._environment = {**inherited, "HOME": str(self._place), "LC_ALL": "C.UTF-8", **(environment or {})}
        self._cwd = cwd or self._place
        # A program that has ended stays on the screen, with its exit status.
        settings = ("start-server", ";", "set-option", "-g", "remain-on-exit", "on", ";")
        session = ("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), "--", *command)
        self._tmux("-f", os.devnull, *settings, *session)
        self._server, self.pid = map(int, self._ask("#{pid} #{pane_pid}").split())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def press(self, *keys: str) -> None:
        """Presses keys, by tmux's names for them: `G`, `C-c`, `Enter`."""
        self._tmux("send-keys", "--", *keys)

    def type(self, text: str) -> None:
        """Types text as it stands."""
        self._tmux("send-keys", "-l", "--", text)

    @property
    def lines(self) -> list[str]:
        """The lines that are on the screen, from top to bottom; empty ones too."""
        return self._tmux("capture-pane", "-p").split("\n")[:ROWS]

    def until(self, holds: Callable[[list[str]], object]) -> list[str]:
        """Waits until the screen's lines hold, and gives them."""
        return until(lambda: self.lines, holds)

    def until_shown(self, text: str) -> list[str]:
        """Waits until `text` is on the screen, and gives the screen's lines."""
        return self.until(lambda lines: any(text in line for line in lines))

    def wait(self) -> int:
        """Waits until the program has ended by itself, and gives its exit status, or -N where signal N ended it."""
        return int(until(self._exit_status))

    def close(self) -> None:
        """Ends the program, where it has not ended, and its terminal."""
        self._tmux("kill-server")
        until(lambda: not is_running(self._server) and not is_running(self.pid))
        shutil.rmtree(self._place)

    def _exit_status(self) -> str:
        dead, status, signal_ = self._ask("#{pane_dead},#{pane_dead_status},#{pane_dead_signal}").split(",")
        if dead == "1" and not status and not signal_:
            os.kill(self._server, signal.SIGCHLD)  # tmux 3.3 misses one now and then, and keeps a zombie
        return f"-{signal_}" if signal_ else status

    def _ask(self, format_: str) -> str:
        return self._tmux("display-message", "-p", format_).removesuffix("\n")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._place / "tmux"), *words]
        done = subprocess.run(
            command,
            env=self._environment,
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command} failed: {done.stderr}"
        return done.stdout
