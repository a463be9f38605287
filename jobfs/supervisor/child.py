"""What the supervisor remembers of one job, from its spawn until nothing of it is left to be watched."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jobfs.processes import ticks
from jobfs.supervisor.records import short_line

if TYPE_CHECKING:
    from jobfs.supervisor.adoption import Adoption
    from jobfs.supervisor.berth import Berth
    from jobfs.supervisor.birth import Birth
    from jobfs.supervisor.lease import Lease
    from jobfs.supervisor.loop import Timer
    from jobfs.supervisor.outlet import Outlet
    from jobfs.supervisor.wire import JobRecord, SpawnOrder

_UNKNOWN_END = "its supervisor was killed, and how it ended is not known"


class Child:
    """A job as long as its process lives, its grace runs, or somebody holds its pipes."""

    def __init__(self, berth: Berth, record: JobRecord) -> None:
        self.job = record["id"]
        self.berth = berth
        self.record = record
        self.pidfd = -1
        self.executed = False
        self.ending = False
        self.gone = False  # its process has ended; its output may not be all drained yet
        self.wait_status: int | None = None  # how it ended; None also where nobody knows
        self.ended = False  # that is over, too
        self.queued_signals: list[int] = []
        self.birth: Birth | None = None
        self.adoption: Adoption | None = None
        self.lease: Lease | None = None
        self.timeout: Timer | None = None
        self.kill: Timer | None = None  # the end of the grace period
        self.retries: dict[str, Timer] = {}  # by stream, while the disk is full

    def process_ended(self, status: int | None) -> None:
        """Its process has ended, with that wait status; None: nobody knows with which."""
        self.gone = True
        self.berth.process_ended()
        self.close_lease()
        if self.timeout is not None:
            self.timeout.cancel()
        self.record |= {"ended_at": time.time(), "elapsed": time.monotonic() - self.record["started_clock"]}
        if status is None:
            self.record |= {"lost": True, "reason": self.record["reason"] or _UNKNOWN_END}
        self.wait_status = status

    def close_lease(self) -> None:
        """Its life depends on nobody any more: it has ended."""
        if self.lease is not None:
            self.lease.close()
            self.lease = None

    def cancel_timers(self) -> None:
        """Nothing more is to happen by itself."""
        for timer in (self.timeout, self.kill, *self.retries.values()):
            if timer is not None:
                timer.cancel()

    @property
    def described(self) -> JobRecord:
        """Its record as it is now, with what is told of its streams."""
        return {**self.record, "open_streams": self.open_streams, "stalled": self.stalled}

    @property
    def outlets(self) -> dict[str, Outlet]:
        """Its output pipes."""
        return self.berth.outlets

    @property
    def stdin(self) -> int:
        """Where to write for the job to read it; -1 where nothing is to be written, now or at all."""
        if self.gone:
            return -1
        if self.berth.terminal is not None:
            return self.berth.terminal.reader
        return -1 if self.berth.inlet is None else self.berth.inlet.writer

    @property
    def own_ends(self) -> dict[str, int]:
        """The descriptors that would be gone with the supervisor, by name."""
        process = {} if self.gone or self.pidfd < 0 else {"process": self.pidfd}
        return process | self.berth.own_ends | self.berth.rings

    @property
    def pid(self) -> int:
        """The number of the job's process, which is also its group's and its session's."""
        return self.record["pid"]

    @property
    def open_streams(self) -> list[str]:
        """The streams that somebody may still write to."""
        return [name for name, outlet in self.outlets.items() if not outlet.closed]

    @property
    def stalled(self) -> dict[str, str]:
        """Why what is written to a stream cannot be kept, of those of which that is so."""
        if not self.gone:
            waits = "the job waits when it writes"
        elif self.ended:
            waits = "what it left behind waits when it writes"
        else:
            waits = "its process has ended, and how is told when the last of its output is kept"
        return {
            name: f"cannot be written: {outlet.obstacle}: {waits}"
            for name, outlet in self.outlets.items()
            if outlet.stalled
        }


def first_record(job: int, order: SpawnOrder, berth: Berth, boot_id: str) -> JobRecord:
    """What is known of a job whose process is about to be started."""
    now = time.monotonic()
    return {
        "id": job,
        "line": short_line(order["argv"]),
        "reason": None,
        "stopped": False,
        "boot_id": boot_id,
        "started_at": time.time(),
        "started_clock": now,
        "start_window": (ticks(), 0),
        "pipes": berth.pipes,
        "limit": order["limit"],
        "grace": order["grace"],
        "deadline": None if order["timeout"] is None else now + order["timeout"],
        "lease": order["lease"],
        "pty": order["pty"],
    }
