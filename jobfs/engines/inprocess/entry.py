"""Between fork and exec of a job with a terminal or a niceness, or of a program that has signals ignored or blocked.

    python -I -S entry.py REPORT ENVIRONMENT TTY NICE PROGRAM ...

REPORT is the descriptor of a pipe that exec closes and that an error is written to, ENVIRONMENT of a file with the
NUL-terminated entries that the job is given. It imports nothing of jobfs, to be quick.
"""

import contextlib
import fcntl
import os
import signal
import sys
import termios
from typing import NoReturn

_STDOUT = 1
_EXEC_FAILED = 127


def main(report: int, surroundings: int, tty: str, nice: str, *words: str) -> NoReturn:
    """Becomes the job's own program; on an error writes its number and what was being done, and exits."""
    doing = "start"
    try:
        os.set_inheritable(report, False)  # noqa: FBT003 - its signature
        with open(surroundings, "rb") as file:
            file.seek(0)
            entries = file.read().split(b"\0")
        if tty:
            doing = "take the terminal"
            fcntl.ioctl(_STDOUT, termios.TIOCSCTTY, 0)  # tty_ioctl(4)
        if nice:
            doing = f"set niceness {nice}"
            os.setpriority(os.PRIO_PROCESS, 0, int(nice))
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            # OSError: the C library keeps two real-time signals for itself.
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        doing = f"run {words[0]}"
        environment: dict[bytes, bytes] = {}
        for entry in entries:
            name, equals, value = entry.partition(b"=")
            if name and equals:
                environment.setdefault(name, value)
        if not words[0]:
            raise FileNotFoundError(2, "No such file or directory")
        os.execvpe(words[0], [os.fsencode(word) for word in words], environment)
    except OSError as error:
        os.write(report, f"{error.errno} {doing}".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(_EXEC_FAILED)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
