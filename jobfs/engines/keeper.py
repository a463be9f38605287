"""What jobs depend on, kept by the daemon for the day when their supervisor is killed.

A process alone may end at any moment; the supervisor and the daemon seldom do so together. So the daemon keeps
duplicates of what would be gone with the supervisor: the ends of the jobs' pipes and terminals with what is in them,
the open ring files whose offsets tell how far they were drained, and the pidfds that tell how a process ended. It does
nothing with them but hand them to the next supervisor.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from jobfs.supervisor.passing import close_all

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# Of the descriptors that this process may have, the part that may be kept: the rest is for serving.
_SHARE = 0.5


class Keeper:
    """Descriptors by job and name: `process`, `stdin`, `holder`, and for each stream its own and its ring's."""

    def __init__(self) -> None:
        self._kept: dict[int, dict[str, int]] = {}
        self._count = 0

    def keep(self, job: int, descriptors: Mapping[str, int]) -> None:
        """Takes over `descriptors`; closes them where there is no room, and what it has under the same names."""
        self.drop(job, descriptors)
        if self._count + len(descriptors) > _SHARE * resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            close_all(descriptors.values())
            return
        self._kept.setdefault(job, {}).update(descriptors)
        self._count += len(descriptors)

    def of(self, job: int) -> Mapping[str, int]:
        """What is kept of a job; it stays this object's."""
        return self._kept.get(job, {})

    def jobs(self) -> Collection[int]:
        """The jobs of which something is kept."""
        return self._kept.keys()

    def drop(self, job: int, names: Iterable[str]) -> None:
        """Closes what is kept of a job under these names."""
        kept = self._kept.get(job)
        if kept is None:
            return
        gone = [kept.pop(name) for name in tuple(names) if name in kept]
        close_all(gone)
        self._count -= len(gone)
        if not kept:
            del self._kept[job]

    def drop_all(self, job: int, *, but_streams: Collection[str] = ()) -> None:
        """Closes what is kept of a job that has ended, but for the streams that may still grow."""
        self.drop(job, [name for name in self.of(job) if name.partition(".")[0] not in but_streams])

    def close(self) -> None:
        """Closes everything."""
        for job in tuple(self._kept):
            self.drop_all(job)
