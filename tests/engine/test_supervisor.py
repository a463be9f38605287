"""The supervisor as a process: it outlives its daemon, is alone on its state, and ends when nothing is left to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from jobfs.engines import connecting, local
from jobfs.engines.base import Closed, Continued, Ended, Started, Stopped
from jobfs.engines.local import LocalEngine
from jobfs.errors import EngineGone
from jobfs.supervisor import ADDRESS, EXIT_LOCKED
from jobfs.supervisor.wire import OLDEST, PROTOCOL
from tests.engine.workshop import Workshop, ended, error_of, status_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    places = [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    return sorted(kind_of(os.readlink(place)) for place in places)


def kind_of(target: str) -> str:
    """What a descriptor is of, without the number that tells one pipe from another."""
    return target.partition("[")[0]


async def test_jobs_go_on_while_no_daemon_is_there(bare: Workshop) -> None:
    """A job outlives the daemon that spawned it, and the next daemon learns that it runs."""
    async with bare.attached():
        job = await bare.spawn("while :; do echo x; sleep 0.01; done")
    size = len(bare.read(job))
    await until(lambda: len(bare.read(job)), lambda now: now > size)
    async with bare.attached(job) as learned:
        assert [bare.started(job), Continued(job)] == learned


async def test_an_end_that_nobody_was_there_for_is_told_once(bare: Workshop) -> None:
    """The next daemon learns of the end, with its time, and after it was acknowledged nobody is told again."""
    async with bare.attached():
        job = await bare.spawn("read go < $FIFO; exit 3", environment=bare.fifo())
        other = await bare.spawn("exec sleep 1000")
    before = time.time()
    await bare.go()
    assert await ended(bare.started(job).pid or 0)
    async with bare.attached(job, other) as learned:
        end = next(news for news in learned if isinstance(news, Ended))
        assert [Started, Ended, Started, Continued] == [type(news) for news in learned]
        assert (job, "failed:3") == (end.job, status_of(end))
        assert before <= end.ended_at <= time.time()
        await bare.engine.acknowledge([job])
    async with bare.attached(other) as learned:
        assert [bare.started(other), Continued(other)] == learned


async def test_a_job_that_is_stopped_meanwhile_is_learned_to_be(bare: Workshop) -> None:
    """The next daemon learns that a job is stopped."""
    async with bare.attached():
        job = await bare.spawn("exec sleep 1000")
        await bare.signal(job, signal.SIGSTOP)
        await bare.told(Stopped, job)
    async with bare.attached(job) as learned:
        assert [bare.started(job), Stopped(job)] == learned


async def test_which_pipes_of_an_ended_job_are_still_held_is_learned(bare: Workshop) -> None:
    """The next daemon learns which streams of an ended job may still grow."""
    async with bare.attached():
        job = await bare.run("(exec 2>&-; exec sleep 1000) &")
        only = frozenset({"stdout"})
        await until(lambda: bare.news[-1], lambda news: isinstance(news, Ended | Closed) and only == news.open_streams)
        await bare.engine.acknowledge([job])
    async with bare.attached() as learned:
        assert [Closed(job, only)] == learned


async def test_grace_and_timeout_pass_while_no_daemon_is_there(bare: Workshop) -> None:
    """Deadlines are the supervisor's, and kept without a daemon."""
    stubborn = 'trap "" TERM; echo ready; while :; do sleep 0.01; done'
    async with bare.attached():
        timed = await bare.spawn(stubborn, timeout=0.2, grace=0.1)
        told = await bare.spawn(stubborn, grace=0.2)
        await bare.says(told, b"ready\n")
        await bare.end(told)
    assert await ended(bare.started(timed).pid or 0)
    assert await ended(bare.started(told).pid or 0)
    async with bare.attached(timed, told) as learned:
        ends = [status_of(news) for news in learned if isinstance(news, Ended)]
        assert ["killed:9", "killed:9"] == ends


async def test_a_job_that_was_never_started_is_cancelled(bare: Workshop) -> None:
    """A job that the table holds for alive and nobody ever started did not run."""
    async with bare.attached(77) as learned:
        assert ["cancel"] == [status_of(news) for news in learned if isinstance(news, Ended)]


async def test_it_ends_by_itself_when_nothing_is_left(bare: Workshop) -> None:
    """Without a job and without a daemon, the supervisor ends, and takes its socket with it."""
    async with bare.attached():
        await bare.run("true")
    assert await ended(bare.supervisor)
    assert [] == [name for name in os.listdir(bare.state / "jobfs") if name.endswith(".sock")]


async def test_ends_that_nobody_acknowledged_are_learned_from_the_records(bare: Workshop) -> None:
    """What ended is known also after the supervisor has ended."""
    async with bare.attached():
        job = await bare.run("exit 4")
    assert await ended(bare.supervisor)
    async with bare.attached(job) as learned:
        assert ["failed:4"] == [status_of(news) for news in learned if isinstance(news, Ended)]


