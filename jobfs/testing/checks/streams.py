"""What jobs write: the exact bytes, at absolute offsets, the newest of them kept."""

from __future__ import annotations

from contextlib import suppress

from jobfs.stream import Evicted
from jobfs.testing.bench import Bench
from jobfs.testing.requiring import require, require_same
from jobfs.testing.scripts import Await, Count, Wait, Write, counted
from jobfs.testing.suite import check

_LIMIT = 64 * 1024
_LAST = 300_000  # counts up to about 2 MB, so that the first bytes are overwritten
_EVERY_BYTE = bytes(range(256))


@check()
async def a_stream_without_a_byte_has_no_reader(bench: Bench) -> None:
    """`open_stream` gives None until the job has written to that stream, and for a job that never was."""
    go = bench.cue()
    job = await bench.spawn(Await(go), Write(b"x"), Wait())
    seen = [bench.engine.open_stream(one, name) for one in (job, bench.new_id()) for name in ("stdout", "stderr")]
    require_same([None] * 4, seen, "readers of streams without a byte")
    await bench.give(go)
    await bench.reads(job, b"x")
    require_same(None, bench.engine.open_stream(job, "stderr"), "a reader of the stream without a byte")


@check()
async def a_stream_has_the_exact_bytes(bench: Bench) -> None:
    """Every byte of either stream comes through, and none in the other stream."""
    job = (await bench.run(Write(_EVERY_BYTE), Write(b"err", "stderr"), Write(b"\n\r\n\0"))).job
    require_same(_EVERY_BYTE + b"\n\r\n\0", bench.output(job), "stdout")
    require_same(b"err", bench.output(job, "stderr"), "stderr")


@check()
async def a_job_that_runs_can_be_read(bench: Bench) -> None:
    """What a job wrote is readable while it goes on, and one reader reads on as more comes."""
    go = bench.cue()
    job = await bench.ready(Write(b"ready\n"), Await(go), Write(b"more\n"), Wait())
    reader = bench.engine.open_stream(job, "stdout")
    assert reader is not None
    with reader:
        require_same(b"ready\n", reader.read(0, 100), "what the reader reads at first")
        await bench.give(go)
        await bench.reads(job, b"more\n")
        require_same(b"more\n", reader.read(6, 100), "what the same reader reads then")


@check()
async def offsets_are_absolute(bench: Bench) -> None:
    """Offset N is the N-th byte that was written, wherever a read begins; past the end there is nothing."""
    job = (await bench.run(Count(1000))).job
    text = counted(1000)
    reader = bench.engine.open_stream(job, "stdout")
    assert reader is not None
    with reader:
        require_same((len(text), 0), (reader.snapshot().written, reader.snapshot().start), "written, and start")
        for at in (0, 1, 777, len(text) - 1):
            require_same(text[at : at + 10], reader.read(at, 10), f"10 bytes at {at}")
        require_same(b"", reader.read(len(text), 10), "what is past the end")


@check()
async def only_the_newest_bytes_are_kept(bench: Bench) -> None:
    """`limit` bytes are retained, and all are counted; for those that were overwritten no others are read."""
    job = (await bench.run(Count(_LAST), limit=_LIMIT)).job
    text = counted(_LAST)
    state = bench.state_of(job)
    seen = (state.written, state.retained, state.capacity)
    require_same((len(text), _LIMIT, _LIMIT), seen, "bytes written, retained, and retained at most")
    require_same(text[-_LIMIT:], bench.output(job), "what is retained")
    reader = bench.engine.open_stream(job, "stdout")
    assert reader is not None
    with reader, suppress(Evicted):
        require(not reader.read(0, 10), "bytes that were overwritten cannot be read")


@check()
async def each_stream_has_its_own_limit(bench: Bench) -> None:
    """What one stream evicts takes nothing from the other one."""
    job = (await bench.run(Write(b"kept", "stderr"), Count(_LAST), limit=_LIMIT)).job
    require_same(b"kept", bench.output(job, "stderr"), "stderr, beside a stdout that has evicted")
