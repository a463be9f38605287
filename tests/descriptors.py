"""What this process has open, to be compared before and after."""

from __future__ import annotations

import os


def descriptors() -> list[str]:
    """Each descriptor with what it is of, but for the one that this very look opens."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue
    return sorted(found)
