"""Which processes want out of a system call on a file of this mount, by what /proc tells (proc(5)).

FUSE's own word for it, FUSE_INTERRUPT, does not get through pyfuse3. But a task that waits for a daemon's answer sleeps
interruptibly until something interrupts it (a signal, a stop, a freezer, a debugger), and from then on uninterruptibly:
its state tells. One that waits for the lock of an open file or of an inode, behind another one's request, sleeps
uninterruptibly from the start: its pending signals tell.

Nothing here asks anything but /proc. That may hang: call it through `mount.caller.look`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from jobfs import proc
from mount.caller import WAITS_FOR_ANSWER, File, has_open, sleeps_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

# Of /proc/PID/status: state, and the signals that are pending for the task, for its process, and blocked.
_STATUS = re.compile(
    rb"^State:\t(\w)(?:.*\n)*?SigPnd:\t([0-9a-f]+)\nShdPnd:\t([0-9a-f]+)\nSigBlk:\t([0-9a-f]+)", re.MULTILINE
)
_UNINTERRUPTIBLE = b"D"


class Waiting(NamedTuple):
    """A request that waits: on which file, and which task opened that."""

    file: File
    opener: int


class Process(NamedTuple):
    """A process, by the numbers of its tasks."""

    tasks: tuple[int, ...]

    @property
    def wants_out(self) -> bool:
        """Whether a task of it sleeps where no signal reaches it, and something waits for it to wake."""
        return any(map(_wants_out, self.tasks))

    @property
    def waits(self) -> bool:
        """Whether a task of it waits for the answer of a FUSE daemon."""
        return any(sleeps_in(task) == WAITS_FOR_ANSWER for task in self.tasks)

    def has_open(self, file: File) -> bool:
        """Whether it has `file` open."""
        return has_open(self.tasks[0], file)


def process_of(task: int) -> Process | None:
    """The process that has that task; None where it is gone, or in a pid namespace that cannot be seen."""
    try:
        tasks = sorted(map(int, proc.entries(task, "task")))
    except OSError:
        return None
    return Process(tuple(tasks)) if tasks else None


def interrupted(requests: Collection[Waiting]) -> set[Waiting]:
    """Those of `requests` whose process wants out; the openers are asked first, then everybody."""
    openers = _processes_of(requests)
    wanting_out = {process for process in set(openers.values()) if process is not None and process.wants_out}
    found = {request for request in requests if openers[request.opener] in wanting_out}
    if found:
        return found
    files = {request.file for request in requests}
    wanting = [process for process in _processes() if process.wants_out]
    return _answers({process: {file for file in files if process.has_open(file)} for process in wanting}, requests)


def interrupted_behind(suspects: dict[Process, set[File]], requests: Collection[Waiting]) -> set[Waiting]:
    """Those of `requests` that one of `suspects` wants out of, or sleeps behind and wants out."""
    now = {process_of(process.tasks[0]): files for process, files in suspects.items()}
    return _answers({process: files for process, files in now.items() if process and process.wants_out}, requests)


def suspects(requests: Collection[Waiting]) -> dict[Process, set[File]]:
    """Who may sleep behind one of `requests` in the kernel, without anything telling when it wants out.

    That is everybody who has a file open besides its openers that wait, and these openers too where they have more than
    one task, or where anybody else has the file open. A process of one task that waits can neither ask twice nor pass
    its open file on.
    """
    openers = _processes_of(requests)
    waiting: dict[File, set[Process]] = {}
    for file, opener in requests:
        if (process := openers[opener]) is not None:
            waiting.setdefault(file, set()).add(process)
    found: dict[Process, set[File]] = {}
    for file in {request.file for request in requests}:
        ours = waiting.get(file, set())
        others = {process for process in _processes() if process not in ours and process.has_open(file)}
        several = {process for process in ours if len(process.tasks) > 1 or others}
        for process in others | several:
            found.setdefault(process, set()).add(file)
    return found


def _processes_of(requests: Collection[Waiting]) -> dict[int, Process | None]:
    """The processes that opened the files, by task; each is looked up once, for it may have a thousand of these."""
    found: dict[int, Process | None] = {}
    for request in requests:
        if request.opener not in found:
            process = process_of(request.opener)
            found[request.opener] = process
            found.update(dict.fromkeys(process.tasks if process else (), process))
    return found


def _answers(wanting: dict[Process, set[File]], requests: Iterable[Waiting]) -> set[Waiting]:
    """Which requests to answer so that `wanting`, who have these files open, get out.

    Those that they opened themselves. Else those whose opener does not wait, and so has passed its file on; else every
    one on that file, for it is one of these that they sleep behind.
    """
    answered: set[Waiting] = set()
    for process, files in wanting.items():
        for file in files:
            on_file = [request for request in requests if request.file == file]
            own = [request for request in on_file if request.opener in process.tasks]
            answered.update(own or [request for request in on_file if _passed_on(request)] or on_file)
    return answered


def _passed_on(request: Waiting) -> bool:
    opener = process_of(request.opener)
    return opener is None or not opener.waits


def _processes() -> Iterator[Process]:
    for task in proc.tasks():
        if (process := process_of(task)) is not None:
            yield process


def _wants_out(task: int) -> bool:
    try:
        found = _STATUS.search(proc.read(task, "status"))
    except OSError:
        return False
    if found is None or found[1] != _UNINTERRUPTIBLE:
        return False
    signals = (int(found[2], 16) | int(found[3], 16)) & ~int(found[4], 16)
    return signals != 0 or sleeps_in(task) == WAITS_FOR_ANSWER
