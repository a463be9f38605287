"""The terminal of a job with `--pty`: what the job writes comes out of its master, what is written there is typed.

A terminal differs from a pipe in what it tells of its end, and in that a master that is closed hangs up who is there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

from jobfs.stream import EndOfPipe
from jobfs.supervisor.outlet import TURN, Outlet, bytes_in
from jobfs.supervisor.passing import close_all

if TYPE_CHECKING:
    from jobfs.stream import RingWriter

_TIOCGPTPEER = 0x5441  # ioctl_tty(2): opens the other end of a master, whatever its path is here
_SIZE = (24, 80)  # rows and columns, as of a terminal that nobody has set


class Terminal(Outlet):
    """An outlet that is a terminal: `reader` is the master, `job_end` the terminal itself.

    What is read from it goes through a pipe, the queue, so that it is never in this process alone: both steps are the
    kernel's (splice(2)), and one that is killed between them leaves the bytes in a pipe that the daemon has too.

    `job_end` stays open as long as the job's process lives. If the process closes all that it has of its terminal, it
    can open it anew; without ours, the master would tell an end meanwhile, and closing it would hang up the job.
    """

    def __init__(self, reader: int | None = None, queue: int | None = None) -> None:
        """Makes the terminal, or takes over an earlier supervisor's master and `queue`; OSError where that fails."""
        super().__init__(reader)
        self._left = queue
        self._splices = True
        try:
            self._queue, self._into_queue = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self._close_job_end()
            os.close(self.reader)
            raise

    @staticmethod
    def _make() -> tuple[int, int]:
        try:
            master, terminal = os.openpty()
        except OSError as error:
            if error.errno == errno.ENOSPC:  # no disk: kernel.pty.max is reached (pty(7))
                raise BlockingIOError(errno.EAGAIN, "no terminal is left") from error
            raise
        # Whoever is given a duplicate of the master shares this flag. The terminal is the job's own, and blocks.
        os.set_blocking(master, False)
        termios.tcsetwinsize(master, _SIZE)
        return master, terminal

    @staticmethod
    def _take_over(reader: int) -> tuple[int, int]:
        return reader, fcntl.ioctl(reader, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)

    def started(self) -> None:
        """The job has the terminal now, and so have we."""

    def process_ended(self) -> None:
        """From now on the terminal ends when those whom the job left behind have closed it."""
        self._close_job_end()

    def notice(self, events: int) -> None:
        """A master that was hung up may have bytes that epoll did not see: only reading tells."""

    def waiting(self) -> int:
        """As much as one turn moves, where there is anything: FIONREAD tells only what has come through the queue.

        What is behind that is at most 640 KiB (the kernel's drivers/tty/tty_buffer.c).
        """
        return TURN if not self.at_end and (self._readable() or any(map(bytes_in, self._queues()))) else 0

    def own_ends(self, name: str) -> dict[str, int]:
        """The master, and the queue's reading end."""
        return {name: self.reader, f"{name}.queue": self._queue}

    def close(self) -> None:
        """Nobody will write any more: the stream says so from now on."""
        super().close()
        close_all([*self._queues(), self._into_queue])

    def type_end_of_file(self) -> None:
        """Types the terminal's own end-of-file character; BlockingIOError where it takes no more, for nobody reads."""
        character = termios.tcgetattr(self.reader)[6][termios.VEOF]
        if character == b"\0":
            raise OSError(errno.EINVAL, "the terminal has no end-of-file character")
        os.write(self.reader, character)

    def resize(self, rows: int, columns: int) -> None:
        """Sets its size; the kernel sends SIGWINCH to the processes in its foreground."""
        termios.tcsetwinsize(self.reader, (rows, columns))

    def _queues(self) -> list[int]:
        """Where bytes wait that were read: what an earlier supervisor left goes first."""
        return [self._queue] if self._left is None else [self._left, self._queue]

    def _drain_into(self, writer: RingWriter, limit: int) -> int:
        moved = self._empty_queues(writer, limit)
        try:
            while self._splices and moved < limit and self._fetch(limit - moved):
                moved += self._empty_queues(writer, limit - moved)
            return moved if self._splices else moved + writer.drain(self.reader, limit - moved)
        except EndOfPipe:
            if not moved:
                raise
            return moved

    def _empty_queues(self, writer: RingWriter, limit: int) -> int:
        moved = 0
        if self._left is not None:
            with suppress(EndOfPipe):
                moved = writer.drain(self._left, limit)
            if not bytes_in(self._left):
                os.close(self._left)
                self._left = None
        return moved + (writer.drain(self._queue, limit - moved) if moved < limit else 0)

    def _fetch(self, size: int) -> bool:
        """Reads at most `size` bytes into the queue; False where there are none now, EndOfPipe where none will come."""
        for _ in range(2):  # see `read_source`
            try:
                return os.splice(self.reader, self._into_queue, size, flags=os.SPLICE_F_NONBLOCK) > 0
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.EINVAL:  # a kernel that cannot do that with terminals: read, and write then
                    self._splices = False
                    return False
                if error.errno != errno.EIO:
                    raise
        raise EndOfPipe

    def _hung_up(self) -> bool:
        # The kernel looks for bytes first, and then at who holds the terminal: what came between shows the second time.
        return super()._hung_up() and super()._hung_up()
