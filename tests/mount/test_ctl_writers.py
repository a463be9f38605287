"""How lines are written, split and answered, and what a job inherits; tests/programs has every kind of writer."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mount


def test_python_spawns(shared: Mounted) -> None:
    """Python's own files write whole commands, and an error is raised by the write or the close."""
    with shared.file("ctl").open("w") as file:
        print("spawn --name python-text true", file=file)
    with shared.file("ctl").open("wb", buffering=0) as raw:
        assert 20 == raw.write(b"spawn --name py2 true"[:20])
        assert 2 == raw.write(b"e\n")
    assert (True, True) == tuple(os.path.lexists(shared.path / name) for name in ("python-text", "py2"))
    with pytest.raises(ProcessLookupError):
        shared.file("ctl").write_text(f"kill {shared.run('true')}\n")


def test_several_lines_run_in_order(shared: Mounted) -> None:
    """Several lines in one write are run in order, and each has its reply."""
    fd = os.open(shared.file("ctl"), os.O_RDWR)
    try:
        os.write(fd, b"spawn --name lines sleep 1000\n# why\n\n  \t\nstop lines\r\ncont lines\nkill -9 lines\n")
        replies = os.read(fd, 1000).decode().splitlines()
    finally:
        os.close(fd)
    assert ["ok"] * 3 == replies[1:]
    assert "killed:9" == shared.until_ended(int(replies[0]))


def test_line_of_a_mebibyte(shared: Mounted) -> None:
    """A line of 1 MiB is taken, a longer one is E2BIG and runs nothing."""
    longest = b"spawn true #" + b"x" * ((1 << 20) - 12)
    fd = os.open(shared.file("ctl"), os.O_RDWR)
    try:
        written = os.write(fd, longest)  # FUSE splits it: more than a mebibyte never comes at once
        with pytest.raises(OSError, match="too long") as caught:
            os.write(fd, (longest + b"x\n")[written:])
        assert errno.E2BIG == caught.value.errno
        assert os.read(fd, 1000).startswith(b"error: a line is longer than 1048576 bytes")
    finally:
        os.close(fd)


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_line_split_over_writes_is_one_command(shared: Mounted, pieces: int) -> None:
    """A command may be split over any number of writes, and is run by the one that brings its newline."""
    line = f"spawn --name split-{pieces} echo hello\n".encode()
    with shared.file("ctl").open("wb", buffering=0) as file:
        for start in range(0, len(line) - 1, pieces):
            assert not os.path.lexists(shared.path / f"split-{pieces}")
            file.write(line[start : min(start + pieces, len(line) - 1)])
        file.write(b"\n")
        assert os.path.lexists(shared.path / f"split-{pieces}")


def test_unterminated_line_is_run_by_a_read(shared: Mounted) -> None:
    """An unterminated last line is run when a reply is read."""
    with shared.file("ctl").open("r+b", buffering=0) as file:
        file.write(b"spawn --name read-runs true")
        assert not os.path.lexists(shared.path / "read-runs")
        assert file.read(100).strip().isdigit()
        assert os.path.lexists(shared.path / "read-runs")


def test_unterminated_line_is_run_by_the_close(shared: Mounted) -> None:
    """An unterminated last line is run when the one who opened the file closes it, whose error it then is."""
    done = shared.sh("printf 'spawn --name close-runs true' > $J/ctl")
    assert 0 == done.returncode
    until(lambda: os.path.lexists(shared.path / "close-runs"))
    fd = os.open(shared.file("ctl"), os.O_WRONLY)
    os.write(fd, b"kill 999999")
    with pytest.raises(FileNotFoundError):
        os.close(fd)


def test_unterminated_line_waits_for_its_opener(shared: Mounted) -> None:
    """A child that inherited the file and exits does not run the opener's unterminated line."""
    script = """exec 3> $J/ctl; printf 'spawn --name patient ' >&3; (exit 0); /bin/true
        readlink $J/patient; echo 'true' >&3; readlink $J/patient"""
    done = shared.sh(script)
    assert (b"", True) == (done.stderr, done.stdout.strip().isdigit())


