"""What `watch` owes: news of a stream that grew, once, to who asked, and of nothing else.

That a job has written without its stream being watched, its other stream tells.
"""

from __future__ import annotations

import trio

from jobfs.engines.base import Grown
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import Await, Exit, Step, Wait, Write
from jobfs.testing.suite import check

_MANY = 200


async def _told(bench: Bench, job: int, stream: str = "stdout") -> int:
    """How often the stream was told to have grown, when all was told that is to be told."""
    await bench.settle()
    return bench.grown(job, stream)


def _scribe(bench: Bench, *texts: bytes) -> tuple[list[Step], list[str]]:
    """Steps that each write one of `texts` to stdout, on a cue, and then `.` to stderr; and the cues."""
    cues = [bench.cue() for _ in texts]
    steps: list[Step] = []
    for cue, text in zip(cues, texts, strict=True):
        steps += [Await(cue), Write(text), Write(b".", "stderr")]
    return [*steps, Wait()], cues


async def _write(bench: Bench, job: int, cues: list[str], number: int) -> None:
    """Has a scribe write its text of that number, counted from 1, and waits until that is in the stream."""
    await bench.give(cues[number - 1])
    await bench.reads(job, b"." * number, "stderr")


@check()
async def growth_is_told_once(bench: Bench) -> None:
    """The first bytes past the offset are news; the next ones are not, until they are asked about."""
    steps, cues = _scribe(bench, b"abc", b"def", b"g")
    job = await bench.spawn(*steps)
    bench.watch(job, "stdout", 0)
    require_same(0, await _told(bench, job), "news before the first byte")
    await _write(bench, job, cues, 1)
    await bench.learned(Grown, job, lambda news: news.stream == "stdout")
    await _write(bench, job, cues, 2)
    require_same(1, await _told(bench, job), "news of growth that was asked about once")
    bench.watch(job, "stdout", 6)
    require_same(1, await _told(bench, job), "news after the second watch, before it grew")
    await _write(bench, job, cues, 3)
    require_same(2, await _told(bench, job), "news after the second watch")


@check()
async def growth_that_was_is_told_at_once(bench: Bench) -> None:
    """Who asks about an offset that the stream has passed need not wait for more."""
    job = await bench.ready(Write(b"ready\n"), Wait())
    before = await _told(bench, job)
    bench.watch(job, "stdout", 2)
    require_same(before + 1, await _told(bench, job), "news of a stream that is past the offset already")


@check()
async def growth_up_to_the_offset_is_no_news(bench: Bench) -> None:
    """Offset N is told of when byte N is there, the one after the first N."""
    steps, cues = _scribe(bench, b"abc", b"def", b"g")
    job = await bench.spawn(*steps)
    bench.watch(job, "stdout", 6)
    await bench.settle()
    for number in (1, 2):
        await _write(bench, job, cues, number)
    require_same(0, await _told(bench, job), "news of growth up to the offset")
    await _write(bench, job, cues, 3)
    require_same(1, await _told(bench, job), "news of growth past the offset")


@check()
async def the_lowest_of_several_offsets_counts(bench: Bench) -> None:
    """Who asks about a later offset keeps nobody waiting who asked about an earlier one, in whichever order."""
    for offsets in ((0, 6), (6, 0)):
        steps, cues = _scribe(bench, b"abc")
        job = await bench.spawn(*steps)
        for past in offsets:
            bench.watch(job, "stdout", past)
        await bench.settle()
        await _write(bench, job, cues, 1)
        require(await _told(bench, job), "growth past the lower offset is told")


@check()
async def what_nobody_watches_is_no_news(bench: Bench) -> None:
    """Neither another stream of the job, nor the same stream of another one."""
    go = bench.cue()
    job = await bench.spawn(Await(go), Write(b"abc", "stderr"), Wait())
    other = (await bench.run(Write(b"abc"))).job
    bench.watch(job, "stdout", 0)
    await bench.settle()
    await bench.give(go)
    await bench.reads(job, b"abc", "stderr")
    require_same((0, 0), (await _told(bench, job), bench.grown(other)), "news of what nobody asked about")


@check()
async def each_watched_stream_is_told(bench: Bench) -> None:
    """Several streams of several jobs are told each."""
    go = [bench.cue() for _ in range(3)]
    jobs = [await bench.spawn(Await(cue), Write(b"x"), Write(b"x", "stderr"), Wait()) for cue in go]
    for job in jobs:
        for name in ("stdout", "stderr"):
            bench.watch(job, name, 0)
    await bench.settle()
    for cue in reversed(go):
        await bench.give(cue)
    for job in jobs:
        for name in ("stdout", "stderr"):
            await bench.learned(Grown, job, lambda news, name=name: news.stream == name)  # type: ignore[misc]


@check()
async def what_cannot_grow_is_never_told(bench: Bench) -> None:
    """A watch of a job that has ended, or never was, fails nothing and tells nothing; others are told all the same."""
    over = (await bench.run(Write(b"abc"))).job
    job = await bench.ready(Write(b"ready\n"), Wait())
    before, never = await _told(bench, job), bench.new_id()
    for one in (over, never, job):
        bench.watch(one, "stdout", 0)
    require_same(before + 1, await _told(bench, job), "news of the stream that can grow")
    require_same((0, 0), (bench.grown(over), bench.grown(never)), "news of streams that cannot grow")


@check()
async def many_watches_at_once_are_told(bench: Bench) -> None:
    """However many are asked for while others are on their way."""
    go = bench.cue()
    job = await bench.spawn(Await(go), Write(b"abc"), Wait())
    for past in range(_MANY):
        bench.watch(job, "stdout", past)
        await trio.lowlevel.checkpoint()
    await bench.give(go)
    await bench.learned(Grown, job)


@check(Feature.OUTLIVES)
async def a_watch_ends_with_its_attachment(bench: Bench) -> None:
    """Whoever attaches is told of what it asks about, and not of what the last one did."""
    steps, cues = _scribe(bench, b"abc")
    job = await bench.spawn(*steps)
    bench.watch(job, "stdout", 0)
    await bench.settle()
    await bench.leave()
    await bench.take_up(job)
    await _write(bench, job, cues, 1)
    require_same(0, await _told(bench, job), "news of what the last one asked about")
    bench.watch(job, "stdout", 0)
    require_same(1, await _told(bench, job), "news of what this one asks about")


@check()
async def growth_is_told_before_the_end(bench: Bench) -> None:
    """Who waits for more of a job that writes once more and ends learns of both."""
    go = bench.cue()
    job = await bench.spawn(Await(go), Write(b"last words"), Exit(0))
    bench.watch(job, "stdout", 0)
    await bench.settle()
    await bench.give(go)
    await bench.ended(job)
    order = [type(news).__name__ for news in bench.news if news.job == job]
    require_same(["Started", "Grown", "Ended"], order, "news of a watched job that writes and ends")