async def test_a_job_that_had_begun_and_is_not_on_record_is_lost(bare: Workshop) -> None:
    """Whether it wrote anything or not: what has a handle was started, and nobody knows how it ended."""
    async with bare.attached():
        handle = bare.started(await bare.run("true")).handle
        learned = await bare.engine.attach({99: handle}, lambda _: None)
    ends = [(news.job, status_of(news), news.reason) for news in learned if isinstance(news, Ended)]
    assert [(99, "lose", "its record was lost")] == ends


async def test_a_request_waits_a_while_for_another_supervisor(bare: Workshop) -> None:
    """Who asks for something just after the supervisor was killed is answered by the next one."""
    async with bare.attached(), trio.open_nursery() as nursery:
        job = await bare.spawn("exec sleep 1000")
        await bare.kill_supervisor()
        nursery.start_soon(bare.signal, job, signal.SIGTERM)
        await trio.testing.wait_all_tasks_blocked()
        await bare.take_up(nursery, job)
        await bare.ended(job)
        nursery.cancel_scope.cancel()


async def test_a_request_under_way_fails_when_the_supervisor_goes(bare: Workshop) -> None:
    """Who waits for an answer is told that there will be none."""
    bare.fifo()
    errors: list[Exception] = []
    async with bare.attached(), trio.open_nursery() as nursery:

        async def spawn() -> None:
            errors.append(await error_of(lambda: bare.spawn("true", stdin=f"{bare.state}/fifo")))

        nursery.start_soon(spawn)
        await until(lambda: list(bare.engine.known()))
        os.kill(bare.supervisor, signal.SIGKILL)
        await bare.go()
    assert [EngineGone] == [type(error) for error in errors]


async def test_a_second_one_on_the_same_state_does_not_start(shop: Workshop) -> None:
    """The state's lock is the supervisor's."""
    command = [sys.executable, "-m", "jobfs.supervisor", str(shop.state), str(shop.state / "second.sock")]
    done = await trio.run_process(command, check=False, capture_stdout=True)
    assert (EXIT_LOCKED, b"") == (done.returncode, done.stdout)


async def test_one_whose_daemon_was_killed_as_it_started_serves_the_next(bare: Workshop) -> None:
    """A supervisor that nobody waits for any more by the time that it is ready takes the next daemon, and its jobs."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jobfs.supervisor", str(bare.state), str(bare.state / "orphan.sock")]
    orphan = await trio.lowlevel.open_process(command, stdout=writer)
    os.close(writer)
    await until(lambda: (bare.state / ADDRESS).exists() or orphan.poll() is not None)
    async with bare.attached():
        assert orphan.pid == bare.supervisor
        assert "done:0" == status_of(await bare.ended(await bare.spawn("true")))
    assert 0 == await orphan.wait()


async def test_signals_that_end_a_session_do_not_end_it(shop: Workshop) -> None:
    """SIGHUP, SIGINT and SIGTERM are no concern of the supervisor's."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(shop.supervisor, number)
    assert "done:0" == status_of(await shop.ended(await shop.spawn("true")))


async def test_two_thousand_jobs_end_right_and_leave_nothing(shop: Workshop) -> None:
    """As many jobs as fast as possible each end with their own status, and the supervisor is as it was before."""
    await shop.closed(await shop.run("true"))
    # It makes a place for the next job ahead, when nobody waits: two pipes beside that which wakes it. Having answered
    # again, it has also let go of the job that it told the end of.
    await until(lambda: descriptors(shop.supervisor), lambda now: 6 == now.count("pipe:"))
    await shop.engine.acknowledge([])
    before = descriptors(shop.supervisor)
    jobs: dict[int, int] = {}
    for code in range(2000):
        jobs[await shop.spawn(f"exit {code % 7}")] = code % 7
    for job, code in jobs.items():
        assert (f"failed:{code}" if code else "done:0") == status_of(await shop.ended(job))
        await shop.closed(job)
    await shop.engine.acknowledge(jobs)
    await shop.engine.forget([*jobs, 1])
    assert [] == list(shop.engine.known())

    assert before == await until(lambda: descriptors(shop.supervisor), lambda now: now == before)
    said = subprocess.run(["ps", "--ppid", str(shop.supervisor), "-o", "pid="], capture_output=True, check=False)  # noqa: ASYNC221
    assert b"" == said.stdout


async def test_what_a_removed_job_left_behind_writes_into_nothing(shop: Workshop) -> None:
    """Forgetting an ended job harms nobody that it left behind, and its output goes."""
    job = await shop.run("(read go < $FIFO; yes | head -c 300000; exec sleep 1000) &", environment=shop.fifo())
    await shop.engine.forget([job])
    await shop.go()
    usage = await until(
        lambda: shop.engine.usage({job: shop.started(job).handle})[job], lambda used: used.processes == 1
    )
    assert 1 == usage.processes
    assert [] == list(shop.engine.known())


