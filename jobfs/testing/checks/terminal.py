"""Jobs with a terminal."""

from __future__ import annotations

from jobfs.errors import JobEnded
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.rigs import Feature
from jobfs.testing.scripts import CopyInput, Wait, Write
from jobfs.testing.suite import check


@check(Feature.TERMINAL)
async def a_terminal_takes_both_streams(bench: Bench) -> None:
    """All that the job writes is its stdout, lines end as a terminal's do, and stderr has no byte."""
    job = (await bench.run(Write(b"out\n"), Write(b"err\n", "stderr"), pty=True)).job
    require_same(b"out\r\nerr\r\n", bench.output(job), "what the terminal shows")
    require_same(None, bench.engine.open_stream(job, "stderr"), "its stderr")


@check(Feature.TERMINAL)
async def what_is_written_to_a_terminal_is_typed(bench: Bench) -> None:
    """The job reads it, and end of file where that is typed."""
    job = await bench.spawn(CopyInput(), Write(b"end\n"), pty=True)
    await bench.write(job, b"one\n")
    await bench.reads(job, b"one\r\none\r\n")  # typed, and copied
    await bench.engine.close_stdin(job)
    await bench.ended(job)
    require_same(b"one\r\none\r\nend\r\n", bench.output(job), "what the terminal shows")


@check(Feature.TERMINAL)
async def a_terminal_can_be_resized(bench: Bench) -> None:
    """As long as the job lives."""
    job = await bench.spawn(Write(b"ready\n"), Wait(), pty=True)
    await bench.engine.resize(job, 50, 132)
    require_same(True, bench.engine.known()[job].pty, "pty of its trace")  # noqa: FBT003
    await bench.end(job)
    await bench.ended(job)
    refused = await bench.refusal(lambda: bench.engine.resize(job, 50, 132), "resize of a job that has ended")
    require(isinstance(refused, JobEnded), f"it is JobEnded: {refused!r}")
