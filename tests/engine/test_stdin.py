"""A job that reads a pipe: what is written reaches it, until there is an end of file; and when a write is EPIPE."""

from __future__ import annotations

import errno
import os
import signal

import pytest
import trio
import trio.testing

from tests.engine.workshop import Options, Workshop, error_of, status_of, until

MIB = 1024 * 1024
# A shell's command line may be started by posix_spawn; what has other options is forked.
WAYS: list[Options] = [{"stdin": "pipe"}, {"stdin": "pipe", "cwd": "/"}]


@pytest.mark.parametrize("way", WAYS)
async def test_a_job_reads_what_any_number_of_writers_write_until_eof(shop: Workshop, way: Options) -> None:
    """A writer that closes the file is no end of file; `eof` is, and a second one changes nothing."""
    way = {**way, "environment": shop.fifo()}
    job = await shop.spawn("cat; echo end; read go < $FIFO", **way)
    for word in (b"one\n", b"two\n", b"three\n"):
        await shop.write(job, word)
        await shop.says(job, word)
    await shop.engine.close_stdin(job)
    await shop.says(job, b"one\ntwo\nthree\nend\n")
    await shop.engine.close_stdin(job)
    assert errno.EPIPE == await shop.refusal(job)
    await shop.go()
    assert "done:0" == status_of(await shop.ended(job))


async def test_megabytes_come_through(shop: Workshop) -> None:
    """Whole, at the speed at which the job reads."""
    job = await shop.spawn("md5sum", stdin="pipe")
    data = os.urandom(1000) * 5000
    await shop.write(job, data)
    await shop.engine.close_stdin(job)
    await shop.ended(job)
    expected = await trio.run_process(["md5sum"], stdin=data, capture_stdout=True)
    assert expected.stdout == shop.read(job)


async def test_the_pipe_stays_open_while_no_daemon_is_there(bare: Workshop) -> None:
    """The supervisor holds it: a job goes on reading when the next daemon comes."""
    async with bare.attached():
        job = await bare.spawn("cat", stdin="pipe")
        await bare.write(job, b"first\n")
    async with bare.attached(job):
        await bare.write(job, b"second\n")
        await bare.says(job, b"first\nsecond\n")
        await bare.engine.close_stdin(job)
        assert "done:0" == status_of(await bare.ended(job))


async def test_other_jobs_do_not_hold_the_pipe(shop: Workshop) -> None:
    """Whether they run, wait for their exec, or are forked or not: end of file comes at once."""
    fifo = shop.state / "fifo"
    os.mkfifo(fifo)
    job = await shop.spawn("cat", stdin="pipe")
    others: list[Options] = [{}, {"stdin": "pipe"}, {"cwd": "/"}, {"stdin": str(fifo)}]
    jobs = [await shop.spawn("exec sleep 1000", **other) for other in others]
    await shop.engine.close_stdin(job)
    assert "done:0" == status_of(await shop.ended(job))
    await shop.signal(jobs[-1], signal.SIGKILL)  # it waits for a writer of the FIFO, before its exec


async def test_a_write_to_a_job_that_has_ended_is_epipe(shop: Workshop) -> None:
    """Also where a descendant holds the pipe, and that one reads end of file."""
    job = await shop.spawn("exec 3<&0; (cat <&3; echo end) & exit", stdin="pipe")
    await shop.ended(job)
    assert errno.EPIPE == await shop.refusal(job)
    await shop.closed(job)
    assert b"end\n" == shop.read(job)


async def test_a_writer_that_waits_learns_that_the_job_has_closed_its_stdin(shop: Workshop) -> None:
    """A full pipe that will never be read again is EPIPE, not for ever."""
    job = await shop.spawn("read go < $FIFO; exec <&-; exec sleep 1000", stdin="pipe", environment=shop.fifo())
    errors: list[int] = []

    async def fill() -> None:
        errors.append((await error_of(lambda: shop.write(job, bytes(MIB)))).errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill)
        await shop.go()
    assert [errno.EPIPE] == errors


@pytest.mark.parametrize("stdin", ["none", "/dev/null"])
async def test_a_write_to_a_job_without_a_pipe_is_epipe(shop: Workshop, stdin: str) -> None:
    """And so is one to a job that nobody knows."""
    job = await shop.spawn("exec sleep 1000", stdin=stdin)
    assert [errno.EPIPE] * 2 == [await shop.refusal(job), await shop.refusal(4711)]


async def test_a_job_that_fails_to_start_leaves_no_pipe(shop: Workshop) -> None:
    """Neither where exec fails nor where the job has ended."""
    await shop.run("true", stdin="pipe")
    await shop.engine.acknowledge([])
    before = pipes(shop.supervisor)
    for _ in range(20):
        await error_of(lambda: shop.spawn(argv=("/nonexistent/program",), stdin="pipe"))
        await error_of(lambda: shop.spawn("true", stdin="pipe", cwd="/nonexistent"))
        await shop.run("true", stdin="pipe")
    await until(lambda: pipes(shop.supervisor), lambda now: now == before)


async def test_a_question_that_nobody_waits_for_any_more_leaves_no_descriptor(shop: Workshop) -> None:
    """An answer that comes after its asker was cancelled is closed."""
    job = await shop.spawn("cat", stdin="pipe")
    os.kill(shop.supervisor, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shop.engine.open_stdin, job)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    os.kill(shop.supervisor, signal.SIGCONT)
    await shop.engine.close_stdin(job)
    assert "done:0" == status_of(await shop.ended(job))


def pipes(process: int) -> int:
    """How many descriptors of pipes a process has."""
    places = [f"/proc/{process}/fd/{number}" for number in os.listdir(f"/proc/{process}/fd")]
    return sum(os.readlink(place).startswith("pipe:") for place in places if os.path.lexists(place))
