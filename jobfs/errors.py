"""Every error that jobfs raises on purpose, split by whose fault it is: the caller's, the job's or the machine's.

The message is a sentence that names the word at fault; people read it in a `ctl` reply and in `events`.
The number beside it is what the system call in the mount fails with.
"""

# ruff: noqa: N818 - the family's base says that these are errors; the names say what happened

from errno import E2BIG, EACCES, EAGAIN, EBUSY, EEXIST, EINVAL, EIO, ENOENT, ENOSPC, EPERM, EPIPE, ESRCH


class JobfsError(Exception):
    """The base of the family. `errno` is a number of errno(3), the class's unless an instance was given its own."""

    errno: int = EIO


class UserError(JobfsError):
    """The caller asked for what cannot be, whatever the state of jobs and machine."""

    errno = EINVAL


class BadCommand(UserError):
    """A word, option, key, signal or JSON that does not parse."""

    errno = EINVAL


class LineTooLong(UserError):
    """A command line that is longer than what is read, or than what execve(2) takes."""

    errno = E2BIG


class NoSuchJob(UserError):
    """A job that was named is not in the table."""

    errno = ENOENT


class NameTaken(UserError):
    """The name belongs to a job that is alive."""

    errno = EEXIST


class AccessDenied(UserError):
    """The caller lacks access to a file or directory that the command needs."""

    errno = EACCES


class NotPermitted(UserError):
    """The caller is somebody else than the one who may."""

    errno = EPERM


class NotFound(UserError):
    """A path or directory that the command needs does not exist."""

    errno = ENOENT


class JobError(JobfsError):
    """The command is sound, and the state the job is in rules it out."""

    errno = EBUSY


class JobEnded(JobError):
    """Every job named has ended: there is nothing to signal."""

    errno = ESRCH


class JobAlive(JobError):
    """The job has not ended, and only one that has can be removed or restarted."""

    errno = EBUSY


class StdinClosed(JobError):
    """Nobody reads what is written to the job: it has ended, its stdin was closed, or it never had one."""

    errno = EPIPE


class MachineError(JobfsError):
    """The command is sound, and the machine or the daemon could not do it."""

    errno = EIO


class LimitReached(MachineError):
    """A limit on jobs, processes or open files is reached; the same command may work later."""

    errno = EAGAIN


class StateFull(MachineError):
    """The place where the state is kept has no room."""

    errno = ENOSPC


class SpawnFailed(MachineError):
    """The job could not be started; `errno` is what execve(2), chdir(2) or open(2) said."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class EngineGone(MachineError):
    """The engine that owns the jobs does not answer."""

    errno = EIO
