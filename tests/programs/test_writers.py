"""Programs other than shells that write commands: copiers, filters and languages.

Each is given a file `lines`, which it writes to `ctl` in its own way: in one piece, in blocks, line by line, or byte by
byte; and some write once more what failed.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.programs.spawned import Spawned, run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.mounted import Mounted

pytestmark = pytest.mark.mount


@dataclass(frozen=True)
class Writer:
    """A program that writes the file `lines` to `ctl`, with `needs` beside a plain system.

    `complaint`: what it says of a write that failed; `{}` is what strerror(3) says. One with `None` says nothing and
    succeeds. `block`: how many bytes it writes at once, where they are few.
    """

    script: str
    complaint: str | None = "{}"
    needs: tuple[str, ...] = ()
    block: int | None = None


def perl(program: str) -> Writer:
    """Perl, with the lines open as L and `ctl` as C."""
    begin = 'open(L, "<", "lines") or die; open(C, ">>", "$ENV{J}/ctl") or die; '
    return Writer(f"perl -e '{begin}{program} close(C) or die $!'", needs=("perl",))


def node(program: str) -> Writer:
    """Node, with the lines and the path of `ctl`."""
    begin = 'const fs = require("fs"), ctl = process.env.J + "/ctl", lines = fs.readFileSync("lines"); '
    return Writer(f"node -e '{begin}{program}'", needs=("node",))


def python(program: str) -> Writer:
    """Python, with the lines and the path of `ctl`."""
    begin = 'import os, pathlib, shutil\nctl = os.environ["J"] + "/ctl"\nlines = open("lines").read()\n'
    return Writer(f"{sys.executable} -X utf8 -c '{begin}{program}'")


WRITERS = {
    "cat": Writer("cat lines > $J/ctl"),
    "echo": Writer('/bin/echo "$(cat lines)" > $J/ctl'),
    "printf": Writer('/usr/bin/printf "%s\\n" "$(cat lines)" > $J/ctl'),
    "tee": Writer("tee $J/ctl < lines > /dev/null"),
    "tee-append": Writer("tee -a $J/ctl < lines > /dev/null"),
    "cp": Writer("cp lines $J/ctl"),
    "cp-archive": Writer("cp -a lines $J/ctl"),
    "dd": Writer("dd if=lines of=$J/ctl status=none"),
    "dd-1": Writer("dd if=lines of=$J/ctl bs=1 status=none", block=1),
    "dd-16": Writer("dd if=lines of=$J/ctl bs=16 status=none", block=16),
    "dd-4096": Writer("dd if=lines of=$J/ctl bs=4096 status=none"),
    "dd-mebibyte": Writer("dd if=lines of=$J/ctl bs=1M status=none"),
    "dd-append": Writer("dd if=lines of=$J/ctl oflag=append conv=notrunc status=none"),
    "dd-synchronous": Writer("dd if=lines of=$J/ctl oflag=sync conv=fsync status=none"),
    "dd-direct": Writer("dd if=lines of=$J/ctl oflag=direct bs=4096 status=none"),
    "uniq": Writer("uniq lines $J/ctl"),
    "sed": Writer('sed -n "w $J/ctl" lines'),
    "sed-unbuffered": Writer('sed -u -n "w $J/ctl" lines'),
    "awk": Writer('awk \'{ print > (ENVIRON["J"] "/ctl") }\' lines'),
    "gawk": Writer('gawk \'{ print > (ENVIRON["J"] "/ctl") }\' lines', needs=("gawk",)),
    "busybox-awk": Writer(
        'busybox awk \'{ print > (ENVIRON["J"] "/ctl") }\' lines', complaint=None, needs=("busybox",)
    ),
    "busybox-cp": Writer("busybox cp lines $J/ctl", needs=("busybox",)),
    "busybox-tee": Writer("busybox tee $J/ctl < lines > /dev/null", complaint="I/O error", needs=("busybox",)),
    "busybox-dd": Writer("busybox dd if=lines of=$J/ctl 2> said || { cat said >&2; exit 1; }", needs=("busybox",)),
    "perl-print": perl("while (<L>) { print C $_ or die $! }"),
    "perl-autoflush": perl("use IO::Handle; C->autoflush(1); while (<L>) { print C $_ or die $! }"),
    "perl-syswrite": perl(
        "local $/; $_ = <L>; while (length) { my $n = syswrite(C, $_); die $! unless defined $n; $_ = substr($_, $n) }"
    ),
    "node-write": node("fs.writeFileSync(ctl, lines)"),
    "node-append": node("fs.appendFileSync(ctl, lines)"),
    "node-stream": node("fs.createWriteStream(ctl).end(lines)"),
    "node-promise": node("fs.promises.writeFile(ctl, lines)"),
    "python-write": python("pathlib.Path(ctl).write_text(lines)"),
    "python-print": python('with open(ctl, "w") as file:\n    print(lines, end="", file=file)'),
    "python-lines": python(
        'with open(ctl, "a", buffering=1) as file:\n    for line in lines.splitlines(True): file.write(line)'
    ),
    "python-raw": python(
        'with open(ctl, "wb", buffering=0) as file:\n'
        "    lines = lines.encode()\n    while lines: lines = lines[file.write(lines) :]"
    ),
    "python-copy": python('shutil.copyfile("lines", ctl)'),
}

# What makes a new file, to put it in another's place or beside it, is refused; each runs with a file `lines` to write.
MAKERS = [
    "mv lines $J/ctl",
    "install lines $J/ctl",
    "ln -sf lines $J/ctl",
    "sed -i s/a/b/ $J/ctl",
    "cp --remove-destination lines $J/ctl",
    "cp lines $J/",
    "rsync lines $J/ctl",
    "rsync -a lines $J/",
    "tar -cf - lines | tar -xf - -C $J",
    "split lines $J/x",
    "touch $J/new",
    "mkdir $J/new",
    "echo x > $J/new",
    "rm $J/ctl",
    "rm -f $J/table",
]

# What each command says of itself: where it runs, for whom, and all that a program may want to take for its own.
COMMAND = r"""pwd -P; echo "$WHO"; printf '%s|' '\n' \\ "a  b" $((6*7)) % é '*'; : """
SAID = "\\n|\\|a  b|42|%|é|*|"


def each(where: Callable[[Writer], object] = lambda _: True) -> Iterable[pytest.ParameterSet]:
    """The names of the writers for which `where` holds."""
    return [
        pytest.param(name, marks=pytest.mark.needs(*writer.needs)) for name, writer in WRITERS.items() if where(writer)
    ]


def write(mounted: Mounted, cwd: Path, name: str, lines: str) -> subprocess.CompletedProcess[bytes]:
    """Has a program write `lines`."""
    (cwd / "lines").write_text(lines)
    return run(mounted, ["sh", "-c", WRITERS[name].script], cwd, {"WHO": name})


@pytest.mark.parametrize("size", [0, 600, 4096, 5000, 8192, 100_000])
@pytest.mark.parametrize("name", each())
def test_lines_are_run_in_order(shared: Mounted, tmp_path: Path, name: str, size: int) -> None:
    """Lines are run in order, each once and verbatim, in the writer's directory with the writer's environment."""
    block = WRITERS[name].block
    if block is not None and size / block > 10_000:
        size = 9_000 * block  # a system call for each block: enough of them
    line = f"spawn {COMMAND}"
    padding = "x" * (size - len(line.encode()) - 2)
    lines = [f"{line}{word}{padding}" for word in "abc"] if size < 100_000 else [f"{line}a{padding}"]
    spawned = Spawned(shared)
    done = write(shared, tmp_path, name, "".join(f"{line}\n" for line in lines))
    assert (0, b"") == (done.returncode, done.stderr)
    assert [line.removeprefix("spawn ").encode() for line in lines] == spawned.commands(len(lines))
    for job in spawned.jobs:
        assert f"{tmp_path}\n{name}\n{SAID}" == shared.read(job).decode()
    assert [] == spawned.refused


@pytest.mark.parametrize("name", each())
def test_unterminated_last_line_is_run(shared: Mounted, tmp_path: Path, name: str) -> None:
    """A last line without a newline is run too, when the program closes the file."""
    spawned = Spawned(shared)
    done = write(shared, tmp_path, name, "spawn echo one\nspawn echo two")
    assert (0, b"") == (done.returncode, done.stderr)
    assert [b"echo one", b"echo two"] == spawned.commands(2)


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.EINVAL, "frobnicate 1"),
        (errno.ENOENT, "kill 999999"),
        (errno.EACCES, '{"op": "spawn", "argv": ["/etc/passwd"]}'),
    ],
    ids=["verb", "job", "program"],
)
@pytest.mark.parametrize("name", each())
def test_error_as_the_program_shows_it(shared: Mounted, tmp_path: Path, name: str, number: int, line: str) -> None:
    """A command that fails runs nothing, is the program's error, and stands in `events`."""
    spawned = Spawned(shared)
    done = write(shared, tmp_path, name, f"{line}\n")
    check_complaint(name, number, done)
    assert ([], {number}) == (spawned.jobs, {refusal.errno for refusal in spawned.refused})


