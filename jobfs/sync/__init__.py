"""A job table for a program that does not run trio: plain threads, and asyncio through `asyncio.to_thread`.

`open_table` gives the table of `jobfs.open_table`, with the same methods, synchronous, for any thread. What they give
(`Status`, `JobInfo`, `StreamState`, errors) is what `jobfs` has by these names. See docs/library.md.
"""

from jobfs.sync.job import Feed, Job
from jobfs.sync.portal import Cancelled
from jobfs.sync.streams import StdinReader, StreamReader, StreamWriter
from jobfs.sync.table import Table, open_table
from jobfs.sync.task import Task

__all__ = ["Cancelled", "Feed", "Job", "StdinReader", "StreamReader", "StreamWriter", "Table", "Task", "open_table"]
