"""What the engine is to the jobs that it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobfs.engines.base import News
    from jobfs.processes import Process


class Host(Protocol):
    """Where a job runs."""

    closing: bool
    """Whether all jobs are being ended: none waits any more for what may never come, as room on a full disk."""

    def tell(self, news: News) -> None:
        """Tells the table, if one is attached."""

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        """Has a task run beside the job, which may go on when the job has ended."""

    def path(self, job: int, name: str) -> str:
        """Where the ring file of a stream is, or is to be."""

    def members(self, job: int) -> list[Process]:
        """The living processes of a job, or what it left behind."""
