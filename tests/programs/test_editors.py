"""Editors: opened on the output of a running job they show what comes, and a buffer saved to `ctl` runs its commands.

Editors do much around a file: swap files, locks, backups, renames, looking whether it has changed on the disk. None of
it may ask the user anything, leave anything in the mount, or run a command twice.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, until
from tests.programs.driven import DrivenJob
from tests.programs.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.mount, pytest.mark.needs("tmux")]

# A first start with a new home would have Emacs compile its own libraries, in processes that outlive it.
EMACS = ("emacs", "-nw", "-Q", "--eval", "(setq native-comp-deferred-compilation nil native-comp-jit-compilation nil)")
VIM = ("vim", "-N", "-u", "NONE")


@dataclass(frozen=True)
class Editor:
    """How a file is edited: the command, the keys that empty the buffer, save it and leave, and what is said then."""

    command: tuple[str, ...]
    empty: tuple[str, ...]
    save: tuple[str, ...]
    leave: tuple[str, ...]
    saved: str
    failed: str

    def open(self, path: Path) -> Terminal:
        """Opens a file in a terminal; returns when it is on the screen."""
        terminal = Terminal(*self.command, str(path))
        terminal.until_shown(path.name)
        return terminal


def vim(*options: str) -> Editor:
    """Vim with some settings. Its swap file is refused beside the file, and goes to the next directory."""
    return Editor(
        command=(*VIM, "--cmd", " | ".join(("set directory=.,~", *options))),
        empty=("Escape", ":%d", "Enter", "i"),
        save=("Escape", ":w", "Enter"),
        leave=("Escape", ":q!", "Enter"),
        saved="written",
        failed="E514",
    )


def editor(name: str, how: Editor) -> object:
    """A parameter of a test with editors, which needs the program."""
    return pytest.param(how, id=name, marks=pytest.mark.needs(how.command[0]))


EDITORS = [
    editor("vim", vim()),
    editor("vim with backup", vim("set backup")),
    editor("vim with backupcopy=no", vim("set backup backupcopy=no")),
    editor("vim with backupcopy=yes", vim("set backup backupcopy=yes")),
    editor("vim with fsync", vim("set fsync")),
    editor(
        "emacs",
        Editor(
            command=EMACS,
            empty=("C-x", "h", "C-w"),
            save=("C-x", "C-s"),
            leave=("C-x", "C-c"),
            saved="Wrote ",
            failed="Invalid argument",
        ),
    ),
    editor(
        "nano",
        Editor(
            command=("nano", "-I"),
            empty=("M-\\", "M-T"),
            save=("C-o", "Enter"),
            leave=("C-x",),
            saved="Wrote ",
            failed="Error writing",
        ),
    ),
]


@pytest.fixture
def untouched(shared: Mounted) -> Iterator[None]:
    """Nothing is made in the mount but jobs, and nothing that a program asked for was an error of the daemon's."""
    before = {name for name in os.listdir(shared.path) if not name.isdigit() and name != "last"}
    yield
    assert before == {name for name in os.listdir(shared.path) if not name.isdigit() and name != "last"}
    assert "Traceback" not in shared.log()


def jobs_of(mounted: Mounted, line: str) -> list[str]:
    """The statuses of the jobs that have a command line."""
    infos = [json.loads(text) for text in mounted.file("table.jsonl").read_text().splitlines()]
    return [info["status"] for info in infos if info["cmd"] == line]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("editor", EDITORS)
def test_saving_a_buffer_to_ctl_spawns_once(shared: Mounted, editor: Editor, request: pytest.FixtureRequest) -> None:
    """A buffer with a command in it that is saved to `ctl` spawns one job, whatever the editor does around that."""
    line = f"echo {request.node.callspec.id}"
    with editor.open(shared.file("ctl")) as terminal:
        terminal.until_shown("# spawn")  # what `ctl` says how it is used; comments may stay in
        terminal.press(*editor.empty)
        terminal.until(lambda lines: not any("# spawn" in line for line in lines))
        terminal.type(f"spawn {line}")
        terminal.press(*editor.save)
        terminal.until_shown(editor.saved)
        until(lambda: jobs_of(shared, line), lambda jobs: jobs == ["done:0"])
        terminal.press(*editor.leave)
        assert 0 == terminal.wait()
    assert ["done:0"] == jobs_of(shared, line)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("editor", EDITORS)
def test_an_error_of_ctl_is_shown(shared: Mounted, editor: Editor) -> None:
    """A buffer that `ctl` refuses is not saved, and the editor says so."""
    before = shared.file("table").read_text().count("\n")
    with editor.open(shared.file("ctl")) as terminal:
        terminal.until_shown("# spawn")
        terminal.press(*editor.empty)
        terminal.type("spawn --no-such-option true")
        terminal.press(*editor.save)
        terminal.until_shown(editor.failed)
    assert before == shared.file("table").read_text().count("\n")