async def test_a_job_ends_though_the_state_was_removed_under_it(shop: Workshop) -> None:
    """Output that has no place any more goes nowhere; it does not keep the job running."""
    job = await shop.spawn("read go < $FIFO; echo late; exit 4", environment=shop.fifo())
    jobs = shop.state / "jobs"
    jobs.rename(shop.state / "elsewhere")
    await shop.go()
    assert "failed:4" == status_of(await shop.ended(job))
    (shop.state / "elsewhere").rename(jobs)


async def test_a_slip_of_the_hand_does_not_end_the_supervisor(shop: Workshop) -> None:
    """Signals that a person or a session's end sends leave it and its jobs alone."""
    job = await shop.spawn("read go < $FIFO; exit 5", environment=shop.fifo())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM):
        os.kill(shop.supervisor, number)
    await shop.go()
    assert "failed:5" == status_of(await shop.ended(job))


async def test_a_file_that_is_no_jobs_is_let_be(shop: Workshop) -> None:
    """What somebody put among the jobs' files is nobody's output, and no reason not to start."""
    (shop.state / "jobs" / "1-copy").touch()
    assert 1 not in shop.engine.known()
    (shop.state / "jobs" / "1-copy").unlink()


# As one of the version before, which holds nothing for others and adopts no job.
OLDER = """
import sys
from pathlib import Path
from jobfs.supervisor import __main__ as program, service

program.PROTOCOL = int(sys.argv[3])
service.Supervisor._hold = lambda *_, **__: None
service.Supervisor._operations = property(
    lambda self: {name: action for name, action in self.known.items() if name != "adopt"},
    lambda self, known: setattr(self, "known", known),
)
service.duplicates = lambda _: {}
sys.exit(program.main(Path(sys.argv[1]), sys.argv[2]))
"""


@contextmanager
def speaking(protocol: int) -> Iterator[None]:
    """Daemons speak that protocol."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (local, connecting):
            patch.setattr(module, "PROTOCOL", protocol)
        patch.setattr(local, "OLDEST", protocol)
        yield


@asynccontextmanager
async def older_daemon(shop: Workshop, protocol: int) -> AsyncIterator[int]:
    """A daemon and a supervisor of another version are there; gives the supervisor's number."""
    command = [sys.executable, "-c", OLDER, str(shop.state), str(shop.state / "older.sock"), str(protocol)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    shop.started_by_hand.append(process)
    assert process.stdout is not None
    assert b"ready\n" == await process.stdout.receive_some()
    await process.stdout.aclose()
    with speaking(protocol):
        async with shop.attached():
            yield process.pid


async def test_an_older_one_is_worked_with_until_its_jobs_have_ended(
    bare: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer daemon runs, reads and signals jobs below it, says so, and replaces it when nothing is left of them."""
    async with older_daemon(bare, 2) as older:
        first = await bare.spawn("echo one; cat", stdin="pipe")
    async with bare.attached(first) as learned:
        assert [bare.started(first), Continued(first)] == learned
        assert older == bare.supervisor
        assert "is an older jobfs's" in caplog.text
        second = await bare.spawn("exec sleep 1000")
        await bare.write(first, b"two\n")
        await bare.says(first, b"one\ntwo\n")
        await bare.engine.close_stdin(first)
        assert "done:0" == status_of(await bare.ended(first))
        await bare.signal(second, signal.SIGTERM)
        assert "killed:15" == status_of(await bare.ended(second))
        await bare.engine.gone.wait()
        bare.engine.gone = trio.Event()
        async with bare.taken_up():
            assert older != bare.supervisor
            assert b"x\n" == bare.read(await bare.run("echo x"))
    assert await ended(older)


async def test_an_older_one_without_jobs_is_replaced_at_once(bare: Workshop) -> None:
    """It has nothing to lose."""
    async with older_daemon(bare, 2) as older:
        job = await bare.run("exit 3")
    assert await ended(older)
    bare.rewrite_record(job, "start_window", "pipes", "limit", "grace", "deadline", "lease", "pty")
    async with bare.attached(job) as learned:
        assert older != bare.supervisor
        assert ["failed:3"] == [status_of(news) for news in learned if isinstance(news, Ended)]


@pytest.mark.parametrize("protocol", [OLDEST - 1, PROTOCOL + 1])
async def test_one_that_is_not_understood_is_left_alone(bare: Workshop, protocol: int) -> None:
    """A daemon that does not know its protocol says whose the jobs are, and they go on."""
    async with older_daemon(bare, protocol) as other:
        job = await bare.spawn("exec sleep 1000")
    engine = LocalEngine(bare.state)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        with pytest.raises(EngineGone, match="jobfs's"):
            await engine.attach({}, lambda _: None)
        nursery.cancel_scope.cancel()
    assert other == bare.supervisor
    with speaking(protocol):
        async with bare.attached(job) as learned:
            assert Continued(job) in learned
