"""What the files say: text made from snapshots, and from nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from jobfs.text import encode, printable, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobfs.model import JobInfo
    from jobfs.states import Status
    from jobfs.stream import StreamState

_HEADING = ("ID", "STATUS", "ELAPSED", "NAME", "COMMAND")
_GAP = "  "


def status(standing: Status) -> bytes:
    """The `status` file."""
    return f"{standing.word}\n".encode("ascii")


def cmd(line: str) -> bytes:
    """The `cmd` file: the command line, its control characters escaped."""
    return encode(printable(line)) + b"\n"


def info(job: JobInfo) -> bytes:
    """The `info` file: one JSON object on one line, ASCII only, so that no control character reaches a terminal."""
    return json.dumps(_info(job)).encode("ascii") + b"\n"


def table_jsonl(jobs: Iterable[JobInfo]) -> bytes:
    """The `table.jsonl` file: one `info` object a line."""
    return b"".join(info(job) for job in jobs)


def table(jobs: Iterable[JobInfo]) -> bytes:
    """The `table` file: a heading, then one line a job, aligned; the command comes last and is not cut."""
    rows = [_HEADING] + [
        (str(job.id), job.status.word, duration(job.elapsed), job.spec.name or "-", printable(job.spec.line))
        for job in jobs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADING) - 1)]
    lines = [
        _GAP.join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return encode("".join(f"{line}\n" for line in lines))


def duration(seconds: float | None) -> str:
    """A span of time for people: `0.4s`, `12s`, `3m05s`, `2h07m`, `3d04h`; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 10:  # noqa: PLR2004 - below ten seconds a tenth matters
        return f"{int(seconds * 10) / 10:.1f}s"  # cut as all else is: rounded, 9.96 would be 10.0s
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def event(at: float, what: str, details: dict[str, int | str | None]) -> bytes:
    """One line of `events`."""
    return json.dumps({"at": rfc3339(at), "event": what, **details}).encode("ascii") + b"\n"


def _info(job: JobInfo) -> dict[str, object]:
    ended_by_signal = job.status.state.value == "killed"
    exited = job.status.state.value in ("done", "failed")
    return {
        "id": job.id,
        "name": job.spec.name,
        "status": job.status.word,
        "cmd": job.spec.line,
        "argv": job.spec.argv,
        "cwd": None if job.spec.recovered else job.spec.working_directory,
        "pid": job.pid,
        "pgid": job.pid,
        "exit_code": job.status.code if exited else None,
        "signal": job.status.code if ended_by_signal else None,
        "reason": job.reason,
        "created_at": rfc3339(job.created_at),
        "started_at": rfc3339(job.started_at),
        "ended_at": rfc3339(job.ended_at),
        "elapsed_s": None if job.elapsed is None else round(job.elapsed, 3),
        "stdout": _stream(job.stdout),
        "stderr": _stream(job.stderr),
        "usage": asdict(job.usage),
        "spawned_by": asdict(job.spec.writer),
        "recovered": job.spec.recovered,
        "function": job.spec.function,
    }


def _stream(state: StreamState) -> dict[str, int | bool | str | None]:
    known = not state.damaged
    return {
        "written": state.written if known else None,
        "retained": state.retained if known else None,
        "dropped": state.dropped if known else None,
        "capacity": state.capacity,
        "closed": state.closed,
        "problem": state.problem,
    }