def test_line_that_looks_cut_short_is_dropped(jobs: Mounted) -> None:
    """An unterminated last line whose last write filled whole blocks is dropped: close is EINVAL, `events` says so."""
    fd = os.open(jobs.file("ctl"), os.O_WRONLY)
    os.write(fd, b"spawn echo ".ljust(4096, b"x"))
    with pytest.raises(OSError, match="Invalid") as caught:
        os.close(fd)
    assert errno.EINVAL == caught.value.errno
    assert not jobs.file("1").exists()
    assert "looks cut short" in json.loads(jobs.file("events").read_text().splitlines()[-1])["error"]


# Replies


def test_usage_of_an_unwritten_ctl(shared: Mounted) -> None:
    """Reading a `ctl` that was not written gives a usage text of comment lines, which do nothing when written back."""
    usage = shared.file("ctl").read_bytes()
    assert [] == [line for line in usage.splitlines() if not line.startswith(b"#")]
    before = os.listdir(shared.path)
    assert len(usage) == shared.ctl(usage)
    assert before == os.listdir(shared.path)


def test_ctl_is_seekable(shared: Mounted) -> None:
    """What a reader took too much of and seeks back over is there again."""
    fd = os.open(shared.file("ctl"), os.O_RDWR)
    try:
        os.write(fd, b"spawn true\nkill 999998\n"[:11])
        os.write(fd, f"spawn true\nrm {shared.run('true')}\n".encode())
        taken = os.read(fd, 1000)
        first = taken.index(b"\n") + 1
        os.lseek(fd, first - len(taken), os.SEEK_CUR)
        assert taken[first:] == os.read(fd, 1000)
        assert b"" == os.read(fd, 1000)
    finally:
        os.close(fd)


def test_each_open_file_has_its_own_replies(shared: Mounted) -> None:
    """A reply goes to the open file on which its command was written, and to no other."""
    one, two = (os.open(shared.file("ctl"), os.O_RDWR) for _ in range(2))
    try:
        os.write(one, b"spawn --name reply-one true\n")
        os.write(two, b"spawn --name reply-two true\n")
        replies = [os.read(fd, 100).decode().strip() for fd in (one, two)]
        assert [os.readlink(shared.path / name) for name in ("reply-one", "reply-two")] == replies
    finally:
        os.close(one)
        os.close(two)


# What a job inherits


def test_job_inherits_from_its_writer(shared: Mounted, tmp_path: Path) -> None:
    """A job starts in its writer's working directory, with the writer's environment and umask."""
    script = """export GREETING=hello; umask 027; cd "$1"
        /bin/echo 'spawn --name heir pwd; umask; echo $GREETING' > $J/ctl; readlink $J/heir"""
    job = int(shared.sh(script, str(tmp_path)).stdout)
    shared.until_closed(job)
    assert f"{tmp_path}\n0027\nhello\n" == shared.read(job).decode()


def test_writer_counts_and_not_the_opener(shared: Mounted, tmp_path: Path) -> None:
    """What a job inherits is the writer's, whoever opened the file."""
    script = """export WHO=opener; exec 3> $J/ctl
        (cd "$1"; umask 077; WHO=writer /bin/echo 'spawn --name second pwd; umask; echo $WHO' >&3)
        readlink $J/second"""
    job = int(shared.sh(script, str(tmp_path), cwd=tmp_path.parent).stdout)
    shared.until_closed(job)
    assert f"{tmp_path}\n0077\nwriter\n" == shared.read(job).decode()


def test_writer_counts_though_the_opener_is_busy(shared: Mounted, tmp_path: Path) -> None:
    """What a job inherits is the writer's, also while the opener computes and asks the mount for other things."""
    script = """exec 3> $J/ctl
        (cd "$1"; for n in 1 2 3 4 5; do /bin/echo 'spawn pwd' >&3; done; > done) &
        while [ ! -e "$1/done" ]; do [ -e $J/table ]; [ -e $J/last ]; done"""
    last = shared.spawn("true")
    assert b"" == shared.sh(script, str(tmp_path), cwd=tmp_path.parent).stderr
    for job in range(last + 1, last + 6):
        shared.until_closed(job)
        assert f"{tmp_path}\n" == shared.read(job).decode()


