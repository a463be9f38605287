"""Shows how far a job is, from the last percentage that it printed: a bar on the terminal, drawn anew as it goes on.

The job is jobfs's, not this program's: interrupted, it says how to look at the job, which goes on.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator

from jobfs.client import Client, ClientError, Job

DEMO = "for percent in 0 10 20 30 40 50 60 70 80 90 100; do echo $percent%; sleep 0.2; done"
PERCENT = re.compile(rb"(\d{1,3})(?:\.\d+)?%")
LONGEST = 16  # bytes of a percentage, which the end of a chunk may cut in two
INTERRUPTED = 130  # the exit status that a shell gives for Ctrl-C


def percentages(job: Job) -> Iterator[int]:
    """The percentages that the job prints, as they come; lines don't matter, as many programs print none."""
    rest = b""
    for chunk in job.follow():
        rest += chunk
        found = PERCENT.findall(rest)
        if found:
            yield min(100, int(found[-1]))
        rest = rest[-LONGEST:]


def bar(percent: int, width: int) -> str:
    """`[#####.....]  50%`, `width` characters of it."""
    room = max(1, width - len("[] 100%"))
    filled = room * percent // 100
    return f"[{'#' * filled}{'.' * (room - filled)}] {percent:3}%"


def show(job: Job) -> str:
    """Draws the bar until the job has ended, and gives its status."""
    width = shutil.get_terminal_size().columns - 1
    for percent in percentages(job):
        print(f"\r{bar(percent, width)}", end="", flush=True)
    print()
    return job.wait()


def main() -> int:
    """Runs the command; 0 where it succeeded."""
    parser = argparse.ArgumentParser(description="Run a command as a job and show the percentages it prints as a bar.")
    parser.add_argument(
        "command", nargs="?", default=DEMO, help="a command line for the shell; default: a demonstration"
    )
    command: str = parser.parse_args().command
    try:
        job = Client().spawn(command)
    except ClientError as error:
        sys.exit(f"progress_bar: {error.strerror}")
    try:
        status = show(job)
    except KeyboardInterrupt:
        print(f"\njob {job.id} goes on: jobfs logs -f {job.id}")
        return INTERRUPTED
    print(f"job {job.id}: {status}")
    return 0 if status == "done:0" else 1


if __name__ == "__main__":
    sys.exit(main())
