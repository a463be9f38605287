"""Crawls a site, each page a job: an async function of this program, beside which a process could be a job as well.

The jobs can be watched as files while they run, and the program itself waits for them, reads what they said, and ends
them when it is interrupted. The program runs trio and has the table; there is no daemon.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from urllib.parse import urldefrag, urljoin, urlsplit

import trio

import jobfs
import mount

LINK = re.compile(r'<a\s[^>]*?href="([^"]*)"', re.IGNORECASE)
PATIENCE = "30s"  # that a page has
INTERRUPTED = 130  # the exit status that a shell gives for Ctrl-C


async def get(url: str) -> tuple[int, str]:
    """The status and the body of a page: as much of HTTP as a crawler of one's own site needs."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    async with await trio.open_tcp_stream(parts.hostname or "", parts.port or 80) as server:
        await server.send_all(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        answer = b"".join([piece async for piece in server])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode("utf-8", "replace")


class Crawler:
    """The pages of one site: each is fetched once, some at a time."""

    def __init__(self, table: jobfs.Table, start: str, at_once: int, most: int) -> None:
        self.jobs: dict[str, jobfs.Job] = {}
        self._table = table
        self._site = urlsplit(start).netloc
        self._turn = trio.CapacityLimiter(at_once)
        self._most = most
        self.visit(start)

    def visit(self, url: str) -> None:
        """Starts a job for a page that has none."""
        if url not in self.jobs and len(self.jobs) < self._most and urlsplit(url).netloc == self._site:
            self.jobs[url] = self._table.start(self._fetch, url, command=f"GET {url}", timeout=PATIENCE)

    async def _fetch(self, job: jobfs.Task, url: str) -> int:
        async with self._turn:
            await job.checkpoint()  # whoever stops the job holds it up here
            status, page = await get(url)
        await job.stdout.write(f"{status} {len(page)} characters\n".encode())
        for link in links(url, page):
            await job.stdout.write(f"-> {link}\n".encode())
            self.visit(link)
        return 0 if status == 200 else 1  # noqa: PLR2004 - HTTP's OK


def links(url: str, page: str) -> Iterator[str]:
    """Where the links of a page lead, without what is within a page."""
    for link in LINK.findall(page):
        target = urldefrag(urljoin(url, link)).url
        if target.startswith("http:"):
            yield target


async def crawl(start: str, at_once: int, most: int, directory: str | None) -> int:
    """Crawls; gives how many pages failed."""
    async with AsyncExitStack() as stack:
        table = await stack.enter_async_context(jobfs.open_table())
        if directory is not None:
            point = await stack.enter_async_context(mount.mounted(table, directory))
            print(f"the jobs are at {point}", flush=True)
        began = trio.current_time()
        crawler = Crawler(table, start, at_once, most)
        failed = done = 0
        while done < len(crawler.jobs):  # those that ended have started others
            async for job in table.wait_all(list(crawler.jobs.values())[done:]):
                done += 1
                failed += str(job.status) != "done:0"
                said = (job.stdout.snapshot().data or job.stderr.snapshot().data).decode().splitlines()
                links_found = sum(line.startswith("->") for line in said)
                print(f"job {job.id}: {job.status!s:10} {links_found:4} links  {job.command}", flush=True)
        print(f"{done - failed} of {done} pages in {trio.current_time() - began:.1f}s")
        return failed


def main() -> int:
    """Crawls; 0 where every page was had."""
    parser = argparse.ArgumentParser(
        description="Crawl a site, each page a job of this program; exit status 1 if one failed."
    )
    parser.add_argument("url", help="where to begin; links that lead to other sites are not followed")
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="how many are fetched at a time (4)")
    parser.add_argument("--most", type=int, default=1000, metavar="N", help="how many pages at most (1000)")
    parser.add_argument("--mount", metavar="DIR", help="show the jobs as files there, while it runs")
    options = parser.parse_args()
    url: str = options.url
    at_once: int = options.at_once
    most: int = options.most
    directory: str | None = options.mount
    if not url.startswith("http://"):
        parser.error("the URL begins with http://")
    if min(at_once, most) < 1:
        parser.error("--at-once and --most take a number from 1 on")
    try:
        return 1 if trio.run(crawl, url, at_once, most, directory) else 0
    except (jobfs.JobfsError, mount.MountpointUnusable) as error:
        sys.exit(f"async_crawler: {error}")
    except KeyboardInterrupt:
        print("interrupted: what ran was ended")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
