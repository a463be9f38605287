"""Reads of `wait` and `follow`: what they give, and that whoever is blocked in one gets out like out of any call."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.mounted import Mounted, is_running, until
from tests.readers import Readers, talker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.mount

CROWD = 300  # readers that are blocked at once


@pytest.fixture
def readers() -> Iterator[Readers]:
    """The processes that read."""
    them = Readers()
    yield them
    them.close()


@pytest.fixture
def sleeper(shared: Mounted) -> Iterator[int]:
    """A job that lives until the test ends it, and writes nothing."""
    job = shared.spawn("exec sleep 1000")
    yield job
    with suppress(OSError):  # the test has ended it
        shared.ctl(f"kill -9 {job}")


def end(jobs: Mounted, job: int) -> None:
    """Ends a job."""
    jobs.ctl(f"kill -9 {job}")
    jobs.until(job, "killed:9")


# What `wait` gives


@pytest.mark.parametrize(
    "program",
    [
        'cat "$1"',
        'cat < "$1"',
        'head -n 1 "$1"',
        'tail -n 1 "$1"',
        'dd if="$1" status=none',
        'dd if="$1" status=none bs=1',
        'echo "$(< "$1")"',
        'read -r word < "$1"; echo "$word"',
        'grep . "$1"',
        'sed "" "$1"',
    ],
)
def test_wait_blocks_until_the_job_has_ended_and_gives_its_status(
    shared: Mounted, readers: Readers, program: str
) -> None:
    """Whatever reads it: nothing while the job lives, then what `status` says."""
    with talker(shared) as job:
        reader = readers.sh(program, shared.file("wait", job.id))
        reader.until_blocked()
        assert "" == reader.said
        job.exit(3)
        assert (0, "failed:3\n") == (reader.until_ended(), reader.said)


def test_wait_of_a_job_that_has_ended_is_its_status_at_once(shared: Mounted) -> None:
    """As often as it is read."""
    job = shared.run("exit 3")
    for _ in range(2):
        assert b"failed:3\n" == shared.read(job, "wait")


def test_a_stop_and_a_continue_of_the_job_are_no_end(shared: Mounted, readers: Readers, sleeper: int) -> None:
    """`wait` waits for the end."""
    reader = readers.program("cat", str(shared.file("wait", sleeper)))
    reader.until_blocked()
    shared.ctl(f"stop {sleeper}")
    shared.until(sleeper, "stopped")
    shared.ctl(f"cont {sleeper}")
    shared.until(sleeper, "running")
    reader.until_blocked()
    assert "" == reader.said
    end(shared, sleeper)
    assert (0, "killed:9\n") == (reader.until_ended(), reader.said)


def test_one_wait_reads_several_jobs_in_turn(shared: Mounted, readers: Readers) -> None:
    """`cat 1/wait 2/wait` waits for both, in whichever order they end."""
    with talker(shared) as first, talker(shared) as second:
        reader = readers.program("cat", *(str(shared.file("wait", job.id)) for job in (first, second)))
        reader.until_blocked()
        second.exit(2)
        reader.until_blocked()
        first.exit(1)
        assert (0, "failed:1\nfailed:2\n") == (reader.until_ended(), reader.said)


# What `follow` gives


def test_follow_gives_all_from_the_oldest_byte_on_and_ends_with_the_job(shared: Mounted, readers: Readers) -> None:
    """Each line as it comes; end of file when the job has ended."""
    with talker(shared) as job:
        job.say("before")
        reader = readers.program("cat", str(shared.file("follow", job.id)))
        reader.until_said("before\n")
        reader.until_blocked()
        for line in ("one", "two"):
            job.say(line)
            reader.until_said(f"{line}\n")
        job.exit()
        assert (0, "before\none\ntwo\n") == (reader.until_ended(), reader.said)


def test_follow_is_stdout_alone(shared: Mounted, readers: Readers) -> None:
    """What the job writes to its stderr is not in it, and wakes nobody for good."""
    with talker(shared) as job:
        reader = readers.program("cat", str(shared.file("follow", job.id)))
        reader.until_blocked()
        job.say("oops", "stderr")
        job.say("fine")
        reader.until_said("fine\n")
        job.exit()
        assert (0, "fine\n") == (reader.until_ended(), reader.said)


def test_follow_of_a_job_that_has_ended_is_its_stdout(shared: Mounted) -> None:
    """From the first byte to the last, without waiting; also where it wrote none."""
    assert b"1\n2\n3\n" == shared.read(shared.run("seq 3"), "follow")
    assert b"" == shared.read(shared.run("true"), "follow")


def test_follow_ends_with_the_job_though_something_it_left_behind_holds_the_pipe(
    shared: Mounted, readers: Readers
) -> None:
    """A job has ended when its process has."""
    with talker(shared) as gate:
        job = shared.spawn(f"(exec sleep 1000) & echo left; cat {shared.file('wait', gate.id)}")
        reader = readers.program("cat", str(shared.file("follow", job)))
        reader.until_said("left\n")
        reader.until_blocked()
        gate.exit()
        assert (0, "left\ndone:0\n") == (reader.until_ended(), reader.said)
    closed = shared.info(job)["stdout"]
    assert isinstance(closed, dict)
    assert not closed["closed"]
    shared.ctl(f"kill {job}")
    shared.until_closed(job)


def test_a_pipeline_ends_when_it_has_what_it_wants_of_follow(shared: Mounted, readers: Readers) -> None:
    """A program that looks for a line waits for that line, in a job that goes on."""
    programs = ['grep -m 1 ready "$1"', 'sed -n "/ready/{p;q}" "$1"', 'sed -un "/ready/{p;q}" < "$1"']
    for program in programs:
        with talker(shared) as job:
            reader = readers.sh(program, shared.file("follow", job.id))
            reader.until_blocked()
            job.say("starting")
            job.say("ready now")
            assert (0, "ready now\n") == (reader.until_ended(), reader.said)
            assert "running" == shared.status(job.id)


def test_a_reader_that_took_too_much_of_follow_can_seek_back(shared: Mounted) -> None:
    """As in a file on a disk: `head` leaves the rest to who reads on, and every byte can be read again."""
    job = shared.run("seq 5")
    script = 'exec < "$1"; head -n 2; echo then; cat'
    done = shared.sh(script, str(shared.file("follow", job)))
    assert (b"1\n2\nthen\n3\n4\n5\n", b"") == (done.stdout, done.stderr)
    with shared.file("follow", job).open("rb", buffering=0) as follow:
        assert [b"1\n2\n", b"3\n4\n"] == [follow.read(4), follow.read(4)]
        follow.seek(2)
        assert b"2\n3\n4\n5\n" == follow.read()


STEPS = """
import os, sys
with open(sys.argv[1], "rb", buffering=0) as follow:
    data = follow.read(100)
    print("began", flush=True)
    sys.stdin.read()
    while piece := follow.read(5000):
        data += piece
