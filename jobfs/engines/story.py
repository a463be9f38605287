"""What the supervisor says of jobs, in the engine's words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jobfs.engines.base import Closed, Continued, Ended, Grown, News, Stalled, Started, Stopped
from jobfs.processes import boot_id
from jobfs.states import Event, ending
from jobfs.supervisor.wire import has_ended

if TYPE_CHECKING:
    from jobfs.supervisor.wire import JobRecord, Message


def started(record: JobRecord) -> Started:
    """Its process was started."""
    handle = f"{record['pid']} {record['boot_id']}"
    return Started(record["id"], record["started_at"], record["started_clock"], record["pid"], handle)


def story(record: JobRecord) -> list[News]:
    """All that happened to a job until now."""
    told: list[News] = [started(record)] if "pid" in record else []
    if has_ended(record):
        told.append(ended(record))
    else:
        told.append(Stopped(record["id"]) if record["stopped"] else Continued(record["id"]))
    if record.get("stalled"):
        told.append(Stalled(record["id"], record["stalled"]))
    return told


def story_without_supervisor(job: int, record: JobRecord | None, *, record_lost: bool = False) -> list[News]:
    """What became of a job that no supervisor knows: what its record says, else nobody knows."""
    if record is None and record_lost:
        return [Ended(job, Event.LOSE, None, time.time(), None, "its record was lost")]
    if record is None:
        return [Ended(job, Event.CANCEL, None, time.time(), None, "the daemon ended before it was started")]
    if has_ended(record):
        return story({**record, "open_streams": []})  # nobody drains what may have been open then
    gone = "the machine was restarted" if record.get("boot_id") != boot_id() else "its supervisor ended before it"
    begun: list[News] = [started(record)] if "pid" in record else []
    return [*begun, Ended(job, Event.LOSE, None, time.time(), None, gone)]


def ended(record: JobRecord) -> Ended:
    """It has ended, as its record says."""
    event: Event
    code: int | None
    if record.get("never_ran"):
        event, code = Event.CANCEL, None
    elif record.get("lost"):
        event, code = Event.LOSE, None
    else:
        event, code = ending(record["wait_status"])
    return Ended(
        job=record["id"],
        event=event,
        code=code,
        ended_at=record["ended_at"],
        elapsed=record["elapsed"],
        reason=record["reason"],
        open_streams=frozenset(record.get("open_streams", ())),
        cpu_user_s=record.get("cpu_user_s"),
        cpu_system_s=record.get("cpu_system_s"),
        max_rss_bytes=record.get("max_rss_bytes"),
    )


def news_of(message: Message) -> News:
    """What a message that answers no request tells."""
    if message["news"] == "grown":
        return Grown(message["id"], message["stream"])
    if message["news"] == "stalled":
        return Stalled(message["id"], message["stalled"])
    record = message["record"]
    match message["news"]:
        case "stopped":
            return Stopped(record["id"])
        case "continued":
            return Continued(record["id"])
        case "closed":
            return Closed(record["id"], frozenset(record.get("open_streams", ())))
        case _:
            return ended(record)