@pytest.mark.usefixtures("untouched")
@pytest.mark.needs("vim")
def test_vim_shows_new_text(shared: Mounted) -> None:
    """With `autoread`, `:checktime` shows what was written since, also after an eviction, and asks nothing."""
    with DrivenJob(shared, "--limit 64K") as job:
        job.write("first line\n")
        with Terminal(*VIM, "--cmd", "set directory=.,~ autoread", str(job.stdout)) as terminal:
            terminal.until_shown("first line")
            job.write("second line\n")
            terminal.type(":checktime\n")
            terminal.until_shown("second line")
            job.evict()
            job.write("after the eviction\n")
            terminal.type(":checktime\n")
            terminal.type("G")
            terminal.until_shown("after the eviction")
            job.write("last line\n")
            job.end()
            terminal.type(":checktime\n")
            terminal.type("G")
            assert not any(line.startswith(("E", "W")) for line in terminal.until_shown("last line"))
            terminal.type(":q\n")
            assert 0 == terminal.wait()


@pytest.mark.usefixtures("untouched")
@pytest.mark.needs("vim")
def test_output_is_not_written_by_an_editor(shared: Mounted) -> None:
    """A job's output is opened as read-only, and writing it is refused."""
    with DrivenJob(shared) as job:
        job.write("first line\n")
        with Terminal(*VIM, "--cmd", "set directory=.,~", str(job.stdout)) as terminal:
            terminal.until_shown("[readonly]")
            terminal.type(":w!\n")
            terminal.until_shown("E212")
            terminal.press("Enter")
            terminal.type(":q!\n")
            assert 0 == terminal.wait()
        assert b"first line\n" == shared.read(job.id)


def emacs(*expressions: str, path: Path) -> Terminal:
    """Emacs, visiting a file, where expressions are evaluated then; it gets its news by file notification alone."""
    words = [word for expression in expressions for word in ("--eval", expression)]
    return Terminal(*EMACS, "--eval", "(setq auto-revert-avoid-polling t)", str(path), *words)


@pytest.mark.usefixtures("untouched")
@pytest.mark.needs("emacs")
def test_emacs_tails_a_live_stream(shared: Mounted) -> None:
    """`auto-revert-tail-mode` appends what a job writes to the buffer, to the last line."""
    with DrivenJob(shared) as job:
        job.write("first line\n")
        with emacs("(auto-revert-tail-mode)", path=job.stdout) as terminal:
            terminal.until_shown("first line")
            terminal.until_shown("Tail")
            for line in ("second line", "third line"):
                job.write(f"{line}\n")
                terminal.until_shown(line)
            job.write("last line\n")
            job.end()
            assert ["first line", "second line", "third line", "last line"] == terminal.until_shown("last line")[1:5]
            terminal.press("C-x", "C-c")
            assert 0 == terminal.wait()


@pytest.mark.usefixtures("untouched")
@pytest.mark.needs("emacs")
def test_emacs_tails_through_an_eviction(shared: Mounted) -> None:
    """`auto-revert-tail-mode` of a job that writes more than is retained goes on with its newest lines."""
    with DrivenJob(shared, "--limit 64K") as job:
        job.write("first line\n")
        with emacs("(auto-revert-tail-mode)", "(goto-char (point-max))", path=job.stdout) as terminal:
            terminal.until_shown("Tail")
            job.evict()
            job.write("after the eviction\n")
            terminal.press("M->")
            terminal.until_shown("after the eviction")
            job.write("last line\n")
            terminal.press("M->")
            terminal.until_shown("last line")
            terminal.press("C-x", "C-c")
            assert 0 == terminal.wait()


@pytest.mark.usefixtures("untouched")
@pytest.mark.needs("emacs")
@pytest.mark.parametrize("name", ["status", "stdout"])
def test_emacs_reverts_by_file_notification(shared: Mounted, name: str) -> None:
    """`auto-revert-mode` shows a job's status and output as they change, told by inotify and not by looking."""
    with DrivenJob(shared) as job:
        job.write("first line\n")
        with emacs("(auto-revert-mode)", path=job.file(name)) as terminal:
            terminal.until_shown("running" if name == "status" else "first line")
            terminal.until_shown("ARev")
            job.write("last line\n")
            job.end()
            terminal.until_shown("done:0" if name == "status" else "last line")
            terminal.press("C-x", "C-c")
            assert 0 == terminal.wait()


@pytest.mark.needs("emacs")
def test_emacs_without_a_terminal_saves_to_ctl(shared: Mounted) -> None:
    """A script of Emacs that saves a buffer to `ctl` spawns one job, and a refused one makes it fail."""
    words = ["emacs", "--batch", "-Q", str(shared.file("ctl")), "--eval"]

    def save(text: str) -> subprocess.CompletedProcess[str]:
        expression = f'(progn (erase-buffer) (insert "{text}\\n") (save-buffer))'
        return subprocess.run([*words, expression], capture_output=True, text=True, check=False)

    assert 0 == save("spawn echo from a script of Emacs").returncode
    until(lambda: jobs_of(shared, "echo from a script of Emacs"), lambda jobs: jobs == ["done:0"])
    refused = save("spawn --no-such-option true")
    assert refused.returncode != 0
    assert "Invalid argument" in refused.stderr
