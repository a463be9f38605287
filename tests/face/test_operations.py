"""The tree as the kernel asks about it: names, attributes, listings, open files, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, cast

import pyfuse3
import pytest
import trio
import trio.testing

from jobfs.errors import EngineGone, LimitReached
from mount.errors import as_fuse_error
from mount.operations import Operations
from mount.tree import JOB_FILES, ROOT, ROOT_FILES, Kind, job_inode, job_name, job_of
from tests.face.faces import Face, Listing, errno_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.tables import Desk

    Make = Callable[[str, int], Listing]

LISTED = ["cmd", "status", "stdout", "stderr", "stdin", "ctl", "info"]


# Names


async def test_an_empty_root_has_its_own_files_and_no_last(desk: Desk, face: Face, listing: Make) -> None:
    """`last` is there when there is a job."""
    own = ["ctl", "events", "table", "table.jsonl"]
    assert own == [name for name in await listing("", 3).rest() if name not in (".", "..")]
    assert errno.ENOENT == await errno_of(lambda: face.find("last"))
    await desk.spawn()
    assert "last" in await listing("", 3).rest()


@pytest.mark.parametrize("name", ["0", "01", "2", "-1", "%1", "x", "follow", "new", "1" * 20, "stdout", "\udcff"])
async def test_what_is_not_there_is_not_found(desk: Desk, face: Face, name: str) -> None:
    """Ids have one spelling, reserved names stand for nothing, and any bytes may be asked for."""
    await desk.spawn()
    assert errno.ENOENT == await errno_of(lambda: face.find(name))


async def test_a_jobs_files_are_there_with_its_directory(desk: Desk, face: Face, listing: Make) -> None:
    """A job's directory has the files of the contract; `wait`, `follow`, `env` and `cwd` are there by name only."""
    await desk.spawn()
    assert LISTED == [name for name in await listing("1", 2).rest() if name not in (".", "..")]
    for name in (*LISTED, "wait", "follow", "env", "cwd"):
        assert job_of((await face.find(f"1/{name}")).st_ino)[0] == 1
    assert errno.ENOENT == await errno_of(lambda: face.find("1/x"))


async def test_names_and_last_are_links_to_the_id(desk: Desk, face: Face) -> None:
    """A job's name, and `last`, lead to its directory."""
    await desk.spawn()
    await desk.spawn(name="build")
    for name in ("build", "last"):
        link = await face.find(name)
        assert stat.S_ISLNK(link.st_mode)
        assert b"2" == await face.operations.readlink(link.st_ino, face.context)


async def test_a_name_leads_to_its_newest_holder(desk: Desk, face: Face) -> None:
    """Whoever was given a name last has it, and it goes with that job."""
    for _ in range(2):
        job = await desk.spawn(name="build")
        desk.engine.exit(job.id)
    link = await face.find("build")
    assert b"2" == await face.operations.readlink(link.st_ino, face.context)
    await face.operations.rmdir(ROOT, b"2", face.context)
    assert errno.ENOENT == await errno_of(lambda: face.find("build"))


async def test_modes_bind_the_owner(desk: Desk, face: Face) -> None:
    """Directories are 0700, files 0400 or 0600, and all belong to who mounted."""
    await desk.spawn()
    modes = {f"1/{file.name.decode()}": file.mode for file in JOB_FILES}
    modes |= {file.name.decode(): file.mode for file in ROOT_FILES}
    modes |= {"": stat.S_IFDIR | 0o700, "1": stat.S_IFDIR | 0o700}
    for path, mode in modes.items():
        found = await face.find(path)
        assert (mode, os.geteuid()) == (found.st_mode, found.st_uid)
        assert (await face.operations.getattr(found.st_ino, face.context)).st_mode == mode


# Listings


async def test_a_listing_has_every_job_once(desk: Desk, listing: Make) -> None:
    """However small the reads are, each job and each name comes once."""
    for n in range(20):
        await desk.spawn(name=f"n{n}" if n % 3 == 0 else None)
    expected = {str(n + 1) for n in range(20)} | {f"n{n}" for n in range(0, 20, 3)}
    for room in (1, 2, 7, 1000):
        names = await listing("", room).rest()
        assert len(names) == len(set(names))
        assert expected == {name for name in names if name[-1].isdigit()}


