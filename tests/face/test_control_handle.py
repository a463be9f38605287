"""An open `ctl`: when what was written is run, for whom, and what its closing does."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import pytest

from jobfs.errors import NotPermitted
from jobfs.model import Surroundings, Writer
from mount import caller, control_handle
from mount.caller import Caller, File
from tests.face.faces import Face, errno_of
from tests.mounted import PATIENCE

if TYPE_CHECKING:
    from tests.unit.tables import Desk


@dataclass
class Kernel:
    """Who writes, and who has the file open, as far as /proc would tell."""

    uid: int = 0
    directory: str = "/"
    found: bool = True
    still_open: bool = True
    holds: bool = True
    writers: list[Caller] = field(default_factory=list)

    async def find_writer(self, opener: int, file: File) -> Caller:
        """Stands for mount.caller.find_writer."""
        del opener, file
        if not self.found:
            return Caller(Writer(), None)
        descriptor = os.open(self.directory, os.O_PATH)
        around = Surroundings(directory=self.directory, directory_fd=descriptor, environment="A=1\0", umask=0o22)
        self.writers.append(Caller(Writer(len(self.writers), self.uid, 7, "sh"), 1, 0o22, around))
        return self.writers[-1]

    def has_open(self, task: int, file: File) -> bool:
        """Stands for mount.caller.has_open."""
        del task, file
        return self.still_open

    def holder_of(self, opener: int, file: File, writer: int | None) -> int | None:
        """Stands for mount.caller.holder_of."""
        assert (opener, writer) == (os.getpid(), self.writers[-1].writer.pid)
        del file
        return os.pidfd_open(opener) if self.holds else None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """What /proc tells, by the test."""
    it = Kernel(uid=os.getuid())
    monkeypatch.setattr(control_handle, "find_writer", it.find_writer)
    monkeypatch.setattr(control_handle, "has_open", it.has_open)
    monkeypatch.setattr(control_handle, "holder_of", it.holder_of)
    # A machine that is busy is no reason to give up a look that the test itself answers.
    monkeypatch.setattr(control_handle, "look", partial(caller.look, patience=PATIENCE))
    return it


def open_directories() -> int:
    """How many descriptors of directories this process has."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return sum(os.path.isdir(link) for link in links)


async def test_a_write_runs_what_it_completes_and_a_read_gives_the_replies(face: Face, kernel: Kernel) -> None:
    """Commands act before the write returns; each has its reply."""
    handle = await face.open("ctl", os.O_RDWR)
    text = b"spawn make\n# note\nspawn --name x true\n"
    assert len(text) == await face.operations.write(handle, 0, text)
    assert ["make", "true"] == [job.spec.cmd for job in face.desk.table.jobs()]
    assert b"1\n2\n" == await face.operations.read(handle, len(text), 100)
    assert b"" == await face.operations.read(handle, len(text) + 4, 100)
    assert [7, 7] == [job.spec.writer.session for job in face.desk.table.jobs()]
    await face.operations.release(handle)
    assert len(kernel.writers) == 1


async def test_a_command_that_fails_is_the_writes_error_an_event_and_a_reply(
    desk: Desk, face: Face, kernel: Kernel
) -> None:
    """The errno comes at once, and the sentence to whoever reads it."""
    handle = await face.open("ctl", os.O_RDWR)
    assert errno.ENOENT == await errno_of(lambda: face.operations.write(handle, 0, b"kill 99\n"))
    assert b"error: no such job: 99\n" == await face.operations.read(handle, 0, 100)
    assert [errno.ENOENT] == [event["errno"] for event in desk.events() if event["event"] == "error"]
    assert kernel.writers


async def test_a_short_write_says_how_far_it_came(desk: Desk, face: Face, kernel: Kernel) -> None:
    """The commands before the one that fails have run, and the retry of the rest gets the errno."""
    handle = await face.open("ctl", os.O_RDWR)
    assert 11 == await face.operations.write(handle, 0, b"spawn make\nkill 99\nspawn make\n")
    assert errno.ENOENT == await errno_of(lambda: face.operations.write(handle, 11, b"kill 99\nspawn make\n"))
    assert [1] == desk.ids()
    assert len(kernel.writers) == 2


async def test_a_jobs_own_ctl_means_that_job(desk: Desk, face: Face, kernel: Kernel) -> None:
    """Its verbs come without the job's id."""
    await desk.spawn()
    await desk.spawn()
    await face.write("2/ctl", b"kill\n")
    assert ([(2, 5.0)], 1) == (desk.engine.ends, len(kernel.writers))


