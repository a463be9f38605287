"""Who is calling, as far as /proc tells."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobfs import proc
from jobfs.model import Writer
from mount.caller import WAITS_FOR_ANSWER, Caller, File, find_writer, has_open, holder_of, identify, session_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

SCRIPT = "import os, sys; os.umask(0o26); print(flush=True); sys.stdin.read()"
NOBODY = 1 << 22  # the largest number that a process may have, plus one (proc(5), pid_max)


@contextmanager
def process(directory: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """A process that is in `directory` and has that environment."""
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid


def test_a_process_is_known_by_its_number() -> None:
    """Its user, session and command."""
    caller = identify(os.getpid())
    command = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert Writer(os.getpid(), os.geteuid(), os.getsid(0), command) == caller.writer


async def test_nobody_is_a_caller_of_whom_nothing_is_known() -> None:
    """A number that nobody has gives no error, and no surroundings."""
    for caller in (identify(NOBODY), await find_writer(0, File(2, -1, "0:0"))):
        around = caller.surroundings
        assert Writer() == caller.writer
        assert (None, None, None, False) == (
            around.directory,
            around.directory_fd,
            around.environment,
            around.directory_removed,
        )
        caller.close()
    assert (None, None) == (session_of(0), session_of(NOBODY))


def test_what_a_job_inherits_is_read_from_the_writer(tmp_path: Path) -> None:
    """Its working directory, with a descriptor of it, its environment and its umask, in whatever bytes."""
    directory = tmp_path / "odd \udcff"
    directory.mkdir()
    with process(directory, {"ODD": "\udcfe\n", "EMPTY": ""}) as pid:
        caller = identify(pid)
        around = caller.surroundings
        assert (str(directory), 0o26) == (around.directory, around.umask)
        assert around.environment is not None
        assert {"ODD=\udcfe\n", "EMPTY="} <= {*around.environment.split("\0")}
        assert around.directory_fd is not None
        assert os.path.samestat(os.stat(around.directory_fd), directory.stat())
        assert around is caller.surroundings
        caller.close()
        caller.close()


def test_a_working_directory_that_was_removed_is_told(tmp_path: Path) -> None:
    """It is not taken for one of another name."""
    directory = tmp_path / "gone"
    directory.mkdir()
    with process(directory, {}) as pid:
        directory.rmdir()
        around = identify(pid).surroundings
        assert (None, None, True) == (around.directory, around.directory_fd, around.directory_removed)


def test_surroundings_are_read_once_and_given_back() -> None:
    """Closing a caller that was never looked at is nothing."""
    Caller(Writer(), os.getpid()).close()


def test_whether_a_process_has_a_file_open_is_told_by_its_numbers(tmp_path: Path) -> None:
    """The inode and the mount, or the device: another file system's file of the same number is another file."""
    path = tmp_path / "file"
    path.touch()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        mount = mount_of(file.fileno())
        device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
        assert has_open(os.getpid(), File(status.st_ino, mount, "0:0"))
        assert has_open(os.getpid(), File(status.st_ino, -1, device))
        assert not has_open(os.getpid(), File(status.st_ino, -1, "0:0"))
        assert not has_open(NOBODY, File(status.st_ino, mount, device))
    assert not has_open(os.getpid(), File(status.st_ino, mount, device))


async def test_an_opener_that_runs_again_is_not_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was asleep, and runs when it is asked in which call, was in another one: the writer sleeps until its answer.

    What cannot be read, as under Yama, tells nothing.
    """
    path = tmp_path / "file"
    path.touch()
    own, read = os.getpid(), proc.read
    with path.open("rb") as file, process(tmp_path, {}) as opener, process(tmp_path, {}) as bystander:
        said = {
            (opener, "wchan"): WAITS_FOR_ANSWER,
            (opener, "syscall"): b"running\n",
            (bystander, "wchan"): WAITS_FOR_ANSWER,
            (bystander, "syscall"): b"running\n",
            (own, "wchan"): WAITS_FOR_ANSWER,
            (own, "syscall"): b"1 0x%x 0x7ffc 0x10 0x0 0x0 0x0 0x7ffc 0x7f00\n" % file.fileno(),
        }
        monkeypatch.setattr(proc, "read", lambda task, name: said.get((task, name)) or read(task, name))
        node = File(os.fstat(file.fileno()).st_ino, mount_of(file.fileno()), "0:0")
        assert own == (await find_writer(opener, node)).writer.pid


def mount_of(fd: int) -> int:
    """The number of the mount that an open file is on."""
    told = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in told if line.startswith("mnt_id:"))


def process_of(pidfd: int | None) -> int | None:
    """The process that a pidfd is of; it is closed."""
    if pidfd is None:
        return None
    told = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii")
    os.close(pidfd)
    return next(int(line.split()[1]) for line in told.splitlines() if line.startswith("Pid:"))


def test_who_holds_a_file_is_the_opener_as_long_as_it_has_it(tmp_path: Path) -> None:
    """Its process, whichever of its threads opened the file; else the writer; else nobody is known."""
    path = tmp_path / "file"
    path.touch()
    own = os.getpid()
    with process(tmp_path, {}) as writer:
        before = len(os.listdir("/proc/self/fd"))
        with path.open("rb") as file:
            node = File(os.fstat(file.fileno()).st_ino, mount_of(file.fileno()), "0:0")
            with ThreadPoolExecutor(1) as threads:
                thread = threads.submit(threading.get_native_id).result()
                assert [own, own] == [process_of(holder_of(task, node, writer)) for task in (own, thread)]
        assert [writer] * 3 == [process_of(holder_of(task, node, writer)) for task in (own, 0, NOBODY)]
        assert [None, None] == [holder_of(own, node, gone) for gone in (NOBODY, None)]
        assert before == len(os.listdir("/proc/self/fd"))