async def test_jobs_that_come_and_go_meanwhile_neither_hide_nor_repeat_others(desk: Desk, listing: Make) -> None:
    """A listing has each job once that was there all the time, whatever happens to others meanwhile."""
    jobs = await desk.ended(*[0] * 30)
    it = listing("", 2)
    staying = {str(job.id) for n, job in enumerate(jobs) if n % 3 == 0}
    for n, job in enumerate(jobs):
        await it.more()
        if n % 3:
            await desk.table.remove([job])
        await desk.spawn()
    names = await it.rest()
    assert len(names) == len(set(names))
    assert staying <= set(names)


async def test_a_job_whose_exec_took_longer_is_listed_all_the_same(desk: Desk, listing: Make) -> None:
    """Jobs that were started in another order than that of their ids are each listed once."""
    desk.engine.hold()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(desk.spawn)
        await trio.testing.wait_all_tasks_blocked()
        for job in (3, 1, 4, 2):
            desk.engine.start(job)
            await trio.testing.wait_all_tasks_blocked()
    assert ["1", "2", "3", "4"] == [name for name in await listing("", 1).rest() if name.isdigit()]


async def test_a_listing_tells_the_inode_that_a_lookup_tells(desk: Desk, face: Face, listing: Make) -> None:
    """What readdir says of a file is what a lookup says."""
    await desk.spawn(name="build")
    for path in ("", "1"):
        it = listing(path, 50)
        await it.rest()
        for name, inode in it.inodes.items():
            if name not in (".", ".."):
                assert (await face.find(f"{path}/{name}")).st_ino == inode


# Open files


async def test_sizes_that_are_told_are_what_is_read(desk: Desk, face: Face) -> None:
    """Of every file that can be read, st_size is the count of bytes that a read to the end gives."""
    job = await desk.spawn("printf '\x1b[2J'; true", name="build")
    desk.engine.write(job.id, "stdout", b"hello\n" * 1000)
    ended = (await desk.ended(3))[0]
    kinds = {f"1/{file.name.decode()}": file.kind for file in JOB_FILES}
    kinds |= {f"{ended.id}/{file.name.decode()}": file.kind for file in JOB_FILES}
    kinds |= {file.name.decode(): file.kind for file in ROOT_FILES}
    for path, kind in kinds.items():
        if kind in (Kind.TEXT, Kind.STREAM, Kind.STDIN):
            size = (await face.find(path)).st_size
            assert (path, size) == (path, len(await face.cat(path, 100)))


async def test_files_say_what_the_contract_says(desk: Desk, face: Face) -> None:
    """The rendered files of a job that has ended."""
    job = await desk.spawn("printf '\x1b[2J'", environment="A=1\0", cwd="tmp")
    desk.engine.write(job.id, "stderr", b"oops\n")
    desk.engine.exit(job.id, 3)
    assert b"failed:3\n" == await face.cat("1/status")
    assert b"printf '\\x1b[2J'\n" == await face.cat("1/cmd")
    assert b"" == await face.cat("1/stdout")
    assert b"oops\n" == await face.cat("1/stderr")
    assert b"A=1\0JOBFS_ID=1\0JOBFS_MOUNT=/v/jobs\0" == await face.cat("1/env")
    assert b"/tmp" == await face.operations.readlink((await face.find("1/cwd")).st_ino, face.context)
    said = json.loads(await face.cat("1/info"))
    assert (1, "failed:3") == (said["id"], said["status"])
    assert await face.cat("1/info") == await face.cat("table.jsonl")
    assert {"started", "ended"} == {json.loads(line)["event"] for line in (await face.cat("events")).splitlines()}


async def test_what_never_changes_again_is_the_kernels_to_keep(desk: Desk, face: Face) -> None:
    """A live stream and status are read anew each time; ended ones are cached, but for a stream that has evicted."""
    job = await desk.spawn(limit=4096)
    desk.engine.write(job.id, "stdout", b"x")
    desk.engine.write(job.id, "stderr", bytes(5000))
    for name in ("status", "stdout", "stderr"):
        assert (await face.open_info(f"1/{name}")).direct_io
        assert 0 == (await face.find(f"1/{name}")).attr_timeout
    desk.engine.exit(job.id)
    assert [False, False, True] == [
        (await face.open_info(f"1/{name}")).direct_io for name in ("status", "stdout", "stderr")
    ]