def test_writer_counts_though_the_opener_has_gone(shared: Mounted, tmp_path: Path) -> None:
    """What a job inherits is the writer's, also when the opener has ended."""
    script = """mkfifo "$1/gate"
        (exec 3> $J/ctl; (read go < "$1/gate"; cd "$1"; /bin/echo 'spawn --name orphaned pwd' >&3; echo > "$1/gate") &)
        echo go > "$1/gate"; read ready < "$1/gate"; readlink $J/orphaned"""
    done = shared.sh(script, str(tmp_path))
    job = int(done.stdout)
    shared.until_closed(job)
    assert f"{tmp_path}\n" == shared.read(job).decode()


def test_umask_makes_files(shared: Mounted, tmp_path: Path) -> None:
    """The umask of a job's writer is that of the files it makes."""
    shared.sh("umask 077; cd \"$1\"; echo 'spawn > made' > $J/ctl", str(tmp_path))
    until((tmp_path / "made").exists)
    assert 0o600 == (tmp_path / "made").stat().st_mode & 0o777


def test_removed_working_directory(shared: Mounted, tmp_path: Path) -> None:
    """A writer whose working directory was removed gets ENOENT, and can spawn with `--cwd`."""
    script = """mkdir "$1/gone"; cd "$1/gone"; rmdir "$1/gone"
        echo 'spawn true' > $J/ctl; echo 'spawn --cwd / --name somewhere pwd' > $J/ctl; readlink $J/somewhere"""
    done = shared.sh(script, str(tmp_path))
    assert b"No such file or directory" in done.stderr
    job = int(done.stdout)
    shared.until_closed(job)
    assert b"/\n" == shared.read(job)


def test_bytes_that_are_no_text_survive(shared: Mounted, tmp_path: Path) -> None:
    """Command line, environment and working directory may be any bytes but NUL, and reach the job unchanged."""
    directory = os.fsencode(tmp_path) + b"/caf\xe9 \xff"
    os.mkdir(directory)
    fd = os.open(shared.file("ctl"), os.O_WRONLY)
    try:
        line = b"spawn printf '%s|' '\xfe\x01' \"$ODD\"; pwd\n"
        # A child, because it is the environment a process began with that the kernel shows.
        subprocess.run(["/bin/echo", "-n", line], stdout=fd, env={b"ODD": b"\xff=\xe9"}, cwd=directory, check=True)
    finally:
        os.close(fd)
    job = max(int(name) for name in os.listdir(shared.path) if name.isdigit())
    shared.until_closed(job)
    assert b"\xfe\x01|\xff=\xe9|" + directory + b"\n" == shared.read(job)
    assert directory == os.readlink(os.fsencode(shared.file("cwd", job)))


@pytest.mark.parametrize("shell", [True, False])
def test_nothing_else_is_inherited(shared: Mounted, *, shell: bool) -> None:
    """A job has its three standard streams, nothing blocked, nothing ignored, and a session of its own."""
    script = """import os, signal
print([fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}")])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
print([s for s in set(signal.Signals) - {signal.SIGPIPE, signal.SIGXFSZ} if signal.getsignal(s) is signal.SIG_IGN])
print(os.getpid() == os.getsid(0) == os.getpgid(0))"""
    words = [sys.executable, "-c", script]
    what = {"cmd": f"exec {shlex.join(words)}"} if shell else {"argv": words}
    job = int(shared.ask(json.dumps({"op": "spawn", **what})))
    shared.until_closed(job)
    assert "[0, 1, 2]\nset()\n[]\nTrue\n" == shared.read(job).decode()


def test_stdin_of_a_job_is_empty(shared: Mounted) -> None:
    """A job that was given no stdin reads end of file at once."""
    job = shared.run("cat; echo $?")
    assert b"0\n" == shared.read(job)
