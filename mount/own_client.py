"""`python -m mount.own_client SOCKET DIRECTORY MOUNT`: does with the mount what only a client of it can do.

Nothing that a server does raises an event of inotify(7); what comes through the mount does. So the daemon has this
process make and remove job directories, and touch files that have changed. A process of its own, because closing a
file waits for the daemon's answer even when the one who closes is being killed: were that the daemon itself, it could
never end.

Each packet that comes from SOCKET is a request, and is answered by one: a line for each thing that failed, and an
empty one.

    make JOB            mkdir(2) of a job's directory: IN_CREATE
    remove JOB ...      rmdir(2) of these: IN_DELETE
    touch HOW:PATH ...  HOW is m (IN_MODIFY), c (IN_CLOSE_WRITE) or both
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
import sys

PACKET = 32768  # bytes of a request at most
_UTIME_NOW = (1 << 30) - 1  # utimensat(2)
_UTIME_OMIT = (1 << 30) - 2
_MOUNT = re.compile(rb"^mnt_id:\t(\d+)$", re.MULTILINE)  # /proc/PID/fdinfo (proc(5))
# What a file or directory answers that has gone meanwhile, or whose mount has: nobody watches it any more.
_GONE = (errno.ENOENT, errno.ENOTCONN, errno.ENODEV, errno.ENOTDIR)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


# Only the time of the last modification: with both times the kernel would tell of changed attributes.
_MODIFIED_NOW = (_TimeSpec * 2)(_TimeSpec(0, _UTIME_OMIT), _TimeSpec(0, _UTIME_NOW))
_libc = ctypes.CDLL(None, use_errno=True)


def main(sock: socket.socket, directory: str, mount: int) -> None:
    """Answers requests until the one who asks has gone."""
    while request := _next(sock):
        verb, *words = request.split()
        try:
            said = _do(verb, words, directory, mount)
        except OSError as error:
            said = [str(error)]
        try:
            sock.send("\n".join([*said, ""]).encode() or b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return


def _next(sock: socket.socket) -> bytes:
    """The next request; nothing where the one who asks has gone, with or without having read all answers."""
    try:
        return sock.recv(PACKET)
    except ConnectionResetError:
        return b""


def _do(verb: bytes, words: list[bytes], directory: str, mount: int) -> list[str]:
    """Does `verb` with each of `words`; gives what went wrong."""
    action = {b"make": _make, b"remove": _remove, b"touch": _touch}[verb]
    # O_PATH asks nothing of the file system. Not kept: as long as there is one, the mount cannot be unmounted.
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _mount_of(root) != mount:
            return []  # it was taken away, or is covered by another one
        said = []
        for word in words:
            try:
                action(root, word)
            except OSError as error:
                if verb == b"make" or error.errno not in _GONE:
                    said.append(f"{verb.decode()} {word.decode()}: {error.strerror}")
        return said
    finally:
        os.close(root)


def _make(root: int, job: bytes) -> None:
    os.mkdir(job, dir_fd=root)


def _remove(root: int, job: bytes) -> None:
    os.rmdir(job, dir_fd=root)


def _touch(root: int, word: bytes) -> None:
    how, _, path = word.partition(b":")
    if b"c" not in how:
        _check(_libc.utimensat(root, path, ctypes.byref(_MODIFIED_NOW), 0))
        return
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
    try:
        if b"m" in how:
            _check(_libc.futimens(fd, ctypes.byref(_MODIFIED_NOW)))
    finally:
        os.close(fd)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _mount_of(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        found = _MOUNT.search(info.read())
    return -1 if found is None else int(found[1])


if __name__ == "__main__":
    # Whoever ends a session, or types at a terminal, does not mean this process: it ends with the daemon.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3]))
