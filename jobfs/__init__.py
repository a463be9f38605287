"""The engine of jobfs: jobs, their lifecycle and their output, with no knowledge of FUSE.

Its face, which serves all this as files, is the package `mount`; that one imports this one, never the reverse. A trio
program has a table of its own by `open_table`: see docs/library.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobfs.engines.inprocess.output import StreamWriter
    from jobfs.engines.inprocess.task import Task
    from jobfs.errors import (
        BadCommand,
        EngineGone,
        JobAlive,
        JobEnded,
        JobfsError,
        MachineError,
        NameTaken,
        NoSuchJob,
        SpawnFailed,
        StdinClosed,
    )
    from jobfs.library.job import Feed, Job
    from jobfs.library.opening import open_table
    from jobfs.library.streams import Snapshot, StreamReader
    from jobfs.library.table import Table
    from jobfs.model import JobInfo, JobSpec, Usage, Writer
    from jobfs.state import StateUnusable
    from jobfs.states import State, Status
    from jobfs.stream import Evicted, StreamDamaged, StreamState

# Here and nowhere else: a daemon tells its own, and what is installed by now may be another one.
__version__ = "0.1.0"

# Where the public names are. They are loaded when they are first used: the command line and the supervisor import this
# package too, need neither trio nor SQLite, and would wait for them.
_PLACES = {
    "jobfs.engines.inprocess.output": ("StreamWriter",),
    "jobfs.engines.inprocess.task": ("Task",),
    "jobfs.errors": (
        *("BadCommand", "EngineGone", "JobAlive", "JobEnded", "JobfsError", "MachineError", "NameTaken", "NoSuchJob"),
        *("SpawnFailed", "StdinClosed"),
    ),
    "jobfs.library.job": ("Feed", "Job"),
    "jobfs.library.opening": ("open_table",),
    "jobfs.library.streams": ("Snapshot", "StreamReader"),
    "jobfs.library.table": ("Table",),
    "jobfs.model": ("JobInfo", "JobSpec", "Usage", "Writer"),
    "jobfs.state": ("StateUnusable",),
    "jobfs.states": ("State", "Status"),
    "jobfs.stream": ("Evicted", "StreamDamaged", "StreamState"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "BadCommand",
    "EngineGone",
    "Evicted",
    "Feed",
    "Job",
    "JobAlive",
    "JobEnded",
    "JobInfo",
    "JobSpec",
    "JobfsError",
    "MachineError",
    "NameTaken",
    "NoSuchJob",
    "Snapshot",
    "SpawnFailed",
    "State",
    "StateUnusable",
    "Status",
    "StdinClosed",
    "StreamDamaged",
    "StreamReader",
    "StreamState",
    "StreamWriter",
    "Table",
    "Task",
    "Usage",
    "Writer",
    "open_table",
]


def __getattr__(name: str) -> object:
    """The public name, loaded (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All that there is, loaded or not."""
    return sorted({*globals(), *__all__})
