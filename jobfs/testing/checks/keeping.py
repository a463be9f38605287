"""What an engine keeps of its jobs, and lets go of."""

from __future__ import annotations

from jobfs.states import Event
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import Count, Exit, Wait, Write, counted
from jobfs.testing.suite import check

_LIMIT = 100_000


@check()
async def a_job_is_known_from_its_start_until_it_is_forgotten(bench: Bench) -> None:
    """`known` has it, alive and ended, acknowledged or not, and with what was asked for."""
    job = await bench.spawn(Wait(), limit=_LIMIT)
    trace = bench.engine.known().get(job)
    assert trace is not None, "a job that runs is known"
    require_same((_LIMIT, False, True), (trace.limit, trace.pty, trace.may_live), "limit, pty, may_live of its trace")
    over = (await bench.run(Write(b"x"), Exit(0))).job
    for _ in range(2):
        ended = bench.engine.known().get(over)
        assert ended is not None, "a job that has ended is known"
        require_same(False, ended.may_live, "may_live, of a job that has ended")  # noqa: FBT003
        await bench.engine.acknowledge([over])
    await bench.forget(over)
    require_same({job}, {*bench.engine.known()} & {job, over}, "the jobs that are known, after one was forgotten")


@check()
async def an_acknowledged_end_takes_nothing_away(bench: Bench) -> None:
    """The job's output stays until it is forgotten; whom nobody knows can be acknowledged too."""
    job = (await bench.run(Count(1000))).job
    await bench.engine.acknowledge([job, bench.new_id()])
    await bench.settle()
    require_same(counted(1000), bench.output(job), "the output of a job whose end was acknowledged")


@check()
async def a_forgotten_jobs_output_is_gone(bench: Bench) -> None:
    """Nobody can open it any more; whoever has it open reads on, and other jobs keep theirs."""
    job, other = (await bench.run(Count(1000))).job, (await bench.run(Count(1000))).job
    reader = bench.engine.open_stream(job, "stdout")
    assert reader is not None
    with reader:
        await bench.forget(job)
        require_same(None, bench.engine.open_stream(job, "stdout"), "the output of a forgotten job")
        require_same(counted(1000), reader.read(0, len(counted(1000))), "what an open reader reads")
    require_same(counted(1000), bench.output(other), "the output of another job")


@check()
async def what_is_not_known_can_be_forgotten(bench: Bench) -> None:
    """Twice, too: nothing is harmed."""
    job = (await bench.run(Exit(0))).job
    for _ in range(2):
        await bench.forget(job, bench.new_id())
    require_same(Event.EXIT_ZERO, (await bench.run(Exit(0))).event, "the end of the next job")


@check()
async def living_jobs_have_a_usage(bench: Bench) -> None:
    """`usage` has an entry for each that lives, with one process at least; whom nobody knows does no harm."""
    jobs = [await bench.spawn(Wait()) for _ in range(3)]
    handles = {job: bench.started(job).handle for job in jobs}
    found = bench.engine.usage(handles)
    require_same(set(jobs), {*found}, "the jobs that have a usage")
    if Feature.PROGRAMS in bench.features:
        require(all(used.processes for used in found.values()), f"a job that lives has a process: {found}")
    bench.engine.usage({bench.new_id(): handles[jobs[0]]})


@check()
async def an_ended_job_uses_nothing(bench: Bench) -> None:
    """No process is counted of one that left nothing behind."""
    job = (await bench.run(Exit(0))).job
    used = bench.engine.usage({job: bench.started(job).handle}).get(job)
    require(used is None or not used.processes, f"no process is left: {used}")
