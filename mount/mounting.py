"""The commands by which a mount comes and goes: `mount`, `upgrade`, `umount`, `install-service`."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from jobfs import __version__, client, state
from mount import init, mountpoint, service, successor

if TYPE_CHECKING:
    from jobfs.state import Serving

_SIZE = re.compile(r"(\d+)([KMGT]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_USUAL = {"keep": 1000, "keep_bytes": 1 << 30}
_PATIENCE = 60.0  # seconds that `umount` waits for jobs and daemon to go
_LOOK_AGAIN = 0.1  # seconds
_MAKING_WAY = 1.0  # seconds that the daemon has to make way


def fail(message: object) -> NoReturn:
    """Ends the command with a sentence."""
    click.echo(f"jobfs: {message}", err=True)
    sys.exit(1)


def _size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """The number of bytes that `64K`, `10M`, `1G` stand for."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no size: 64K, 10M, 1G")
    return int(match[1]) * _UNITS[match[2]]


# No click.Path, which looks at the path: a mount whose daemon hangs would keep the command for ever.
_directory = click.argument("directory", required=False, type=Path)
_state = click.option("--state", "state_", metavar="DIR", help="Where jobs and output are kept; `memory`: on no disk.")
# No defaults: a daemon that takes another one's place has that one's.
_keep = click.option("--keep", type=click.IntRange(min=0), help="Ended jobs to keep.  [default: 1000]")
_keep_bytes = click.option(
    "--keep-bytes", callback=_size, metavar="SIZE", help="Output of ended jobs to keep.  [default: 1G]"
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line says of the daemon that is to be started; `bounds` without what it does not say."""

    point: Path
    state: Path
    bounds: dict[str, int | None]
    foreground: bool = False
    replace: bool = False


@click.command("mount")
@_directory
@_state
@_keep
@_keep_bytes
@click.option("--foreground", is_flag=True, help="Stay, and end with the mount.")
@click.option("--replace", is_flag=True, help="Take the place of the daemon that serves this already.")
def mount_(
    directory: Path | None, state_: str | None, *, foreground: bool, replace: bool, **bounds: int | None
) -> None:
    """Mount the jobs at DIRECTORY (/v/jobs, or a place of your own) and go to the background.

    A daemon of another version that serves them there already is replaced.
    """
    point = mountpoint.normal(directory or mountpoint.default_mountpoint())
    shown = _state_shown_at(point) if state_ is None else None
    wish = _Wish(point, shown or state.state_path(state_, point), bounds, foreground, replace)
    if foreground and init.is_first():
        sys.exit(init.run_below(lambda: _serve(wish)))
    _serve(wish)


@click.command()
@_directory
@_keep
@_keep_bytes
def upgrade(directory: Path | None, **bounds: int | None) -> None:
    """Replace the daemon that serves DIRECTORY by one of this version; jobs go on and notice nothing.

    It keeps as much as the old one did, where nothing else is said.
    """
    point = _mounted_at(directory)
    try:
        with mountpoint.claimed(point):  # while another one replaces the daemon, nothing is mounted for a moment
            shown = _state_shown_at(point)
    except (mountpoint.MountpointUnusable, OSError) as error:
        fail(error)
    if shown is None:
        mount = mountpoint.mount_at(point)
        if mount is not None and mount.type == client.TYPE and state.is_programs(mountpoint.state_of(mount)):
            fail(f"{point} is shown by a program that has a table of its own, and no daemon: there is none to replace")
        fail(f"jobfs is not mounted at {point}")
    _serve(_Wish(point, shown, bounds, replace=True))


def _serve(wish: _Wish) -> None:
    """Starts a daemon as wished for, in the place of the one that serves that already, if it is to be replaced."""
    # Here and not above: it takes three times as long to load as all that the other commands need.
    from mount.daemon import FORESEEN, Options, detach, serve  # noqa: PLC0415

    try:
        with mountpoint.claimed(wish.point) as claim:
            old = _to_be_replaced(wish)
            options = Options(
                wish.point, wish.state, **_bounds(wish, old), foreground=wish.foreground, mounted_before=old is not None
            )
            said = "" if old is None else _replace(old, wish.state)
            if wish.foreground:
                serve(options, claim, lambda: _say_where(wish, said))
                return
            why_not = detach(lambda ready: serve(options, claim, ready))
            if why_not is not None:
                fail(why_not)
            _say_where(wish, said)
    except FORESEEN as error:
        fail(error)


def _say_where(wish: _Wish, said: str) -> None:
    click.echo(f"jobs are at {wish.point}{said}")
    old = state.older_supervisor(wish.state)
    if old is not None:
        click.echo(f"their supervisor, process {old}, is of an older version: it is replaced when they have ended")


def _bounds(wish: _Wish, old: Serving | None) -> dict[str, int]:
    """How much is kept: as wished, else as the one that is replaced has it, or had before it was killed."""
    if old is None and wish.replace:
        old = state.serving(wish.state)
    had = {} if old is None else {"keep": old.keep, "keep_bytes": old.keep_bytes}
    said = [{key: value for key, value in source.items() if value is not None} for source in (had, wish.bounds)]
    return {**_USUAL, **said[0], **said[1]}


def _to_be_replaced(wish: _Wish) -> Serving | None:
    """The daemon in whose place a new one is to come, if there is one; MountpointUnusable where that is to stay."""
    old = successor.predecessor(wish.point, wish.state)
    if old is None:
        return None
    if not wish.replace and old.version == __version__ and successor.is_mounted(old, wish.state):
        silent = "" if mountpoint.answers(wish.point) is not None else ", but does not answer"
        msg = f"jobfs is mounted at {wish.point} already, by process {old.pid}{silent}"
        msg += f": `jobfs upgrade {wish.point}` replaces it"
        raise mountpoint.MountpointUnusable(msg)
    return _completed(old)


def _completed(old: Serving) -> Serving:
    """`old`, with what an older version does not say of itself taken from the command line that started it."""
    if old.version is not None:
        return old
    try:
        raw = Path(f"/proc/{old.pid}/cmdline").read_bytes().split(b"\0")[:-1]
        words = [os.fsdecode(word) for word in raw]
        asked = mount_.make_context("mount", words[words.index("mount") + 1 :]).params
    except (OSError, ValueError, click.ClickException):
        return old
    return dataclasses.replace(old, keep=asked["keep"], keep_bytes=asked["keep_bytes"], foreground=asked["foreground"])


def _replace(old: Serving, shown: Path) -> str:
    """Ends the daemon `old`; gives what is to be said of that."""
    was_mounted = successor.is_mounted(old, shown)
    if was_mounted:
        successor.check(old, shown)
    by_itself = successor.end(old)
    if by_itself and not was_mounted:
        return ""
    how = "" if by_itself else ", which did not end by itself and was killed"
    return f"; process {old.pid} of jobfs {old.version or '(unknown version)'}{how} was replaced"


@click.command()
@_directory
@click.option("--end-jobs", is_flag=True, help="End every job first, and whatever they left running.")
def umount(directory: Path | None, *, end_jobs: bool) -> None:
    """Unmount; jobs go on, and the next mount shows them."""
    point = _mounted_at(directory)
    mount = mountpoint.mount_at(point)
    if mount is None or mount.type != client.TYPE:
        fail(f"jobfs is not mounted at {point}")
    served = state.serving(mountpoint.state_of(mount))
    if mountpoint.answers(point) is None:
        who = "its daemon" if served is None else f"process {served.pid}, which serves {point},"
        fail(f"{who} does not answer: `jobfs upgrade {point}` replaces it")
    supervisor = state.supervisor_of(mountpoint.state_of(mount)) if end_jobs else None
    try:
        what_goes_on = _end_all(client.Client(point)) if end_jobs else _going_on(client.Client(point))
        with mountpoint.claimed(point):
            _take_away(point)
    except (mountpoint.MountpointUnusable, OSError) as error:
        fail(error)
    if supervisor is not None:
        _wait_for_end(_open(supervisor), supervisor)
    click.echo(f"{point} is unmounted; {what_goes_on}")


def _take_away(point: Path) -> None:
    """Unmounts, and waits until the daemon, where there is one, has ended."""
    mount = mountpoint.mount_at(point)  # another daemon may have come meanwhile
    if mount is None or mount.type != client.TYPE:
        return
    served = state.serving(mountpoint.state_of(mount))
    daemon = None if served is None else served.open()
    _unmount(point, daemon)
    if served is not None:
        _wait_for_end(daemon, served.pid, asked=signal.SIGTERM)
        mountpoint.remove(served.made)


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
                signal.pidfd_send_signal(daemon, signal.SIGUSR1)
            time.sleep(_LOOK_AGAIN)
        else:
            return


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _wait_for_end(process: int | None, pid: int, asked: signal.Signals | None = None) -> None:
    """Waits until a process has ended, or a while, and then until it has upon being `asked` to. Closes its pidfd.

    A daemon goes on by itself where another mount namespace has the mount too, a container's for one. Through a pidfd:
    the parent, in a container often one that reaps late or never, may keep it.
    """
    if process is None:
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
        fail(f"the mount is gone, but its process {pid} still runs")


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
            fail(f"{_count(len(left), 'job')} did not end: {', '.join(str(info['id']) for info in left)}")
        time.sleep(_LOOK_AGAIN)
    return _go_on(0)


def _alive(jobs: client.Client) -> list[client.Info]:
    return [info for info in jobs.infos() if info["status"] in client.ALIVE or info["usage"]["lingering"]]


def _go_on(number: int) -> str:
    return f"{_count(number, 'job')} {'goes' if number == 1 else 'go'} on"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@click.command("install-service")
@_directory
@_state
@_keep
@_keep_bytes
@click.option("--remove", is_flag=True, help="Stop the service and remove it; its jobs go on.")
def install_service(directory: Path | None, state_: str | None, *, remove: bool, **bounds: int | None) -> None:
    """Have systemd mount the jobs at DIRECTORY when you log in, and again when the daemon crashes."""
    point = mountpoint.normal(directory or mountpoint.default_mountpoint())
    chosen = None if state_ is None else state.state_path(state_, point)
    options = {"--state": chosen, "--keep": bounds["keep"], "--keep-bytes": bounds["keep_bytes"]}
    given = [word for key, value in options.items() if value is not None for word in (key, str(value))]
    words = [*service.program(), "mount", "--foreground", "--replace", *given, "--", str(point)]
    try:
        for sentence in service.remove() if remove else service.install(words):
            click.echo(sentence)
    except (service.ServiceUnusable, OSError) as error:
        fail(error)


def _state_shown_at(point: Path) -> Path | None:
    """The state that this user's mount of jobfs at `point` shows; None where there is none, or a program's own."""
    mount = mountpoint.mount_at(point)
    if mount is None or mount.type != client.TYPE or mount.user != os.geteuid():
        return None
    shown = mountpoint.state_of(mount)
    return None if state.is_programs(shown) else shown


def _mounted_at(directory: Path | None) -> Path:
    if directory is not None:
        return mountpoint.normal(directory)
    usual = client.find_usual()  # no other one is taken: it may be somebody's who did not mean this command
    if usual is None:
        fail("jobfs is not mounted in a usual place: say which DIRECTORY")
    return usual
