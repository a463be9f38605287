"""The `jobfs` command: it mounts and unmounts, and for the rest opens the mounted files as anyone could."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobfs import __version__, client
from jobfs import client_files as files
from mount.mounting import fail, install_service, mount_, umount, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator


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
def spawn(  # noqa: PLR0913 - the options of the verb
    command: tuple[str, ...],
    *,
    name: str | None,
    cwd: str | None,
    env: tuple[str, ...],
    env_file: str | None,
    stdin: str | None,
    limit: str | None,
    timeout: str | None,
    grace: str | None,
    nice: int | None,
    pty: bool,
) -> None:
    """Spawn a job and print its id.

    One word is a command line for the shell; several are a program and its arguments.
    """
    with _reported():
        job = client.Client().spawn(
            command[0] if len(command) == 1 else command,
            name=name,
            cwd=cwd,
            env=_variables(env),
            env_file=env_file,
            stdin=stdin,
            limit=limit,
            timeout=timeout,
            grace=grace,
            nice=nice,
            pty=pty,
        )
        click.echo(job.id)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as `table.jsonl` has it.")
def ps(*, as_json: bool) -> None:
    """List the jobs."""
    with _reported():
        _copy(client.Client().directory / ("table.jsonl" if as_json else "table"))


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
    stream: client.Stream = "stderr" if stderr else "stdout"
    with _reported():
        found = client.Client().job(job)
        if follow:
            for chunk in found.follow(stream):
                _print(chunk)
        else:
            _copy(found.directory / stream)


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
        client.Client().command(shlex.join([verb, *words]))


def _copy(path: Path) -> None:
    """Copies a file to standard output."""
    with files.opened(path) as fd:
        for chunk in files.rest(fd):
            _print(chunk)


def _print(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _variables(words: tuple[str, ...]) -> dict[str, str]:
    """The variables that `K=V` words set; of two of one name the later one counts."""
    for word in words:
        if "=" not in word:
            fail(f"env: {word!r} is not of the form K=V")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


for command in (mount_, umount, upgrade, install_service):
    main.add_command(command)