sys.stdout.buffer.write(data)
"""


def test_follow_goes_on_through_an_eviction(shared: Mounted, readers: Readers) -> None:
    """A reader that was outrun goes on at the oldest retained line: no half lines, none twice, and the last one."""
    with talker(shared) as gate:
        script = f"--limit 64K seq 20; cat {shared.file('wait', gate.id)} > /dev/null; seq 21 400000; seq 5 >&2; cat"
        job = shared.spawn(f"{script} {shared.file('wait', gate.id)} > /dev/null")
        go_on, held = os.pipe()
        with open(go_on, "rb", buffering=0), open(held, "wb", buffering=0) as hold:
            reader = readers.program(sys.executable, "-c", STEPS, str(shared.file("follow", job)), stdin=go_on)
            reader.until_said("began\n")
            gate.exit()
            shared.until_closed(job)
            hold.close()
            assert 0 == reader.until_ended()
    lines = [int(line) for line in reader.said.splitlines()[1:] if line]
    assert list(range(1, 21)) == lines[:20]
    assert lines[20] > 21
    assert list(range(lines[20], 400_001)) == lines[20:]


# Who is blocked can be interrupted

# Ways of a shell to have its child read a file; each says how that one ended.
SHELLS = {
    "it opened the file": 'cat "$1"; echo "status $?"',
    "its shell opened the file for it": 'cat < "$1"; echo "status $?"',
    "it inherited the file": 'exec 5< "$1"; cat <&5; echo "status $?"',
    "it is the first of a pipeline": 'cat "$1" | cat; echo "status ${PIPESTATUS[0]}"',
    "it is the first of a pipeline and inherited the file": 'exec 5< "$1"; cat <&5 | cat; echo "status $PIPESTATUS"',
    "it is the last of a pipeline": 'true | cat - "$1"; echo "status ${PIPESTATUS[1]}"',
    "it is in a group": '{ cat; } < "$1"; echo "status $?"',
    "it is in a subshell": '(cat; exit $?) < "$1"; echo "status $?"',
    "its shell has the file open once more": 'exec 5< "$1" 6< "$1"; cat <&6; echo "status $?"',
}
FATAL = [signal.SIGTERM, signal.SIGKILL, signal.SIGINT]


@pytest.mark.parametrize("name", ["wait", "follow"])
@pytest.mark.parametrize("number", FATAL, ids=lambda number: number.name)
@pytest.mark.parametrize("how", SHELLS)
def test_a_blocked_reader_is_ended_by_a_signal(  # noqa: PLR0913, PLR0917 - the parts of a table
    shared: Mounted, readers: Readers, sleeper: int, how: str, number: signal.Signals, name: str
) -> None:
    """However it came by its file; its shell goes on, and so does the job."""
    reader = readers.sh(SHELLS[how], shared.file(name, sleeper))
    (blocked,) = reader.until_blocked()
    os.kill(blocked, number)
    assert 0 == reader.until_ended()
    assert reader.said.endswith(f"status {128 + number}\n")
    assert "running" == shared.status(sleeper)


@pytest.mark.parametrize("name", ["wait", "follow"])
@pytest.mark.parametrize("script", ['cat "$1" | cat', 'cat < "$1"', 'exec 5< "$1"; cat <&5; true'])
def test_ctrl_c_ends_all_who_wait_at_a_terminal(
    shared: Mounted, readers: Readers, sleeper: int, script: str, name: str
) -> None:
    """SIGINT to the whole group, as a terminal sends it."""
    reader = readers.sh(script, shared.file(name, sleeper))
    reader.until_blocked()
    os.killpg(reader.process.pid, signal.SIGINT)
    assert -signal.SIGINT == reader.until_ended()


SHELL_READS = """
trap 'echo handled' USR1
read -r word < "$1"
echo "got $word"
"""


def test_a_shell_that_reads_itself_handles_its_signals(shared: Mounted, readers: Readers, sleeper: int) -> None:
    """Bash's `read` runs the trap, and reads on."""
    reader = readers.sh(SHELL_READS, shared.file("wait", sleeper))
    reader.until_blocked()
    reader.signal(signal.SIGUSR1)
    until(lambda: not has_pending_signals(reader.process.pid))
    reader.until_blocked()
    end(shared, sleeper)
    assert 0 == reader.until_ended()
    assert {"handled", "got killed:9"} == set(reader.said.splitlines())


