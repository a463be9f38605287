"""Programs that show a file while it grows, on the output of a running job.

What they are good for on a log file they are good for here: new lines appear, also when old ones were evicted
meanwhile, up to the job's last, and then the program ends, or is ended, as on a file.
"""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, until
from tests.programs.driven import DrivenJob
from tests.programs.programs import path
from tests.programs.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.mount, pytest.mark.needs("tmux")]


@dataclass(frozen=True)
class Viewer:
    """A program that shows files: how it is begun, which keys end it, and with which exit status."""

    command: tuple[str, ...]
    keys: tuple[str, ...]
    exit_status: int = 0

    def show(self, *jobs: DrivenJob) -> Terminal:
        """Begins it, in a terminal, on what the jobs write."""
        program, *options = self.command
        return Terminal(path(program), *options, *(str(job.stdout) for job in jobs))

    def leave(self, terminal: Terminal) -> None:
        """Ends it as a user does, and sees that it does end, with the exit status that it should have."""
        for key in self.keys:
            if key == "C-c" and len(self.keys) > 1:
                interrupt(terminal)
            else:
                terminal.press(key)
        assert self.exit_status == terminal.wait()


def interrupt(terminal: Terminal) -> None:
    """Has less wait for more no longer; what is typed before it has noticed, the terminal drops."""
    terminal.press("C-c")
    terminal.until(lambda lines: not any("to abort)" in line for line in lines))


def viewer(program: str, *options: str, keys: tuple[str, ...] = ("C-c",), exit_status: int = 0) -> object:
    """A parameter of a test with viewers, which needs the program."""
    marks = pytest.mark.needs(program)
    return pytest.param(Viewer((program, *options), keys, exit_status), id=" ".join((program, *options)), marks=marks)


INTERRUPTED = -signal.SIGINT
VIEWERS = [
    viewer("tail", "-f", exit_status=INTERRUPTED),
    viewer("tail", "-F", exit_status=INTERRUPTED),
    viewer("tail", "-n", "5", "-f", exit_status=INTERRUPTED),
    viewer("less", "+F", keys=("C-c", "q")),
    viewer("less-633", "+F", keys=("C-c", "q")),
    viewer("multitail", keys=("q",)),
    viewer("lnav", keys=("q",)),
]
PAGERS = [viewer("less", keys=("q",)), viewer("less-633", keys=("q",))]
# Without -n it counts the lines before what it shows. Those of a stream that has evicted can't be counted from the
# beginning, and it then takes the end of what is retained for the end of the file.
PAGERS_WITHOUT_NUMBERS = [viewer("less", "-n", keys=("q",)), viewer("less-633", "-n", keys=("q",))]


@pytest.mark.parametrize("viewer", VIEWERS)
def test_new_lines_appear_up_to_the_last(shared: Mounted, viewer: Viewer) -> None:
    """A viewer shows each new line of a running job, also after an eviction, and can be ended after the job's end."""
    with DrivenJob(shared, "--limit 64K") as job:
        job.write("first line\n")
        with viewer.show(job) as terminal:
            terminal.until_shown("first line")
            job.write("second line\n")
            terminal.until_shown("second line")
            job.evict()
            job.write("after the eviction\n")
            terminal.until_shown("after the eviction")
            job.write("last line\n")
            job.end()
            shown = terminal.until_shown("last line")
            numbers = [int(line[:39]) for line in shown if line[:39].isdigit()]
            assert list(range(5000 - len(numbers), 5000)) == numbers
            viewer.leave(terminal)


@pytest.mark.parametrize("viewer", [*VIEWERS, *PAGERS])
def test_a_viewer_of_a_quiet_job_can_be_ended(shared: Mounted, viewer: Viewer) -> None:
    """A job that writes nothing holds up no viewer: its keys work, and it ends."""
    with DrivenJob(shared) as job:
        job.write("only line\n")
        with viewer.show(job) as terminal:
            terminal.until_shown("only line")
            viewer.leave(terminal)


@pytest.mark.parametrize("viewer", VIEWERS)
def test_a_job_that_is_removed_ends_no_viewer(shared: Mounted, viewer: Viewer) -> None:
    """A file of a job that was removed reads on until it is closed: what is on the screen stays there."""
    with DrivenJob(shared) as job:
        job.write("only line\n")
        with viewer.show(job) as terminal:
            terminal.until_shown("only line")
            job.write("last line\n")
            job.end()
            terminal.until_shown("last line")
            shared.ctl(f"rm {job.id}")
            until(lambda: not job.stdout.exists())
            viewer.leave(terminal)


