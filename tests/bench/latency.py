"""How late a job's output and its end are known to those who wait for them, beside a pipe and a shell's own wait.

    python tests/bench/latency.py MOUNT

Chatty programs write ten lines a second, each line the time at which it was written; an epoll loop reads them and
compares. They are jobs, and their `stdout` is polled, or the peer: the same programs at the same loop, each through a
pipe of its own. Then a program tells the time and exits, and what waits for it returns: `cat wait`, or a shell. Rounds
of the two alternate. Median and 99th percentile, because the slow ones are what people notice.
"""

import json
import os
import selectors
import statistics
import subprocess
import sys
import time
from pathlib import Path

PYTHON = [sys.executable, "-I", "-S", "-c"]
CHATTER = "import time\nwhile True:\n time.sleep(0.1)\n print(time.monotonic_ns(), flush=True)"
# It has spoken before: what a job's very first byte costs, for which a file is made, is no part of its end.
LAST_WORDS = """
import os, time
os.write(1, b"hello\\n")
time.sleep(0.1)
os.write(1, b"%d" % time.monotonic_ns())
os._exit(0)
"""
CHATTY = (1, 100)  # programs at once
ROUNDS = 3
WARM_UP = 2.0  # seconds that so many programs need to be all there; what is written earlier does not count
SECONDS = 3.0
ENDS = 50  # programs whose end is waited for


def command(ctl: int, **words: object) -> str:
    """Run one command, and return its reply."""
    os.write(ctl, json.dumps(words).encode() + b"\n")
    return os.read(ctl, 4096).decode("ascii").strip()


def listen(fds: list[int]) -> list[float]:
    """Read lines from all for a while, and return how many milliseconds each was on its way."""
    warm = time.monotonic_ns() + int(WARM_UP * 1e9)
    end = warm + int(SECONDS * 1e9)
    latencies = []
    with selectors.EpollSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while time.monotonic_ns() < end:
            for key, _ in selector.select(1):
                written = os.read(key.fd, 4096)
                now = time.monotonic_ns()
                latencies += [(now - int(line)) / 1e6 for line in written.split() if int(line) > warm]
    return latencies


def jobs_output(mount: Path, ctl: int, count: int) -> list[float]:
    """Milliseconds from the write of a job to the hands of a reader, for each line."""
    ids = [command(ctl, op="spawn", argv=[*PYTHON, CHATTER]) for _ in range(count)]
    fds = [os.open(mount / job / "stdout", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) for job in ids]
    try:
        return listen(fds)
    finally:
        for fd in fds:
            os.close(fd)
        command(ctl, op="kill", signal="KILL", jobs=ids)


def pipes_output(count: int) -> list[float]:
    """The same through pipes."""
    programs = [subprocess.Popen([*PYTHON, CHATTER], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        return listen([program.stdout.fileno() for program in programs if program.stdout is not None])
    finally:
        for program in programs:
            program.kill()
            program.communicate()


def jobs_end(mount: Path, ctl: int) -> float:
    """Milliseconds from the last thing that a job does to the return of `cat wait`."""
    job = command(ctl, op="spawn", argv=[*PYTHON, LAST_WORDS])
    subprocess.run(["cat", mount / job / "wait"], stdout=subprocess.DEVNULL, check=True)
    now = time.monotonic_ns()
    return (now - int((mount / job / "stdout").read_bytes().split()[-1])) / 1e6


def shells_end() -> float:
    """The same of a shell that waits for it."""
    with subprocess.Popen(["sh", "-c", '"$@"; exit', "sh", *PYTHON, LAST_WORDS], stdout=subprocess.PIPE) as shell:
        shell.wait()
        now = time.monotonic_ns()
        assert shell.stdout is not None
        return (now - int(shell.stdout.read().split()[-1])) / 1e6


def describe(what: str, ours: list[float], whose: str, peers: list[float]) -> None:
    """Print one line."""
    texts = []
    for name, latencies in (("jobfs", ours), (whose, peers)):
        median, last = statistics.median(latencies), statistics.quantiles(latencies, n=100)[98]
        texts.append(f"{name} median {median:5.2f} ms, 99 % within {last:6.2f} ms")
    print(f"{what:<24} {'   '.join(texts)}   ({len(ours)} and {len(peers)})")


def main() -> None:
    """Measure, and print one line for each number of chatty programs, and one for the end."""
    mount = Path(sys.argv[1])
    ctl = os.open(mount / "ctl", os.O_RDWR | os.O_CLOEXEC)
    for count in CHATTY:
        rounds = [(jobs_output(mount, ctl, count), pipes_output(count)) for _ in range(ROUNDS)]
        ours, peers = ([latency for pair in rounds for latency in pair[index]] for index in (0, 1))
        describe(f"write to read, {count} chatty", ours, "pipe", peers)
    ends = [(jobs_end(mount, ctl), shells_end()) for _ in range(ENDS)]
    describe("exit to return of wait", [ours for ours, _ in ends], "shell", [peer for _, peer in ends])
    os.close(ctl)


if __name__ == "__main__":
    main()
