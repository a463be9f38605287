"""`examples/async_crawler.py` crawls a site of this machine, and shows its jobs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobfs.client import Client
from jobfs.mountinfo import mounts
from tests.mounted import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = Path(__file__).parents[2] / "examples/async_crawler.py"


class Site:
    """A few linked pages on the loopback device. `before`: called with each path before it is answered."""

    def __init__(self, pages: dict[str, str]) -> None:
        self.asked: list[str] = []
        self.before: Callable[[str], object] = lambda _: None
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.before(self.path)
                self.send_response(200 if self.path in pages else 404)
                self.end_headers()
                self.wfile.write(pages.get(self.path, "none").encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def served(pages: dict[str, str]) -> Iterator[Site]:
    """The site, as long as the block lasts."""
    site = Site(pages)
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        thread.join()
        site.server.server_close()


def to(*targets: str) -> str:
    """A page with links."""
    return "".join(f'<a class="x" href="{target}">there</a>\n' for target in targets)


def crawl(*words: str) -> tuple[int, list[str]]:
    """Runs it; gives its exit status and the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), *words],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
        text=True,
    )
    return done.returncode, done.stdout.splitlines()


def test_every_page_is_a_job() -> None:
    """Each once, however many lead there; other sites are left alone, and a link within a page is the page's own."""
    pages = {"/": to("a/", "/b", "http://other.example/"), "/a/": to("../b#part", "c", "/"), "/a/c": "", "/b": to("/b")}
    with served(pages) as site:
        status, (*lines, summary) = crawl(f"{site.url}/")
    assert (0, sorted(pages)) == (status, sorted(site.asked))
    found = [re.fullmatch(r"job \d: done:0 +(\d) links  GET (.*)", line) for line in lines]
    assert {"/": "3", "/a/": "3", "/a/c": "0", "/b": "1"} == {
        match[2].removeprefix(site.url): match[1] for match in found if match is not None
    }
    assert summary.startswith("4 of 4 pages in ")


def test_a_page_that_is_missing_fails() -> None:
    """The others are had all the same, and the exit status is 1."""
    with served({"/": to("/gone", "/here"), "/here": ""}) as site:
        status, (*lines, summary) = crawl(f"{site.url}/")
    assert 1 == status
    assert [f"GET {site.url}/gone"] == [line.split("  ")[-1] for line in lines if "failed:1" in line]
    assert summary.startswith("2 of 3 pages in ")


def test_so_many_are_fetched_at_a_time() -> None:
    """As many as it was told, and never more."""
    leaves = [f"/{n}" for n in range(6)]
    together = threading.Barrier(3)
    inside: list[str] = []
    most: list[int] = []

    def meet(path: str) -> None:
        if path != "/":
            inside.append(path)
            together.wait(PATIENCE)
            most.append(len(inside))
            together.wait(PATIENCE)
            inside.remove(path)

    with served({"/": to(*leaves)} | dict.fromkeys(leaves, "")) as site:
        site.before = meet
        status, lines = crawl("--at-once", "3", f"{site.url}/")
    assert (0, 8) == (status, len(lines))
    assert [3] * 6 == most


def test_it_stops_at_the_most() -> None:
    """A site without end is left at some point."""
    with served({"/": to(*(f"/{n}" for n in range(20)))}) as site:
        status, lines = crawl("--most", "5", f"{site.url}/")
    assert (1, 5, 6) == (status, len(site.asked), len(lines))


@pytest.mark.mount
def test_its_jobs_are_files_until_it_is_interrupted(tmp_path: Path) -> None:
    """The mounted tree has the pages that are fetched and their output; Ctrl-C leaves nothing."""
    go = threading.Event()
    point = tmp_path / "jobs"
    with served({"/": to("/slow"), "/slow": ""}) as site:
        site.before = lambda path: path == "/" or go.wait(PATIENCE)
        with subprocess.Popen(
            [sys.executable, str(PROGRAM), "--mount", str(point), f"{site.url}/"],
            stdout=subprocess.PIPE,
            text=True,
            # Who was started with it ignored, as in the background of a script, could not be interrupted.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        ) as program:
            try:
                assert program.stdout is not None
                assert f"the jobs are at {point}\n" == program.stdout.readline()
                until(lambda: site.asked, lambda asked: "/slow" in asked)
                infos = Client(point).infos()
                assert [f"GET {site.url}/", f"GET {site.url}/slow"] == [info["cmd"] for info in infos]
                assert [("done:0", True), ("running", True)] == [(info["status"], info["function"]) for info in infos]
                size = len(to("/slow"))
                assert f"200 {size} characters\n-> {site.url}/slow\n" == (point / "1/stdout").read_text()
                program.send_signal(signal.SIGINT)
                said = program.communicate(timeout=PATIENCE)[0].splitlines()
            finally:
                go.set()
    assert (130, "interrupted: what ran was ended") == (program.returncode, said[-1])
    assert point not in [mount.point for mount in mounts()]
    assert not point.exists()


@pytest.mark.parametrize("words", [["--at-once", "0", "http://x/"], ["--most", "x", "http://x/"], ["ftp://x/"], []])
def test_what_makes_no_sense_is_refused(words: list[str]) -> None:
    """With the usage."""
    assert (2, []) == crawl(*words)