def between(first: str, last: str) -> Callable[[list[str]], bool]:
    """A condition on a pager's screen: the lines that are its first and, above the prompt, its last."""
    return lambda lines: (first, last) == (lines[0].lstrip("0"), lines[-2].lstrip("0"))


@pytest.mark.parametrize("viewer", PAGERS)
def test_a_pager_goes_back_and_forth_in_a_live_stream(shared: Mounted, viewer: Viewer) -> None:
    """A pager shows the beginning, the end, a page back, a line by its number, and a pattern, while the job goes on."""
    with DrivenJob(shared) as job:
        job.write("".join(f"line {number}\n" for number in range(1, 2001)))
        with viewer.show(job) as terminal:
            for key, first, last in [
                ("G", 1978, 2000),
                ("g", 1, 23),
                ("f", 24, 46),
                ("b", 1, 23),
                ("500g", 500, 522),
                ("?line 42\n", 429, 451),
                ("/line 1234\n", 1234, 1256),
                ("G", 1978, 2000),
                ("b", 1955, 1977),
            ]:
                terminal.type(key)
                terminal.until(between(f"line {first}", f"line {last}"))
            job.write("second\n")
            terminal.press("F")
            terminal.until_shown("second")
            job.write("third\n")
            terminal.until_shown("third")
            interrupt(terminal)
            terminal.press("g")
            terminal.until_shown("line 23")
            job.write("fourth\n")
            job.end()
            terminal.press("G")
            terminal.until_shown("fourth")
            terminal.press("q")
            assert 0 == terminal.wait()


@pytest.mark.parametrize("viewer", PAGERS_WITHOUT_NUMBERS)
def test_a_pager_goes_back_and_forth_in_what_is_retained(shared: Mounted, viewer: Viewer) -> None:
    """A pager begins an evicted stream at the oldest retained line, and goes back from its end."""
    with DrivenJob(shared, "--limit 64K") as job:
        job.evict()
        oldest = int(shared.read(job.id)[:39])
        with viewer.show(job) as terminal:
            for key, first, last in [
                ("", oldest, oldest + 22),
                ("G", 4977, 4999),
                ("b", 4954, 4976),
                ("b", 4931, 4953),
                ("f", 4954, 4976),
                ("g", oldest, oldest + 22),
                ("f", oldest + 23, oldest + 45),
                ("G", 4977, 4999),
            ]:
                terminal.type(key)
                terminal.until(between(str(first), str(last)))
            terminal.press("F")
            job.write("one more\n")
            terminal.until_shown("one more")
            job.end()
            interrupt(terminal)
            terminal.press("b")
            terminal.until(between("4955", "4977"))
            terminal.press("q")
            assert 0 == terminal.wait()


def test_tail_ends_with_the_job(shared: Mounted) -> None:
    """`tail --pid` of the job's process prints all that the job wrote, to its last line, and ends."""
    with DrivenJob(shared) as job:
        job.write("first line\n")
        pid = str(shared.info(job.id)["pid"])
        with subprocess.Popen(["tail", "-f", "--pid", pid, str(job.stdout)], stdout=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            assert b"first line\n" == tail.stdout.readline()
            job.write("second line\n")
            job.write("last line\n")
            job.end()
            assert b"second line\nlast line\n" == tail.stdout.read()
        assert 0 == tail.returncode


def test_tail_follows_several_jobs(shared: Mounted) -> None:
    """`tail -f` of several jobs tells under each one's name what it wrote."""
    with DrivenJob(shared) as one, DrivenJob(shared) as two:
        one.write("one\n")
        two.write("two\n")
        names = [str(job.stdout).encode() for job in (one, two)]
        with subprocess.Popen(["tail", "-s", "0.1", "-f", *names], stdout=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            expected = b"==> %b <==\none\n\n==> %b <==\ntwo\n" % tuple(names)
            assert expected == tail.stdout.read(len(expected))
            one.write("more of one\n")
            expected = b"\n==> %b <==\nmore of one\n" % names[0]
            assert expected == tail.stdout.read(len(expected))
            two.evict()
            expected = b"\n==> %b <==\n" % names[1]
            assert expected == tail.stdout.read(len(expected))
            tail.terminate()
