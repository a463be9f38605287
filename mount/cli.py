"""The `jobfs` command: it mounts and unmounts, and for the rest opens the mounted files as anyone could."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobfs import __version__, client
from mount.mounting import ALIVE, fail, install_service, mount_, umount, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_AGAIN = 0.1  # seconds
_CHUNK = 1 << 20  # bytes


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jobfs", message="%(prog)s %(version)s")
def main() -> None:
    """Run, watch and control background jobs through a mounted directory.

    Each job is a directory with its command, status and output as files; a line written to `ctl` spawns or signals one.
    """


# What follows the command's first word is the command's, as for nohup(1).
@main.command(context_settings={"allow_interspersed_args": False})
@click.option("--name", metavar="NAME", help="A name for the job.")
@click.option("--cwd", metavar="DIR", help="Where it runs.")
@click.option("--env", metavar="K=V", multiple=True, help="A variable of its environment; may be repeated.")
@click.option("--env-file", metavar="FILE", help="Its environment, as `env -0` writes it.")
@click.option("--stdin", metavar="FILE", help="What it reads; `pipe`: what is written to its `stdin` later.")
@click.option("--limit", metavar="SIZE", help="How much of each output stream is kept (10M).")
@click.option("--timeout", metavar="DURATION", help="It is ended after this: 90s, 5m, 2h.")
@click.option("--grace", metavar="DURATION", help="How long it has to end by itself (5s).")
@click.option("--nice", metavar="N", type=int, help="Its niceness.")
@click.option("--pty", is_flag=True, help="It has a terminal of its own; what is written to its `stdin` is typed.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def spawn(command: tuple[str, ...], env: tuple[str, ...], *, pty: bool, **options: str | int | None) -> None:
    """Spawn a job and print its id.

    One word is a command line for the shell; several are a program and its arguments.
    """
    words: dict[str, str | list[str]] = {"cmd": command[0]} if len(command) == 1 else {"argv": list(command)}
    options = {key.replace("_", "-"): value for key, value in options.items()}
    with _reported():
        click.echo(_client().spawn(**words, **options, pty=pty or None, env=list(env) or None))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as `table.jsonl` has it.")
def ps(*, as_json: bool) -> None:
    """List the jobs."""
    with _reported():
        _copy(_client().directory / ("table.jsonl" if as_json else "table"))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, required=True, metavar="[-SIGNAL] JOB...", type=click.UNPROCESSED)
def kill(words: tuple[str, ...]) -> None:
    """End jobs: SIGTERM, and after their grace period SIGKILL; or send them the signal that is named."""
    _control("kill", words)


@main.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
def rm(jobs: tuple[str, ...]) -> None:
    """Forget jobs that have ended."""
    _control("rm", jobs)


@main.command()
@click.argument("job")
@click.option("--stderr", "-e", is_flag=True, help="The error output instead.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
def logs(job: str, *, stderr: bool, follow: bool) -> None:
    """Print what a job wrote."""
    with _reported():
        mount = _client().directory
        directory = mount / job.removeprefix("%")
        if not directory.exists() and (mount / "ctl").exists():
            fail(f"no such job: {job}")
        _copy(directory / ("stderr" if stderr else "stdout"), until_ended=directory / "status" if follow else None)


def _client() -> client.Client:
    return client.Client()


@contextmanager
def _reported() -> Iterator[None]:
    """Says errors as a sentence, and ends quietly where nobody reads any more."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            fail("the daemon has gone, and its jobs go on: `jobfs mount` shows them again")
        fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error)


def _control(verb: str, words: tuple[str, ...]) -> None:
    with _reported():
        _client().command(shlex.join([verb, *words]))


def _copy(path: Path, until_ended: Path | None = None) -> None:
    """Copies a file to standard output, to its end or, with the job's `status`, until the job has ended."""
    with path.open("rb", buffering=0) as file:
        while True:
            ended = until_ended is None or until_ended.read_text().partition(":")[0].strip() not in ALIVE
            while chunk := file.read(_CHUNK):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            if ended:
                return
            time.sleep(_LOOK_AGAIN)


for command in (mount_, umount, upgrade, install_service):
    main.add_command(command)
