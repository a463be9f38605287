"""What the local engine's own ways could do to `watch`; what every engine promises of it, `jobfs.testing` states."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import trio.testing

from jobfs.engines.base import Ended, Grown
from jobfs.supervisor import JOBS
from tests.engine.workshop import Workshop, has_ended, until

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_watch_without_a_supervisor_is_no_error(tmp_path: Path) -> None:
    """A watch is asked for whether anybody is connected or not."""
    (tmp_path / JOBS).mkdir()
    Workshop(tmp_path).engine.watch(1, "stdout", 0)


async def test_growth_that_the_supervisor_finds_with_the_end_is_told_first(shop: Workshop) -> None:
    """What the job wrote last is news, whichever of the two the supervisor looks at first."""
    job = await shop.spawn("sleep 1000 & read go < $FIFO; echo late", environment=shop.fifo())
    shop.engine.watch(job, "stdout", 0)
    await trio.testing.wait_all_tasks_blocked()  # it is sent by a task of its own
    await shop.engine.acknowledge([])
    os.kill(shop.supervisor, signal.SIGSTOP)
    try:
        await shop.go()
        await until(lambda: has_ended(shop.started(job).pid or 0))
    finally:
        os.kill(shop.supervisor, signal.SIGCONT)
    await shop.ended(job)
    assert [Grown, Ended] == [type(news) for news in shop.news if news.job == job][1:]
