"""The file `events` of a state: opened to go on with it, or begun anew where it was damaged."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from jobfs.stream import RingReader, RingWriter, StreamDamaged

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

CAPACITY = 1024 * 1024  # bytes of `events` that are kept
_ID = re.compile(rb'"id": ([0-9]{1,18})[,}]')


def open_events(path: Path) -> RingWriter:
    """The writer of the events at `path`. What was damaged is moved aside, and events begin anew. OSError."""
    try:
        return _open(path)
    except FileNotFoundError:
        pass
    except StreamDamaged as error:
        aside = path.with_name(f"{path.name}.damaged")
        log.error("%s: %s; it is kept as %s, and events begin anew", path, error.why, aside.name)  # noqa: TRY400
        path.replace(aside)
    return RingWriter.create(path, CAPACITY)


def _open(path: Path) -> RingWriter:
    writer = RingWriter.open(path)
    if writer.closed:
        writer.detach()
        raise StreamDamaged("it says that it is closed, which it never is")
    return writer


def highest_id(path: Path) -> int:
    """The highest id of a job that the events tell of; 0 where they tell of none, or cannot be read."""
    try:
        with RingReader.open(path) as reader:
            state = reader.snapshot()
            said = reader.read(state.start, state.retained)
    except OSError:
        return 0
    return max(map(int, _ID.findall(said)), default=0)
