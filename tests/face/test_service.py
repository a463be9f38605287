"""What systemd is told, and the unit that is written for it, with a systemctl of the tests' own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mount import service
from mount.service import UNIT, Notifier, ServiceUnusable, install, remove, unit_path, unit_text

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = ["/usr/bin/jobfs", "mount", "--foreground", "--", "/v/jobs"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a systemctl that writes down what it was asked in `asked`, and fails for words in `fails`."""
    (tmp_path / "fails").touch()
    (tmp_path / "asked").touch()
    script = f'echo "$@" >> {tmp_path}/asked; for word; do grep -qx -e "$word" {tmp_path}/fails && exit 1; done; exit 0'
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def asked(machine: Path) -> list[str]:
    """What systemctl was asked for."""
    return (machine / "asked").read_text().splitlines()


# What the manager is told


@pytest.mark.parametrize("abstract", [True, False])
def test_the_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool) -> None:
    """A datagram to the socket that NOTIFY_SOCKET names, a file's or an abstract one."""
    name = f"jobfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else str(tmp_path / "socket"))
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else str(tmp_path / "socket"))
        notifier = Notifier()
        notifier.tell("READY=1")
        assert b"READY=1" == manager.recv(100)


def test_what_the_manager_said_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the daemon starts do not speak to its manager."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    notifier = Notifier()
    assert set() == {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(os.environ)
    notifier.tell("READY=1")  # nobody listens, and nothing fails


def test_without_a_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none has started it, it is no unit."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.tell("READY=1")
    assert notifier.unit is None


@pytest.mark.parametrize(
    ("cgroup", "own", "unit"),
    [
        ("0::/user.slice/user@1000.service/app.slice/jobfs.service\n", True, "--user jobfs.service"),
        ("1:name=systemd:/system.slice/mine.service\n0::/\n", False, "mine.service"),
        ("0::/user.slice/session-1.scope\n", True, None),
    ],
)
def test_the_unit_is_told_by_the_control_group(tmp_path: Path, cgroup: str, unit: str | None, *, own: bool) -> None:
    """With the words that systemctl wants for it."""
    (tmp_path / "cgroup").write_text(cgroup)
    assert unit == service._unit_of(tmp_path / "cgroup", own=own)  # noqa: SLF001 - the other way in is the kernel's


# The unit


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about it, whatever stands in the words."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / UNIT
    path.write_text(unit_text(["/bin/echo", "mount", "--state", '/a %h "$b" \\ é', "--", "/v/jobs"]))
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/v/jobs", "/v/jobs"),
        ("a b", '"a b"'),
        ("%h", '"%%h"'),
        ("$HOME", '"$$HOME"'),
        ('say "x\\"', '"say \\"x\\\\\\""'),
        ("", '""'),
    ],
)
def test_words_mean_themselves_in_the_unit(word: str, written: str) -> None:
    """No word of a path is a specifier, a variable, or two words."""
    assert f"ExecStart=/bin/jobfs {written}\n" in unit_text(["/bin/jobfs", word])


def test_what_cannot_be_written_is_refused() -> None:
    """A line break in a path would begin another line of the unit."""
    with pytest.raises(ServiceUnusable, match="cannot stand in a unit file"):
        unit_text(["/bin/jobfs", "a\nExecStop=b"])


def test_the_service_is_installed_and_enabled(machine: Path) -> None:
    """The unit is written where the user's units are, the manager reads it, and enables it."""
    said = install(WORDS)
    assert machine / "config" / "systemd" / "user" / UNIT == unit_path()
    assert unit_text(WORDS) == unit_path().read_text()
    assert ["--user daemon-reload", f"--user enable {UNIT}"] == asked(machine)[1:3]
    assert f"{unit_path()} is written" == said[0]


def test_installing_twice_changes_nothing(machine: Path) -> None:
    """Once more it is as it was; with other words it is replaced, and that is said."""
    install(WORDS)
    before = unit_path().stat().st_ino
    assert install(WORDS)[0].endswith("is as it was")
    assert before == unit_path().stat().st_ino
    assert install([*WORDS, "more"])[0].endswith("is replaced")
    assert [UNIT] == os.listdir(unit_path().parent)
    assert asked(machine)


@pytest.mark.parametrize("change", [lambda _: "[Service]\nExecStart=/bin/true\n", lambda text: f"{text}\n# mine\n"])
def test_what_the_user_wrote_is_left_alone(machine: Path, change: Callable[[str], str]) -> None:
    """A unit of the user's own, and one that was changed since, is neither overwritten nor removed."""
    path = unit_path()
    path.parent.mkdir(parents=True)
    path.write_text(change(unit_text(WORDS)))
    before = path.read_text()
    for attempt in (partial(install, WORDS), remove):
        with pytest.raises(ServiceUnusable, match="somebody else than jobfs: move it away first"):
            attempt()
    assert before == path.read_text()
    assert "--user" not in (machine / "asked").read_text()


def test_where_no_manager_answers_the_unit_is_written_and_it_is_said(machine: Path) -> None:
    """As root in `su`, or in a container: what is left to do stands in the sentence."""
    (machine / "fails").write_text("daemon-reload\n")
    said = install(WORDS)
    assert unit_path().exists()
    assert "no manager of this user answers" in said[-1]
    assert "systemctl --user enable --now jobfs.service" in said[-1]


def test_where_there_is_no_systemd_nothing_is_written(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what is to be run instead."""
    monkeypatch.setenv("PATH", str(machine / "nothing"))
    with pytest.raises(ServiceUnusable, match="`/usr/bin/jobfs mount --foreground -- /v/jobs`"):
        install(WORDS)
    assert not unit_path().exists()


def test_the_service_is_removed(machine: Path) -> None:
    """It is stopped and disabled, its unit goes; where there is none, that is said."""
    install(WORDS)
    assert ["its jobs go on"] == [sentence.partition("; ")[2] for sentence in remove()]
    assert f"--user disable --now {UNIT}" in asked(machine)
    assert not unit_path().exists()
    with pytest.raises(ServiceUnusable, match="there is no"):
        remove()
