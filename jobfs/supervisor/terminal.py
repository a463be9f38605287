"""The terminal of a job with `--pty`: what the job writes comes out of its master, what is written there is typed.

A terminal differs from a pipe in what it tells of its end, and in that a master that is closed hangs up who is there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios

from jobfs.supervisor.outlet import TURN, Outlet

_TIOCGPTPEER = 0x5441  # ioctl_tty(2): opens the other end of a master, whatever its path is here
_SIZE = (24, 80)  # rows and columns, as of a terminal that nobody has set


class Terminal(Outlet):
    """An outlet that is a terminal: `reader` is the master, `job_end` the terminal itself.

    `job_end` stays open as long as the job's process lives. If the process closes all that it has of its terminal, it
    can open it anew; without ours, the master would tell an end meanwhile, and closing it would hang up the job.
    """

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
        return TURN if not self.at_end and self._readable() else 0

    def type_end_of_file(self) -> None:
        """Types the terminal's own end-of-file character; BlockingIOError where it takes no more, for nobody reads."""
        character = termios.tcgetattr(self.reader)[6][termios.VEOF]
        if character == b"\0":
            raise OSError(errno.EINVAL, "the terminal has no end-of-file character")
        os.write(self.reader, character)

    def resize(self, rows: int, columns: int) -> None:
        """Sets its size; the kernel sends SIGWINCH to the processes in its foreground."""
        termios.tcsetwinsize(self.reader, (rows, columns))

    def _hung_up(self) -> bool:
        # The kernel looks for bytes first, and then at who holds the terminal: what came between shows the second time.
        return super()._hung_up() and super()._hung_up()
