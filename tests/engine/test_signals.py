"""Signals and ending: whom they reach, and whom they never reach."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from jobfs.engines.base import Ended
from jobfs.errors import JobEnded
from jobfs.model import Usage
from tests.engine.workshop import Workshop, ended, error_of, status_of, until

LAST_PID = "/proc/sys/kernel/ns_last_pid"  # proc(5)
# Daemonises as a book has it: fork, setsid, fork, and no pipe of the job's is kept. Then writes its number.
DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for fd in 0, 1, 2: os.dup2(os.open('/dev/null', os.O_RDWR), fd)
new = sys.argv[1] + '.new'
with open(new, 'w') as f: f.write(str(os.getpid()))
os.rename(new, sys.argv[1])
time.sleep(1000)
"""


async def daemonise(shop: Workshop, name: str) -> tuple[int, int]:
    """Spawns a job that leaves a daemon behind; gives both."""
    place = shop.state / name
    job = await shop.run(argv=("python3", "-c", DAEMON, str(place)))
    return job, int(await until(lambda: place.read_text() if place.exists() else ""))


def usage(shop: Workshop, job: int) -> Usage:
    """What the job's living processes use."""
    return shop.engine.usage({job: shop.started(job).handle})[job]


async def test_what_ignores_sigterm_is_killed_also_where_the_leader_went_at_once(shop: Workshop) -> None:
    """After the grace SIGKILL goes to all that is left of the group."""
    job = await shop.spawn('(trap "" TERM; echo ready; while :; do sleep 0.01; done) & sleep 1000')
    await shop.says(job, b"ready\n")
    await shop.end(job, 0.2)
    assert "killed:15" == status_of(await shop.ended(job))
    await shop.closed(job)


async def test_a_signal_goes_to_the_whole_group(shop: Workshop) -> None:
    """A signal reaches the job's descendants as well."""
    job = await shop.spawn("sleep 1000 & sleep 1000 & echo ready; wait")
    await shop.says(job, b"ready\n")
    await shop.signal(job, signal.SIGUSR1)
    assert "killed:10" == status_of(await shop.ended(job))
    await shop.closed(job)


@pytest.mark.parametrize("go", ["signal", "end"])
async def test_what_lingers_in_the_session_can_still_be_reached(shop: Workshop, go: str) -> None:
    """A signal or an end of an ended job reaches what it left behind, even what ignores SIGTERM."""
    job = await shop.spawn(
        '(trap "" TERM; echo ready; while :; do sleep 0.01; done) & while :; do read x || exit; done'
    )
    await shop.ended(job)
    await shop.says(job, b"ready\n")
    if go == "end":
        await shop.end(job, 0.1)
    else:
        await shop.signal(job, signal.SIGKILL)
    await shop.closed(job)


async def test_a_daemon_does_not_keep_its_job_running_and_is_counted(shop: Workshop) -> None:
    """A grandchild in a session of its own is known by its job, which has ended."""
    job, daemon = await daemonise(shop, "daemon")
    assert "done:0" == status_of(await shop.ended(job))
    assert 1 == usage(shop, job).processes
    await shop.end(job)
    assert await ended(daemon)
    assert 0 == (await until(lambda: usage(shop, job), lambda used: not used.processes)).processes


async def test_ending_what_one_job_left_touches_no_other_jobs_processes(shop: Workshop) -> None:
    """Daemons and lingering processes of other jobs live on."""
    first, daemon = await daemonise(shop, "first")
    second, other = await daemonise(shop, "second")
    running = await shop.spawn("exec sleep 1000")
    await shop.end(first)
    assert await ended(daemon)
    assert (1, 1) == (usage(shop, second).processes, usage(shop, running).processes)
    os.kill(other, 0)


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(LAST_PID, os.W_OK), reason="choosing a process's number takes root"
)
async def test_a_daemon_whose_session_has_an_ended_jobs_number_is_not_that_jobs(shop: Workshop) -> None:
    """A number comes again; what has it then belongs to whom it descends from."""
    ended_job = await shop.run("true")
    number = shop.started(ended_job).pid
    assert number is not None
    job = await shop.spawn(argv=("python3", "-c", AS_NUMBER, str(number)))
    await shop.says(job, b"ready\n")
    assert 0 == usage(shop, ended_job).processes
    assert isinstance(await error_of(lambda: shop.signal(ended_job, signal.SIGKILL)), JobEnded)
    assert isinstance(await error_of(lambda: shop.end(ended_job)), JobEnded)
    assert not [news for news in shop.news if isinstance(news, Ended) and news.job == job]


# Forks until a child has the number, which then leads a session; tells and waits. Root alone may set the next number.
AS_NUMBER = """
import os, sys, time
wanted = int(sys.argv[1])
while True:
    with open('/proc/sys/kernel/ns_last_pid', 'w') as f: f.write(str(wanted - 1))
    pid = os.fork()
    if pid == 0:
        if os.getpid() != wanted: os._exit(0)
        os.setsid()
        print('ready', flush=True)
        time.sleep(1000)
    if pid == wanted: break
    os.waitpid(pid, 0)
time.sleep(1000)
"""


async def test_no_signal_comes_before_the_exec(shop: Workshop) -> None:
    """Signals to a job on its way to exec wait until the exec has happened, and find its handlers' defaults."""
    fifo = shop.state / "fifo"
    os.mkfifo(fifo)
    job = await shop.spawn("kill -0 $$; exec sleep 1000", stdin=str(fifo))  # its opening waits for a writer
    await shop.signal(job, signal.SIGUSR1)
    assert [] == [news for news in shop.news if isinstance(news, Ended)]
    os.close(os.open(fifo, os.O_WRONLY))
    assert "killed:10" == status_of(await shop.ended(job))


async def test_ending_a_job_on_its_way_to_exec_kills_it_after_its_grace(shop: Workshop) -> None:
    """A job whose exec hangs can be ended all the same."""
    fifo = shop.state / "fifo"
    os.mkfifo(fifo)
    job = await shop.spawn("true", stdin=str(fifo))
    await shop.end(job, 0.05)
    assert "killed:9" == status_of(await shop.ended(job))


async def test_sigkill_reaches_a_job_on_its_way_to_exec(shop: Workshop) -> None:
    """SIGKILL needs no exec to be heeded."""
    fifo = shop.state / "fifo"
    os.mkfifo(fifo)
    job = await shop.spawn("true", stdin=str(fifo))
    await shop.signal(job, signal.SIGKILL)
    assert "killed:9" == status_of(await shop.ended(job))


async def test_an_exec_that_hangs_holds_up_no_other_job(shop: Workshop) -> None:
    """While one job waits for its stdin file, others start, write and end."""
    fifo = shop.state / "fifo"
    os.mkfifo(fifo)
    hanging = await shop.spawn("true", stdin=str(fifo))
    assert "hello\n" == await shop.output("echo hello")
    assert [] == [news for news in shop.news if isinstance(news, Ended) and news.job == hanging]
    await shop.signal(hanging, signal.SIGKILL)


async def test_an_exec_that_fails_after_the_spawn_was_answered_cancels_the_job(shop: Workshop) -> None:
    """A job that was told to be started and never ran ends, as cancelled, and the reason says why."""
    fifo = shop.state / "fifo"
    os.mkfifo(fifo)
    job = await shop.spawn(argv=("/nonexistent/program",), stdin=str(fifo))
    os.close(os.open(fifo, os.O_WRONLY))
    end = await shop.ended(job)
    expected = f"could not run /nonexistent/program: {os.strerror(errno.ENOENT)}"
    assert ("cancel", expected) == (status_of(end), end.reason)
