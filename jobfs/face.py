"""Who shows a table to others, seen from the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jobfs.job import Job


class Face(Protocol):
    """Who shows the table to others, and so must be told what it shows, and what no more."""

    def expect(self, job: int) -> None:
        """A job may come under this id: nobody is to find it before `appeared`."""

    async def appeared(self, job: int) -> None:
        """The job has come; returns when everybody finds it."""

    def failed(self, job: int) -> None:
        """The job has not come, and will not."""

    def came(self, job: int) -> None:
        """The job has come, and nobody could be told to expect it: everybody may find it already."""

    async def removed(self, jobs: list[Job], *, by_rmdir: int | None) -> None:
        """These jobs are gone; `by_rmdir` is the id that the kernel itself is just removing."""


class NoFace:
    """Nobody looks."""

    def expect(self, job: int) -> None:
        """Nothing is to be done."""

    async def appeared(self, job: int) -> None:
        """Nothing is to be done."""

    def failed(self, job: int) -> None:
        """Nothing is to be done."""

    def came(self, job: int) -> None:
        """Nothing is to be done."""

    async def removed(self, jobs: list[Job], *, by_rmdir: int | None) -> None:
        """Nothing is to be done."""
