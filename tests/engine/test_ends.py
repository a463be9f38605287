"""How jobs end: the words come from the wait status, and all that was written is there by then."""

from __future__ import annotations

import signal
import time

import pytest

from tests.engine.workshop import Workshop, status_of

MIB = 1024 * 1024


async def test_every_exit_code_is_told(shop: Workshop) -> None:
    """Exit codes 0 to 255 come through as they are."""
    codes = [0, 1, 2, 126, 127, 128, 129, 137, 143, 254, 255]
    jobs = [await shop.spawn(f"exit {code}") for code in codes]
    expected = ["done:0", *(f"failed:{code}" for code in codes[1:])]
    assert expected == [status_of(await shop.ended(job)) for job in jobs]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGRTMIN + 3])
async def test_a_signal_that_ended_the_job_is_told(shop: Workshop, number: int) -> None:
    """A job that a signal ended is killed by that signal's number."""
    assert f"killed:{number}" == status_of(await shop.ended(await shop.spawn(f"kill -{number} $$")))


async def test_times_and_usage_come_with_the_end(shop: Workshop) -> None:
    """An end has its time, how long the job ran and the CPU it used."""
    before = time.time()
    job = await shop.run("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done")
    end = await shop.ended(job)
    assert before <= shop.started(job).started_at <= end.ended_at <= time.time()
    assert end.elapsed is not None
    assert end.elapsed >= 0
    assert end.cpu_user_s is not None
    assert end.cpu_system_s is not None
    assert end.cpu_user_s + end.cpu_system_s > 0


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 65537, MIB])
async def test_what_was_written_before_the_end_is_readable_when_it_is_told(shop: Workshop, size: int) -> None:
    """When the end is told, every byte that the job's process wrote can be read."""
    job = await shop.spawn(f"head -c {size} /dev/zero; head -c {size} /dev/zero >&2")
    await shop.ended(job)
    assert (size, size) == (len(shop.read(job)), len(shop.read(job, "stderr")))


async def test_a_lingering_descendant_does_not_hold_the_last_bytes_back(shop: Workshop) -> None:
    """What the pipe held when the process ended is readable at the end, though a descendant holds the pipe."""
    job = await shop.spawn(f"sleep 1000 & head -c {MIB} /dev/zero")
    end = await shop.ended(job)
    assert MIB == len(shop.read(job))
    assert frozenset({"stdout", "stderr"}) == end.open_streams


async def test_many_ends_at_once_have_all_their_output(shop: Workshop) -> None:
    """Jobs that end at the same time, each with a descendant that holds its pipes, have all that they wrote."""
    jobs = [await shop.spawn(f"sleep 1000 & head -c 70000 /dev/zero; echo {n}") for n in range(20)]
    for n, job in enumerate(jobs):
        await shop.ended(job)
        assert f"{n}\n".encode() == shop.read(job)[70000:]


async def test_a_descendant_that_reads_the_pipe_holds_up_nothing(shop: Workshop) -> None:
    """A descendant that takes bytes out of the job's pipe, which it may, keeps no end from being told."""
    jobs = [await shop.spawn("cat <&1 >/dev/null & head -c 60000 /dev/zero") for _ in range(10)]
    assert ["done:0"] * 10 == [status_of(await shop.ended(job)) for job in jobs]


async def test_a_timeout_ends_the_job_and_says_so(shop: Workshop) -> None:
    """A job that runs past its timeout is ended, and the reason names it."""
    end = await shop.ended(await shop.spawn("sleep 1000", timeout=0.05))
    assert ("killed:15", "it was ended after its timeout of 0.05 s") == (status_of(end), end.reason)


async def test_a_timeout_is_followed_by_the_grace(shop: Workshop) -> None:
    """A job that ignores SIGTERM dies of its timeout too, after the grace."""
    job = await shop.spawn('trap "" TERM; while :; do sleep 0.01; done', timeout=0.1, grace=0.1)
    assert "killed:9" == status_of(await shop.ended(job))
