"""Documents as scripts: the shell blocks of a Markdown file, and a shell that runs them and compares what it shows.

A `console` block is a transcript: `$ ` begins a command, the lines after it are what it shows. A `sh` block is run as
a whole. In what is shown, `...` stands for anything, and a last line `^C` for the key that ends a command.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from tests.mounted import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INTERRUPT = "^C"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_DONE = "the command has ended with"
_CHUNK = 65536
# What is shown of a state that is about to change (a job ends, a second passes) is looked at again: people type slowly.
_LOOK = re.compile(r"(cat|grep|head|jq|ls|readlink|stat|tail)\b(?!.* -f)[^>]*$")
_COMPLAINT = re.compile(r"^(bash|jobfs|ls|rm): ", re.MULTILINE)
# What differs from run to run, and what stands for it in both the document and the output.
_VARIABLE = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "(time)"),
    (re.compile(r"\b(?:\d+m)?\d+(?:\.\d)?s\b"), "(duration)"),
    (re.compile(r"^bash: line \d+: ", re.MULTILINE), "bash: "),
    (re.compile(r" {2,}"), "  "),
)
_NUMBER = re.compile(r"^\d+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a document and what it shows; None where the document does not say."""

    command: str
    shown: str | None
    interrupted: bool = False


def steps(markdown: str) -> list[Step]:
    """The commands of a document's shell blocks, in order."""
    found: list[Step] = []
    for kind, text in _FENCE.findall(markdown):
        if kind == "sh":
            found.append(Step(text, None))
        elif kind == "console":
            found += [_step(part) for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    return found


def _step(text: str) -> Step:
    command, _, shown = text.partition("\n")
    interrupted = shown.endswith(f"{INTERRUPT}\n")
    return Step(command, shown.removesuffix(f"{INTERRUPT}\n"), interrupted)


def shows(step: Step, output: str) -> bool:
    """Whether `output` is what the document says that the step's command shows."""
    if step.shown is None:
        return True
    lines = (
        "(?:.*\n)*" if line == "...\n" else ".*".join(re.escape(part) for part in line.split("..."))
        for line in _steady(step.command, step.shown).splitlines(keepends=True)
    )
    return re.fullmatch("".join(lines), _steady(step.command, output)) is not None


def _steady(command: str, text: str) -> str:
    for pattern, name in _VARIABLE:
        text = pattern.sub(name, text)
    return _NUMBER.sub("(pid)", text) if ".pid" in command else text


class Shell:
    """One bash, as the reader of a document has one for all of it."""

    def __init__(self, cwd: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> None:
        """`replaced`: what is said and shown in documents, and what it is here."""
        self._replaced = replaced
        self._output = ""
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=cwd,
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell that was started with it ignored, as in the background of a script, could not be interrupted.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - there are no threads
        )
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._in, self._out = self._bash.stdin, self._bash.stdout

    def close(self) -> None:
        """Ends the shell and what runs in its foreground."""
        self._signal_foreground(signal.SIGKILL)
        self._bash.kill()
        self._bash.wait()
        self._in.close()
        self._out.close()

    def follow(self, step: Step) -> None:
        """Does what a reader does; AssertionError where it does not go as the document says."""
        step = Step(self._here(step.command), None if step.shown is None else self._here(step.shown), step.interrupted)
        if not step.interrupted and _LOOK.match(step.command):
            status, output = until(lambda: self._run(step), lambda seen: shows(step, seen[1]))
        else:
            status, output = self._run(step)
        assert shows(step, output), f"$ {step.command}\nshows\n{output}and not\n{step.shown}"
        if not step.interrupted:
            complains = _COMPLAINT.search(step.shown or "") is not None
            assert complains == (status != 0), f"$ {step.command}\nends with {status} and shows\n{output}"

    def _here(self, text: str) -> str:
        for said, here in self._replaced.items():
            text = text.replace(said, here)
        return text

    def _run(self, step: Step) -> tuple[int, str]:
        # The shell reads its commands from its stdin, and no command shall read those.
        script = f"{{ {step.command}\n}} </dev/null\nprintf '\\n%s %d\\n' '{_DONE}' $?\n"
        self._in.write(os.fsencode(script))
        self._in.flush()
        self._output = ""
        end = re.compile(rf"\n{_DONE} (\d+)\n\Z")
        deadline = time.monotonic() + PATIENCE
        pressed = False
        while (ended := end.search(self._output)) is None:
            assert time.monotonic() < deadline, f"$ {step.command}\nhangs after\n{self._output}"
            self._read()
            if step.interrupted and not pressed and shows(step, self._output):
                self._signal_foreground(signal.SIGINT)
                pressed = True
        return int(ended[1]), self._output[: ended.start()]

    def _read(self) -> None:
        if select.select([self._out], [], [], 0.1)[0]:
            said = os.read(self._out.fileno(), _CHUNK)
            assert said, f"the shell ended after\n{self._output}"
            self._output += said.decode()

    def _signal_foreground(self, number: int) -> None:
        for process in psutil.Process(self._bash.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
