"""What is written to jobs."""

from __future__ import annotations

import os

from jobfs.errors import JobEnded, StdinClosed
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import Await, CloseInput, CopyInput, Exit, Wait, Write
from jobfs.testing.suite import check

_SOME = 60_000  # as much as a pipe holds, and no more
_MUCH = 300_000  # more than that


@check(Feature.STDIN)
async def a_job_reads_what_is_written_until_end_of_file(bench: Bench) -> None:
    """Any number of writers come and go; end of file is `close_stdin`, and a second one changes nothing."""
    go = bench.cue()
    job = await bench.spawn(CopyInput(), Write(b"end\n"), Await(go), stdin="pipe")
    for word in (b"one\n", b"two\n", bytes(range(256)) + b"\n"):
        await bench.write(job, word)
        await bench.reads(job, word)
    await bench.engine.close_stdin(job)
    await bench.reads(job, b"end\n")
    await bench.engine.close_stdin(job)
    refused = await bench.refusal(lambda: bench.write(job, b"x"), "a write after end of file")
    require(isinstance(refused, StdinClosed), f"it is StdinClosed: {refused!r}")
    await bench.give(go)
    require_same(0, (await bench.ended(job)).code, "the end of a job that read all")


@check(Feature.STDIN)
async def what_was_written_before_end_of_file_is_read_first(bench: Bench) -> None:
    """Also by a job that has read nothing yet."""
    go = bench.cue()
    job = await bench.spawn(Await(go), CopyInput(), stdin="pipe")
    await bench.write(job, b"x" * _SOME)
    await bench.engine.close_stdin(job)
    await bench.give(go)
    await bench.ended(job)
    require_same(b"x" * _SOME, bench.output(job), "what was read")


@check(Feature.STDIN)
async def much_that_is_written_comes_through(bench: Bench) -> None:
    """More than waits anywhere, whole, at the speed at which the job reads."""
    job = await bench.spawn(CopyInput(), stdin="pipe")
    data = b"".join(b"%07d\n" % number for number in range(_MUCH // 8))
    await bench.write(job, data)
    await bench.engine.close_stdin(job)
    await bench.ended(job)
    require_same(data, bench.output(job), "what was read")


@check(Feature.STDIN)
async def a_descriptor_of_stdin_never_blocks(bench: Bench) -> None:
    """It is the caller's own, and is not inherited by what the caller starts."""
    job = await bench.spawn(Wait(), stdin="pipe")
    first, second = await bench.engine.open_stdin(job), await bench.engine.open_stdin(job)
    try:
        seen = (first != second, os.get_blocking(first), os.get_inheritable(first))
    finally:
        os.close(first)
        os.close(second)
    require_same((True, False, False), seen, "another one each time, blocking, inheritable")


@check(Feature.STDIN)
async def a_write_to_a_job_that_has_closed_its_stdin_fails(bench: Bench) -> None:
    """Nobody reads it any more, though the job is alive."""
    job = await bench.ready(CloseInput(), Write(b"ready\n"), Wait(), stdin="pipe")
    refused = await bench.refusal(lambda: bench.write(job, b"x"), "a write to a job that has closed its stdin")
    require(isinstance(refused, StdinClosed), f"it is StdinClosed: {refused!r}")


@check()
async def a_job_that_reads_nothing_cannot_be_written_to(bench: Bench) -> None:
    """StdinClosed: it has no stdin, it has ended, or it never was."""
    over = (await bench.run(Exit(0), stdin="pipe" if Feature.STDIN in bench.features else "none")).job
    for job in (await bench.spawn(Wait()), over, bench.new_id()):
        refused = await bench.refusal(lambda job=job: bench.engine.open_stdin(job), "open_stdin")  # type: ignore[misc]
        require(isinstance(refused, StdinClosed), f"it is StdinClosed: {refused!r}")


@check()
async def a_job_without_stdin_reads_end_of_file(bench: Bench) -> None:
    """At once."""
    job = (await bench.run(CopyInput(), Write(b"end"))).job
    require_same(b"end", bench.output(job), "what a job without stdin copies, and `end`")


@check()
async def the_stdin_of_an_ended_job_cannot_be_closed(bench: Bench) -> None:
    """JobEnded, as for one that never was."""
    for job in ((await bench.run(Exit(0))).job, bench.new_id()):
        refused = await bench.refusal(lambda job=job: bench.engine.close_stdin(job), "close_stdin")  # type: ignore[misc]
        require(isinstance(refused, JobEnded), f"it is JobEnded: {refused!r}")