def has_pending_signals(pid: int) -> bool:
    """Whether a signal waits to be taken (proc(5), /proc/PID/status)."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
        told = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
    return bool(int(told["SigPnd"], 16) | int(told["ShdPnd"], 16))


HANDLER = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
fd = os.open(sys.argv[1], os.O_RDONLY)
print(os.read(fd, 100).decode(), end="", flush=True)
"""


@pytest.mark.parametrize("name", ["wait", "follow"])
def test_a_reader_with_a_handler_goes_on(shared: Mounted, readers: Readers, name: str) -> None:
    """A signal that is handled interrupts the read; Python asks again, as often as it is needed."""
    with talker(shared) as job:
        reader = readers.python(HANDLER, shared.file(name, job.id))
        for count in range(1, 4):
            reader.until_blocked()
            reader.signal(signal.SIGUSR1)
            until(lambda: reader.said, lambda said, count=count: said.count("handled\n") == count)  # type: ignore[misc]
        reader.until_blocked()
        job.say("hello")
        job.exit()
        assert 0 == reader.until_ended()
        assert "handled\n" * 3 + ("done:0\n" if name == "wait" else "hello\n") == reader.said


RAW_EINTR = """
import ctypes, errno, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGUSR1, lambda *_: None)
fd = os.open(sys.argv[1], os.O_RDONLY)
count = libc.read(fd, ctypes.create_string_buffer(100), 100)
print(count, errno.errorcode[ctypes.get_errno()], flush=True)
"""


@pytest.mark.parametrize("name", ["wait", "follow"])
def test_an_interrupted_read_is_eintr(shared: Mounted, readers: Readers, sleeper: int, name: str) -> None:
    """It is what read(2) itself gives to a program that handles the signal."""
    reader = readers.python(RAW_EINTR, shared.file(name, sleeper))
    reader.until_blocked()
    reader.signal(signal.SIGUSR1)
    assert (0, "-1 EINTR\n") == (reader.until_ended(), reader.said)


