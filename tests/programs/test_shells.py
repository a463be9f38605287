"""Shells: each writes commands in all the ways it has, and each command is run once, or its error shown.

A `Shell` is a row of what differs: how it is started, how it quotes, which ways to write it has, and what it says of a
write that failed. The tests know no shell by name.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.programs.programs import path
from tests.programs.spawned import Spawned, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from tests.mounted import Mounted

pytestmark = pytest.mark.mount

# Ways to write one line, as a word `{}` or as it is `{raw}`: those of every shell, and those of some.
WAYS = {
    "echo": "echo {} > $J/ctl",
    "append": "echo {} >> $J/ctl",
    "unterminated-echo": "echo -n {} > $J/ctl",
    "printf": "printf '%s\\n' {} > $J/ctl",
    "unterminated-printf": "printf %s {} > $J/ctl",
    "external": "env WHO=child /bin/echo {} > $J/ctl",
    "pipe": "echo {} | cat >> $J/ctl",
}
BOURNE = {
    "clobber": "echo {} >| $J/ctl",
    "descriptor": "exec 3> $J/ctl; echo {} >&3",
    "read-write": "echo {} 1<> $J/ctl",
    "group": "{{ echo {}; }} > $J/ctl",
    "here-document": "cat << 'END' > $J/ctl\n{raw}\nEND",
    "function": "f() {{ echo {}; }}; f > $J/ctl",
}
HERE_STRING = {"here-string": "cat <<< {} > $J/ctl"}
KORN = {"print": "print -r -- {} > $J/ctl"}

# Ways to write three lines.
SEVERAL = {"printf": "printf '%s\\n' {} {} {} > $J/ctl"}
BOURNE_SEVERAL = {
    "group": "{{ echo {}; echo {}; echo {}; }} > $J/ctl",
    "descriptor": "exec 3> $J/ctl; echo {} >&3; echo {} >&3; echo {} >&3",
    "here-document": "cat << 'END' > $J/ctl\n{raw}\nEND",
}


def quoted(line: str) -> str:
    """A word of a Bourne shell."""
    return "'" + line.replace("'", "'\\''") + "'"


def quoted_for_fish(line: str) -> str:
    """A word of fish, where a backslash escapes within single quotes too."""
    return "'" + line.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quoted_for_tcsh(line: str) -> str:
    """A word of tcsh, which recalls its history within single quotes too."""
    return quoted(line).replace("!", "\\!")


@dataclass(frozen=True)
class Shell:
    """A shell, and what is its own.

    `several`: its ways to write three lines. `complaints`: what it says of a write that failed, by way, where `{}` is
    what strerror(3) says. `keeps`: whether it can keep a file open and read replies from it. `noclobber`: how it is
    told to overwrite no file by `>`.
    """

    program: str
    options: tuple[str, ...] = ()
    quote: Callable[[str], str] = quoted
    ways: Mapping[str, str] = field(default_factory=lambda: WAYS | BOURNE)
    several: Mapping[str, str] = field(default_factory=lambda: SEVERAL | BOURNE_SEVERAL)
    complaints: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(("echo", "printf"), "write error: {}"))
    keeps: bool = True
    noclobber: str | None = "set -C"

    def run(
        self, mounted: Mounted, script: str, cwd: Path, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a script in `cwd`."""
        (cwd / "script").write_text(script + "\n")
        return run(mounted, [path(self.program), *self.options, str(cwd / "script")], cwd, variables)


