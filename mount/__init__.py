"""The face of jobfs: the FUSE file system over the engine in `jobfs`, its daemon and its command line.

It is the only place that imports pyfuse3. A program that has a table of its own shows it with `mounted`, and one of
`jobfs.sync` with `mounted_sync`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mount.library import mounted as mounted
    from mount.library import mounted_sync as mounted_sync
    from mount.mountpoint import MountpointUnusable as MountpointUnusable

__all__ = ["MountpointUnusable", "mounted", "mounted_sync"]


def __getattr__(name: str) -> object:
    """The public names, loaded when they are first used (PEP 562): pyfuse3 takes longer than most commands."""
    if name in ("mounted", "mounted_sync"):
        from mount import library  # noqa: PLC0415

        return library.mounted if name == "mounted" else library.mounted_sync
    if name == "MountpointUnusable":
        from mount.mountpoint import MountpointUnusable  # noqa: PLC0415

        return MountpointUnusable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
