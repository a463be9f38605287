"""How often an idle jobfs wakes up: a hundred jobs that say nothing, each followed in three ways.

    python tests/bench/idle.py MOUNT STATE

Each job's directory is watched by inotify, its `stdout` is polled, and a process is blocked in a read of its `follow`.
Nothing happens, so nothing should run: what counts is how often the threads of daemon and supervisor went to sleep
(voluntary context switches, proc(5)) a second, at first without a job and then with them all.
"""

import ctypes
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import psutil

JOBS = 100
SETTLE = 3.0  # seconds, until what was begun has come to rest
SECONDS = 10.0
IN_MODIFY, IN_CLOSE_WRITE = 0x2, 0x8

libc = ctypes.CDLL(None)


def sleeps(pids: list[int]) -> dict[str, int]:
    """How often each thread of some processes has gone to sleep so far."""
    return {
        str(status): int(line.split()[1])
        for pid in pids
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    }


def processes(state: Path) -> dict[str, list[int]]:
    """The processes that are to be idle: the daemon with its own client, and the supervisor."""
    daemon, supervisor = (
        int(json.loads((state / f"{name}.json").read_text())["pid"]) for name in ("daemon", "supervisor")
    )
    helpers = [child.pid for child in psutil.Process(daemon).children() if child.pid != supervisor]
    return {"daemon": [daemon, *helpers], "supervisor": [supervisor]}


def measure(what: str, state: Path) -> None:
    """Print how often each of them went to sleep."""
    time.sleep(SETTLE)
    watched = processes(state)
    before = {name: sleeps(pids) for name, pids in watched.items()}
    time.sleep(SECONDS)
    rates = []
    for name, pids in watched.items():
        count = sum(now - before[name].get(thread, 0) for thread, now in sleeps(pids).items())
        rates.append(f"{name} {count / SECONDS:6.2f}/s")
    print(f"{what:<24} {'   '.join(rates)}")


def main() -> None:
    """Measure twice, and print one line each."""
    mount, state = map(Path, sys.argv[1:])
    measure("no job", state)
    ctl = os.open(mount / "ctl", os.O_RDWR | os.O_CLOEXEC)
    os.write(ctl, b"spawn exec sleep infinity\n" * JOBS)
    ids = os.read(ctl, 1 << 20).decode("ascii").split()
    watching = libc.inotify_init1(os.O_CLOEXEC)
    for job in ids:
        assert libc.inotify_add_watch(watching, os.fsencode(mount / job), IN_MODIFY | IN_CLOSE_WRITE) >= 0
    followers = [subprocess.Popen(["cat", mount / job / "follow"]) for job in ids]
    streams = [os.open(mount / job / "stdout", os.O_RDONLY | os.O_CLOEXEC) for job in ids]
    with select.epoll() as poller:
        for fd in streams:
            poller.register(fd, select.EPOLLIN)
        poller.poll(0)
        measure(f"{JOBS} silent jobs", state)
    for fd in (*streams, watching):
        os.close(fd)
    os.write(ctl, f"kill -9 {' '.join(ids)}\n".encode())
    os.close(ctl)
    for follower in followers:
        follower.wait()


if __name__ == "__main__":
    main()
