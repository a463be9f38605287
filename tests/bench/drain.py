"""How fast a pipe is drained into a stream, beside `yes | cat >/dev/null`, the speed of a pipe on this machine.

    python tests/bench/drain.py [--rounds N] [--seconds S] [--directory DIR]

Each round runs every contestant once, so that a machine that is busy for a while is busy for all of them. A rate is
what `yes` wrote, as the kernel counts it, in a stretch of time after a warm-up; the reader is a process of its own.
"""

import argparse
import os
import select
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

from jobfs.stream import EndOfPipe, RingWriter, grow_pipe

CAPACITY = 10 * 1024 * 1024
LIMIT = 1024 * 1024  # What a supervisor drains at once before it looks at its other pipes.
WARM_UP = 0.1


def supervise(pipe_fd: int, directory: str, *, grow: bool, splice: bool) -> None:
    """Drain a pipe until its end from an epoll loop, as a supervisor has it."""
    os.set_blocking(pipe_fd, False)
    writer = RingWriter.create(f"{directory}/stream", CAPACITY)
    if not splice:
        writer._splices = False  # noqa: SLF001 - as after the EINVAL of a file system without splice
    with select.epoll() as poller:
        poller.register(pipe_fd, select.EPOLLIN)
        while True:
            for fd, _ in poller.poll():
                try:
                    if writer.drain(fd, LIMIT) == LIMIT and grow:
                        grow = grow_pipe(fd)
                except EndOfPipe:
                    writer.close()
                    return


def drained(directory: str, *, grow: bool, splice: bool) -> Callable[[int], int]:
    """Return a reader that is a forked process with `supervise`."""

    def start(pipe_fd: int) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                with tempfile.TemporaryDirectory(dir=directory) as place:
                    supervise(pipe_fd, place, grow=grow, splice=splice)
            finally:
                os._exit(0)
        return pid

    return start


def cat(pipe_fd: int) -> int:
    """Start the reader to compare with."""
    return subprocess.Popen(["cat"], stdin=pipe_fd, stdout=subprocess.DEVNULL).pid


def bytes_written(pid: int) -> int:
    """Return how many bytes a process has written so far."""
    with open(f"/proc/{pid}/io", encoding="ascii") as counts:
        return next(int(line.split()[1]) for line in counts if line.startswith("wchar:"))


def rate(start_reader: Callable[[int], int], seconds: float) -> float:
    """Return the bytes per second that pass from `yes` to a reader."""
    reading, writing = os.pipe()
    with subprocess.Popen(["yes"], stdout=writing, process_group=0) as yes:
        os.close(writing)
        reader = start_reader(reading)
        os.close(reading)
        time.sleep(WARM_UP)
        began, before = time.perf_counter(), bytes_written(yes.pid)
        time.sleep(seconds)
        after, ended = bytes_written(yes.pid), time.perf_counter()
        yes.send_signal(signal.SIGKILL)
    os.waitpid(reader, 0)
    return (after - before) / (ended - began)


def main() -> None:
    """Print the medians, and each contestant's share of cat's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each contestant in each round")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the streams are (%(default)s)")
    options = parser.parse_args()
    contestants = {
        "yes | cat >/dev/null": cat,
        "yes | stream": drained(options.directory, grow=True, splice=True),
        "yes | stream, pipe of default size": drained(options.directory, grow=False, splice=True),
        "yes | stream, no splice": drained(options.directory, grow=True, splice=False),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, start_reader in contestants.items():
            rates[name].append(rate(start_reader, options.seconds))
    against = statistics.median(rates["yes | cat >/dev/null"])
    print(f"medians of {options.rounds} interleaved rounds, streams of {CAPACITY >> 20} MiB")
    for name, measured in rates.items():
        middle = statistics.median(measured)
        spread = f"{min(measured) / 1e9:.2f} to {max(measured) / 1e9:.2f}"
        print(f"{name:36} {middle / 1e9:5.2f} GB/s ({spread})  {middle / against:.2f}")


if __name__ == "__main__":
    main()
