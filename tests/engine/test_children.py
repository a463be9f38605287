"""What a job's process inherits: what was asked for, what the supervisor was given, and nothing else of its own."""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING, Unpack

import pytest

from jobfs.errors import JobfsError, SpawnFailed
from tests.engine.workshop import Options, Workshop, error_of, status_of

if TYPE_CHECKING:
    from pathlib import Path

# A shell's command line may be started by posix_spawn; a program, and what has options, is forked.
WAYS: list[Options] = [{}, {"cwd": "/"}]


@pytest.mark.parametrize("options", WAYS)
async def test_signals_are_neither_blocked_nor_ignored(shop: Workshop, options: Options) -> None:
    """The signal mask is empty and no signal is ignored or caught at exec."""
    said = await shop.output("exec cat /proc/self/status", **options)
    words = dict(line.split(":\t", 1) for line in said.splitlines())
    # The C library has 32 and 33 for itself, and its posix_spawn ignores them for the child, whatever it is told.
    own = 3 << 31
    assert [0, 0, 0] == [int(words[name], 16) & ~own for name in ("SigBlk", "SigIgn", "SigCgt")]


@pytest.mark.parametrize("options", WAYS)
async def test_no_descriptor_but_the_standard_ones_is_open(shop: Workshop, options: Options) -> None:
    """Nothing of the supervisor's, nor of another job's, leaks into a job."""
    await shop.spawn("exec sleep 1000")
    said = await shop.output("exec ls /proc/self/fd", **options)
    assert ["0", "1", "2", "3"] == said.split()  # 3 is the directory that ls lists


@pytest.mark.parametrize("options", WAYS)
async def test_the_limit_of_open_files_is_what_the_supervisor_was_given(shop: Workshop, options: Options) -> None:
    """RLIMIT_NOFILE, which the supervisor raises for itself, is restored."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert f"{soft}\n{hard}\n" == await shop.output("ulimit -Sn; ulimit -Hn", **options)


@pytest.mark.parametrize("options", WAYS)
async def test_a_job_leads_its_session_and_group_and_has_no_terminal(shop: Workshop, options: Options) -> None:
    """A job is a new session and process group, without a controlling terminal."""
    job = await shop.run("exec cat /proc/self/stat", **options)
    pid, group, session, terminal = (int(shop.read(job).split()[n]) for n in (0, 4, 5, 6))
    expected = shop.started(job).pid
    assert (expected, expected, expected, 0) == (pid, group, session, terminal)


@pytest.mark.parametrize("options", WAYS)
async def test_the_umask_is_what_was_asked_for(shop: Workshop, options: Options) -> None:
    """A job has the umask of its specification, and the supervisor keeps its own."""
    asked: list[Options] = [{**options, "umask": 0o027}, {**options, "umask": 0}]
    assert ["0027\n", "0000\n"] == [await shop.output("umask", **one) for one in asked]


@pytest.mark.parametrize("options", WAYS)
async def test_stdin_is_empty(shop: Workshop, options: Options) -> None:
    """Without a stdin, a job that reads meets end of file."""
    assert "0\n" == await shop.output("wc -c", **options)


async def test_stdin_can_be_a_file(shop: Workshop, tmp_path: Path) -> None:
    """A file that is named for stdin is read from the writer's directory."""
    (tmp_path / "input").write_text("hello\n", encoding="utf-8")
    assert "hello\n" == await shop.output("cat", directory=str(tmp_path), stdin="input", cwd="/")


async def test_a_job_starts_in_its_directory(shop: Workshop, tmp_path: Path) -> None:
    """A job starts in the directory whose descriptor came along, or in `cwd` below it."""
    (tmp_path / "below").mkdir()
    assert f"{tmp_path}\n" == await shop.output("pwd", directory=str(tmp_path))
    assert f"{tmp_path}/below\n" == await shop.output("pwd", directory=str(tmp_path), cwd="below")


async def test_a_job_has_the_niceness_that_was_asked_for(shop: Workshop) -> None:
    """`nice` is the process's own niceness."""
    assert "7\n" == await shop.output("nice", nice=7)


