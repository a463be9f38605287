"""What an ended job left behind: its output is still the job's, and it can be reached."""

from __future__ import annotations

import signal

from jobfs.engines.base import Closed, Grown
from jobfs.errors import JobEnded
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import Await, Exit, IgnoreTerm, LeaveBehind, Step, Wait, Write
from jobfs.testing.suite import check

_SHORT = 0.1  # a grace, in seconds


async def _left_behind(bench: Bench, *script: Step, stubborn: bool = False) -> int:
    """A job that has ended with 3, and left something behind that is at work and plays `script`."""
    go = bench.cue()
    first: list[Step] = [IgnoreTerm()] if stubborn else []
    job = await bench.ready(
        *first, LeaveBehind((Write(b"ready\n"), *script)), Await(go), Exit(3), grace=_SHORT if stubborn else 5.0
    )
    await bench.give(go)
    await bench.ended(job)
    return job


@check(Feature.LINGERS)
async def a_job_has_ended_when_its_process_has(bench: Bench) -> None:
    """What it left behind does not keep it running, and may still write to the streams that the end names."""
    job = await _left_behind(bench, Wait())
    end = await bench.ended(job)
    require_same((3, frozenset({"stdout", "stderr"})), (end.code, end.open_streams), "code, and what may still grow")


@check(Feature.LINGERS)
async def output_after_the_end_is_captured(bench: Bench) -> None:
    """As long as something holds a stream, what it writes is the job's; then `Closed` says that nothing is open."""
    late = bench.cue()
    job = await _left_behind(bench, Await(late), Write(b"late\n"))
    require_same(b"ready\n", bench.output(job), "what was written until the end")
    require_same(False, bench.state_of(job).closed, "closed, of a stream that may grow")  # noqa: FBT003
    await bench.give(late)
    await bench.closed(job)
    require_same(b"ready\nlate\n", bench.output(job), "what was written in all")
    require_same(True, bench.state_of(job).closed, "closed, of a stream that nobody holds")  # noqa: FBT003


@check(Feature.LINGERS)
async def what_an_ended_job_left_can_be_watched(bench: Bench) -> None:
    """Its streams can grow, and that is told."""
    late = bench.cue()
    job = await _left_behind(bench, Await(late), Write(b"late\n"), Wait())
    await bench.give(late)
    await bench.reads(job, b"late\n")


@check(Feature.LINGERS)
async def the_last_growth_of_a_job_is_told(bench: Bench) -> None:
    """What a job wrote last is news, also where its end comes at the same moment and something holds the stream."""
    for _ in range(5):
        go, late = bench.cue(), bench.cue()
        job = await bench.spawn(LeaveBehind((Await(late),)), Await(go), Write(b"last words"))
        bench.watch(job, "stdout", 0)
        await bench.settle()
        await bench.give(go)
        await bench.ended(job)
        await bench.learned(Grown, job)
        await bench.give(late)
        await bench.closed(job)


@check(Feature.LINGERS)
async def what_an_ended_job_left_can_be_ended(bench: Bench) -> None:
    """`end` of the job ends it; afterwards nobody is left."""
    job = await _left_behind(bench, Wait())
    await bench.end(job)
    await bench.learned(Closed, job, lambda news: not news.open_streams)
    refused = await bench.refusal(lambda: bench.end(job), "the end of a job of which nothing is left")
    require(isinstance(refused, JobEnded), f"it is JobEnded: {refused!r}")


@check(Feature.LINGERS, Feature.KILLS)
async def what_an_ended_job_left_is_killed_after_the_grace(bench: Bench) -> None:
    """Where it ignores that it is to end."""
    job = await _left_behind(bench, Wait(), stubborn=True)
    await bench.end(job, grace=_SHORT)
    await bench.closed(job)


@check(Feature.LINGERS, Feature.SIGNALS)
async def what_an_ended_job_left_can_be_signalled(bench: Bench) -> None:
    """A signal of the job reaches it."""
    job = await _left_behind(bench, Wait())
    await bench.signal(job, signal.SIGUSR1)
    await bench.closed(job)


@check(Feature.LINGERS)
async def what_an_ended_job_left_is_counted(bench: Bench) -> None:
    """`usage` has its processes."""
    job = await _left_behind(bench, Wait())
    used = bench.engine.usage({job: bench.started(job).handle})[job]
    require(used.processes, f"something is left of the job: {used}")


@check(Feature.LINGERS)
async def what_a_forgotten_job_left_writes_into_nothing(bench: Bench) -> None:
    """Nothing is kept of it any more, and it goes on all the same."""
    late, over = bench.cue(), bench.cue()
    job = await _left_behind(bench, Await(late), Write(b"late\n"), Await(over))
    await bench.forget(job)
    await bench.give(late)
    await bench.settle()
    require(job not in bench.engine.known(), "a forgotten job is not known")
    require_same(None, bench.engine.open_stream(job, "stdout"), "the output of a forgotten job")
    await bench.give(over)
