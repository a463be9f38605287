"""`jobfs mount --foreground` under a manager, and as the first process of a container."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.mounted import JOBFS, PATIENCE, Mounted, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount


@pytest.fixture
def absent() -> Iterator[Mounted]:
    """A place for a mount, where nothing is mounted yet."""
    mounted = Mounted()
    try:
        yield mounted
    finally:
        mounted.finish()


def test_the_manager_hears_of_start_and_end(absent: Mounted) -> None:
    """READY=1 comes when the mount answers, STOPPING=1 before the end; neither supervisor nor jobs get the socket."""
    command = [JOBFS, "mount", "--foreground", "--state", str(absent.state), str(absent.path)]
    address = str(absent.place / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(PATIENCE)
        with subprocess.Popen(command, env={**absent.environment, "NOTIFY_SOCKET": address}) as daemon:
            assert b"READY=1" == manager.recv(100)
            absent.note_processes()
            job = absent.spawn("env")
            absent.until_closed(job)
            assert b"NOTIFY_SOCKET" not in absent.read(job)
            assert absent.supervisor is not None
            assert "NOTIFY_SOCKET" not in psutil.Process(absent.supervisor).environ()
            daemon.send_signal(signal.SIGTERM)
            assert b"STOPPING=1" == manager.recv(100)
            assert 0 == daemon.wait()


def test_the_manager_does_not_hear_of_a_start_that_failed(absent: Mounted) -> None:
    """One that cannot mount says why and fails, and was never ready."""
    absent.path.write_text("a file")
    address = str(absent.place / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(address)
        absent.environment["NOTIFY_SOCKET"] = address
        done = absent.jobfs("mount", "--foreground", "--state", str(absent.state), str(absent.path), check=False)
        assert (1, f"jobfs: {absent.path} cannot be used: Not a directory\n") == (done.returncode, done.stderr)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


class Container:
    """Processes of their own, with mounts of their own; the first one is `jobfs mount --foreground`."""

    def __init__(self, jobs: Mounted) -> None:
        self._jobs = jobs
        words = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        mount = [JOBFS, "mount", "--foreground", "--state", str(jobs.state), str(jobs.path)]
        if subprocess.run([*words, "true"], check=False, capture_output=True).returncode != 0:
            pytest.skip("namespaces of one's own are not permitted here")
        self.outside = subprocess.Popen([*words, *mount], env=jobs.environment, stdout=subprocess.PIPE)
        assert self.outside.stdout is not None
        assert f"jobs are at {jobs.path}\n" == self.outside.stdout.readline().decode()
        (self.first,) = psutil.Process(self.outside.pid).children()

    def sh(self, script: str) -> str:
        """What a script says that is run in it."""
        command = ["nsenter", "--target", str(self.first.pid), "--mount", "--pid", "sh", "-c", script]
        environment = {**self._jobs.environment, "J": str(self._jobs.path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def close(self) -> None:
        """Ends it."""
        if self.outside.poll() is None:
            self.first.kill()
        self.outside.communicate()


def is_zombie(process: psutil.Process) -> bool:
    """Whether it waits to be reaped; it may be at that very moment."""
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return False


@contextmanager
def container(jobs: Mounted) -> Iterator[Container]:
    """A container that runs nothing but jobfs."""
    if os.geteuid() != 0:
        pytest.skip("namespaces of one's own take root")
    it = Container(jobs)
    try:
        yield it
    finally:
        it.close()


def test_as_the_first_process_it_reaps_and_passes_signals_on(absent: Mounted) -> None:
    """What loses its parent in a container is reaped; SIGTERM unmounts, and ends with status 0."""
    with container(absent) as inside:
        inside.sh("echo 'spawn echo hello' > $J/ctl")
        until(lambda: inside.sh("cat $J/1/status"), lambda status: status == "done:0\n")
        inside.sh("(sh -c 'exit 3' &) ; exit 0")
        until(lambda: [child for child in inside.first.children() if is_zombie(child)], lambda left: not left)
        assert "1" == inside.sh("ps -o pid= -C jobfs | head -n 1").strip()
        inside.first.send_signal(signal.SIGTERM)
        assert 0 == inside.outside.wait()


def test_as_the_first_process_it_survives_a_crash_of_the_daemon(absent: Mounted) -> None:
    """In a container a daemon that was killed is started again, and the jobs go on."""
    with container(absent) as inside:
        inside.sh("echo 'spawn exec sleep 1000' > $J/ctl")
        before = inside.sh("jq .pid $J/1/info")
        inside.sh(f"kill -9 $(jq .pid {absent.state}/daemon.json)")
        assert inside.outside.stdout is not None
        assert f"jobs are at {absent.path}\n" == inside.outside.stdout.readline().decode()
        assert ("running\n", before) == (inside.sh("cat $J/1/status"), inside.sh("jq .pid $J/1/info"))


def test_install_service_says_what_it_does(absent: Mounted, tmp_path: Path) -> None:
    """`install-service` writes the unit with the options that it was given, and `--remove` removes it."""
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "systemctl").chmod(0o755)
    absent.environment |= {"XDG_CONFIG_HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    options = ["--state", str(absent.state), "--keep", "7", "--keep-bytes", "3M", str(absent.path)]
    said = absent.jobfs("install-service", *options).stdout
    unit = tmp_path / "systemd" / "user" / "jobfs.service"
    assert f"{unit} is written" == said.splitlines()[0]
    words = (
        f"{JOBFS} mount --foreground --replace --state {absent.state} --keep 7 --keep-bytes {3 << 20} -- {absent.path}"
    )
    assert f"ExecStart={words}\n" in unit.read_text()
    assert f"{unit} is removed" in absent.jobfs("install-service", "--remove").stdout
    assert not unit.exists()