SHELLS = {
    "bash": Shell("bash", ways=WAYS | BOURNE | HERE_STRING),
    "dash": Shell("dash", complaints={"echo": "echo: I/O error", "printf": "printf: I/O error"}),
    "zsh": Shell("zsh", ("-f",), ways=WAYS | BOURNE | HERE_STRING | KORN),
    "fish": Shell(
        "fish",
        ("--no-config",),
        quote=quoted_for_fish,
        ways=WAYS | {"group": "begin; echo {}; end > $J/ctl", "function": "function f; echo {}; end; f > $J/ctl"},
        several=SEVERAL | {"group": "begin; echo {}; echo {}; echo {}; end > $J/ctl"},
        complaints={"echo": "write: {}", "printf": "write: {}"},
        keeps=False,
        noclobber=None,
    ),
    "mksh": Shell(
        "mksh", ways=WAYS | BOURNE | HERE_STRING | KORN, complaints={"echo": "echo: write: {}", "printf": "{}"}
    ),
    "tcsh": Shell(
        "tcsh",
        ("-f",),
        quote=quoted_for_tcsh,
        ways=WAYS | {"clobber": "echo {} >! $J/ctl", "here-document": "cat << 'END' > $J/ctl\n{raw}\n'END'"},
        several=SEVERAL
        | {
            "group": "( echo {}; echo {}; echo {} ) > $J/ctl",
            "here-document": "cat << 'END' > $J/ctl\n{raw}\n'END'",
        },
        complaints={"echo": "", "printf": "write error: {}"},  # its echo fails without a word
        keeps=False,
        noclobber="set noclobber",
    ),
    "ksh93": Shell(
        "ksh93",
        ways=WAYS | BOURNE | HERE_STRING | KORN,
        complaints={"echo": "echo: write to 1 failed [{}]", "printf": "printf: write to 1 failed [{}]"},
    ),
    "busybox": Shell("busybox", ("sh",), complaints={"echo": "write error: {}", "printf": ""}),
}

# All that a shell may want to take for its own in a line, and what the job then writes after directory and umask.
COMMAND = """pwd -P; umask; echo "$WHO"; echo 'a  b' $((6*7)) `echo c` !echo % é "d" '*' # to the end"""
SAID = "a  b 42 c !echo % é d *"
BACKSLASHES = r" \ \\ \n \t"  # some shells' echo takes them for its own

SIZES = [0, 600, 4096, 5000, 100_000]  # bytes that a line is filled up to, its newline included

# The jobs of the fixture `_named`: `holder` is alive, `ended` is not.
ERRORS = {
    "verb": (errno.EINVAL, "frobnicate 1"),
    "option": (errno.EINVAL, "spawn --colour red true"),
    "job": (errno.ENOENT, "kill 999999"),
    "program": (errno.ENOENT, '{"op": "spawn", "argv": ["no-such-program"]}'),
    "directory": (errno.ENOENT, "spawn --cwd /nowhere/at-all true"),
    "ended": (errno.ESRCH, "kill ended"),
    "busy": (errno.EBUSY, "rm holder"),
    "restart": (errno.EBUSY, "restart holder"),
    "taken": (errno.EEXIST, "spawn --name holder true"),
    "not-executable": (errno.EACCES, '{"op": "spawn", "argv": ["/etc/passwd"]}'),
}


def each(
    *axes: Callable[[Shell], Iterable[object]], where: Callable[[Shell], object] = lambda _: True
) -> list[pytest.ParameterSet]:
    """A test's parameters: the name of each shell for which `where` holds, with each choice of its axes' values."""
    return [
        pytest.param(name, *rest, id="-".join(map(str, (name, *rest))), marks=pytest.mark.needs(shell.program))
        for name, shell in SHELLS.items()
        if where(shell)
        for rest in itertools.product(*(axis(shell) for axis in axes))
    ]


@pytest.fixture(scope="module")
def _named(shared: Mounted) -> None:
    """Jobs for the errors: `holder`, which is alive, and `ended`."""
    shared.spawn("--name holder exec sleep 1000")
    shared.run("--name ended true")


@pytest.mark.parametrize(("name", "way", "size"), each(lambda shell: shell.ways, lambda _: SIZES))
def test_line_is_run_once(shared: Mounted, tmp_path: Path, name: str, way: str, size: int) -> None:
    """A line is run once, verbatim, in the writer's directory, with the writer's environment and umask."""
    shell = SHELLS[name]
    form = shell.ways[way]
    command = COMMAND if "echo" in form else COMMAND + BACKSLASHES
    command += "x" * (size - len(f"spawn {command}\n".encode()))
    script = "cd $HOME/there; umask 027\n" + form.format(shell.quote(f"spawn {command}"), raw=f"spawn {command}")
    (tmp_path / "there").mkdir()
    spawned = Spawned(shared)
    done = shell.run(shared, script, tmp_path, {"WHO": "shell"})
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert [command.encode()] == spawned.commands(1)
    who = "child" if way == "external" else "shell"
    assert f"{tmp_path}/there\n0027\n{who}\n{SAID}\n" == shared.read(spawned.jobs[0]).decode()
    assert [] == spawned.refused


