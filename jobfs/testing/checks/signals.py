"""Signals and ends that were asked for."""

from __future__ import annotations

import signal

from jobfs.engines.base import Continued, Ended, Stopped
from jobfs.errors import JobEnded
from jobfs.states import Event
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import Exit, IgnoreTerm, OnTerm, Wait, Write
from jobfs.testing.suite import check

_READY = Write(b"ready\n")
_SHORT = 0.1  # a grace, in seconds
_LONG = 1000.0


@check(Feature.SIGNALS)
async def a_signal_reaches_the_job(bench: Bench) -> None:
    """A job that does not heed a signal dies of it; that it was sent is no reason to tell."""
    for number in (signal.SIGUSR1, signal.SIGKILL):
        job = await bench.ready(_READY, Wait())
        await bench.signal(job, number)
        end = await bench.ended(job)
        require_same((Event.SIGNAL, int(number), None), (end.event, end.code, end.reason), f"the end by {number!r}")


@check()
async def a_job_that_has_ended_cannot_be_signalled_nor_ended(bench: Bench) -> None:
    """JobEnded where nobody is left, as for a job that never was."""
    over = (await bench.run(Exit(0))).job
    handle = bench.started(over).handle
    for job in (over, bench.new_id()):
        for refused in (
            await bench.refusal(lambda job=job: bench.engine.signal(job, handle, signal.SIGTERM), "signal"),  # type: ignore[misc]
            await bench.refusal(lambda job=job: bench.engine.end(job, handle, _SHORT), "end"),  # type: ignore[misc]
            await bench.refusal(lambda job=job: bench.engine.resize(job, 24, 80), "resize"),  # type: ignore[misc]
        ):
            require(isinstance(refused, JobEnded), f"it is JobEnded: {refused!r}")


@check()
async def a_job_ends_when_it_is_asked_to(bench: Bench) -> None:
    """`end` is heeded by a job that does nothing about it, with the reason that was given."""
    job = await bench.ready(_READY, Wait())
    await bench.end(job, "it took too long")
    end = await bench.ended(job)
    require_same("it took too long", end.reason, "the reason of the end")
    if Feature.SIGNALS in bench.features:
        require_same((Event.SIGNAL, int(signal.SIGTERM)), (end.event, end.code), "the end by SIGTERM")


@check()
async def how_a_job_ended_is_what_it_made_of_it(bench: Bench) -> None:
    """A job that exits when it is asked to end has exited, never what was asked for."""
    for code, event in ((0, Event.EXIT_ZERO), (7, Event.EXIT_NONZERO)):
        job = await bench.ready(OnTerm(code), _READY, Wait())
        await bench.end(job)
        end = await bench.ended(job)
        require_same((event, code), (end.event, end.code), f"the end of a job that exits with {code} when asked to end")


@check()
async def a_second_end_changes_nothing(bench: Bench) -> None:
    """It neither fails nor hastens the end, and the reason stays the first one's."""
    done = bench.cue()
    job = await bench.ready(OnTerm(7, after=done), _READY, Wait(), grace=_LONG)
    await bench.end(job, "the first reason", grace=_LONG)
    await bench.end(job, "the second reason", grace=0.0)
    await bench.settle()
    await bench.give(done)
    end = await bench.ended(job)
    require_same((7, "the first reason"), (end.code, end.reason), "code and reason of an end that was asked for twice")


@check(Feature.KILLS)
async def a_job_that_ignores_it_is_killed_after_its_grace(bench: Bench) -> None:
    """SIGKILL follows when the grace is over."""
    job = await bench.ready(IgnoreTerm(), _READY, Wait(), grace=_SHORT)
    await bench.end(job, "enough", grace=_SHORT)
    end = await bench.ended(job)
    expected = (Event.SIGNAL, int(signal.SIGKILL), "enough")
    require_same(expected, (end.event, end.code, end.reason), "the end of a job that ignores SIGTERM")


@check(Feature.KILLS)
async def a_job_that_ignores_it_lives_as_long_as_its_grace(bench: Bench) -> None:
    """Until then it goes on."""
    job = await bench.ready(IgnoreTerm(), _READY, Wait(), grace=_LONG)
    await bench.end(job, grace=_LONG)
    await bench.settle()
    require_same([], [news for news in bench.news if isinstance(news, Ended) and news.job == job], "ends told")


@check(Feature.STOPS)
async def a_stop_and_a_continue_are_told(bench: Bench) -> None:
    """What stops and continues the job is told, in that order, and each once."""
    job = await bench.ready(_READY, Wait())
    await bench.signal(job, signal.SIGSTOP)
    await bench.learned(Stopped, job)
    await bench.signal(job, signal.SIGCONT)
    await bench.learned(Continued, job)
    await bench.settle()
    told = [type(news).__name__ for news in bench.news if news.job == job and isinstance(news, Stopped | Continued)]
    require_same(["Stopped", "Continued"], told, "what was told of a job that was stopped and continued")


@check(Feature.STOPS)
async def a_stopped_job_can_be_ended(bench: Bench) -> None:
    """An end continues what is stopped, so that it can heed it."""
    job = await bench.ready(OnTerm(7), _READY, Wait())
    await bench.signal(job, signal.SIGSTOP)
    await bench.learned(Stopped, job)
    await bench.end(job)
    require_same(7, (await bench.ended(job)).code, "the exit code of a stopped job that was ended")