def test_a_signal_that_is_blocked_or_ignored_interrupts_nobody(shared: Mounted, readers: Readers, sleeper: int) -> None:
    """The reader waits on, and gets the end."""
    script = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\n"
    script += "signal.signal(signal.SIGTERM, signal.SIG_IGN)" + RAW_EINTR.replace("errno.errorcode", "os.strerror")
    script = script.replace("os.strerror[ctypes.get_errno()]", "os.strerror(ctypes.get_errno())")
    reader = readers.python(script, shared.file("wait", sleeper))
    reader.until_blocked()
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT, signal.SIGCHLD):
        reader.signal(number)
    end(shared, sleeper)
    assert (0, "9 Success\n") == (reader.until_ended(), reader.said)


THREAD = """
import os, sys, threading
def read():
    fd = os.open(sys.argv[1], os.O_RDONLY)
    print(os.read(fd, 100).decode(), end="", flush=True)
threads = [threading.Thread(target=read) for _ in range(int(sys.argv[2]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
SHARED_BY_THREADS = """
import os, sys, threading
fd = os.open(sys.argv[1], os.O_RDONLY)
def read():
    while data := os.read(fd, 100):
        print(data.decode(), end="", flush=True)
for _ in range(int(sys.argv[2])):
    threading.Thread(target=read).start()
"""


@pytest.mark.parametrize("script", [THREAD, SHARED_BY_THREADS], ids=["own files", "one file"])
@pytest.mark.parametrize("name", ["wait", "follow"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_reader_with_several_threads_is_ended(  # noqa: PLR0913, PLR0917 - the parts of a table
    shared: Mounted, readers: Readers, sleeper: int, script: str, name: str, number: signal.Signals
) -> None:
    """Whichever of its threads are blocked, each in a file of its own or all in one behind each other."""
    reader = readers.python(script, shared.file(name, sleeper), "3")
    reader.until_blocked(3 if script == THREAD else 1)
    until(lambda: psutil.Process(reader.process.pid).num_threads() == 4)
    reader.signal(number)
    assert -number == reader.until_ended()


TWO = 'exec 5< "$1"; cat <&5 & cat <&5 & wait -n; echo "status $?"; wait -n; echo "status $?"'


@pytest.mark.parametrize("name", ["wait", "follow"])
@pytest.mark.parametrize("which", ["the first", "the second"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_one_of_two_readers_of_the_same_open_file_is_ended(
    shared: Mounted, readers: Readers, name: str, which: str, number: signal.Signals
) -> None:
    """Also the second one, which sleeps in the kernel's lock behind the first; the other one reads on."""
    with talker(shared) as job:
        reader = readers.sh(TWO, shared.file(name, job.id))
        (first,) = reader.until_blocked()
        second = reader.until_asleep([first, reader.process.pid])
        os.kill({"the first": first, "the second": second}[which], number)
        reader.until_said(f"status {128 + number}\n")
        reader.until_blocked()
        job.say("hello")
        job.exit()
        assert 0 == reader.until_ended()
        said = [line for line in reader.said.splitlines() if "Killed" not in line and "Terminated" not in line]
        assert [f"status {128 + number}", "done:0" if name == "wait" else "hello", "status 0"] == said


# Who is blocked can be stopped


@pytest.mark.parametrize("name", ["wait", "follow"])
@pytest.mark.parametrize(
    ("command", "blocked"),
    [
        (["cat"], 1),
        ([sys.executable, "-c", HANDLER], 1),
        ([sys.executable, "-c", THREAD.replace("int(sys.argv[2])", "3")], 3),
        ([sys.executable, "-c", SHARED_BY_THREADS.replace("int(sys.argv[2])", "3")], 1),
    ],
    ids=["cat", "python", "threads with own files", "threads with one file"],
)
def test_a_reader_that_is_stopped_and_continued_gets_the_end(
    shared: Mounted, readers: Readers, name: str, command: list[str], blocked: int
) -> None:
    """All of its threads stop, its parent sees that, and afterwards it waits on."""
    with talker(shared) as job:
        reader = readers.program(*command, str(shared.file(name, job.id)))
        reader.until_blocked(blocked)
        for _ in range(2):
            reader.signal(signal.SIGSTOP)
            until_stopped(reader.process.pid)
            reader.signal(signal.SIGCONT)
            reader.until_blocked(blocked)
        job.say("hello")
        job.exit()
        assert 0 == reader.until_ended()
        assert ["done:0" if name == "wait" else "hello"] * blocked == reader.said.splitlines()


