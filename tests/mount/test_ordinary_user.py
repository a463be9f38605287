"""jobfs for a user who is not root: a mount of their own, which nobody else gets into.

Where root runs the tests, the user is `nobody`, with a home made for the occasion and a copy of jobfs that they can
read: the repository and its Python may lie where only root gets. Else it is the user who runs the tests.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import jobfs
import mount
from jobfs.client import PREFERRED
from jobfs.mountinfo import mounts
from jobfs.state import serving, supervisor_of
from mount.mountpoint import default_mountpoint
from tests.mounted import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount

FUSE_DEVICE = Path("/dev/fuse")
OTHER = 65533  # a user that no test is run by
AS_ROOT = os.geteuid() == 0


class User:
    """A user at their shell, with a home that is empty and a `jobfs` on the PATH."""

    def __init__(self, place: Path, program: Path) -> None:
        """`place` is to be the user's; the directory `program` has `jobfs`."""
        self.name = "nobody" if AS_ROOT else pwd.getpwuid(os.geteuid()).pw_name
        self.id = pwd.getpwnam(self.name).pw_uid
        self.home = place / "home"
        self.mount = self.home / "jobs"
        self.state = self.home / ".local" / "state" / "jobfs"
        self.environment = {
            "HOME": str(self.home),
            "TMPDIR": str(place),
            "LC_ALL": "C",
            "J": str(self.mount),
            "JOBFS_MOUNT": str(self.mount),  # another test may have a mount of the same user
            "PATH": f"{program}:/usr/bin:/bin",
        }
        self.home.mkdir(mode=0o755)
        if AS_ROOT:
            for path in (place, self.home):
                os.chown(path, self.id, self.id)

    def start(self, script: str, *arguments: str, user: int | None = None) -> subprocess.Popen[str]:
        """Starts `script` in a shell as this user, or as another one."""
        user = self.id if user is None else user
        return subprocess.Popen(
            ["bash", "-c", script, "sh", *arguments],
            env=self.environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=user if AS_ROOT else None,
            group=user if AS_ROOT else None,
            extra_groups=[] if AS_ROOT else None,
        )

    def sh(self, script: str, *arguments: str, user: int | None = None) -> tuple[int, str, str]:
        """Runs `script` to its end; gives its exit status and what it wrote."""
        with self.start(script, *arguments, user=user) as shell:
            out, err = shell.communicate(timeout=PATIENCE)
            return shell.returncode, out, err

    def says(self, script: str, *arguments: str) -> str:
        """What a script writes that succeeds and has no complaint."""
        status, out, err = self.sh(script, *arguments)
        assert (0, "") == (status, err), script
        return out

    def mounts(self) -> str:
        """Runs `jobfs mount`, and gives what it says."""
        with fuse_for_all():
            return self.says("jobfs mount")

    @property
    def is_mounted(self) -> bool:
        """Whether something is mounted where this user's jobs are."""
        return any(known.point == self.mount for known in mounts())

    def processes(self) -> list[psutil.Process]:
        """What runs with this user's home."""
        return [
            process
            for process in psutil.process_iter(["environ", "status"])
            if (process.info["environ"] or {}).get("HOME") == str(self.home)
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """A directory with a `jobfs` that everybody can run."""
    directory = Path(tempfile.mkdtemp(prefix="jobfs-program-"))
    try:
        directory.chmod(0o755)
        copy_of_jobfs(directory / "lib")
        python = python_for_all(directory / "lib")
        script = f"import sys\nsys.path.insert(0, '{directory}/lib')\nfrom mount.cli import main\nmain()\n"
        (directory / "jobfs").write_text(f"#!{python}\n{script}")
        (directory / "jobfs").chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def user(program: Path) -> Iterator[User]:
    """A user with nothing mounted yet; all that they have is gone afterwards."""
    if not AS_ROOT and default_mountpoint() == PREFERRED:
        pytest.skip(f"{PREFERRED} is this user's")
    place = Path(tempfile.mkdtemp(prefix="jobfs-user-"))
    place.chmod(0o755)
    known = User(place, program)
    try:
        yield known
        if known.is_mounted:
            known.says("jobfs umount --end-jobs")
        assert not known.is_mounted
        until(known.processes, lambda left: not left)
    finally:
        force_away(known)
        shutil.rmtree(place)


def force_away(user: User) -> None:
    """Leaves nothing behind after a failure either."""
    while user.is_mounted:
        subprocess.run(["fusermount3", "-uz", str(user.mount)], check=True)
    for process in user.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def fuse_for_all() -> Iterator[None]:
    """Lets everybody use FUSE for a while, as they may always on any machine but in some containers."""
    if not AS_ROOT:
        yield
        return
    with FUSE_DEVICE.open("rb") as device:
        fcntl.flock(device, fcntl.LOCK_EX)  # tests that run side by side must not undo each other's change
        before = stat.S_IMODE(FUSE_DEVICE.stat().st_mode)
        FUSE_DEVICE.chmod(0o666)
        try:
            yield
        finally:
            FUSE_DEVICE.chmod(before)


def copy_of_jobfs(lib: Path) -> None:
    """A copy of jobfs and all that it needs, for whoever cannot read where they are installed."""
    for package in (jobfs, mount):
        directory = Path(package.__file__ or "").parent
        shutil.copytree(directory, lib / directory.name)
    for name in needed("jobfs") - {"jobfs"}:
        for file in importlib.metadata.files(name) or []:
            if file.parts[0] != "..":  # scripts
                (lib / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file.locate(), lib / file)  # with its time, by which what was compiled stays valid
    subprocess.run(["chmod", "-R", "a+rX", str(lib)], check=True)


def needed(distribution: str) -> set[str]:
    """A distribution and those that it needs, directly or not."""
    found = {distribution}
    todo = [distribution]
    while todo:
        for requirement in importlib.metadata.requires(todo.pop()) or []:
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            assert match is not None
            if "extra ==" not in requirement and match[0] not in found and is_installed(match[0]):
                found.add(match[0])
                todo.append(match[0])
    return found


def is_installed(distribution: str) -> bool:
    """Whether it is there; one for another system need not be."""
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def python_for_all(lib: Path) -> str:
    """A Python of the running one's version that the user can run; the test is skipped where there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with suppress(OSError):
            tried = subprocess.run(
                [python, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import mount.cli", str(lib)],
                cwd="/",
                capture_output=True,
                check=False,
                user=OTHER if AS_ROOT else None,
                group=OTHER if AS_ROOT else None,
                extra_groups=[] if AS_ROOT else None,
            )
            if tried.returncode == 0:
                return python
    reason = f"there is no {version} that an ordinary user can run"
    if os.environ.get("JOBFS_REQUIRE_MOUNT"):
        pytest.fail(f"{reason}, and JOBFS_REQUIRE_MOUNT asks for one", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def mounted(user: User) -> User:
    """A user who has just typed `jobfs mount`."""
    assert f"jobs are at {user.mount}\n" == user.mounts()
    return user


def test_mount_without_argument_is_at_a_place_of_their_own(mounted: User) -> None:
    """A user who cannot have /v/jobs gets a mount in their home, and is told where; `umount` takes all of it away."""
    assert "ctl\nevents\ntable\ntable.jsonl\n" == mounted.says('ls "$J"')
    assert 0o700 == stat.S_IMODE(mounted.state.stat().st_mode)
    assert f"{mounted.mount} is unmounted; 0 jobs go on\n" == mounted.says("jobfs umount")
    assert not mounted.mount.exists()


def test_a_day_with_jobs(mounted: User) -> None:
    """Spawn, `tail -f`, `kill`, `rm` and `umount` work for an ordinary user as for root."""
    mounted.says("echo 'spawn --name counter seq 3; exec sleep 1000' > $J/ctl")
    with mounted.start('exec tail -n +1 -f "$J/counter/stdout"') as tail:
        assert tail.stdout is not None
        assert ["1\n", "2\n", "3\n"] == [tail.stdout.readline() for _ in range(3)]
        tail.terminate()
    mounted.says('echo "kill counter" > $J/ctl')
    until(lambda: mounted.says('cat "$J/1/status"'), lambda status: status == "killed:15\n")
    assert "" == mounted.says('rmdir "$J/1"')
    assert (1, "") == mounted.sh('test -e "$J/1"')[:2]
    assert "2\n" == mounted.says("jobfs spawn sleep 1000")
    assert f"{mounted.mount} is unmounted; 1 job goes on\n" == mounted.says("jobfs umount")
    mounted.mounts()
    assert "running\n" == mounted.says('cat "$J/2/status"')


def test_a_job_runs_as_its_user(mounted: User) -> None:
    """A job is its user's, in every respect that `id` knows, and so are the files that it makes."""
    job = mounted.says('jobfs spawn "id; touch ~/made"').strip()
    until(lambda: mounted.says('cat "$J/$1/status"', job), lambda status: status == "done:0\n")
    assert mounted.says("id") == mounted.says('cat "$J/$1/stdout"', job)
    assert mounted.id == (mounted.home / "made").stat().st_uid
    assert f"{mounted.id}\n" == mounted.says('stat -c %u "$J/$1/stdout"', job)


@pytest.mark.skipif(not AS_ROOT, reason="to become another user takes root")
def test_nobody_else_gets_in(mounted: User) -> None:
    """Another user cannot look into the mount, nor read or write a file of it; and root cannot either."""
    mounted.says("jobfs spawn echo secret")
    for script in ('ls "$J"', 'cat "$J/1/stdout"', 'cat "$J/1/env"', 'echo "spawn id" > "$J/ctl"', 'stat "$J/ctl"'):
        for other in (OTHER, 0):
            status, out, err = mounted.sh(script, user=other)
            assert (True, "", True) == (status != 0, out, "Permission denied" in err), script
    assert "2\n" == mounted.says("jobfs spawn true")


@pytest.mark.skipif(not AS_ROOT, reason="to become another user takes root")
def test_nobody_else_gets_at_the_state(mounted: User) -> None:
    """Output and environments are not readable in the state either, and the supervisor's socket cannot be reached."""
    mounted.says("jobfs spawn echo secret")
    status, out, _ = mounted.sh("find ~/.local/state/jobfs -mindepth 1", user=OTHER)
    assert (1, "") == (status, out)
    sockets = [line for line in mounted.says('find "$TMPDIR" -type s').splitlines() if line]
    assert 1 == len(sockets)
    assert (1, "") == mounted.sh('find "$TMPDIR" -type s 2> /dev/null', user=OTHER)[:2]


def test_read_only_files_are_refused(mounted: User) -> None:
    """Opening a file without write permission for writing is EACCES."""
    mounted.says("jobfs spawn true")
    complaint = os.strerror(errno.EACCES)
    for name in ("table", "events", "1/stdout", "1/status", "1/cmd", "1/info"):
        status, _, err = mounted.sh('echo x > "$J/$1"', name)
        assert (1, True) == (status, complaint in err), name
    assert complaint in mounted.sh('touch "$J/new"')[2]


def test_state_that_is_made_read_only_makes_jobs_wait(mounted: User) -> None:
    """While no file can be made there a job's output waits, as `info` says, and no mount is made; then all is well."""
    directory = mounted.state / "jobs"
    mounted.says("chmod 500 ~/.local/state/jobfs/jobs")
    job = mounted.says("jobfs spawn 'echo hello; exit 3'").strip()
    problem = 'jq -r .stdout.problem "$J/$1/info"'
    sentence = "its process has ended, and how is told when the last of its output is kept"
    until(
        lambda: mounted.says(problem, job), lambda said: said == f"cannot be written: Permission denied: {sentence}\n"
    )
    assert "running\n" == mounted.says('cat "$J/$1/status"', job)
    mounted.says("jobfs umount")
    with fuse_for_all():
        status, _, err = mounted.sh("jobfs mount")
    why = f"the state directory {directory} lacks permissions of your own (mode 0500): chmod 700 it"
    assert (1, f"jobfs: {why}\n") == (status, err)
    mounted.says("chmod 700 ~/.local/state/jobfs/jobs")
    mounted.mounts()
    until(lambda: mounted.says('cat "$J/$1/status"', job), lambda status: status == "failed:3\n")
    assert ("hello\n", "null\n") == (mounted.says('cat "$J/$1/stdout"', job), mounted.says(problem, job))


def test_killed_daemon_is_cleaned_up(mounted: User) -> None:
    """What a killed daemon left, an ordinary user's next `jobfs mount` cleans up; the jobs went on."""
    mounted.says("jobfs spawn sleep 1000")
    known = serving(mounted.state)
    assert known is not None
    daemon = psutil.Process(known.pid)
    mounted.says("kill -9 $1", str(daemon.pid))
    until(lambda: daemon in mounted.processes(), lambda alive: not alive)
    mounted.mounts()
    assert "running\n" == mounted.says('cat "$J/1/status"')


def test_out_of_processes_a_spawn_is_refused_and_later_works(mounted: User) -> None:
    """With RLIMIT_NPROC reached a spawn is EAGAIN and leaves nothing; all else goes on, and spawns do later."""
    mounted.says("jobfs spawn sleep 1000")
    served, supervisor = serving(mounted.state), supervisor_of(mounted.state)
    assert served is not None
    assert supervisor is not None
    # By the user: one with another number may not, root or not.
    limit = mounted.says("ulimit -S -u").strip()
    mounted.says("for pid; do prlimit --pid $pid --nproc=0:; done", str(served.pid), str(supervisor))
    for options in ("", "--cwd / "):
        status, _, err = mounted.sh('echo "spawn $1true" > "$J/ctl"', options)
        assert (1, True) == (status, os.strerror(errno.EAGAIN) in err), err
    assert "running\n" == mounted.says('cat "$J/1/status"')
    assert "1\n" == mounted.says('ls "$J" | grep "^[0-9]"')
    mounted.says(f"for pid; do prlimit --pid $pid --nproc={limit}:; done", str(served.pid), str(supervisor))
    job = mounted.says("jobfs spawn true").strip()
    until(lambda: mounted.says('cat "$J/$1/status"', job), lambda status: status == "done:0\n")
    mounted.says('echo "kill 1" > "$J/ctl"')
    until(lambda: mounted.says('cat "$J/1/status"'), lambda status: status == "killed:15\n")


def test_upgrade_is_for_ordinary_users_too(mounted: User) -> None:
    """An ordinary user's daemon is replaced, and a lease that a process of theirs has is kept."""
    script = 'exec 3<> "$J/ctl"; echo "spawn --lease exec sleep 1000" >&3; read job <&3; echo $job; exec sleep 1000'
    with mounted.start(script) as holder:
        assert holder.stdout is not None
        assert "1\n" == holder.stdout.readline()
        old = serving(mounted.state)
        assert old is not None
        with fuse_for_all():
            said = mounted.says("jobfs upgrade")
        assert f"jobs are at {mounted.mount}; process {old.pid} of jobfs" in said
        assert "running\n" == mounted.says('cat "$J/1/status"')
        psutil.Process(holder.pid).kill()
    until(lambda: mounted.says('cat "$J/1/status"'), lambda status: status == "killed:15\n")
