"""The engine of jobfs: jobs, their lifecycle and their output, with no knowledge of FUSE.

Its face, which serves all this as files, is the package `mount`; that one imports this one, never the reverse.
"""
