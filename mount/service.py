"""jobfs as a service of systemd: the unit file, and what the manager is told (sd_notify(3), systemd.service(5)).

The unit is the user's own, as the jobs are. What it starts is `jobfs mount --foreground`, as it can be run anywhere.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

UNIT = "jobfs.service"
# What a manager gives to the process that it starts, and to none that this starts in turn.
_MANAGERS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_MARK = re.compile(r"# Written by `jobfs install-service` \(([0-9a-f]+)\): .*\n")
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+")
_BUS_PATIENCE = 30.0  # seconds that a manager may take


class ServiceUnusable(Exception):  # noqa: N818 - the message is the sentence that a person reads
    """The service cannot be installed, or not be removed, and why."""


class Notifier:
    """Tells the manager that has started this process how it gets on; nobody, where none has.

    `unit`: the words by which systemctl knows this process, None where systemd does not run it.
    """

    def __init__(self) -> None:
        """Takes what the manager said out of the environment: it is not for the processes that this one starts."""
        said = {name: os.environ.pop(name, None) for name in _MANAGERS}
        address = said["NOTIFY_SOCKET"]
        # MANAGERPID is said by a user's manager, not by the system's (systemd.exec(5)).
        self.unit = None if address is None else _unit_of(Path("/proc/self/cgroup"), own="MANAGERPID" in os.environ)
        # An abstract name (unix(7)) begins with a zero byte, for which an @ stands.
        self._address = None if address is None else re.sub("^@", "\0", address)

    def tell(self, state: str) -> None:
        """Says `READY=1`, `STOPPING=1` and so on."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.connect(self._address)
                manager.send(state.encode())
        except OSError as error:
            log.warning("the manager cannot be told %s: %s", state, error)


def _unit_of(cgroup: Path, *, own: bool) -> str | None:
    """The unit in whose control group a process is: of the user's `own` manager, or of the system's."""
    found = re.search(r"/([^/\n]+\.service)$", cgroup.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        return None
    return f"--user {found[1]}" if own else found[1]


def program() -> list[str]:
    """The words that start this `jobfs`, wherever they are run."""
    script = Path(sys.argv[0]).absolute()
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "mount.cli"]


def unit_text(words: Sequence[str]) -> str:
    """The unit file that runs `words`.

    KillMode: what is stopped is the daemon, and not the supervisor and the jobs in the same control group. OOMPolicy: a
    job that the kernel ends for want of memory is no reason to stop them all. RestartSec: a daemon that cannot start
    is given up after a few attempts.
    """
    text = f"""[Unit]
Description=Background jobs as files (jobfs)

[Service]
Type=notify
ExecStart={" ".join(map(_quoted, words))}
Restart=on-failure
RestartSec=1
KillMode=process
OOMPolicy=continue

[Install]
WantedBy=default.target
"""
    return f"# Written by `jobfs install-service` ({_sum(text)}): to change it, `systemctl --user edit {UNIT}`.\n{text}"


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _quoted(word: str) -> str:
    """`word` as systemd reads one: no specifier, no variable, one word whatever is in it (systemd.syntax(7))."""
    if _PLAIN.fullmatch(word):
        return word
    if not word.isprintable():
        msg = f"{word!r} cannot stand in a unit file"
        raise ServiceUnusable(msg)
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(character, escaped)
    return f'"{word}"'


def unit_path() -> Path:
    """Where the user's units are (systemd.unit(5))."""
    configuration = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configuration) if configuration else Path.home() / ".config") / "systemd" / "user" / UNIT


def install(words: Sequence[str]) -> list[str]:
    """Writes the unit that runs `words`, and enables it where a manager answers; gives what was done, in sentences.

    ServiceUnusable where another one stands there that is not of our making, or systemd is not there.
    """
    if systemctl("--version") is None:
        msg = f"systemd is not on this machine: have what starts services here run `{shlex.join(words)}`"
        raise ServiceUnusable(msg)
    path, text = unit_path(), unit_text(words)
    before = _own(path)
    if before != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    said = [f"{path} is {'as it was' if before == text else 'written' if before is None else 'replaced'}"]
    if systemctl("--user", "daemon-reload") is None or systemctl("--user", "enable", UNIT) is None:
        by_hand = f"`systemctl --user daemon-reload && systemctl --user enable --now {UNIT}`"
        return [*said, f"no manager of this user answers here; when one does: {by_hand}"]
    running = systemctl("--user", "is-active", UNIT) is not None
    return [
        *said,
        "it is enabled, and starts when you log in",
        f"`systemctl --user restart {UNIT}` makes it run what is written there now"
        if running
        else f"`systemctl --user start {UNIT}` starts it now",
        "`loginctl enable-linger` has it start with the machine, and go on, with its jobs, when you log out",
    ]


def remove() -> list[str]:
    """Stops and removes the service, whose jobs go on; gives what was done, in sentences."""
    path = unit_path()
    if _own(path) is None:
        msg = f"there is no {path}"
        raise ServiceUnusable(msg)
    answered = systemctl("--user", "disable", "--now", UNIT) is not None
    path.unlink()
    systemctl("--user", "daemon-reload")
    if answered:
        return [f"{path} is removed, and the service stopped; its jobs go on"]
    # What `systemctl --user enable` made, where no manager is there to take it back.
    link = path.parent / "default.target.wants" / UNIT
    link.unlink(missing_ok=True)
    return [f"{path} is removed; no manager of this user answers here that could have stopped the service"]


def systemctl(*words: str) -> str | None:
    """What systemctl says; None where it is not there, fails, or does not answer."""
    try:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False, timeout=_BUS_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _own(path: Path) -> str | None:
    """The unit that we have written; None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    mark = _MARK.match(text)
    if mark is None or mark[1] != _sum(text[mark.end() :]):
        msg = f"{path} was written or changed by somebody else than jobfs: move it away first"
        raise ServiceUnusable(msg)
    return text