def check_complaint(name: str, number: int, done: subprocess.CompletedProcess[bytes]) -> None:
    """Asserts that the program said of a write what it says where that fails with errno `number`."""
    complaint = WRITERS[name].complaint
    if complaint is None:
        assert (0, b"") == (done.returncode, done.stderr)
    else:
        assert done.returncode != 0
        assert complaint.format(os.strerror(number)).lower() in done.stderr.decode().lower()


@pytest.mark.parametrize("name", each())
def test_no_line_is_run_twice(shared: Mounted, tmp_path: Path, name: str) -> None:
    """Where one of several lines fails and the program tries again, none is run twice."""
    spawned = Spawned(shared)
    done = write(shared, tmp_path, name, "spawn true one\nkill 999999\nspawn true two\n")
    check_complaint(name, errno.ENOENT, done)
    # One that has been told goes no further; one that does not look goes on with the next line.
    expected = [b"true one"] if WRITERS[name].complaint else [b"true one", b"true two"]
    assert expected == spawned.commands(1)
    assert {(errno.ENOENT, "no such job: 999999")} == set(spawned.refused)


@pytest.mark.parametrize("name", each(lambda writer: writer.block is None and "$(cat lines)" not in writer.script))
def test_line_over_a_mebibyte(shared: Mounted, tmp_path: Path, name: str) -> None:
    """A line over 1 MiB is E2BIG, and no part of it is ever run, into how many writes it was split."""
    spawned = Spawned(shared)
    done = write(shared, tmp_path, name, f"spawn : {'spawn : ' * 150_000}\nspawn true after\n")
    check_complaint(name, errno.E2BIG, done)
    assert {errno.E2BIG} == {refusal.errno for refusal in spawned.refused}
    assert [b"true after"][: len(spawned.jobs)] == spawned.commands(0)


