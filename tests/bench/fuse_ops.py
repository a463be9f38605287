"""What an operation on a mounted file costs, beside the same on the peer in C.

    python tests/bench/fuse_ops.py OURS PEER

Both are paths of files with at least 64 bytes. The two are measured in turn, in short rounds, so that what else the
machine does meets both alike; of the rounds the median counts, which a few disturbed ones don't move.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ROUNDS = 200
OPERATIONS_A_ROUND = 200
READ_SIZE = 64

Operation = Callable[[int], object]

OPERATIONS: dict[str, Operation] = {
    "fstat": os.fstat,
    f"pread {READ_SIZE}": lambda fd: os.pread(fd, READ_SIZE, 0),
}


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a file for reading; raise OSError, or ValueError where it is too short to measure a read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if len(os.pread(fd, READ_SIZE, 0)) < READ_SIZE:
            raise ValueError(f"{path} is shorter than {READ_SIZE} bytes")
        yield fd
    finally:
        os.close(fd)


def time_round(operation: Operation, fd: int) -> float:
    """Seconds for one operation, as the mean of a round."""
    start = time.perf_counter()
    for _ in range(OPERATIONS_A_ROUND):
        operation(fd)
    return (time.perf_counter() - start) / OPERATIONS_A_ROUND


def compare(operation: Operation, ours: int, peer: int) -> tuple[float, float]:
    """Median seconds for one operation, on our file and on the peer's."""
    rounds = [(time_round(operation, ours), time_round(operation, peer)) for _ in range(ROUNDS)]
    return statistics.median(r[0] for r in rounds), statistics.median(r[1] for r in rounds)


def describe(seconds: float) -> str:
    """A time for one operation, as microseconds and as operations a second."""
    return f"{seconds * 1e6:6.1f} µs {1 / seconds:9,.0f} ops/s"


def main() -> None:
    """Measure and print one line an operation."""
    _, ours_path, peer_path = sys.argv
    with opened(ours_path) as ours, opened(peer_path) as peer:
        for name, operation in OPERATIONS.items():
            ours_s, peer_s = compare(operation, ours, peer)
            ratio = ours_s / peer_s
            print(f"{name:<10} jobfs {describe(ours_s)}   in C {describe(peer_s)}   ratio {ratio:.2f} (wanted: < 3)")


if __name__ == "__main__":
    main()
