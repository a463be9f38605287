"""When the machine runs out of something: the job waits or the spawn is refused, and nothing that is known is lost."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from jobfs.engines.base import Ended, Stalled, Stopped
from jobfs.errors import LimitReached, StateFull
from jobfs.supervisor import JOBS
from jobfs.supervisor.wire import FrameDecoder, encode_frame
from tests.engine.workshop import Options, Workshop, status_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# By posix_spawn and by fork.
WAYS: list[Options] = [{}, {"cwd": "/"}]
SMALL = 2 * 1024 * 1024


@pytest.fixture
async def tight(bare: Workshop) -> AsyncIterator[Workshop]:
    """A workshop whose jobs' files are on a disk of 2 MiB, with a daemon attached."""
    place = str(bare.state / JOBS)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL},mode=700", "jobfs-test", place]
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:  # noqa: ASYNC221
        pytest.skip("mounting is not permitted here")
    try:
        async with bare.attached():
            yield bare
    finally:
        with trio.CancelScope(shield=True):
            await bare.finish()
            # At once, and wholly when the engine, which holds the directory, is gone.
            subprocess.run(["umount", "-l", place], check=True)  # noqa: ASYNC221


def fill(shop: Workshop) -> str:
    """Fills the disk; gives the file that does."""
    path = str(shop.state / JOBS / "filling")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, bytes(4096))
    except OSError:
        return path
    finally:
        os.close(fd)


async def test_a_job_waits_while_the_disk_is_full_and_loses_nothing(tight: Workshop) -> None:
    """A full disk makes the job wait; when there is room it goes on, and every byte is there."""
    job = await tight.spawn("echo begun; read go < $FIFO; seq 100000; echo end", environment=tight.fifo())
    quiet = await tight.spawn("exec sleep 1000")
    await tight.says(job, b"begun\n")
    filling = fill(tight)
    await tight.go()
    pid = tight.started(job).pid
    await until(lambda: log(tight), lambda said: f"job {job} waits" in said)
    why = "cannot be written: No space left on device: the job waits when it writes"
    await tight.told(Stalled, job, lambda news: news.streams == {"stdout": why})
    await tight.signal(quiet, signal.SIGSTOP)  # the supervisor is not held up
    await tight.told(Stopped, quiet)
    os.kill(pid or 0, 0)
    assert [] == [news for news in tight.news if isinstance(news, Ended)]
    os.unlink(filling)
    await tight.told(Stalled, job, lambda news: not news.streams)
    assert "done:0" == status_of(await tight.ended(job))
    expected = "begun\n" + "".join(f"{n}\n" for n in range(1, 100001)) + "end\n"
    assert expected == tight.read(job).decode()


async def test_an_end_on_a_full_disk_is_told_when_all_output_is_written(tight: Workshop) -> None:
    """A job that has exited is not final before its last bytes can be read."""
    job = await tight.spawn("read go < $FIFO; head -c 30000 /dev/zero; echo end; exit 5", environment=tight.fifo())
    filling = fill(tight)
    await tight.go()
    await until(lambda: os.path.exists(f"/proc/{tight.started(job).pid}"), lambda there: not there)
    why = "its process has ended, and how is told when the last of its output is kept"
    await tight.told(Stalled, job, lambda news: news.streams.get("stdout", "").endswith(why))
    assert [] == [news for news in tight.news if isinstance(news, Ended)]
    os.unlink(filling)
    assert "failed:5" == status_of(await tight.ended(job))
    assert b"end\n" == tight.read(job)[30000:]


async def test_a_job_without_output_ends_on_a_full_disk(tight: Workshop) -> None:
    """How a job ended is written in place, and needs no room."""
    job = await tight.spawn("read go < $FIFO; exit 6", environment=tight.fifo())
    fill(tight)
    await tight.go()
    assert "failed:6" == status_of(await tight.ended(job))