async def test_a_stream_may_grow_after_the_end_as_long_as_its_pipe_is_held(desk: Desk, face: Face) -> None:
    """The stream of an ended job is not settled before nobody can write to it any more, over a restart too."""
    job = await desk.spawn()
    desk.engine.write(job.id, "stdout", b"early\n")
    desk.engine.exit(job.id, lingering=1, open_streams=["stdout"])
    assert (await face.open_info("1/stdout")).direct_io
    await desk.restart()
    face = Face(desk)
    assert (await face.open_info("1/stdout")).direct_io
    desk.engine.write(job.id, "stdout", b"late\n")
    assert (11, b"early\nlate\n") == ((await face.find("1/stdout")).st_size, await face.cat("1/stdout"))
    desk.engine.close(job.id, "stdout")
    assert not (await face.open_info("1/stdout")).direct_io


async def test_open_files_of_a_removed_job_read_on(desk: Desk, face: Face) -> None:
    """A file that is open when its job is removed is read to its end, and is gone when it is closed."""
    job = (await desk.ended(0))[0]
    inode = (await face.find("1/status")).st_ino
    handles = [await face.open(f"1/{name}") for name in ("status", "info", "cmd")]
    await desk.table.remove([job])
    assert b"done:0\n" == await face.operations.read(handles[0], 0, 100)
    assert b"done:0\n" == await face.operations.read(handles[0], 0, 100)
    assert 1 == json.loads(await face.operations.read(handles[1], 0, 10000))["id"]
    assert 7 == (await face.operations.getattr(inode, face.context)).st_size
    assert errno.ENOENT == await errno_of(lambda: face.find("1"))
    for handle in handles:
        await face.operations.release(handle)
    assert errno.ENOENT == await errno_of(lambda: face.operations.getattr(inode, face.context))


async def test_a_rendered_file_is_rendered_anew_for_a_read_from_its_beginning(desk: Desk, face: Face) -> None:
    """As in /proc: an open `status` that is read from offset 0 again says what is true then."""
    job = await desk.spawn()
    handle = await face.open("1/status")
    assert b"running\n" == await face.operations.read(handle, 0, 100)
    desk.engine.exit(job.id)
    assert b"" == await face.operations.read(handle, 8, 100)
    assert b"done:0\n" == await face.operations.read(handle, 0, 100)


async def test_a_stream_that_is_opened_before_its_first_byte_is_read(desk: Desk, face: Face) -> None:
    """An open `stdout` sees bytes that came after it was opened."""
    job = await desk.spawn()
    handle = await face.open("1/stdout")
    assert b"" == await face.operations.read(handle, 0, 100)
    desk.engine.write(job.id, "stdout", b"now\n")
    assert b"now\n" == await face.operations.read(handle, 0, 100)
    await face.operations.release(handle)


# What is refused


async def test_files_that_are_read_only_cannot_be_opened_for_writing(desk: Desk, face: Face) -> None:
    """EACCES, for root too; directories are EISDIR."""
    await desk.spawn()
    for path in ("table", "events", "1/status", "1/stdout", "1/info", "1/env"):
        for flags in (os.O_WRONLY, os.O_RDWR):
            assert errno.EACCES == await errno_of(lambda p=path, f=flags: face.open(p, f))  # type: ignore[misc]
    assert errno.EISDIR == await errno_of(lambda: face.open("1"))


async def test_access_answers_by_the_modes(desk: Desk, face: Face) -> None:
    """Reading a status is allowed, writing it is not, and `ctl` is for both."""
    await desk.spawn()
    asked = [("1/status", os.R_OK), ("1/status", os.W_OK), ("ctl", os.R_OK | os.W_OK), ("ctl", os.X_OK), ("1", os.X_OK)]
    answers = [await face.operations.access((await face.find(path)).st_ino, mode, face.context) for path, mode in asked]
    assert [True, False, True, False, True] == answers


