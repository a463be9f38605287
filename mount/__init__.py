"""The face of jobfs: the FUSE file system over the engine in `jobfs`, its daemon and its command line.

It is the only place that imports pyfuse3.
"""
