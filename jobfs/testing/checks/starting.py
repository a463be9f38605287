"""How jobs start: what is told of it, what they find, and what becomes of one that cannot."""

from __future__ import annotations

import os
import time
from functools import partial

import trio

from jobfs.engines.base import Ended, Started
from jobfs.states import Event
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import VARIABLE, Exit, Fact, Report, Wait, Write
from jobfs.testing.suite import check

_DAY = 86400.0
_MANY = 30


@check()
async def a_start_is_told_before_spawn_returns(bench: Bench) -> None:
    """`Started` is told before `spawn` returns, once, with the job's id and a handle."""
    job = await bench.spawn(Wait())
    told = [news for news in bench.news if isinstance(news, Started)]
    require_same([job], [news.job for news in told], "the jobs that were told to be started when spawn returned")
    require(isinstance(told[0].handle, str), "a handle is a string")
    await bench.settle()
    started = [news for news in bench.news if isinstance(news, Started) and news.job == job]
    require_same(told, started, "what was told of the start")


@check()
async def a_start_has_its_time_on_both_clocks(bench: Bench) -> None:
    """`started_at` is in seconds since the epoch, `started_clock` one of CLOCK_MONOTONIC during the spawn."""
    before = time.monotonic()
    started = bench.started(await bench.spawn(Wait()))
    after = time.monotonic()
    require(before <= started.started_clock <= after, f"{before} <= {started.started_clock} <= {after}")
    # The clock may be another machine's, but not another kind of clock.
    require(abs(started.started_at - time.time()) < _DAY, f"started_at is the time of now: {started.started_at}")


@check()
async def many_jobs_at_once_keep_apart(bench: Bench) -> None:
    """Jobs that are spawned at the same time each have their own output and their own end."""
    jobs: dict[int, int] = {}

    async def spawn(number: int) -> None:
        jobs[number] = await bench.spawn(Write(b"%d\n" % number), Exit(number))

    async with trio.open_nursery() as nursery:
        for number in range(_MANY):
            nursery.start_soon(spawn, number)
    for number, job in jobs.items():
        require_same(number, (await bench.ended(job)).code, "the exit code of one of many jobs")
        require_same(b"%d\n" % number, bench.output(job), "the output of one of many jobs")


@check()
async def a_spawn_that_fails_changes_nothing(bench: Bench) -> None:
    """What cannot start fails with an error of the family; nothing is told, nothing is known, and the next one runs."""
    for spec in bench.impossible():
        job = bench.new_id()
        error = await bench.refusal(partial(bench.spawn_as, job, spec), "a spawn of what cannot start")
        require(error.errno and str(error), f"an error has a number and says what is wrong: {error!r}")
        await bench.settle()
        require_same([], [news for news in bench.news if news.job == job], "what was told of a job that never was")
        require(job not in bench.engine.known(), "what never was is not known")
        require_same(None, bench.engine.open_stream(job, "stdout"), "the output of a job that never was")
    require_same(Event.EXIT_ZERO, (await bench.run(Exit(0))).event, "the end of the next job")


@check(Feature.PROGRAMS)
async def a_job_has_its_directory_and_environment(bench: Bench) -> None:
    """A job starts in `directory`, or in `cwd` from there, with the environment that `spawn` was given."""
    root, below = (os.path.realpath(place) for place in ("/usr", "/usr/bin"))  # noqa: ASYNC240 - they are there
    where, what = Report(Fact.DIRECTORY), Report(Fact.VARIABLE)
    environment = f"{bench.spec().environment}{VARIABLE}=a b\0"
    inside = await bench.run(where, what, directory=root, environment=environment)
    require_same(f"{root}\na b\n".encode(), bench.output(inside.job), "the job's directory and its variable")
    beside = await bench.run(where, what, directory=root, cwd="bin/..", environment=environment)
    require_same(f"{root}\na b\n".encode(), bench.output(beside.job), "the same, with a relative cwd")
    entered = await bench.run(where, directory="/", cwd=below)
    require_same(f"{below}\n".encode(), bench.output(entered.job), "the job's directory, where cwd says another one")


@check(Feature.PROGRAMS)
async def a_job_has_its_umask_and_niceness(bench: Bench) -> None:
    """Both are what the specification says."""
    umask, niceness = Report(Fact.UMASK), Report(Fact.NICENESS)
    end: Ended = await bench.run(umask, niceness, umask=0o027, nice=7)
    require_same(b"0027\n7\n", bench.output(end.job), "the job's umask and niceness")
