"""What becomes of jobs while nobody is attached, and what whoever attaches next is told."""

from __future__ import annotations

import signal

import trio
import trio.testing

from jobfs.engines.base import Closed, Continued, Ended, News, Started, Stopped
from jobfs.states import Event
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import Await, Exit, LeaveBehind, OnTerm, Wait, Write
from jobfs.testing.suite import check


def _of(job: int, answer: list[News]) -> list[News]:
    return [news for news in answer if news.job == job]


def _require_start_and_end(bench: Bench, job: int, answer: list[News]) -> Ended:
    """The job's story is that it was started, as it was told then, and has ended; gives the end."""
    story = _of(job, answer)
    require_same([Started, Ended], [type(news) for news in story], "the story of a job that has ended")
    require_same(bench.started(job), story[0], "the start in the answer, and as it was told")
    assert isinstance(story[1], Ended)
    return story[1]


@check(Feature.OUTLIVES)
async def a_job_goes_on_while_nobody_is_attached(bench: Bench) -> None:
    """The next one to attach learns that it runs, reads on where the last one was, and can end it."""
    go = bench.cue()
    job = await bench.ready(OnTerm(7), Write(b"ready\n"), Await(go), Write(b"more\n"), Wait())
    await bench.leave()
    await bench.give(go)
    answer = await bench.take_up(job)
    story = _of(job, answer)
    require_same(bench.started(job), story[0] if story else None, "the start in the answer, and as it was told")
    require_same([], [news for news in story if isinstance(news, Ended)], "the ends of a job that is alive")
    require_same(b"ready\nmore\n", await bench.reads(job, b"more\n"), "all that it wrote")
    await bench.end(job)
    require_same(7, (await bench.ended(job)).code, "the code that it ends with")


@check(Feature.OUTLIVES)
async def an_end_that_nobody_was_there_for_is_told_by_the_next_attach(bench: Bench) -> None:
    """With its own code, and all that was written by then."""
    go = bench.cue()
    job = await bench.ready(Write(b"ready\n"), Await(go), Write(b"late\n"), Exit(3))
    await bench.leave()
    await bench.give(go)
    await trio.testing.wait_all_tasks_blocked()  # where jobs are tasks of this program, it has ended now
    await bench.take_up(job)
    end = await bench.ended(job)  # in the answer, or after it where the job is not as fast
    require_same((Event.EXIT_NONZERO, 3), (end.event, end.code), "the end of a job that nobody was there for")
    require_same(b"ready\nlate\n", bench.output(job), "what was written")


@check(Feature.OUTLIVES)
async def an_end_is_told_again_until_it_is_acknowledged(bench: Bench) -> None:
    """Whoever attaches with the job still alive learns of its end, the same as it was told, as often as it asks."""
    told = await bench.run(Write(b"x"), Exit(3))
    for _ in range(2):
        await bench.leave()
        answer = await bench.take_up(told.job)
        require_same(told, _require_start_and_end(bench, told.job, answer), "the end in the answer")


@check(Feature.OUTLIVES)
async def of_a_job_that_is_not_asked_about_nothing_is_answered(bench: Bench) -> None:
    """But what may still be written to its streams; its output is there."""
    job = (await bench.run(Write(b"x"), Exit(3))).job
    await bench.engine.acknowledge([job])
    await bench.leave()
    answer = await bench.take_up()
    require_same([], [news for news in _of(job, answer) if news != Closed(job, frozenset())], "what is answered")
    require_same(b"x", bench.output(job), "its output")


@check(Feature.OUTLIVES, Feature.LINGERS)
async def which_streams_of_an_ended_job_are_open_is_answered(bench: Bench) -> None:
    """`Closed` with those that may grow, of a job whose end was acknowledged long ago."""
    late = bench.cue()
    job = await bench.ready(LeaveBehind((Write(b"ready\n"), Await(late))))
    await bench.ended(job)
    await bench.engine.acknowledge([job])
    await bench.leave()
    answer = await bench.take_up()
    require_same([Closed(job, frozenset({"stdout", "stderr"}))], _of(job, answer), "what is answered of it")
    await bench.give(late)
    await bench.learned(Closed, job, lambda news: not news.open_streams)


@check(Feature.OUTLIVES, Feature.STOPS)
async def a_stopped_job_is_answered_to_be(bench: Bench) -> None:
    """Whether a job runs or is stopped is the last that is answered of it."""
    job = await bench.ready(Write(b"ready\n"), Wait())
    await bench.signal(job, signal.SIGSTOP)
    await bench.learned(Stopped, job)
    for number, expected in ((signal.SIGSTOP, Stopped), (signal.SIGCONT, Continued)):
        if number == signal.SIGCONT:
            await bench.signal(job, number)
            await bench.learned(Continued, job)
        await bench.leave()
        answer = await bench.take_up(job)
        require_same([Started, expected], [type(news) for news in _of(job, answer)], "what is answered of it")


@check(without=Feature.OUTLIVES)
async def a_job_that_does_not_outlive_the_program_is_lost(bench: Bench) -> None:
    """The next one to attach learns that it has ended, and that nobody knows how; one that had ended, how it did."""
    job = await bench.ready(Write(b"ready\n"), Wait())
    await bench.leave()
    answer = await bench.take_up(job)
    ends = [(news.event, news.code) for news in _of(job, answer) if isinstance(news, Ended)]
    require_same([(Event.LOSE, None)], ends, "the ends of a job that went with the program that used the engine")


@check()
async def jobs_that_the_engine_does_not_know_have_ended(bench: Bench) -> None:
    """One that has a handle had been started, and is lost; one without was perhaps never started, and is cancelled."""
    handle = bench.started((await bench.run(Exit(0))).job).handle
    begun, queued = bench.new_id(), bench.new_id()
    answer = await bench.attach({begun: handle, queued: None})
    ends = {news.job: news.event for news in answer if isinstance(news, Ended)}
    require_same({begun, queued}, {*ends}, "the jobs that are answered to have ended")
    require_same(Event.LOSE, ends[begun], "the end of a job that had a handle")
    require(ends[queued] in {Event.CANCEL, Event.LOSE}, f"the end of a job without a handle: {ends[queued]}")
    reasons = [news.reason for news in answer if isinstance(news, Ended)]
    require(all(reasons), f"such ends have a reason: {reasons}")


@check()
async def whoever_attaches_last_is_told(bench: Bench) -> None:
    """Attached to again, the same engine answers what becomes of each job, and tells its news to the new listener."""
    heard: list[News] = []
    ended = trio.Event()

    def tell(news: News) -> None:
        heard.append(news)
        if isinstance(news, Ended):
            ended.set()

    go = bench.cue()
    over = await bench.run(Exit(3))
    job = await bench.spawn(Await(go), Exit(4))
    answer = await bench.take_up(over.job, job, tell=tell)
    require_same(over, _require_start_and_end(bench, over.job, answer), "the end in the answer")
    require_same(bench.started(job), _of(job, answer)[0], "the start in the answer, and as it was told")
    before = list(bench.news)
    await bench.give(go)
    bench.waits_for = "the new listener to be told of an end"
    await ended.wait()
    require_same(before, bench.news, "what the first listener has heard")
    require_same([job], [news.job for news in heard], "the jobs that the second one was told of")
    # The first one comes again, and the answer has what it missed.
    again = await bench.take_up(over.job, job)
    require_same(4, _require_start_and_end(bench, job, again).code, "the code that the job ended with")