async def test_an_unterminated_line_is_run_when_a_reply_is_read(desk: Desk, face: Face, kernel: Kernel) -> None:
    """Where it was written, and with the writer's own directory and environment."""
    kernel.directory = "/tmp"  # noqa: S108 - any directory that is there
    handle = await face.open("ctl", os.O_RDWR)
    await face.operations.write(handle, 0, b"spawn make")
    assert [] == desk.ids()
    assert b"1\n" == await face.operations.read(handle, 10, 100)
    spec = desk.table.jobs()[0].spec
    assert ("/tmp", "A=1\0") == (spec.directory, spec.environment)  # noqa: S108 - as above


async def test_the_error_of_an_unterminated_line_is_a_reply_to_the_read(face: Face, kernel: Kernel) -> None:
    """A read does not fail: it says what did."""
    handle = await face.open("ctl", os.O_RDWR)
    await face.operations.write(handle, 0, b"kill 99")
    assert b"error: no such job: 99\n" == await face.operations.read(handle, 7, 100)
    assert kernel.writers


async def test_the_openers_close_runs_an_unterminated_line(desk: Desk, face: Face, kernel: Kernel) -> None:
    """And its error is that of close(2)."""
    handle = await face.open("ctl", os.O_WRONLY)
    await face.operations.write(handle, 0, b"spawn make")
    kernel.still_open = False
    await face.operations.flush(handle)
    assert [1] == desk.ids()
    await face.operations.write(handle, 10, b"kill 99")
    assert errno.ENOENT == await errno_of(lambda: face.operations.flush(handle))
    await face.operations.release(handle)


async def test_a_childs_exit_runs_nothing(desk: Desk, face: Face, kernel: Kernel) -> None:
    """A process that inherited the file sends a flush when it exits; the opener has it still."""
    handle = await face.open("ctl", os.O_WRONLY)
    await face.operations.write(handle, 0, b"spawn ma")
    await face.operations.flush(handle)
    assert [] == desk.ids()
    await face.operations.write(handle, 8, b"ke\n")
    assert ["make"] == [job.spec.cmd for job in desk.table.jobs()]
    assert len(kernel.writers) == 2


async def test_the_last_close_runs_an_unterminated_line_whoever_closed(desk: Desk, face: Face, kernel: Kernel) -> None:
    """Nobody has the file any more: nobody could end the line."""
    handle = await face.open("ctl", os.O_WRONLY)
    await face.operations.write(handle, 0, b"spawn make")
    await face.operations.release(handle)
    assert ([1], 1) == (desk.ids(), len(kernel.writers))


async def test_a_line_that_looks_cut_short_is_dropped_at_the_close(desk: Desk, face: Face, kernel: Kernel) -> None:
    """EINVAL, and `events` says so."""
    handle = await face.open("ctl", os.O_WRONLY)
    await face.operations.write(handle, 0, b"spawn ".ljust(512, b"x"))
    kernel.still_open = False
    assert errno.EINVAL == await errno_of(lambda: face.operations.flush(handle))
    assert [] == desk.ids()
    assert ["error"] == [event["event"] for event in desk.events()]


async def test_another_user_may_not_write_to_what_one_opened(desk: Desk, face: Face, kernel: Kernel) -> None:
    """EPERM, and what the opener has begun is still the opener's."""
    kernel.directory = "/tmp"  # noqa: S108 - any directory that is there
    before = open_directories()
    handle = await face.open("ctl", os.O_RDWR)
    await face.operations.write(handle, 0, b"spawn ma")
    kernel.uid, kernel.directory = 4242, "/"
    assert errno.EPERM == await errno_of(lambda: face.operations.write(handle, 8, b"lice\n"))
    kernel.uid, kernel.directory = os.getuid(), "/"
    assert b"1\n" == await face.operations.read(handle, 8, 100)
    assert [("ma", "/tmp")] == [(job.spec.cmd, job.spec.directory) for job in desk.table.jobs()]  # noqa: S108
    await face.operations.release(handle)
    assert before == open_directories()


async def test_a_writer_who_cannot_be_found_cannot_say_where_a_job_starts(
    desk: Desk, face: Face, kernel: Kernel
) -> None:
    """EACCES for a spawn; other commands need nothing of the writer."""
    kernel.found = False
    job = await desk.spawn()
    assert errno.EACCES == await errno_of(lambda: face.write("ctl", b"spawn make\n"))
    await face.write("ctl", b"stop 1\n")
    assert [(job.id, 19)] == desk.engine.signals


