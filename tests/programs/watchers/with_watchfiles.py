"""Prints what watchfiles tells of a directory tree: `ready`, then lines of a kind and a path within the tree."""

import os
import sys

from watchfiles import Change, watch

KINDS = {Change.added: "created", Change.modified: "modified", Change.deleted: "deleted"}

root = sys.argv[1]
said_ready = False
# What it yields first is that nothing has happened yet, when its watches are there.
for changes in watch(root, debounce=50, rust_timeout=100, yield_on_timeout=True):
    if not said_ready:
        print("ready", flush=True)  # noqa: T201
        said_ready = True
    for change, path in changes:
        print(KINDS[change], os.path.relpath(path, root), flush=True)  # noqa: T201
