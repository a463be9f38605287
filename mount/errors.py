"""The one place where errors become errno, and the guard around every handler: no exception ends the mount."""

from __future__ import annotations

import errno
import functools
import logging
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pyfuse3

from jobfs.errors import JobfsError
from jobfs.proc import NO_DESCRIPTOR
from mount.caller import is_without_thread
from mount.session import receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def as_fuse_error(error: Exception) -> pyfuse3.FUSEError:
    """What a system call fails with because of `error`; what nobody foresaw is EIO and stands in the log."""
    if isinstance(error, pyfuse3.FUSEError):
        return error
    if isinstance(error, JobfsError):
        return pyfuse3.FUSEError(error.errno)
    if isinstance(error, OSError) and error.errno is not None:
        log.warning("a request failed: %s", error)
        # Out of descriptors is the daemon's, not the caller's: for that one it may work later.
        return pyfuse3.FUSEError(errno.EAGAIN if error.errno in NO_DESCRIPTOR else error.errno)
    if is_without_thread(error):
        log.warning("a request failed: %s", error)
        return pyfuse3.FUSEError(errno.EAGAIN)
    log.error("a request met an error of jobfs itself", exc_info=error)
    return pyfuse3.FUSEError(errno.EIO)


def answered(handler: Callable[P, Coroutine[object, None, T]]) -> Callable[P, Coroutine[object, None, T]]:
    """A handler that raises FUSEError and nothing else."""

    @functools.wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        receipt.handled = True
        try:
            return await handler(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - any other one would end the mount
            raise as_fuse_error(error) from None

    return guarded
