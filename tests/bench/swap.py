"""How long a mountpoint does not answer while its daemon is replaced by `jobfs upgrade`.

    python tests/bench/swap.py JOBFS MOUNT [ENDED]

JOBFS is the command. ENDED jobs that have ended are put into the table first. Then another process opens `ctl` and
reads of it, over and over; what counts is the time from its last answer before a failure, or a wait, to its next one.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 20
_AFTER = 0.3  # seconds that are looked at when the new daemon has come


def watch(mount: str, wake: int, tell: int) -> None:
    """Tell, whenever woken, the longest time without an answer since the last time."""
    path = os.path.join(mount, "ctl")
    last, longest = time.monotonic(), 0.0
    os.set_blocking(wake, False)
    while True:
        try:
            with open(path, "rb", buffering=0) as file:  # a directory, while nothing is mounted: an error too
                file.read(100)
        except OSError:
            continue
        now = time.monotonic()
        last, longest = now, max(longest, now - last)
        try:
            if not os.read(wake, 1):
                return
        except BlockingIOError:
            continue
        os.write(tell, f"{longest}\n".encode())
        longest = 0.0


def fill(mount: Path, ended: int) -> None:
    """Put jobs into the table that have ended."""
    for _ in range(0, ended, 100):
        (mount / "ctl").write_text("spawn exec true\n" * min(100, ended))
    while '"running"' in (mount / "table.jsonl").read_text():
        time.sleep(0.1)


def main(jobfs: str, mount: Path, ended: int) -> None:
    """Measure, and print."""
    fill(mount, ended)
    wake_reader, wake = os.pipe()
    told, tell = os.pipe()
    if not os.fork():
        os.close(wake)
        watch(str(mount), wake_reader, tell)
        os._exit(0)
    gaps = []
    for _ in range(ROUNDS):
        os.write(wake, b"x")
        os.read(told, 100)
        subprocess.run([jobfs, "upgrade", mount], check=True, stdout=subprocess.DEVNULL)
        time.sleep(_AFTER)
        os.write(wake, b"x")
        gaps.append(float(os.read(told, 100)) * 1000)
    os.close(wake)
    print(f"{ended:5} ended jobs   median {statistics.median(gaps):4.0f} ms   longest {max(gaps):4.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
