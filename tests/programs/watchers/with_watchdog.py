"""Prints what watchdog tells of a directory tree: `ready`, then lines of a kind and a path within the tree."""

import os
import sys

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

root = sys.argv[1]


class Printer(FileSystemEventHandler):  # type: ignore[misc] # the checks pass watchdog's types by
    """Prints every event."""

    def on_any_event(self, event: FileSystemEvent) -> None:
        """See watchdog."""
        print(event.event_type, os.path.relpath(os.fsdecode(event.src_path), root), flush=True)  # noqa: T201


observer = Observer()
observer.schedule(Printer(), root, recursive=True)
observer.start()
print("ready", flush=True)  # noqa: T201
observer.join()
