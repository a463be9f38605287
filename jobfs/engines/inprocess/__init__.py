"""An engine without a supervisor: it runs jobs as children of the calling program, and async functions beside them."""

from jobfs.engines.inprocess.engine import InProcessEngine

__all__ = ["InProcessEngine"]