@pytest.mark.parametrize("options", WAYS)
async def test_the_environment_comes_through_byte_for_byte(shop: Workshop, options: Options) -> None:
    """A job's environment is what was asked for: bytes that are not UTF-8, empty values and all."""
    environment = f"{shop.environment}PWD=/\0EMPTY=\0ODD=\udcff\udc80=x\n\0"
    asked: Options = {**options, "environment": environment}
    job = await shop.run("exec cat /proc/self/environ", **asked)
    expected = {*environment.encode("utf-8", "surrogateescape").split(b"\0"), f"JOBFS_ID={job}".encode()}
    assert expected == {*shop.read(job).split(b"\0")} | {b""}


async def test_arguments_come_through_byte_for_byte(shop: Workshop) -> None:
    """Any byte but NUL can stand in an argument."""
    word = bytes(range(1, 256)).decode("utf-8", "surrogateescape")
    job = await shop.run(argv=("printf", "%s", word))
    assert bytes(range(1, 256)) == shop.read(job)


async def test_a_program_is_found_on_the_jobs_own_path(shop: Workshop, tmp_path: Path) -> None:
    """An argv[0] without a slash is looked for on the PATH that the job has, not on the supervisor's."""
    program = tmp_path / "unheard-of"
    program.write_text("#!/bin/sh\necho found\n", encoding="utf-8")
    program.chmod(0o700)
    environment = shop.environment.replace("PATH=", f"PATH={tmp_path}:")
    assert "found\n" == await shop.output(argv=("unheard-of",), environment=environment)


async def failure(shop: Workshop, **options: Unpack[Options]) -> JobfsError:
    """What spawning fails with; nothing is left of the job, and the next one runs."""
    error = await error_of(lambda: shop.spawn(**options))
    assert [] == list(shop.engine.known())
    assert "done:0" == status_of(await shop.ended(await shop.spawn("true")))
    return error


async def test_what_exec_fails_with_is_what_the_spawn_fails_with(shop: Workshop, tmp_path: Path) -> None:
    """ENOENT, EACCES and ENOEXEC of execve are told, with a sentence that names the program."""
    (tmp_path / "plain").write_text("", encoding="utf-8")
    (tmp_path / "odd").write_bytes(b"\x7fnothing")
    (tmp_path / "odd").chmod(0o700)
    expected = [
        (errno.ENOENT, f"cannot run {tmp_path}/none: No such file or directory"),
        (errno.EACCES, f"cannot run {tmp_path}/plain: Permission denied"),
        (errno.ENOEXEC, f"cannot run {tmp_path}/odd: Exec format error"),
    ]
    errors = [await error_of(lambda: shop.spawn(argv=(f"{tmp_path}/{name}",))) for name in ("none", "plain", "odd")]  # noqa: B023
    assert expected == [(error.errno, str(error)) for error in errors]
    assert [] == list(shop.engine.known())


async def test_a_command_line_that_is_too_long_is_told(shop: Workshop) -> None:
    """E2BIG comes back from both ways of starting a process."""
    assert errno.E2BIG == (await failure(shop, argv=("/bin/sh", "-c", ": " + "x" * (1 << 18)))).errno
    assert errno.E2BIG == (await error_of(lambda: shop.spawn(argv=("true", "x" * (1 << 18))))).errno


async def test_a_directory_that_is_missing_is_told(shop: Workshop) -> None:
    """A `cwd` or a stdin file that is not there fails the spawn."""
    error = await failure(shop, argv=("true",), cwd="/nonexistent")
    assert ("cannot enter /nonexistent: No such file or directory", True) == (
        str(error),
        isinstance(error, SpawnFailed),
    )
    error = await error_of(lambda: shop.spawn("true", stdin="/nonexistent"))
    assert "cannot open /nonexistent: No such file or directory" == str(error)


async def test_a_program_on_no_path_is_told(shop: Workshop) -> None:
    """An argv[0] that is found nowhere is ENOENT."""
    assert errno.ENOENT == (await failure(shop, argv=("unheard-of-program",))).errno
