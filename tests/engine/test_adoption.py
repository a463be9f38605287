"""What becomes of jobs whose supervisor is killed: they go on, and the next one takes them up."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import trio

from jobfs.engines.base import Continued, Ended, News, Started, Stopped
from jobfs.processes import exit_status
from jobfs.states import Event
from tests.engine.workshop import Workshop, ended, error_of, status_of, until

# Whether the kernel tells how a process ended that is not our child (PIDFD_GET_INFO with PIDFD_INFO_EXIT).
RELEASE = tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
TELLS_ENDS = RELEASE >= (6, 15)
RECORDS = "i=0; while [ $i -lt 100000 ]; do printf '%015d\\n' $i; i=$((i+1)); [ -e stop ] && break; done; echo over >&2"


def told_end(end: Ended, truth: str) -> bool:
    """Whether an end is told as it was, or, where the kernel does not tell, as lost."""
    return status_of(end) == truth if TELLS_ENDS else status_of(end) in (truth, "lose")


def assert_numbered(start: int, output: bytes) -> None:
    """Every record is there, once, in its place; `start` is the offset of what is retained."""
    first, skipped = divmod(start, 16)
    numbers = range(first, first + len(output) // 16 + 2)
    assert output == b"".join(b"%015d\n" % number for number in numbers)[skipped:][: len(output)]


async def end_of(shop: Workshop, job: int, learned: list[News]) -> Ended:
    """The end of a job, which had come when the daemon attached, or is still to come."""
    known = [news for news in learned if isinstance(news, Ended) and news.job == job]
    return known[0] if known else await shop.ended(job)


async def test_a_job_runs_on_and_its_end_is_what_it_was(bare: Workshop) -> None:
    """A job that lives is taken up as running, and how it ends is told as the kernel has it."""
    async with bare.attached():
        job = await bare.spawn("read x < $FIFO; exit 7", environment=bare.fifo())
        async with bare.supervisor_killed(job) as learned:
            assert [bare.started(job), Continued(job)] == learned
            await bare.go()
            assert told_end(await bare.ended(job), "failed:7")


async def test_an_end_that_no_supervisor_saw_is_told_as_it_was(bare: Workshop) -> None:
    """What ended between two supervisors is known by what the daemon kept: its end, and all that it wrote."""
    async with bare.attached():
        fifo = bare.fifo()
        job = await bare.spawn("read x < $FIFO; echo last words; exit 7", environment=fifo)
        with_signal = await bare.spawn("echo more; exec sleep 1000")
        await bare.says(with_signal, b"more\n")
        await bare.kill_supervisor()
        await bare.go()
        os.kill(bare.started(with_signal).pid or 0, signal.SIGUSR1)
        assert await ended(bare.started(job).pid or 0)
        assert await ended(bare.started(with_signal).pid or 0)
        async with bare.taken_up(job, with_signal):
            assert told_end(await bare.ended(job), "failed:7")
            assert told_end(await bare.ended(with_signal), f"killed:{signal.SIGUSR1}")
            await bare.closed(job)
            assert b"last words\n" == bare.read(job)


async def test_nothing_that_is_written_meanwhile_is_lost(bare: Workshop, tmp_path: Path) -> None:
    """However often supervisors are killed under a job that writes, every byte is there, in its place, once."""
    async with bare.attached(), trio.open_nursery() as nursery:
        job = await bare.spawn(RECORDS, directory=str(tmp_path))
        for _ in range(3):
            size = len(bare.read(job))
            await until(lambda: len(bare.read(job)), lambda now: now > size)  # noqa: B023 - called at once
            await bare.kill_supervisor()
            await bare.take_up(nursery, job)
        (tmp_path / "stop").touch()
        await bare.closed(job)
        nursery.cancel_scope.cancel()
    assert b"over\n" == bare.read(job, "stderr")
    assert_numbered(*bare.retained(job))


FLOOD = (
    "my $i = 0; while (1) { my $b = ''; $b .= sprintf('%015d', $i++) . qq(\\n) for 1..997;"
    " my $at = 0; $at += syswrite(STDOUT, $b, length($b) - $at, $at) while $at < length $b; }"
)


async def assert_not_torn(shop: Workshop, words: tuple[str, ...], kills: int, apart: int, *, pty: bool) -> None:
    """A job that floods goes on through so many kills, each after so many bytes more, and every record is whole."""
    async with shop.attached(), trio.open_nursery() as nursery:
        job = await shop.spawn(argv=words, pty=pty, limit=1 << 20)
        for _ in range(kills):
            size = shop.state_of(job).written
            await until(lambda: shop.state_of(job).written, lambda now: now > size + apart)  # noqa: B023
            await shop.kill_supervisor()
            await shop.take_up(nursery, job)
            assert_numbered(*shop.retained(job))
        await shop.end(job)
        await shop.closed(job)
        nursery.cancel_scope.cancel()
    assert_numbered(*shop.retained(job))


async def test_a_flood_is_not_torn(bare: Workshop) -> None:
    """Also where the supervisor is killed amid moving bytes, which it then did not live to count."""
    await assert_not_torn(bare, ("perl", "-e", FLOOD), kills=5, apart=4 << 20, pty=False)


async def test_without_the_daemon_too_a_job_that_lives_is_found(bare: Workshop) -> None:
    """Where daemon and supervisor were killed, process and pipes are found in /proc, and the job goes on."""
    async with bare.attached():
        job = await bare.spawn(
            "echo one; read x < $FIFO; echo two; until read x < $FIFO; do :; done; exit 7", environment=bare.fifo()
        )
        await bare.says(job, b"one\n")
        os.kill(bare.supervisor, signal.SIGKILL)
        await bare.engine.gone.wait()
    await bare.go()
    async with bare.attached(job) as learned:
        assert [bare.started(job), Continued(job)] == learned
        await bare.says(job, b"one\ntwo\n")
        await bare.go()
        assert told_end(await bare.ended(job), "failed:7")


async def test_a_job_that_ended_while_nobody_was_there_is_lost(bare: Workshop) -> None:
    """Nobody knows how it ended, so nobody says."""
    async with bare.attached():
        job = await bare.spawn("exec sleep 1000")
        os.kill(bare.supervisor, signal.SIGKILL)
        await bare.engine.gone.wait()
    os.kill(bare.started(job).pid or 0, signal.SIGKILL)
    await until(lambda: has_gone(bare.started(job).pid or 0))  # reaped, too: until then /proc tells
    async with bare.attached(job) as learned:
        end = await end_of(bare, job, learned)
        assert (Event.LOSE, True) == (end.event, "its supervisor was killed" in (end.reason or ""))


async def test_a_job_that_was_begun_is_found_by_its_pipe(bare: Workshop) -> None:
    """Where the supervisor was killed before it could write down which process it had started."""
    async with bare.attached():
        job = await bare.spawn("read x < $FIFO; exit 7", environment=bare.fifo())
        os.kill(bare.supervisor, signal.SIGKILL)
        await bare.engine.gone.wait()
    first, _ = bare.records()[job]["start_window"]
    bare.rewrite_record(job, "pid", start_window=(first, 0))
    async with bare.attached(job) as learned:
        assert [(job, bare.started(job).pid)] == [(news.job, news.pid) for news in learned if isinstance(news, Started)]
        await bare.go()
        assert told_end(await bare.ended(job), "failed:7")


async def test_a_job_that_was_begun_and_is_nowhere_is_lost(bare: Workshop) -> None:
    """It may have run, or not: nobody says that it was started, nor that it was not."""
    async with bare.attached():
        job = await bare.spawn("exec sleep 1000")
        os.kill(bare.supervisor, signal.SIGKILL)
        await bare.engine.gone.wait()
    os.kill(bare.started(job).pid or 0, signal.SIGKILL)
    await until(lambda: has_gone(bare.started(job).pid or 0))
    bare.rewrite_record(job, "pid")
    async with bare.attached(job) as learned:
        assert ["lose"] == [status_of(news) for news in learned if isinstance(news, Ended)]
        assert len(learned) == 1


async def test_a_job_that_could_not_be_executed_is_cancelled(bare: Workshop) -> None:
    """Also where the supervisor was killed meanwhile: what the child has to say is kept, and the next one reads it."""
    async with bare.attached(), trio.open_nursery() as nursery:
        bare.fifo()
        nursery.start_soon(error_of, lambda: bare.spawn(argv=("/there/is/no/such",), stdin=f"{bare.state}/fifo"))
        await until(lambda: "pid" in bare.records().get(1, {}))
        await bare.kill_supervisor()
        async with bare.taken_up(1):
            await bare.go()
            end = await bare.ended(1)
            assert ("cancel", True) == (status_of(end), "/there/is/no/such" in (end.reason or ""))


async def test_a_number_that_came_again_is_not_the_jobs(bare: Workshop) -> None:
    """Who has the number of a job and was not started when the job was is a stranger: lost is the job, unharmed he."""
    async with bare.attached():
        job = await bare.spawn("exec sleep 1000")
        other = await bare.spawn("exec sleep 1000")
        os.kill(bare.supervisor, signal.SIGKILL)
        await bare.engine.gone.wait()
    bare.rewrite_record(job, start_window=(1, 2))
    async with bare.attached(job, other) as learned:
        assert {(job, "lose")} == {(end.job, status_of(end)) for end in learned if isinstance(end, Ended)}
        with pytest.raises(Exception, match="nothing is left of it"):
            await bare.signal(job, signal.SIGKILL)
        await bare.signal(other, signal.SIGTERM)
        assert told_end(await bare.ended(other), "killed:15")
    assert not has_gone(bare.started(job).pid or 0)


def has_gone(pid: int) -> bool:
    """Whether there is no process of that number, not even one to be reaped."""
    return not Path(f"/proc/{pid}").exists()


async def test_signals_reach_an_adopted_job_and_all_of_its_group(bare: Workshop) -> None:
    """It is stopped, continued and ended as any job, with its children, its grace and what it left behind."""
    async with bare.attached():
        job = await bare.spawn(
            'trap "" TERM; echo $$; (trap "" TERM; while :; do sleep 0.01; done) & wait; wait', grace=0.2
        )
        await until(lambda: bare.read(job))
        async with bare.supervisor_killed(job):
            await bare.signal(job, signal.SIGSTOP)
            await bare.told(Stopped, job)
            await bare.signal(job, signal.SIGCONT)
            await bare.told(Continued, job)
            used = bare.engine.usage({job: bare.started(job).handle})[job]
            assert (used.processes or 0) >= 2
            await bare.end(job, grace=0.2)
            assert told_end(await bare.ended(job), "killed:9")
            await until(lambda: bare.engine.usage({job: bare.started(job).handle})[job].processes, lambda n: n == 0)


async def test_what_an_adopted_job_leaves_behind_is_found_and_ended(bare: Workshop) -> None:
    """It names the job in its environment, and is in its session."""
    async with bare.attached():
        job = await bare.spawn("(exec sleep 1000) & read x < $FIFO", environment=bare.fifo())
        async with bare.supervisor_killed(job):
            await bare.go()
            end = await bare.ended(job)
            assert frozenset({"stdout", "stderr"}) == end.open_streams
            await until(lambda: bare.engine.usage({job: bare.started(job).handle})[job].processes, lambda n: n == 1)
            await bare.end(job)
            await bare.closed(job)


async def test_deadlines_of_a_killed_supervisor_are_kept(bare: Workshop) -> None:
    """A timeout goes on from where it was, and so does a grace period."""
    stubborn = 'trap "" TERM; echo ready; while :; do sleep 0.01; done'
    async with bare.attached():
        timed = await bare.spawn(stubborn, timeout=0.6, grace=0.1)
        told = await bare.spawn(stubborn, grace=0.6)
        await bare.says(told, b"ready\n")
        await bare.end(told)
        async with bare.supervisor_killed(timed, told):
            for job in (timed, told):
                assert told_end(await bare.ended(job), "killed:9")
            assert "timeout" in ((await bare.ended(timed)).reason or "")


async def test_a_jobs_stdin_stays_open(bare: Workshop) -> None:
    """What is written to it goes on to reach it, and it reads end of file when it is told so, not before."""
    async with bare.attached():
        job = await bare.spawn("cat", stdin="pipe")
        await bare.write(job, b"first\n")
        async with bare.supervisor_killed(job):
            await bare.write(job, b"second\n")
            await bare.says(job, b"first\nsecond\n")
            await bare.engine.close_stdin(job)
            assert told_end(await bare.ended(job), "done:0")


async def test_a_flood_through_a_terminal_is_not_torn(bare: Workshop) -> None:
    """What a killed supervisor had read and not yet written is in a pipe that the next one is given."""
    raw = ("/bin/sh", "-c", 'stty raw; exec perl -e "$0"', FLOOD)
    await assert_not_torn(bare, raw, kills=8, apart=1 << 17, pty=True)


async def test_a_jobs_terminal_is_not_hung_up(bare: Workshop) -> None:
    """The daemon kept it, and the job has it still, to read and to write."""
    async with bare.attached():
        job = await bare.spawn("stty -echo; echo ready; while read line; do echo $line; done", pty=True)
        await bare.says(job, b"ready\r\n")
        async with bare.supervisor_killed(job):
            await bare.write(job, b"typed\n")
            await bare.says(job, b"typed\r\n")
            await bare.engine.close_stdin(job)
            assert told_end(await bare.ended(job), "done:0")
            await bare.closed(job)


async def test_the_terminal_of_a_job_that_had_ended_comes_to_its_end(bare: Workshop) -> None:
    """Where the supervisor was killed between the job's end and the terminal's: the next one does not keep it open."""
    async with bare.attached():
        job = await bare.spawn("read x < $FIFO; echo said; exit 3", environment=bare.fifo(), pty=True)
        await bare.kill_supervisor()
        await bare.go()
        assert await ended(bare.started(job).pid or 0)
        bare.rewrite_record(job, wait_status=3 << 8, ended_at=time.time(), elapsed=0.5, open_streams=["stdout"])
        async with bare.taken_up(job):
            await until(lambda: bare.state_of(job).closed)
    assert b"said\r\n" == bare.read(job)


async def test_a_job_that_may_never_have_begun_is_lost(bare: Workshop) -> None:
    """Where daemon and supervisor were killed before its exec was known of, and it ended as one whose exec failed."""
    async with bare.attached():
        job = await bare.spawn("read x < $FIFO; exit 127", environment=bare.fifo(), nice=1)
        assert "awaits_exec" not in bare.records()[job]
        os.kill(bare.supervisor, signal.SIGKILL)
        await bare.engine.gone.wait()
    bare.rewrite_record(job, awaits_exec=True)
    async with bare.attached(job):
        await bare.go()
        end = await bare.ended(job)
    assert ("lose", True) == (status_of(end), "never have begun" in (end.reason or ""))


async def test_a_lease_passes_on(bare: Workshop) -> None:
    """To the next supervisor, and when the daemon goes to the process that holds it."""
    holder = await trio.lowlevel.open_process(["sleep", "1000"])
    pidfd = os.pidfd_open(holder.pid)
    async with bare.attached():
        job = await bare.spawn("exec sleep 1000", lease=True, holder=pidfd)
        async with bare.supervisor_killed(job) as learned:
            assert Continued(job) in learned
    os.close(pidfd)
    holder.kill()
    await holder.wait()
    async with bare.attached(job) as learned:
        assert told_end(await end_of(bare, job, learned), "killed:15")


async def test_a_stream_that_the_job_has_closed_stays_closed(bare: Workshop) -> None:
    """Also where it is the stream of a job that runs on; and its other one goes on."""
    async with bare.attached():
        job = await bare.spawn("echo said; exec >&-; read x < $FIFO; echo more >&2; exit 7", environment=bare.fifo())
        await until(lambda: bare.state_of(job).closed)
        async with bare.supervisor_killed(job):
            await bare.go()
            assert told_end(await bare.ended(job), "failed:7")
            await bare.closed(job)
    assert (b"said\n", b"more\n") == (bare.read(job), bare.read(job, "stderr"))


async def test_output_of_what_an_ended_job_left_behind_goes_on(bare: Workshop) -> None:
    """Its pipes are found, with and without a daemon that kept them, and nobody is harmed who writes to them."""
    async with bare.attached():
        job = await bare.spawn("(while :; do echo x; sleep 0.01; done) &")
        await bare.ended(job)
        async with bare.supervisor_killed():
            size = len(bare.read(job))
            await until(lambda: len(bare.read(job)), lambda now: now > size)
            os.kill(bare.supervisor, signal.SIGKILL)
            await bare.engine.gone.wait()
    async with bare.attached():
        again = len(bare.read(job))
        await until(lambda: len(bare.read(job)), lambda now: now > again)


async def test_streams_are_closed_that_ended_while_nobody_was_there(bare: Workshop) -> None:
    """An end that no daemon has stored is told with what is open now, not with what was when it was written down."""
    async with bare.attached():
        job = await bare.spawn("sleep 1000 & exit 3")
        await bare.ended(job)
        left = bare.engine.usage({job: bare.started(job).handle})
        assert 1 == left[job].processes
        os.kill(bare.supervisor, signal.SIGKILL)
        await bare.engine.gone.wait()
    await until(bare.kill_marked, lambda left: not left)
    async with bare.attached(job) as learned:
        assert [("failed:3", frozenset())] == [
            (status_of(news), news.open_streams) for news in learned if isinstance(news, Ended)
        ]


async def test_a_supervisor_that_is_killed_twice_leaves_nothing_behind(bare: Workshop) -> None:
    """Jobs of different supervisors live side by side, and the last one ends when all have."""
    async with bare.attached():
        first = await bare.spawn("exec sleep 1000")
        async with bare.supervisor_killed(first):
            second = await bare.spawn("exec sleep 1000")
            async with bare.supervisor_killed(first, second) as learned:
                assert {first, second} == {news.job for news in learned if isinstance(news, Continued)}
                for job in (first, second):
                    await bare.end(job)
                    assert told_end(await bare.ended(job), "killed:15")


def test_the_end_of_a_process_that_waits_to_be_reaped_is_read() -> None:
    """On every kernel: /proc tells its wait status; afterwards only a newer kernel does."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(3)
    os.close(reader)
    pidfd = os.pidfd_open(pid)
    assert exit_status(pid, pidfd) is None
    os.close(writer)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert 3 << 8 == exit_status(pid, pidfd)
    os.waitpid(pid, 0)
    assert (3 << 8 if TELLS_ENDS else None) == exit_status(pid, pidfd)
    os.close(pidfd)
