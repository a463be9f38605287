"""How fast jobs are spawned through `ctl`, beside `subprocess.Popen` in a loop.

    python tests/bench/spawn.py MOUNT

Both run `/bin/sh -c true` in a session of its own with a pipe for each output stream. Rounds of the two alternate, and
of the rounds the median counts. Two rates are told: how fast the calls return, and how fast all is over: the processes
reaped and their output read to its end, which for jobs means that each has its final status.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Short bursts and longer ones: rounds, and spawns a round.
BURSTS = ((15, 100), (5, 500))

Rates = tuple[float, float]


def popen_round(count: int) -> Rates:
    """Processes a second: started, and over."""
    start = time.perf_counter()
    processes = [
        subprocess.Popen(
            ["/bin/sh", "-c", "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for _ in range(count)
    ]
    started = time.perf_counter()
    for process in processes:
        process.communicate()
    return count / (started - start), count / (time.perf_counter() - start)


def jobs_round(ctl: int, mount: Path, count: int) -> Rates:
    """Jobs a second: spawned, and over."""
    start = time.perf_counter()
    for _ in range(count):
        os.write(ctl, b"spawn true\n")
    started = time.perf_counter()
    ids = os.read(ctl, 1 << 20).decode("ascii").split()
    assert len(ids) == count
    for job in ids:
        while (mount / job / "status").read_bytes() != b"done:0\n":
            time.sleep(0.001)
    return count / (started - start), count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print one line a rate."""
    mount = Path(sys.argv[1])
    ctl = os.open(mount / "ctl", os.O_RDWR | os.O_CLOEXEC)
    for number, count in BURSTS:
        rounds = [(jobs_round(ctl, mount, count), popen_round(count)) for _ in range(number)]
        for index, what in enumerate(("spawned", "over")):
            ours = statistics.median(jobs[index] for jobs, _ in rounds)
            peer = statistics.median(processes[index] for _, processes in rounds)
            rates = f"jobfs {ours:6.0f}/s   Popen {peer:6.0f}/s   ratio {ours / peer:.2f}"
            print(f"{count} in a row, {what:<8} {rates} (wanted: >= 0.5)")
    os.close(ctl)


if __name__ == "__main__":
    main()