def until_stopped(pid: int) -> None:
    """Waits until the child `pid` is reported to be stopped, which it is when all of its threads are."""
    assert until(lambda: os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG))


CONTROL = 'set -m; cat "$1"; echo "status $?"; fg > /dev/null; echo "status $?"'


def test_a_shells_job_control_sees_a_blocked_reader_stop(shared: Mounted, readers: Readers) -> None:
    """As by Ctrl-Z; `fg` has it read on."""
    with talker(shared) as job:
        reader = readers.sh(CONTROL, shared.file("wait", job.id))
        (blocked,) = reader.until_blocked()
        os.kill(blocked, signal.SIGTSTP)
        reader.until_said(f"status {128 + signal.SIGTSTP}\n")
        assert [blocked] == reader.until_blocked()
        job.exit()
        assert 0 == reader.until_ended()
        assert reader.said.endswith("done:0\nstatus 0\n")


# Who does not want to be blocked


def test_without_blocking_wait_is_eagain_until_the_job_has_ended(shared: Mounted, sleeper: int) -> None:
    """Opened with O_NONBLOCK."""
    fd = os.open(shared.file("wait", sleeper), os.O_RDONLY | os.O_NONBLOCK)
    try:
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                os.read(fd, 100)
        end(shared, sleeper)
        assert b"killed:9\n" == os.read(fd, 100)
        assert b"" == os.read(fd, 100)
    finally:
        os.close(fd)


def test_without_blocking_follow_is_eagain_while_there_is_no_more(shared: Mounted) -> None:
    """What is there is read; then EAGAIN; after the end, the rest and end of file."""
    with talker(shared) as job:
        fd = os.open(shared.file("follow", job.id), os.O_RDONLY | os.O_NONBLOCK)
        try:
            for line in ("one", "two"):
                with pytest.raises(BlockingIOError):
                    os.read(fd, 100)
                job.say(line)
                assert f"{line}\n".encode() == os.read(fd, 100)
            job.say("last")
            job.exit()
            assert [b"last\n", b""] == [os.read(fd, 100), os.read(fd, 100)]
        finally:
            os.close(fd)


# Many


CROWD_OF_PROCESSES = f'for i in $(seq {CROWD}); do cat "$1" & done; wait; echo all'


