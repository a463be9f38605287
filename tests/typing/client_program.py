"""A program that uses all of the Python client, with the types that it documents; checked by mypy, and never run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

from jobfs.client import (
    Client,
    ClientError,
    CommandError,
    Event,
    EvictedError,
    Info,
    Job,
    NoSuchJobError,
    NotMountedError,
    find,
)


def use_client(client: Client) -> list[Job]:
    """Everything that a Client has."""
    assert_type(client.directory, Path)
    assert_type(client.command("clean"), str)
    assert_type(client.spawn("make"), Job)
    assert_type(client.spawn(["make", "-j8"]), Job)
    assert_type(client.spawn(("make", "-j8")), Job)
    client.spawn(
        "make",
        name="build",
        cwd=Path("/src"),
        env={"CC": "clang"},
        env_file="/src/environment",
        stdin="pipe",
        limit="64K",
        timeout=90,
        grace=0.5,
        nice=10,
        pty=True,
    )
    client.spawn("make", cwd="/src", stdin=Path("/dev/null"), limit=65536, timeout="5m", grace="2s")
    assert_type(client.job(3), Job)
    assert_type(client.job("build"), Job)
    assert_type(client.infos(), list[Info])
    assert_type(client.events(), Iterator[Event])
    assert_type(client.events(follow=True), Iterator[Event])
    client.clean()
    return client.jobs()


def use_job(job: Job) -> str:
    """Everything that a Job has."""
    assert_type(job.id, int)
    assert_type(job.mount, Path)
    assert_type(job.directory, Path)
    assert_type(job.status, str)
    assert_type(job.ended, bool)
    assert_type(job.wait(1.5), str)
    assert_type(job.wait(timeout=None), str)
    assert_type(job.read(), bytes)
    assert_type(job.read(100, stream="stderr"), bytes)
    assert_type(job.follow(), Iterator[bytes])
    assert_type(job.follow("stderr"), Iterator[bytes])
    assert_type(job.lines(), Iterator[bytes])
    assert_type(job.restart(), Job)
    job.write(b"input\n")
    job.eof()
    job.kill()
    job.kill(9)
    job.kill(signal.SIGHUP)
    job.kill("USR1")
    job.stop()
    job.cont()
    job.winsize(24, 80)
    job.remove()
    return job.wait()


def use_info(info: Info, event: Event) -> list[object]:
    """What the typed dictionaries hold."""
    assert_type(info["id"], int)
    assert_type(info["argv"], list[str] | None)
    assert_type(info["exit_code"], int | None)
    assert_type(info["elapsed_s"], float | None)
    assert_type(info["stdout"]["dropped"], int | None)
    assert_type(info["usage"]["rss_bytes"], int | None)
    assert_type(info["spawned_by"]["command"], str | None)
    assert_type(event["at"], str)
    return [event["id"] if event["event"] == "ended" else None, event.get("reason")]


def use_errors(job: Job) -> int:
    """The family of errors."""
    try:
        job.read(0)
    except EvictedError as error:
        return assert_type(error.oldest, int)
    except (NoSuchJobError, NotMountedError, CommandError) as error:
        return error.errno or 0
    except ClientError as error:
        return len(error.strerror or "")
    return 0


async def use_asyncio(job: Job) -> bytes:
    """In threads."""
    assert_type(await asyncio.to_thread(job.wait, 1.0), str)
    chunks = job.follow()
    return await asyncio.to_thread(next, chunks, b"")


def main() -> None:
    """Where it begins."""
    client = Client(find())
    for job in use_client(client):
        use_job(job)
        use_errors(job)
        asyncio.run(use_asyncio(job))
        use_info(job.info(), next(Client().events()))
