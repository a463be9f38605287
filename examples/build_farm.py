"""Runs command lines as jobs, some at a time, and says how each ended: a build farm of one machine.

A thread for each job that runs at once: it spawns one, waits for its end, and takes the next.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress

from jobfs.client import Client, ClientError, Job

DEMO = [f"sleep 0.{step % 4}; echo built part {step}" for step in range(1, 11)]
INTERRUPTED = 130  # the exit status that a shell gives for Ctrl-C


class Farm:
    """The jobs of one run, and those of them that run now."""

    def __init__(self, client: Client, at_once: int) -> None:
        self._client = client
        self._threads = ThreadPoolExecutor(at_once)
        self._lock = threading.Lock()
        self._running: set[Job] = set()
        self._stopped = False

    def run(self, commands: list[str]) -> Iterator[tuple[str, Job, str]]:
        """Runs the command lines; gives each with its job and how that ended, in the order in which they end."""
        with self._threads:
            try:
                for done in as_completed([self._threads.submit(self._build, command) for command in commands]):
                    yield done.result()
            except BaseException:  # Ctrl-C too: what was begun is ended, and what was not begun never is
                self._stop()
                raise

    def _build(self, command: str) -> tuple[str, Job, str]:
        with self._lock:
            if self._stopped:
                raise InterruptedError
            job = self._client.spawn(command)
            self._running.add(job)
        status = job.wait()
        with self._lock:
            self._running.remove(job)
        return command, job, status

    def _stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._stopped = True
            for job in self._running:
                with suppress(ClientError):  # it has ended meanwhile
                    job.kill()


def main() -> int:
    """Runs the commands; 0 where all succeeded."""
    parser = argparse.ArgumentParser(
        description="Run command lines as jobs, some at a time; exit status 1 if one failed."
    )
    parser.add_argument(
        "commands", nargs="*", default=DEMO, help="command lines for the shell; default: a demonstration"
    )
    parser.add_argument("--at-once", type=int, default=3, metavar="N", help="how many run at a time (3)")
    options = parser.parse_args()
    commands: list[str] = options.commands
    at_once: int = options.at_once
    if at_once < 1:
        parser.error("--at-once takes a number from 1 on")
    began = time.monotonic()
    failed = 0
    try:
        for command, job, status in Farm(Client(), at_once).run(commands):
            failed += status != "done:0"
            print(f"job {job.id}: {status:10} {job.info()['elapsed_s'] or 0:6.1f}s  {command}", flush=True)
    except ClientError as error:
        sys.exit(f"build_farm: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted: what ran was ended")
        return INTERRUPTED
    print(f"{len(commands) - failed} of {len(commands)} succeeded in {time.monotonic() - began:.1f}s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