async def test_a_spawn_on_a_full_disk_is_refused(tight: Workshop) -> None:
    """Where there is no room for a job's record, it is not started, and can be when there is."""
    await tight.run("true")
    filling = fill(tight)
    errors = [error async for error in refusals(tight)]
    assert [StateFull] == [type(error) for error in errors]
    os.unlink(filling)
    assert "done:0" == status_of(await tight.ended(await tight.spawn("true")))


async def test_a_forgotten_job_waits_no_longer(tight: Workshop) -> None:
    """What an ended job left behind, waiting for the full disk, writes into nothing once the job is removed."""
    job = await tight.run("(read go < $FIFO; seq 100000) &", environment=tight.fifo())
    fill(tight)
    await tight.go()
    await until(lambda: log(tight), lambda said: f"job {job} waits" in said)
    await tight.engine.forget([job])
    await tight.closed(job)


async def test_out_of_descriptors_a_spawn_is_refused_and_later_works(shop: Workshop) -> None:
    """A supervisor without a descriptor refuses with EAGAIN, goes on with what it has, and spawns again later."""
    running = await shop.spawn("read go < $FIFO; echo heard", environment=shop.fifo())
    limits = resource.prlimit(shop.supervisor, resource.RLIMIT_NOFILE)
    started: list[int] = []
    for room in range(12):  # so that it runs out at each of the places where it takes one
        open_now = len(os.listdir(f"/proc/{shop.supervisor}/fd"))
        resource.prlimit(shop.supervisor, resource.RLIMIT_NOFILE, (open_now + room, limits[1]))
        for options in WAYS:
            for _ in range(3):
                with suppress(LimitReached):
                    started.append(await shop.spawn("exec sleep 1000", **options))
        resource.prlimit(shop.supervisor, resource.RLIMIT_NOFILE, limits)
        for job in started:
            await shop.signal(job, signal.SIGKILL)
            await shop.closed(job)
        assert {running, *started} == {*shop.engine.known()}
        await shop.engine.forget(started)
        started.clear()
    await shop.go()
    assert "done:0" == status_of(await shop.ended(running))
    assert b"heard\n" == shop.read(running)
    assert shop.engine.usage({running: shop.started(running).handle})[running].processes == 0
    children = subprocess.run(["ps", "--ppid", str(shop.supervisor), "-o", "pid="], capture_output=True, check=False)  # noqa: ASYNC221
    assert b"" == children.stdout


async def test_out_of_descriptors_a_daemon_waits_and_is_let_in_later(shop: Workshop) -> None:
    """A supervisor that cannot accept a daemon goes on with its work, does not spin, and accepts it later."""
    limits = resource.prlimit(shop.supervisor, resource.RLIMIT_NOFILE)
    job = await shop.spawn("exec sleep 1000")
    resource.prlimit(shop.supervisor, resource.RLIMIT_NOFILE, (3, limits[1]))
    with trio.socket.socket(trio.socket.AF_UNIX) as daemon:
        await daemon.connect(str(next((shop.state / "jobfs").iterdir())))
        await daemon.send(encode_frame({"op": "hello", "seq": 5}))
        await until(lambda: log(shop), lambda said: "a daemon must wait" in said)
        for _ in range(300):
            await shop.signal(job, signal.SIGCONT)
        assert log(shop).count("a daemon must wait") < 100
        assert "Traceback" not in log(shop)
        resource.prlimit(shop.supervisor, resource.RLIMIT_NOFILE, limits)
        with trio.fail_after(30):
            answers = FrameDecoder().feed(await daemon.recv(1 << 16))
    assert [(5, shop.supervisor)] == [(answer["seq"], answer["pid"]) for answer in answers]


async def refusals(shop: Workshop) -> AsyncIterator[Exception]:
    """What spawns are refused with, the place for one that was made ahead used up first."""
    with trio.fail_after(30):
        while True:
            try:
                await shop.run("true")
            except (StateFull, LimitReached) as error:
                yield error
                return


def log(shop: Workshop) -> str:
    """What the supervisor has logged."""
    return (shop.state / "log").read_text(encoding="utf-8")
