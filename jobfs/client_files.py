"""What the Python client does with the files of a mount: open, read, wait in poll(2), write, and say what went wrong.

Standard library only.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_REPLY = 65536  # bytes
_CHUNK = 1 << 18  # bytes of one read
_LONGEST_POLL = 86400.0  # seconds; poll(2) takes no more than 24 days


class ClientError(OSError):
    """What the client raises itself; errors of the system (EPIPE, EACCES ...) come as the OSError that they are."""


class NotMountedError(ClientError):
    """No mount of jobfs was found (ENOENT), or its daemon has gone (ENOTCONN), as it has while it is being replaced.

    The jobs go on. The same call works again when the mount is back.
    """


class CommandError(ClientError):
    """A command was refused: the errno of the write, and the sentence that the reply gave."""


class NoSuchJobError(ClientError, FileNotFoundError):
    """There is no job of that id or name, or not any more (ENOENT)."""


class EvictedError(ClientError):
    """Some of the bytes that were asked for are not retained any more (ENODATA)."""

    oldest: int = 0
    """Offset of the oldest byte that is retained."""


@contextmanager
def explained(mount: Path, job: int | str | None = None) -> Iterator[None]:
    """Says what it means that a file of a mount, or of one of its jobs, is not there: NotMountedError, NoSuchJobError.

    Between two daemons the mountpoint is not there, or is a directory with an empty directory `ctl` in it.
    """
    try:
        yield
    except ClientError:
        raise
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise NotMountedError(errno.ENOTCONN, f"the daemon of {mount} has gone; its jobs go on") from error
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            raise
        if not os.path.isfile(mount / "ctl"):
            raise NotMountedError(errno.ENOENT, f"jobfs is not mounted at {mount}") from error
        if isinstance(job, int) and os.path.isdir(mount / str(job)):
            raise NotMountedError(errno.ENOTCONN, f"the daemon of {mount} was replaced meanwhile") from error
        if job is not None:
            raise NoSuchJobError(errno.ENOENT, f"no such job: {job}") from error
        raise


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """The descriptor of an open file."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        with suppress(OSError):  # ENOTCONN where the daemon has gone, which whoever used the file has met already
            os.close(fd)


def command(fd: int, line: str) -> str:
    """Writes one command to an open `ctl` and gives its reply; CommandError where it is refused."""
    if "\n" in line:
        raise CommandError(errno.EINVAL, "a command is one line")
    try:
        write_all(fd, os.fsencode(line) + b"\n")
    except OSError as error:
        said = os.fsdecode(os.read(fd, _REPLY)).strip().removeprefix("error: ")
        raise CommandError(error.errno, said or error.strerror) from None
    return os.fsdecode(os.read(fd, _REPLY)).strip()


def write_all(fd: int, data: bytes) -> None:
    """Writes all of `data`: what a write that was cut short leaves is for the next one, which has its error."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def rest(fd: int) -> Iterator[bytes]:
    """What there is to read of a file, to its end."""
    return iter(lambda: _read(fd), b"")


def growing(fd: int, over: Callable[[], bool]) -> Iterator[bytes]:
    """What there is to read of a stream and what comes, until all was read and it is `over`."""
    polled = False
    while True:
        chunk = _read(fd)
        if chunk:
            yield chunk
        elif (
            polled and over()
        ):  # ready with nothing to read: hung up, or one that the kernel caches, which only says IN
            return
        else:
            ready(fd)
        polled = not chunk


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of what comes in chunks, with their newlines, which only the last may lack."""
    begun: list[bytes] = []  # joined once, so that a long line takes no longer than it must
    for chunk in chunks:
        *whole, left = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*begun, line, b"\n"))
            begun.clear()
        if left:
            begun.append(left)
    if begun:
        yield b"".join(begun)


def ready(fd: int, seconds: float | None = None) -> bool:
    """Waits until an open file is ready to be read or has hung up; False where it was not within `seconds`."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if seconds is None:
        return bool(poll.poll())
    deadline = time.monotonic() + seconds
    while not poll.poll(1000 * min(_LONGEST_POLL, max(0.0, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            return False
    return True


def _read(fd: int) -> bytes:
    while True:
        with suppress(BlockingIOError):  # overtaken ten times and more by a job that writes at full speed
            return os.read(fd, _CHUNK)