@pytest.mark.parametrize("script", MAKERS)
def test_what_makes_files_is_refused(shared: Mounted, tmp_path: Path, script: str) -> None:
    """Creating any other file, or putting one in another's place, is refused, and runs nothing."""
    (tmp_path / "lines").write_text("spawn true\n")
    before = sorted(os.listdir(shared.path))
    done = run(shared, ["sh", "-c", script], tmp_path)
    assert done.returncode != 0
    assert b"Permission denied" in done.stderr or b"Operation not permitted" in done.stderr
    assert before == sorted(os.listdir(shared.path))
    assert (tmp_path / "lines").exists()


@pytest.mark.parametrize("script", ["truncate -s 0 $J/ctl", "touch $J/ctl", "chmod 600 $J/ctl", ": > $J/ctl"])
def test_what_changes_no_content_does_nothing(shared: Mounted, tmp_path: Path, script: str) -> None:
    """Truncate, chmod and utimes on `ctl` succeed and do nothing; its mtime never moves."""
    before = shared.file("ctl").stat()
    done = run(shared, ["sh", "-c", script], tmp_path)
    assert (0, b"") == (done.returncode, done.stderr)
    after = shared.file("ctl").stat()
    assert (before.st_mtime_ns, before.st_mode, before.st_size) == (after.st_mtime_ns, after.st_mode, after.st_size)


@pytest.mark.needs("jq")
def test_json_of_jq(shared: Mounted, tmp_path: Path) -> None:
    """A command that jq writes as JSON reaches the program word by word, without a shell between."""
    script = """jq -nc --arg word "$1" '{op: "spawn", argv: ["printf", "%s|", $word, "$HOME"]}' > $J/ctl"""
    spawned = Spawned(shared)
    done = run(shared, ["sh", "-c", script, "sh", "a 'b\"\nc"], tmp_path)
    assert (0, b"") == (done.returncode, done.stderr)
    (job,) = spawned.until(1)
    assert b"a 'b\"\nc|$HOME|" == shared.read(job)
