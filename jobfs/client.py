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
    """The mount that JOBFS_MOUNT names, else `/v/jobs` where it is this user's, else the user's newest one."""
    named = os.environ.get("JOBFS_MOUNT")
    if named:
        return Path(named)
    own = [mount.point for mount in mounts() if mount.type == TYPE and mount.user == os.geteuid()]
    if not own:
        msg = "jobfs is not mounted: start it with `jobfs mount`"
        raise NotMountedError(msg)
    return PREFERRED if PREFERRED in own else own[-1]
