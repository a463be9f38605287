"""Which of other people's programs are here, and where.

A test says what it calls: `@pytest.mark.needs("zsh")`, or `needs("node", "npm:chokidar")`. Where that is missing, the
test is skipped by the program's name; `make test-programs` installs all of them, and there it fails instead.

A name is that of a command, `python:MODULE` for one of this Python's modules, `npm:PACKAGE` for a package beside this
file, or one of `VERSIONS`.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
NODE_MODULES = HERE / "node_modules"
REPOSITORY = HERE.parents[1]

# Commands that are wanted in a version which not every system has: where else to look, and the least version.
VERSIONS = {"less-633": (REPOSITORY / "build/newer-less/less", 633)}


def find(name: str) -> str | None:
    """The path of a program, a module or a package, or None where it is missing."""
    kind, _, rest = name.rpartition(":")
    if kind == "python":
        module = importlib.util.find_spec(rest)
        return None if module is None else module.origin
    if kind == "npm":
        package = NODE_MODULES / rest
        return str(package) if package.is_dir() else None
    if name in VERSIONS:
        beside, least = VERSIONS[name]
        here = [str(beside), shutil.which(name.partition("-")[0])]
        return next((path for path in here if path is not None and _version(path) >= least), None)
    return shutil.which(name)


def path(name: str) -> str:
    """The path of what a test said it needs."""
    found = find(name)
    assert found is not None, f"{name} is missing: mark the test as one that needs it"
    return found


def _version(command: str) -> int:
    try:
        said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    except OSError:
        return 0
    number = re.search(r"\d+", said)
    return 0 if number is None else int(number.group())
