"""The face of jobfs: the FUSE file system over the engine in `jobfs`, its daemon and its command line.

It is the only place that imports pyfuse3. A program that has a table of its own shows it with `mounted`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mount.library import mounted as mounted
    from mount.mountpoint import MountpointUnusable as MountpointUnusable

__all__ = ["MountpointUnusable", "mounted"]


def __getattr__(name: str) -> object:
    """The public names, loaded when they are first used (PEP 562): pyfuse3 takes longer than most commands."""
    if name == "mounted":
        from mount.library import mounted  # noqa: PLC0415

        return mounted
    if name == "MountpointUnusable":
        from mount.mountpoint import MountpointUnusable  # noqa: PLC0415

        return MountpointUnusable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