async def test_no_descriptor_is_left_of_any_writer(face: Face, kernel: Kernel) -> None:
    """The writers' directories are given back, however their writes ended."""
    before = open_directories()
    for text in (
        b"spawn a\n",
        b"spawn b",
        b"\n",
        b"bogus\n",
        b"kill 99\n",
        b"kill 99",
        b"x" * 600,
        b"\n\n",
        b"spawn c",
    ):
        await face.operations.write(handle := await face.open("ctl", os.O_RDWR), 0, b"spawn x")
        with suppress(pyfuse3.FUSEError):
            await face.operations.write(handle, 7, text)
        await face.operations.release(handle)
    assert (before, 18) == (open_directories(), len(kernel.writers))


async def test_a_ctl_that_was_not_written_reads_as_its_usage(face: Face, kernel: Kernel) -> None:
    """A short text, as comment lines."""
    said = await face.cat("ctl")
    assert said
    assert all(line.startswith(b"#") for line in said.splitlines())
    assert [] == kernel.writers


OVER = "the file it was spawned on was closed"


async def test_the_last_close_ends_the_jobs_that_are_leased_on_the_file(desk: Desk, face: Face, kernel: Kernel) -> None:
    """Those alone, and not when a child that inherited the file has closed it."""
    handle = await face.open("ctl", os.O_RDWR)
    other = await face.open("ctl", os.O_RDWR)
    text = b"spawn --lease a\nspawn b\nspawn --lease --grace 1 c\n"
    await face.operations.write(handle, 0, text)
    await face.operations.write(other, 0, b"spawn --lease d\n")
    await face.operations.flush(handle)
    assert [] == desk.engine.ends
    await face.operations.release(handle)
    assert ([(1, 5.0), (3, 1.0)], [OVER, OVER]) == (desk.engine.ends, desk.engine.reasons)
    assert [True, False, True, True] == [fake.holder is not None for fake in desk.engine.jobs.values()]
    kernel.holds = False
    await face.operations.release(other)
    assert [(1, 5.0), (3, 1.0), (4, 5.0)] == desk.engine.ends


async def test_a_leased_job_that_has_ended_is_not_ended_again(desk: Desk, face: Face, kernel: Kernel) -> None:
    """Nor what it left behind: the job has ended, and with it the lease."""
    handle = await face.open("ctl", os.O_RDWR)
    await face.operations.write(handle, 0, b"spawn --lease a\nspawn --lease b\n")
    desk.engine.exit(1, lingering=1)
    await face.operations.release(handle)
    assert ([(2, 5.0)], 1) == (desk.engine.ends, len(kernel.writers))


async def test_a_restart_in_a_jobs_own_ctl_is_leased_on_that(desk: Desk, face: Face, kernel: Kernel) -> None:
    """It is ended when that file is closed."""
    await face.write("ctl", b"spawn --lease a\n")
    desk.engine.kill(1, 15)
    handle = await face.open("1/ctl", os.O_RDWR)
    await face.operations.write(handle, 0, b"restart\n")
    await face.operations.release(handle)
    assert ([(1, 5.0), (2, 5.0)], 2) == (desk.engine.ends, len(kernel.writers))


async def test_a_lease_in_an_unterminated_line_is_over_at_once(desk: Desk, face: Face, kernel: Kernel) -> None:
    """The close that runs the line is the file's own."""
    handle = await face.open("ctl", os.O_WRONLY)
    await face.operations.write(handle, 0, b"spawn --lease a")
    await face.operations.release(handle)
    assert ([1], [(1, 5.0)], 1) == (desk.ids(), desk.engine.ends, len(kernel.writers))


async def test_a_lease_that_cannot_be_ended_is_an_event(desk: Desk, face: Face, kernel: Kernel) -> None:
    """Nobody else is left to be told; the other jobs are ended all the same."""
    handle = await face.open("ctl", os.O_RDWR)
    await face.operations.write(handle, 0, b"spawn --lease a\nspawn --lease b\n")
    desk.engine.fail(NotPermitted("its processes are another user's"))
    await face.operations.release(handle)
    errors = [event["errno"] for event in desk.events() if event["event"] == "error"]
    assert ([errno.EPERM] * 2, 1) == (errors, len(kernel.writers))
