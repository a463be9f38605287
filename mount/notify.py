"""News for the kernel: what it may keep no longer.

Always from another thread than the one that serves the mount: the kernel may want an answer from the mount first.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyfuse3
import trio

from mount.tree import ROOT

if TYPE_CHECKING:
    from jobfs.job import Job

log = logging.getLogger(__name__)


class KernelFace:
    """The table's `Face`: has the kernel forget the directories of jobs that are gone."""

    async def removed(self, jobs: list[Job], *, by_rmdir: int | None) -> None:
        """Returns when no lookup finds the jobs any more.

        Where rmdir(2) is just removing one the kernel is told nothing: it forgets that one by itself, and holds the
        lock on the root meanwhile that telling it would wait for.
        """
        if by_rmdir is None:
            names = [str(job.id).encode("ascii") for job in jobs]
            await trio.to_thread.run_sync(_forget, names, abandon_on_cancel=True)


def _forget(names: list[bytes]) -> None:
    for name in names:
        try:
            pyfuse3.invalidate_entry(ROOT, name)
        except FileNotFoundError:
            pass  # the kernel did not know it
        except OSError as error:
            log.warning("the kernel could not be told that job %s is gone: %s", name.decode("ascii"), error)