@pytest.mark.parametrize("name", ["wait", "follow"])
def test_a_crowd_of_blocked_readers_hinders_nobody(shared: Mounted, readers: Readers, name: str) -> None:
    """The tree is read on; one of them is killed and the others stay; the end wakes all."""
    with talker(shared) as job:
        crowd = readers.sh(CROWD_OF_PROCESSES, shared.file(name, job.id))
        blocked = crowd.until_blocked(CROWD)
        other = shared.run("echo hello")
        assert ("done:0", b"hello\n") == (shared.status(other), shared.read(other))
        assert "running" == shared.status(job.id)
        os.kill(blocked[CROWD // 2], signal.SIGKILL)
        until(lambda: not is_running(blocked[CROWD // 2]))
        assert CROWD - 1 == len(crowd.until_blocked(CROWD - 1))
        job.say("hello")
        job.exit()
        assert 0 == crowd.until_ended()
        said = "done:0" if name == "wait" else "hello"
        assert [*[said] * (CROWD - 1), "all"] == [line for line in crowd.said.splitlines() if "Killed" not in line]


def test_a_crowd_of_blocked_threads_hinders_nobody(shared: Mounted, readers: Readers) -> None:
    """As a program has it that waits for many jobs at once; it can be killed as one."""
    with talker(shared) as job:
        crowds = [readers.python(THREAD, shared.file("wait", job.id), str(CROWD)) for _ in range(2)]
        for crowd in crowds:
            crowd.until_blocked(CROWD)
        assert "running" == shared.status(job.id)
        crowds[0].signal(signal.SIGKILL)
        assert -signal.SIGKILL == crowds[0].until_ended()
        assert CROWD == len(crowds[1].blocked())
        job.exit()
        assert 0 == crowds[1].until_ended()
        assert ["done:0"] * CROWD == crowds[1].said.splitlines()


# When the mount goes

ERRNO = """
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    print(os.read(fd, 100).decode(), flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
"""


def test_unmounting_wakes_all_with_enotconn(jobs: Mounted, readers: Readers) -> None:
    """`jobfs umount` is not kept waiting by who only waits."""
    job = jobs.spawn("exec sleep 1000")
    waiting = [readers.python(ERRNO, jobs.file(name, job)) for name in ("wait", "follow", "wait")]
    for reader in waiting:
        reader.until_blocked()
    jobs.umount()
    assert [(0, "ENOTCONN\n")] * 3 == [(reader.until_ended(), reader.said) for reader in waiting]
    jobs.mount()
    assert "running" == jobs.status(job)


def test_the_end_of_the_daemon_wakes_all_with_enotconn(jobs: Mounted, readers: Readers) -> None:
    """SIGTERM: it unmounts, and whoever waits hears of it."""
    job = jobs.spawn("exec sleep 1000")
    waiting = [readers.python(ERRNO, jobs.file(name, job)) for name in ("wait", "follow")]
    for reader in waiting:
        reader.until_blocked()
    assert jobs.daemon is not None
    daemon = jobs.daemon
    os.kill(daemon, signal.SIGTERM)
    assert [(0, "ENOTCONN\n")] * 2 == [(reader.until_ended(), reader.said) for reader in waiting]
    until(lambda: not is_running(daemon))
    jobs.mount()


def test_a_daemon_that_is_killed_leaves_nobody_blocked(jobs: Mounted, readers: Readers) -> None:
    """Readers get an error, and the next mount takes the place."""
    job = jobs.spawn("exec sleep 1000")
    waiting = [readers.python(ERRNO, jobs.file(name, job)) for name in ("wait", "follow")]
    for reader in waiting:
        reader.until_blocked()
    assert jobs.daemon is not None
    os.kill(jobs.daemon, signal.SIGKILL)
    for reader in waiting:
        assert 0 == reader.until_ended()
        assert reader.said in ("ENOTCONN\n", "ECONNABORTED\n")
    jobs.mount()
    assert "running" == jobs.status(job)


# Removed jobs, and who only looks


def test_open_files_of_a_removed_job_say_how_it_ended(shared: Mounted, sleeper: int) -> None:
    """`wait` and `follow` that are open when the job is removed read on."""
    with shared.file("wait", sleeper).open("rb") as wait, shared.file("follow", sleeper).open("rb") as follow:
        end(shared, sleeper)
        shared.ctl(f"rm {sleeper}")
        assert (b"killed:9\n", b"") == (wait.read(), follow.read())
    with pytest.raises(FileNotFoundError):
        os.stat(shared.file("wait", sleeper))
    with pytest.raises(FileNotFoundError):
        os.stat(shared.path / str(sleeper))


@pytest.mark.parametrize(
    "program",
    [
        'grep -r nothing "$1"',
        'find "$1" -type f -exec cat {} +',
        'tar cf - "$1" 2>/dev/null | cat > /dev/null',
        'cp -r "$1" copy',
        'cat "$1"/*',
        'ls -lR "$1"',
        'du -s "$1"',
    ],
)
def test_who_reads_the_whole_directory_of_a_live_job_does_not_hang(
    shared: Mounted, sleeper: int, tmp_path: Path, program: str
) -> None:
    """`wait` and `follow` are not listed."""
    done = shared.sh(program, str(shared.path / str(sleeper)), cwd=tmp_path)
    assert b"wait" not in done.stdout
    assert b"follow" not in done.stdout
    assert b"wait" not in done.stderr


@pytest.mark.parametrize("name", ["wait", "follow"])
def test_looking_at_a_file_that_blocks_does_not_block(shared: Mounted, sleeper: int, name: str) -> None:
    """stat, open and close return at once; the size is no promise."""
    assert {"wait": 4096, "follow": 0}[name] == shared.file(name, sleeper).stat().st_size
    os.close(os.open(shared.file(name, sleeper), os.O_RDONLY))
    with pytest.raises(PermissionError) as refused:
        os.open(shared.file(name, sleeper), os.O_WRONLY)
    assert errno.EACCES == refused.value.errno


def test_wait_can_be_copied_inside_the_kernel(shared: Mounted, tmp_path: Path) -> None:
    """sendfile(2), by which busybox and Python copy, waits as read(2) does."""
    job = shared.spawn("sleep 0.2; exit 3")
    shutil.copyfile(shared.file("wait", job), tmp_path / "copy")
    assert "failed:3\n" == (tmp_path / "copy").read_text()
