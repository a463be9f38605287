"""How jobs end: what is told of it, and that all they wrote can be read by then."""

from __future__ import annotations

import signal
import time

from jobfs.states import Event
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import Await, Count, DieOf, Exit, Wait, Write, counted
from jobfs.testing.suite import check

_DAY = 86400.0


@check()
async def a_job_ends_with_its_exit_code(bench: Bench) -> None:
    """0 is EXIT_ZERO, 1 to 255 are EXIT_NONZERO, each with its number, and no reason is needed."""
    for code in (0, 1, 2, 127, 128, 137, 255):
        end = await bench.run(Exit(code))
        expected = Event.EXIT_NONZERO if code else Event.EXIT_ZERO
        require_same(
            (expected, code, None), (end.event, end.code, end.reason), f"the end of a job that exits with {code}"
        )


@check(Feature.SIGNALS)
async def a_job_that_dies_of_a_signal_ends_with_its_number(bench: Bench) -> None:
    """SIGNAL with the number, whoever sent it: no exit code, and neither 128 more nor a negative one."""
    for number in (signal.SIGUSR1, signal.SIGKILL, signal.SIGTERM):
        end = await bench.run(DieOf(number))
        require_same((Event.SIGNAL, int(number)), (end.event, end.code), f"the end of a job that dies of {number!r}")


@check()
async def an_end_is_told_once(bench: Bench) -> None:
    """One `Ended`, and nothing of the job after it."""
    job = (await bench.run(Write(b"x"), Exit(3))).job
    await bench.settle()
    of_the_job = [type(news).__name__ for news in bench.news if news.job == job]
    require_same(["Started", "Ended"], of_the_job, "what was told of a job that writes and exits")


@check()
async def an_end_has_its_time(bench: Bench) -> None:
    """`ended_at` is in seconds since the epoch and not before the start; nothing is open of a job that left nothing."""
    end = await bench.run(Exit(0))
    require(abs(end.ended_at - time.time()) < _DAY, f"ended_at is the time of now: {end.ended_at}")
    if end.elapsed is not None:
        since = time.monotonic() - bench.started(end.job).started_clock
        require(0 <= end.elapsed <= since, f"what has elapsed is between 0 and {since}: {end.elapsed}")
    require_same(frozenset(), end.open_streams, "the open streams of a job that left nothing behind")


@check()
async def all_that_was_written_is_readable_when_the_end_is_told(bench: Bench) -> None:
    """When `Ended` is told the last byte is there, in both streams, however much it was."""
    for last in (1, 1000, 100_000):
        job = await bench.spawn(Count(last), Count(last, "stderr"), Write(b"end"))
        await bench.ended(job)
        require_same(counted(last) + b"end", bench.output(job), "stdout when the end was told")
        require_same(counted(last), bench.output(job, "stderr"), "stderr when the end was told")


@check()
async def a_job_that_ends_has_closed_its_streams(bench: Bench) -> None:
    """Its streams' state says so from the end on, and not before."""
    go = bench.cue()
    job = await bench.ready(Write(b"ready\n"), Await(go))
    require_same(False, bench.state_of(job).closed, "closed, of the stream of a job that is alive")  # noqa: FBT003
    await bench.give(go)
    await bench.closed(job)
    require_same(True, bench.state_of(job).closed, "closed, of the stream of a job that has ended")  # noqa: FBT003


@check()
async def a_timeout_ends_the_job_and_says_so(bench: Bench) -> None:
    """A job that runs for longer than `timeout` seconds is ended, and its reason tells."""
    end = await bench.run(Wait(), timeout=0.05)
    require(end.reason, f"the end by a timeout has a reason: {end}")
    if Feature.SIGNALS in bench.features:
        require_same((Event.SIGNAL, int(signal.SIGTERM)), (end.event, end.code), "the end by a timeout")


@check()
async def a_timeout_that_is_not_reached_is_no_reason(bench: Bench) -> None:
    """A job that ends by itself ends as if it had none."""
    end = await bench.run(Exit(4), timeout=1000.0)
    require_same((4, None), (end.code, end.reason), "the end of a job that did not run into its timeout")