@pytest.mark.parametrize(("name", "way", "size"), each(lambda shell: shell.several, lambda _: SIZES[:4]))
def test_several_lines_are_run_in_order(shared: Mounted, tmp_path: Path, name: str, way: str, size: int) -> None:
    """Several lines that are written at once, or to one open file, are run in order, each once."""
    shell = SHELLS[name]
    commands = [f"echo {word} # ".ljust(size, "x") for word in ("one", "two", "three")]
    lines = [f"spawn {command}" for command in commands]
    spawned = Spawned(shared)
    done = shell.run(shared, shell.several[way].format(*map(shell.quote, lines), raw="\n".join(lines)), tmp_path)
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert [command.encode() for command in commands] == spawned.commands(3)
    assert [b"one\n", b"two\n", b"three\n"] == [shared.read(job) for job in spawned.jobs]


@pytest.mark.parametrize("name", each())
def test_last_is_what_the_shell_spawned(shared: Mounted, tmp_path: Path, name: str) -> None:
    """After a spawn `last` is the new job, also for a shell that cannot keep a file open to read the reply."""
    shell = SHELLS[name]
    spawned = Spawned(shared)
    done = shell.run(shared, f"echo {shell.quote('spawn true')} > $J/ctl; readlink $J/last", tmp_path)
    assert (b"", [int(done.stdout)]) == (done.stderr, spawned.until(1))


@pytest.mark.parametrize("name", each(where=lambda shell: shell.keeps))
def test_read_write_idiom(shared: Mounted, tmp_path: Path, name: str) -> None:
    """`exec 3<>ctl; echo spawn >&3; read id <&3` gives the new job's id, each time, and an error's sentence."""
    script = """exec 3<>$J/ctl
        for word in one two three; do echo "spawn echo $word" >&3; read id <&3; echo $id; done
        echo "kill 999999" >&3; echo $?; read answer <&3; echo "$answer"
        echo "spawn echo four" >&3; echo $?; read id <&3; echo "$id" """
    spawned = Spawned(shared)
    *ids, failed, answer, went, last = SHELLS[name].run(shared, script, tmp_path).stdout.decode().splitlines()
    assert ["1", "error: no such job: 999999", "0"] == [failed, answer, went]
    assert spawned.until(4) == [int(job) for job in (*ids, last)]
    assert [b"one\n", b"two\n", b"three\n", b"four\n"] == [shared.read(job) for job in spawned.jobs]


# Errors


@pytest.mark.parametrize(("name", "way", "error"), each(lambda shell: shell.complaints, lambda _: ERRORS))
@pytest.mark.usefixtures("_named")
def test_error_as_the_shell_shows_it(shared: Mounted, tmp_path: Path, name: str, way: str, error: str) -> None:
    """A command that fails runs nothing, fails the shell's own command, and stands in `events` with its sentence."""
    shell = SHELLS[name]
    number, line = ERRORS[error]
    spawned = Spawned(shared)
    done = shell.run(shared, shell.ways[way].format(shell.quote(line)), tmp_path)
    assert 1 == done.returncode
    assert shell.complaints[way].format(os.strerror(number)).encode().lower() in done.stderr.lower()
    assert ([], {number}) == (spawned.jobs, {refusal.errno for refusal in spawned.refused})


@pytest.mark.parametrize(("name", "error"), each(lambda _: ERRORS, where=lambda shell: shell.keeps))
@pytest.mark.usefixtures("_named")
def test_error_is_the_reply(shared: Mounted, tmp_path: Path, name: str, error: str) -> None:
    """A command that fails has one reply, the sentence that stands in `events`, and the file takes further commands."""
    shell = SHELLS[name]
    spawned = Spawned(shared)
    script = f"exec 3<>$J/ctl; echo {shell.quote(ERRORS[error][1])} >&3; echo 'spawn true' >&3; cat <&3"
    done = shell.run(shared, script, tmp_path)
    (job,) = spawned.until(1)
    assert [f"error: {spawned.refused[-1].sentence}", str(job)] == done.stdout.decode().splitlines()


@pytest.mark.parametrize("name", each())
def test_error_of_an_unterminated_line(shared: Mounted, tmp_path: Path, name: str) -> None:
    """The error of an unterminated line is that of the close, which shells pass over, and stands in `events`."""
    shell = SHELLS[name]
    spawned = Spawned(shared)
    done = shell.run(shared, shell.ways["unterminated-echo"].format(shell.quote("kill 999999")), tmp_path)
    assert 0 == done.returncode
    assert (errno.ENOENT, "no such job: 999999") == spawned.until_refused()