@pytest.mark.parametrize("verb", ["create", "mknod", "mkdir", "symlink", "link", "rename"])
async def test_nothing_can_be_made_or_renamed(face: Face, verb: str) -> None:
    """Creating any file is EACCES."""
    handler = getattr(face.operations, verb)
    assert errno.EACCES == await errno_of(lambda: handler(ROOT, b"new", 0o600, face.context))


async def test_truncating_is_for_files_that_take_writes(desk: Desk, face: Face) -> None:
    """Truncate, chmod and utimes of `ctl` succeed and do nothing; of what is read-only they are refused."""
    await desk.spawn()

    async def change(path: str, *, size: bool) -> pyfuse3.EntryAttributes:
        found = await face.find(path)
        fields = cast("pyfuse3.SetattrFields", type("Fields", (), {"update_size": size})())
        return await face.operations.setattr(found.st_ino, found, fields, None, face.context)

    for path in ("ctl", "1/ctl"):
        before = await face.find(path)
        assert (before.st_size, before.st_mtime_ns) == (
            (await change(path, size=True)).st_size,
            (await change(path, size=False)).st_mtime_ns,
        )
    assert errno.EACCES == await errno_of(lambda: change("1/status", size=True))
    assert errno.EPERM == await errno_of(lambda: change("1/status", size=False))
    assert errno.EPERM == await errno_of(lambda: change("1", size=False))


async def test_a_job_is_removed_by_rmdir_once_it_has_ended(desk: Desk, face: Face) -> None:
    """EBUSY while it lives; of what is no job's directory ENOTDIR or ENOENT."""
    job = await desk.spawn(name="build")
    remove = face.operations.rmdir
    assert errno.EBUSY == await errno_of(lambda: remove(ROOT, b"1", face.context))
    assert errno.ENOTDIR == await errno_of(lambda: remove(ROOT, b"ctl", face.context))
    assert errno.ENOTDIR == await errno_of(lambda: remove(ROOT, b"build", face.context))
    assert errno.ENOENT == await errno_of(lambda: remove(ROOT, b"9", face.context))
    assert errno.ENOTDIR == await errno_of(lambda: remove(job_inode(1), b"status", face.context))
    desk.engine.exit(job.id)
    await remove(ROOT, b"1", face.context)
    assert [1] == desk.engine.forgotten
    assert errno.ENOENT == await errno_of(lambda: face.find("1"))


async def test_unlinking_a_file_of_an_ended_job_succeeds_and_does_nothing(desk: Desk, face: Face) -> None:
    """So that `rm -r` works; of a live one it is EBUSY, in the root EPERM."""
    job = await desk.spawn()
    unlink = face.operations.unlink
    assert errno.EBUSY == await errno_of(lambda: unlink(job_inode(1), b"stdout", face.context))
    assert errno.EPERM == await errno_of(lambda: unlink(ROOT, b"ctl", face.context))
    assert errno.ENOENT == await errno_of(lambda: unlink(ROOT, b"nothing", face.context))
    desk.engine.exit(job.id)
    for name in LISTED:
        await unlink(job_inode(1), name.encode(), face.context)
    assert errno.ENOENT == await errno_of(lambda: unlink(job_inode(1), b"nothing", face.context))
    assert b"done:0\n" == await face.cat("1/status")


async def test_stdin_reads_as_empty_and_takes_nothing(desk: Desk, face: Face) -> None:
    """A job without a stdin pipe: end of file, and EPIPE."""
    await desk.spawn()
    assert b"" == await face.cat("1/stdin")
    assert errno.EPIPE == await errno_of(lambda: face.write("1/stdin", b"x"))


# Errors


async def test_an_error_of_the_family_becomes_its_errno(desk: Desk, face: Face) -> None:
    """What the table refuses, the system call fails with."""
    await desk.ended(0)
    desk.engine.fail(LimitReached("too many"))
    assert errno.EAGAIN == await errno_of(lambda: face.operations.rmdir(ROOT, b"1", face.context))


async def test_an_engine_that_has_gone_does_not_hinder_a_removal(desk: Desk, face: Face) -> None:
    """A job can be removed while nobody is there who would remove its output."""
    await desk.ended(0)
    desk.engine.fail(EngineGone("gone"))
    await face.operations.rmdir(ROOT, b"1", face.context)
    assert errno.ENOENT == await errno_of(lambda: face.find("1"))


