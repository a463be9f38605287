"""The `jobfs` command: it mounts and unmounts, and for the rest opens the mounted files as anyone could."""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from jobfs import client
from mount import mountpoint, state

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIZE = re.compile(r"(\d+)([KMGT]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PATIENCE = 60.0  # seconds that `umount` waits for jobs and daemon to go
_LOOK_AGAIN = 0.1  # seconds
_MAKING_WAY = 1.0  # seconds that the daemon has to make way
_CHUNK = 1 << 20  # bytes
_ALIVE = ("queued", "running", "stopped")


def _size(_: click.Context, __: click.Parameter, value: str) -> int:
    """The number of bytes that `64K`, `10M`, `1G` stand for."""
    match = _SIZE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no size: 64K, 10M, 1G")
    return int(match[1]) * _UNITS[match[2]]


def _fail(message: object) -> NoReturn:
    click.echo(f"jobfs: {message}", err=True)
    sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jobfs", message="%(prog)s %(version)s")
def main() -> None:
    """Run, watch and control background jobs through a mounted directory.

    Each job is a directory with its command, status and output as files; a line written to `ctl` spawns or signals one.
    """


@main.command("mount")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--state", "state_", metavar="DIR", help="Where jobs and output are kept; `memory`: on no disk.")
@click.option("--keep", default=1000, show_default=True, type=click.IntRange(min=0), help="Ended jobs to keep.")
@click.option(
    "--keep-bytes",
    default="1G",
    show_default=True,
    callback=_size,
    metavar="SIZE",
    help="Output of ended jobs to keep.",
)
@click.option("--foreground", is_flag=True, help="Stay, and end with the mount.")
def mount_(directory: Path | None, state_: str | None, keep: int, keep_bytes: int, *, foreground: bool) -> None:
    """Mount the jobs at DIRECTORY (/v/jobs, or a place of your own) and go to the background."""
    # Here and not above: it takes three times as long to load as all that the other commands need.
    from mount.daemon import FORESEEN, Options, detach, serve  # noqa: PLC0415

    try:
        point = (directory or mountpoint.default_mountpoint()).absolute()
        options = Options(_normal(point), state.state_path(state_, point), keep, keep_bytes)
        if foreground:
            serve(options, lambda: click.echo(f"jobs are at {options.point}"))
            return
    except FORESEEN as error:
        _fail(error)
    why_not = detach(lambda ready: serve(options, ready))
    if why_not is not None:
        _fail(why_not)
    click.echo(f"jobs are at {options.point}")


@main.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--end-jobs", is_flag=True, help="End every job first, and whatever they left running.")
def umount(directory: Path | None, *, end_jobs: bool) -> None:
    """Unmount; jobs go on, and the next mount shows them."""
    point = _mounted_at(directory)
    mount = mountpoint.mount_at(point)
    if mount is None or mount.type != client.TYPE:
        _fail(f"jobfs is not mounted at {point}")
    served = state.serving(mountpoint.state_of(mount))
    supervisor = state.supervisor_of(mountpoint.state_of(mount)) if end_jobs else None
    try:
        what_goes_on = _end_all(client.Client(point)) if end_jobs else _going_on(client.Client(point))
        _unmount(point, None if served is None or not served.alive else served.pid)
    except (mountpoint.MountpointUnusable, OSError) as error:
        _fail(error)
    if served is not None:
        if served.alive:
            _wait_for_end(served.pid, asked=signal.SIGTERM)
        mountpoint.remove(served.made)
    if supervisor is not None:
        _wait_for_end(supervisor)
    click.echo(f"{point} is unmounted; {what_goes_on}")


def _unmount(point: Path, daemon: int | None) -> None:
    """Unmounts; the daemon, where there is one, lets go of what it can: who waits in the mount, and its own client."""
    deadline = time.monotonic() + _MAKING_WAY
    while True:
        try:
            mountpoint.unmount(point)
        except mountpoint.MountpointUnusable:
            if daemon is None or time.monotonic() > deadline:
                raise
            with suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGUSR1)
            time.sleep(_LOOK_AGAIN)
        else:
            return


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
            _fail(f"no such job: {job}")
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
            _fail("the daemon has gone, and its jobs go on: `jobfs mount` shows them again")
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error)


def _control(verb: str, words: tuple[str, ...]) -> None:
    with _reported():
        _client().command(shlex.join([verb, *words]))


def _copy(path: Path, until_ended: Path | None = None) -> None:
    """Copies a file to standard output, to its end or, with the job's `status`, until the job has ended."""
    with path.open("rb", buffering=0) as file:
        while True:
            ended = until_ended is None or until_ended.read_text().partition(":")[0].strip() not in _ALIVE
            while chunk := file.read(_CHUNK):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            if ended:
                return
            time.sleep(_LOOK_AGAIN)


def _mounted_at(directory: Path | None) -> Path:
    if directory is not None:
        return _normal(directory)
    usual = client.find_usual()  # no other one is taken: it may be somebody's who did not mean this command
    if usual is None:
        _fail("jobfs is not mounted in a usual place: say which DIRECTORY")
    return usual


def _normal(path: Path) -> Path:
    """An absolute path without links in what leads to it. Its last part is not looked at: it may be a dead mount."""
    absolute = Path(os.path.abspath(path))
    return absolute.parent.resolve() / absolute.name


def _alive(jobs: client.Client) -> list[client.Info]:
    return [info for info in jobs.infos() if info["status"] in _ALIVE or info["usage"]["lingering"]]


def _going_on(jobs: client.Client) -> str:
    """How many jobs an unmount leaves running, as a sentence."""
    try:
        number = len(_alive(jobs))
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return "its daemon was gone already, and its jobs go on"
    return _go_on(number)


def _end_all(jobs: client.Client) -> str:
    """Ends all that runs, and waits until it has; gives the sentence that says so."""
    deadline = time.monotonic() + _PATIENCE
    while left := _alive(jobs):
        for info in left:
            with suppress(OSError):  # it has ended meanwhile
                jobs.command(f"kill {info['id']}")
        if time.monotonic() > deadline:
            _fail(f"{_count(len(left), 'job')} did not end: {', '.join(str(info['id']) for info in left)}")
        time.sleep(_LOOK_AGAIN)
    return _go_on(0)


def _wait_for_end(pid: int, asked: signal.Signals | None = None) -> None:
    """Waits until a process has ended, or a while, and then until it has upon being `asked` to.

    A daemon goes on by itself where another mount namespace has the mount too, a container's for one. Through a pidfd:
    the parent, in a container often one that reaps late or never, may keep it.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended = bool(select.select([process], [], [], _MAKING_WAY if asked else _PATIENCE)[0])
        if not ended and asked:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, asked)
            ended = bool(select.select([process], [], [], _PATIENCE)[0])
    finally:
        os.close(process)
    if not ended:
        _fail(f"the mount is gone, but its process {pid} still runs")


def _go_on(number: int) -> str:
    return f"{_count(number, 'job')} {'goes' if number == 1 else 'go'} on"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
