"""The engine of jobfs: jobs, their lifecycle and their output, with no knowledge of FUSE.

Its face, which serves all this as files, is the package `mount`; that one imports this one, never the reverse.
"""

# Here and nowhere else: a daemon tells its own, and what is installed by now may be another one.
__version__ = "0.1.0"