@pytest.mark.parametrize("error", [ValueError("surprise"), KeyError("surprise"), OSError(errno.ENXIO, "surprise")])
async def test_an_exception_in_a_handler_is_an_errno_and_stands_in_the_log(
    face: Face, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Nothing but FUSEError leaves a handler, for it would end the mount; what nobody foresaw leaves a traceback."""

    def fail(*_: object) -> object:
        raise error

    expected = getattr(error, "errno", errno.EIO)
    monkeypatch.setattr(face.desk.table, "get", fail)
    monkeypatch.setattr(face.desk.table, "snapshots", fail)
    assert expected == await errno_of(lambda: face.find("1"))
    assert expected == await errno_of(lambda: face.cat("table"))
    assert "surprise" in caplog.text
    assert (expected == errno.EIO) == ("Traceback" in caplog.text)


async def test_a_handle_that_was_never_opened_is_an_errno(face: Face) -> None:
    """Even the kernel's mistakes do not end the mount."""
    assert errno.EIO == await errno_of(lambda: face.operations.read(999, 0, 10))
    assert errno.EIO == await errno_of(lambda: face.operations.write(999, 0, b"x"))
    assert errno.EIO == await errno_of(lambda: face.operations.release(999))


def test_every_handler_is_guarded() -> None:
    """Each handler is wrapped: no exception ends the mount, and what calls none is an interrupt."""
    handlers = {name for name in dir(pyfuse3.Operations) if not name.startswith("_")} & set(vars(Operations))
    bare = {
        name
        for name in handlers
        if callable(getattr(Operations, name)) and not hasattr(getattr(Operations, name), "__wrapped__")
    }
    assert set() == bare


# Numbers


@pytest.mark.parametrize(("name", "expected"), [(b"1", 1), (b"10", 10), (b"0", None), (b"01", None), (b"x", None)])
def test_a_directorys_name_is_an_id_in_one_spelling(name: bytes, expected: int | None) -> None:
    """Digits without a leading zero, as in /proc."""
    assert expected == job_name(name)


def test_inode_numbers_tell_job_and_file() -> None:
    """Every file of every job has a number of its own, and none is the root's."""
    numbers = {job_inode(job, slot): (job, slot) for job in (1, 2, 10**15) for slot in range(64)}
    assert 3 * 64 == len(numbers)
    assert all(job_of(number) == whose for number, whose in numbers.items())
    assert ROOT not in numbers


async def test_the_directory_above_a_jobs_is_the_root(desk: Desk, face: Face) -> None:
    """`..` of a job's directory has the inode number of the root, as on a disk."""
    job = await desk.spawn()
    directory = (await face.find(str(job.id))).st_ino
    above = {name: attributes().st_ino for _, name, attributes in face.operations._entries(directory, 0)}  # noqa: SLF001
    assert (directory, ROOT) == (above[b"."], above[b".."])


async def test_an_open_that_fails_holds_nothing(desk: Desk, face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors, each failed open must not make the shortage worse."""
    job = await desk.spawn()

    def none_left(_: object) -> bool:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    inode = (await face.find(f"{job.id}/status")).st_ino
    monkeypatch.setattr(type(job), "ended", property(none_left))
    with pytest.raises(pyfuse3.FUSEError):
        await face.operations.open(inode, os.O_RDONLY, face.context)
    assert not face.operations._handles  # noqa: SLF001
    assert not face.operations._held  # noqa: SLF001


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_daemon_without_descriptors_says_try_again(number: int) -> None:
    """It is a limit of the daemon's that was reached, not one of the caller's."""
    assert errno.EAGAIN == as_fuse_error(OSError(number, os.strerror(number))).errno


async def test_info_is_never_behind_what_was_read(desk: Desk, face: Face) -> None:
    """It is rendered anew as soon as a byte more was written, however soon after the last time."""
    job = await desk.spawn()
    for written in (2, 4, 6):
        desk.engine.write(job.id, "stdout", b"x\n")
        assert written == json.loads(await face.cat(f"{job.id}/info"))["stdout"]["written"]
