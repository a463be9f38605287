"""Jobs from Python, over the mounted files and nothing else: any program could do the same by opening them.

Standard library only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypedDict, cast

from jobfs.mountinfo import mounts

TYPE = "fuse.jobfs"
PREFERRED = Path("/v/jobs")
FALLBACK = "jobs"  # in the home directory of a user who cannot have that
_REPLY = 65536  # bytes


class NotMountedError(OSError):
    """No mount of jobfs was found."""


class CommandError(OSError):
    """A command was refused: the errno of the write, and the sentence that the reply gave."""


class Info(TypedDict):
    """What `info` says that the command line shows; the file has more."""

    id: int
    name: str | None
    status: str
    usage: dict[str, float | None]


class Client:
    """One mount."""

    def __init__(self, directory: Path | str | None = None) -> None:
        """`directory`: where it is; without it the mount that JOBFS_MOUNT names, or this user's own."""
        self.directory = Path(directory) if directory is not None else find()

    def command(self, line: str) -> str:
        """Writes one command and gives its reply: an id, or `ok`. Raises CommandError where it is refused."""
        fd = os.open(self.directory / "ctl", os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                os.write(fd, os.fsencode(line) + b"\n")
            except OSError as error:
                said = os.fsdecode(os.read(fd, _REPLY)).strip().removeprefix("error: ")
                raise CommandError(error.errno, said or error.strerror) from None
            return os.fsdecode(os.read(fd, _REPLY)).strip()
        finally:
            os.close(fd)

    def spawn(self, **request: object) -> int:
        """Spawns a job: `cmd` (a shell script) or `argv`, and the options of the contract's `spawn`; gives its id."""
        asked = {key: value for key, value in request.items() if value is not None}
        return int(self.command(json.dumps({"op": "spawn", **asked})))

    def infos(self) -> list[Info]:
        """What is known of every job."""
        lines = (self.directory / "table.jsonl").read_text(encoding="ascii").splitlines()
        return [cast("Info", json.loads(line)) for line in lines]


def find() -> Path:
    """The mount that JOBFS_MOUNT names, else the one in a usual place, else this user's only one.

    NotMountedError where there is none, and where it would have to be guessed which of several is meant.
    """
    usual = find_usual()
    if usual is not None:
        return usual
    own = _own_mounts()
    if not own:
        raise NotMountedError("jobfs is not mounted: start it with `jobfs mount`")
    if len(own) > 1:
        places = ", ".join(str(point) for point in own)
        raise NotMountedError(f"jobfs is mounted at {places}: say which you mean with JOBFS_MOUNT=DIR")
    return own[0]


def find_usual() -> Path | None:
    """The mount that JOBFS_MOUNT names, else this user's at `/v/jobs` or `~/jobs`; None where there is none."""
    named = os.environ.get("JOBFS_MOUNT")
    if named:
        return Path(named)
    own = _own_mounts()
    return next((place for place in (PREFERRED, Path.home() / FALLBACK) if place in own), None)


def _own_mounts() -> list[Path]:
    return [mount.point for mount in mounts() if mount.type == TYPE and mount.user == os.geteuid()]