@pytest.mark.parametrize(("name", "way"), each(lambda shell: shell.several))
def test_no_line_is_run_twice(shared: Mounted, tmp_path: Path, name: str, way: str) -> None:
    """Where one of several lines fails none is run twice, and those after it only where each is a write of its own."""
    shell = SHELLS[name]
    lines = ["spawn true one", "kill 999999", "spawn true two"]
    spawned = Spawned(shared)
    done = shell.run(shared, shell.several[way].format(*map(shell.quote, lines), raw="\n".join(lines)), tmp_path)
    at_once = way in ("printf", "here-document")
    assert not at_once or done.returncode == 1
    commands = spawned.commands(1)
    assert commands == [b"true one"] if at_once else commands in ([b"true one"], [b"true one", b"true two"])
    assert [(errno.ENOENT, "no such job: 999999")] == spawned.refused


@pytest.mark.parametrize("name", each())
def test_line_too_long_for_execve(shared: Mounted, tmp_path: Path, name: str) -> None:
    """A line that is too long for execve is E2BIG, into how many writes the shell ever splits it."""
    shell = SHELLS[name]
    spawned = Spawned(shared)
    done = shell.run(shared, f"echo {shell.quote('spawn true #' + 'x' * 200_000)} > $J/ctl", tmp_path)
    complaint = shell.complaints["echo"].format(os.strerror(errno.E2BIG)).encode().lower()
    assert (1, True, []) == (done.returncode, complaint in done.stderr.lower(), spawned.jobs)
    assert {errno.E2BIG} == {refusal.errno for refusal in spawned.refused}


@pytest.mark.parametrize("name", each())
def test_limit_is_an_error_and_no_endless_retry(jobs: Mounted, tmp_path: Path, name: str) -> None:
    """Where a limit is reached the shell shows EAGAIN's error, instead of trying again for ever."""
    shell = SHELLS[name]
    supervisor = jobs.supervisor
    assert supervisor is not None
    limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    try:
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, limits[1]))
        while jobs.ask("spawn true").isdigit():
            pass  # what it has opened ahead is used up
        done = shell.run(jobs, f"echo {shell.quote('spawn true')} > $J/ctl", tmp_path)
    finally:
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
    complaint = shell.complaints["echo"].format(os.strerror(errno.EAGAIN)).encode().lower()
    assert (1, True) == (done.returncode, complaint in done.stderr.lower())


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
@pytest.mark.parametrize("name", each())
def test_shell_of_another_user(shared: Mounted, name: str) -> None:
    """A shell of another user that has inherited the open file is refused with EPERM, and runs nothing."""
    shell = SHELLS[name]
    spawned = Spawned(shared)
    command = [path(shell.program), *shell.options, "-c", "echo spawn true"]
    with shared.file("ctl").open("w") as ctl:
        done = subprocess.run(
            command,
            stdout=ctl,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C"},
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            check=False,
        )
    complaint = shell.complaints["echo"].format(os.strerror(errno.EPERM)).encode().lower()
    assert (True, []) == (complaint in done.stderr.lower(), spawned.jobs)
    assert {errno.EPERM} == {refusal.errno for refusal in spawned.refused}


@pytest.mark.parametrize("name", each(where=lambda shell: shell.noclobber))
def test_noclobber(shared: Mounted, tmp_path: Path, name: str) -> None:
    """Under noclobber `>` is the shell's own refusal, which runs nothing; `>>` and the forced form write."""
    shell = SHELLS[name]
    lines = {way: shell.ways[way].format(shell.quote(f"spawn true {way}")) for way in ("echo", "append", "clobber")}
    spawned = Spawned(shared)
    refused = shell.run(shared, f"{shell.noclobber}\n{lines['echo']}", tmp_path)
    assert (True, b"ctl" in refused.stderr) == (refused.returncode != 0, True)
    done = shell.run(shared, f"{shell.noclobber}\n{lines['append']}\n{lines['clobber']}", tmp_path)
    assert (0, b"") == (done.returncode, done.stderr)
    assert [b"true append", b"true clobber"] == spawned.commands(2)
