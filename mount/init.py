"""What the first process of a container has to be for all others (pid_namespaces(7)), when that is jobfs.

It reaps those whose parents have gone, passes on the signals that it gets, and starts what it is there for again when
that crashes: ended, it would take every process of the container along, the jobs too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_RESTART_PAUSE = 1.0  # seconds


def is_first() -> bool:
    """Whether this is the first process, as in a container that runs nothing but jobfs."""
    return os.getpid() == 1


def run_below(serve: Callable[[], None]) -> int:
    """Runs `serve` in a process below this one, again whenever that is killed, until it ends; gives its exit status."""
    asked: list[int] = []
    child = 0

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    while True:
        child = os.fork()
        if not child:
            for number, handler in before.items():
                signal.signal(number, handler)
            os._exit(_status(serve))
        status = _reap_until(child)
        child = 0
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        if signal.SIGTERM in asked or signal.SIGINT in asked:
            return 128 + os.WTERMSIG(status)
        sys.stderr.write(f"jobfs: the daemon was ended by signal {os.WTERMSIG(status)}, and is started again\n")
        time.sleep(_RESTART_PAUSE)


def _status(serve: Callable[[], None]) -> int:
    try:
        serve()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the parent's own way on from here would be the wrong one
        sys.excepthook(*sys.exc_info())
        return 1
    else:
        return 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _reap_until(child: int) -> int:
    """Reaps whoever has ended, until `child` has; gives its wait status."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return status
