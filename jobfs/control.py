"""What a line of `ctl` says, as a frozen command: the grammar of the contract's `ctl` section.

Nothing is done here. A line has two spellings, words as in sh and JSON; the word form is read into the values that the
JSON form would have carried, so one set of rules checks both. Whatever bytes come in, only BadCommand and LineTooLong
are raised, in time linear in their number.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard, TypeVar

from jobfs.errors import BadCommand, LineTooLong
from jobfs.model import DEFAULT_GRACE
from jobfs.text import decode, encode, printable

MAX_LINE = 1 << 20
"""The longest line, in bytes without its newline."""

MAX_NAME = 255
"""The longest name of a job, in bytes: what one component of a path holds."""

MIN_LIMIT = 4096
MAX_LIMIT = 1 << 40
"""The smallest and largest capacity of a stream, in bytes."""

MAX_DURATION = 10 * 365 * 86400.0
"""The longest timeout or grace period, in seconds: ten years."""

RESERVED_NAMES = frozenset(
    "ctl events table table.jsonl last follow groups config help new all self".split()  # noqa: SIM905 - reads better
)
"""What no job can be named, besides anything that starts with `by-`: the root's own entries, and later ones."""

USAGE = """\
# One command a line; reading the same open file gives one line for each: the new id, ok, or an error.
# spawn [option ...] [--] COMMAND LINE    run it by /bin/sh -c, from there to the end of the line verbatim
#   --name NAME  --cwd DIR  --env K=V (repeatable)  --env-file FILE  --stdin none|pipe|FILE
#   --limit SIZE (64K, 10M, 1G)  --timeout DURATION (90, 90s, 5m, 2h)  --grace DURATION (5s)  --nice N
#   --pty (a terminal of its own)  --lease (it is ended when the open file that this is written to is closed)
# kill [-SIGNAL] JOB ...                  end it; with a signal, send just that one
# stop JOB ...    cont JOB ...            pause and go on
# eof JOB ...                             close the stdin of a job with --stdin pipe; type end of file with --pty
# winsize ROWS COLS JOB ...               set the size of a job's terminal
# rm JOB ...      clean                   forget what has ended: these, or all
# restart JOB ...                         spawn what has ended again, the same, under a new id
# {"op": "spawn", "argv": ["make", "-j4"], "name": "build"}
# JOB is an id, %id, a name, or last. A job's own ctl takes these but spawn and clean, without JOB.
"""
"""What reading a `ctl` gives that was opened and not written."""


@dataclass(frozen=True, slots=True)
class SpawnOptions:
    """How a job is to be run. None, where it stands, means that the option was not given.

    `stdin` is `none`, `pipe`, or the path of a file. `limit` is in bytes, `timeout` and `grace` in seconds.
    """

    name: str | None = None
    cwd: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    env_file: str | None = None
    stdin: str = "none"
    limit: int | None = None
    timeout: float | None = None
    grace: float = DEFAULT_GRACE
    nice: int | None = None
    lease: bool = False
    pty: bool = False


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a job: a shell script `cmd`, or a program and its arguments `argv`; exactly one of them is not None."""

    cmd: str | None
    argv: tuple[str, ...] | None
    options: SpawnOptions = SpawnOptions()


@dataclass(frozen=True, slots=True)
class Kill:
    """Send the signal of that number; None is to end the jobs: SIGTERM, and SIGKILL after the grace period."""

    jobs: tuple[str, ...]
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Send SIGSTOP."""

    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cont:
    """Send SIGCONT."""

    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Eof:
    """Close the jobs' stdin."""

    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Winsize:
    """Set the size of the jobs' terminals."""

    rows: int
    columns: int
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget jobs that have ended."""

    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restart:
    """Spawn jobs that have ended again, the same, each under a new id."""

    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Clean:
    """Forget all jobs that have ended."""


Command: TypeAlias = Spawn | Kill | Stop | Cont | Eof | Winsize | Remove | Restart | Clean

_T = TypeVar("_T")
_Values: TypeAlias = dict[str, object]

_JOB_VERBS: Mapping[str, Callable[[tuple[str, ...]], Command]] = {
    "kill": Kill,
    "stop": Stop,
    "cont": Cont,
    "eof": Eof,
    "rm": Remove,
    "restart": Restart,
}
_OWN_VERBS = (*_JOB_VERBS, "winsize")  # what a job's own ctl takes
_VERBS = ("spawn", *_OWN_VERBS, "clean")
_FLAGS = frozenset({"lease", "pty"})
_OPTIONS = frozenset({"name", "cwd", "env", "env-file", "stdin", "limit", "timeout", "grace", "nice"}) | _FLAGS
_KEYS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_JOB_VERBS, frozenset({"jobs"})),
    "kill": frozenset({"jobs", "signal"}),
    "winsize": frozenset({"rows", "cols", "jobs"}),
    "spawn": _OPTIONS | {"cmd", "argv"},
    "clean": frozenset(),
}
_QUOTED = 60  # characters of a word at fault that a message repeats

_BLANKS = " \t"
_SKIP_BLANKS = re.compile(r"[ \t]*")
_VERB = re.compile(r"[^ \t]+")
_OPTION = re.compile(r"[^ \t=]+")
# One piece of a word as sh quotes it. In double quotes a backslash is special before these four only.
_PIECE = re.compile(
    r"""(?P<plain>[^ \t'"\\]+) | '(?P<single>[^']*)' | "(?P<double>[^"\\]*(?:\\.[^"\\]*)*)" | \\(?P<escaped>.)""",
    re.DOTALL | re.VERBOSE,
)
_DOUBLE_ESCAPE = re.compile(r'\\([$`"\\])')

# An id is what the tree would call it, as in /proc: no sign and no leading zero, so 0 and 007 are none.
# 18 digits fit in 63 bits.
_ID = re.compile(r"%?([1-9][0-9]{0,17})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*")
_SIZE = re.compile(r"([0-9]{1,18})([KMG]?)")
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?|\.[0-9]{1,18})([smh]?)")
_DURATION_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_MAX_CELLS = (1 << 16) - 1  # rows or columns: what struct winsize holds (tty_ioctl(4))
_CELLS = re.compile(r"[0-9]{1,5}")
_SMALL_NUMBER = re.compile(r"[+-]?[0-9]{1,3}")
_SIGNAL_NUMBER = re.compile(r"[1-9][0-9]?")
_SIGNAL_NAME = re.compile(r"(?:SIG)?(RTMIN|RTMAX|[A-Z0-9]+)(?:([+-])([0-9]{1,2}))?")
_SIGNALS = {name.removeprefix("SIG"): int(number) for name, number in signal.Signals.__members__.items()}
_MAX_SIGNAL = _SIGNALS["RTMAX"]


def parse_line(line: bytes, *, job: str | None = None) -> Command | None:
    """The command that `line` says; None for a blank line and for a comment.

    `line` comes without its newline; one CR at its end is dropped. With `job` it is a line of that job's own `ctl`:
    the verbs that take jobs, without naming one. Raises BadCommand, and LineTooLong beyond MAX_LINE bytes.
    """
    if len(line) > MAX_LINE:
        raise LineTooLong(f"a line of {len(line)} bytes is longer than {MAX_LINE}")
    if b"\0" in line:
        raise BadCommand("a line with a NUL byte is no command")
    text = decode(line.removesuffix(b"\r")).lstrip(_BLANKS)
    if not text or text.startswith("#"):
        return None
    if text.startswith("{"):
        if job is not None:
            raise BadCommand("a job's own ctl takes no JSON: write to the ctl of the root")
        return _command(*_read_json(text))
    return _command(*_read_words(text, job))


def spawn_of(values: Mapping[str, object]) -> Spawn:
    """The spawn that a JSON object of those keys and values asks for, without `op`; BadCommand where it is none."""
    command = _command("spawn", dict(values))
    assert isinstance(command, Spawn)
    return command


def validate_name(name: str) -> str:
    """`name`, if a job can have it; else BadCommand."""
    if len(name) > MAX_NAME or _NAME.fullmatch(name) is None:
        raise BadCommand(
            f"{_quote(name)} cannot be a name: "
            f"a letter or _ comes first, then letters, digits and . _ -, at most {MAX_NAME} in all"
        )
    if name in RESERVED_NAMES or name.startswith("by-"):
        raise BadCommand(f"{_quote(name)} is reserved and cannot be a job's name")
    return name


# The word form: text in, the values that JSON would have carried out.


def _read_words(text: str, job: str | None) -> tuple[str, _Values]:
    found = _VERB.match(text)
    verb = found.group() if found else ""
    if verb not in _VERBS:
        raise BadCommand(f"{_quote(verb)} is no command; there are: {' '.join(_VERBS)}")
    if job is not None and verb not in _OWN_VERBS:
        raise BadCommand(f"{_quote(verb)} is no command of a job's own ctl: write it to the ctl of the root")
    if verb == "spawn":
        return verb, _read_spawn(text, len(verb))
    values: _Values = {}
    words = _split(text, len(verb))
    if verb == "kill":
        words = _take_signal(words, values)
    elif verb == "winsize":
        words = _take_size(words, values)
    if words[:1] == ["--"]:
        del words[0]
    if job is None and verb != "clean":
        values["jobs"] = words
        return verb, values
    if words:
        raise BadCommand(f"{_quote(words[0])}: {verb} takes no job here")
    if job is not None:
        values["jobs"] = [job]
    return verb, values


def _read_spawn(text: str, at: int) -> _Values:
    """The options and command line that follow the verb, which ends at the index `at`."""
    values: _Values = {}
    env: list[object] = []
    while True:
        at = _skip_blanks(text, at)
        option = _OPTION.match(text, at)
        # As for getopt(3), a lone dash is an operand.
        if option is None or not text.startswith("-", at) or text[at : at + 2].strip(_BLANKS) == "-":
            break
        word, at = option.group(), option.end()
        if word == "--" and not text.startswith("=", at):
            at = _skip_blanks(text, at)
            break
        name = word.removeprefix("--")
        if name == word or name not in _OPTIONS:
            raise BadCommand(f"{_quote(word)} is no option of spawn")
        if name in values:
            raise BadCommand(f"{word} is given twice")
        value, at = _read_option(text, at, name)
        if name == "env":
            env.append(value)
        else:
            values[name] = value
    if env:
        values["env"] = env
    return values | {"cmd": text[at:]}


def _read_option(text: str, at: int, name: str) -> tuple[object, int]:
    """The value of the option whose name ends at `at`, as JSON would have it, and where it ends."""
    attached = text.startswith("=", at)
    if name in _FLAGS:
        if attached:
            raise BadCommand(f"--{name} takes no value")
        return True, at
    at = at + 1 if attached else _skip_blanks(text, at)
    if at == len(text) and not attached:
        raise BadCommand(f"--{name} lacks its value")
    word, at = _read_word(text, at)
    if name != "nice":
        return word, at
    if _SMALL_NUMBER.fullmatch(word) is None:
        raise BadCommand(f"--nice: {_quote(word)} is not a whole number from -20 to 19")
    return int(word), at


def _take_signal(words: list[str], values: _Values) -> list[str]:
    """Put a leading `-9`, `-KILL`, `-s KILL` or `-sKILL` into `values`, and give the words after it."""
    if not words or not words[0].startswith("-") or words[0] == "--":
        return words
    if words[0] == "-s":
        if len(words) == 1:
            raise BadCommand("-s lacks its signal")
        values["signal"] = words[1]
        return words[2:]
    # `-stop` is SIGSTOP, as -KILL is SIGKILL; `-sTERM` has no such reading, so its `s` is the option.
    name = words[0][1:]
    if _find_signal(name) is None and name.startswith("s"):
        name = name[1:]
    values["signal"] = name
    return words[1:]


def _take_size(words: list[str], values: _Values) -> list[str]:
    """Put the rows and columns into `values`, and give the words after them."""
    for key, word in zip(("rows", "cols"), words, strict=False):
        values[key] = int(word) if _CELLS.fullmatch(word) else word
    return words[2:]


def _split(text: str, at: int) -> list[str]:
    """The words from `at` on, their quotes removed as sh does."""
    words = []
    while (at := _skip_blanks(text, at)) < len(text):
        word, at = _read_word(text, at)
        words.append(word)
    return words


def _read_word(text: str, at: int) -> tuple[str, int]:
    """The word that starts at `at`, its quotes removed, and where it ends; shlex tells no position, hence our own."""
    pieces = []
    start = at
    while at < len(text) and text[at] not in _BLANKS:
        piece = _PIECE.match(text, at)
        if piece is None:
            fault = "a backslash with nothing after it" if text[at] == "\\" else "a quote that is not closed"
            raise BadCommand(f"{_quote(text[start:])} has {fault}")
        content = piece.group(piece.lastgroup or 0)
        pieces.append(_DOUBLE_ESCAPE.sub(r"\1", content) if piece.lastgroup == "double" else content)
        at = piece.end()
    return "".join(pieces), at


def _skip_blanks(text: str, at: int) -> int:
    found = _SKIP_BLANKS.match(text, at)
    return found.end() if found else at


# The JSON form.


def _read_json(text: str) -> tuple[str, _Values]:
    try:
        # Bytes that are not UTF-8 were decoded to lone surrogates, which a strict encoding refuses.
        text.encode()
        parsed: object = json.loads(text, object_pairs_hook=_object)
    except UnicodeEncodeError:
        raise BadCommand("JSON with a byte that is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadCommand(f"JSON that does not parse: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError):
        raise BadCommand("JSON with a number too long or nested too deep") from None
    if not isinstance(parsed, dict):
        raise BadCommand("JSON that is no object")
    values: _Values = {}
    for key, value in parsed.items():
        name = "env-file" if key == "env_file" else str(key)
        if name in values:
            raise BadCommand(f"{_quote(name)} is given twice")
        values[name] = value
    op = values.pop("op", None)
    if not isinstance(op, str) or op not in _VERBS:
        raise BadCommand(f"'op' is none of: {' '.join(_VERBS)}")
    if "job" in values:
        if "jobs" in values:
            raise BadCommand("'job' and 'jobs' are the same, and both are given")
        values["jobs"] = [values.pop("job")]
    return op, values


def _object(pairs: list[tuple[str, object]]) -> _Values:
    """A JSON object; of two equal keys Python would take the last and other readers the first."""
    found: _Values = {}
    for key, value in pairs:
        if key in found:
            raise BadCommand(f"the key {_quote(key)} is given twice")
        found[key] = value
    return found


# From values to commands. Each converter takes the key, for its message, and the value.


def _command(op: str, values: _Values) -> Command:
    for key in values:
        if key not in _KEYS[op]:
            raise BadCommand(f"{_quote(key)} is no key of {op}")
    if op == "spawn":
        return _spawn(values)
    if op == "clean":
        return Clean()
    if op == "winsize":
        return Winsize(*_size(values), _jobs(values))
    jobs = _jobs(values)
    if op == "kill":
        return Kill(jobs, _get(values, "signal", _signal, None))
    return _JOB_VERBS[op](jobs)


def _size(values: _Values) -> tuple[int, int]:
    for key in ("rows", "cols"):
        if key not in values:
            raise BadCommand(f"winsize lacks its {key}: it takes ROWS, COLS and jobs")
    return _cells("rows", values["rows"]), _cells("cols", values["cols"])


def _spawn(values: _Values) -> Spawn:
    if ("cmd" in values) == ("argv" in values):
        raise BadCommand("spawn takes one of 'cmd' and 'argv'")
    cmd = _get(values, "cmd", _text, None)
    if cmd is not None and not cmd.strip(" \t\n"):
        raise BadCommand("spawn: the command line is empty")
    return Spawn(cmd, _get(values, "argv", _argv, None), _spawn_options(values))


def _spawn_options(values: _Values) -> SpawnOptions:
    default = SpawnOptions()
    return SpawnOptions(
        name=_get(values, "name", _name, None),
        cwd=_get(values, "cwd", _path, None),
        env=_get(values, "env", _env, default.env),
        env_file=_get(values, "env-file", _path, None),
        stdin=_get(values, "stdin", _path, default.stdin),
        limit=_get(values, "limit", _limit, None),
        timeout=_get(values, "timeout", _timeout, None),
        grace=_get(values, "grace", _duration, default.grace),
        nice=_get(values, "nice", _nice, None),
        lease=_get(values, "lease", _boolean, default.lease),
        pty=_get(values, "pty", _boolean, default.pty),
    )


def _get(values: _Values, key: str, convert: Callable[[str, object], _T], default: _T) -> _T:
    return convert(key, values[key]) if key in values else default


def _text(key: str, value: object) -> str:
    """Any text that can be an argument of execve(2)."""
    if not isinstance(value, str):
        raise BadCommand(f"{key} takes text, not {_quote(value)}")
    if "\0" in value:
        raise BadCommand(f"{key} with a NUL in it: {_quote(value)}")
    try:
        # JSON can spell a byte sequence in more than one way; this leaves the way `decode` has.
        return decode(encode(value))
    except UnicodeEncodeError:
        raise BadCommand(f"{key} with a lone surrogate, which stands for no byte: {_quote(value)}") from None


def _path(key: str, value: object) -> str:
    path = _text(key, value)
    if not path:
        raise BadCommand(f"{key} is empty")
    return path


def _name(key: str, value: object) -> str:
    return validate_name(_text(key, value))


def _argv(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise BadCommand(f"{key} takes a list of one or more texts, not {_quote(value)}")
    return tuple(_text(key, word) for word in value)


def _env(key: str, value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, dict):
        pairs = [(_text(key, name), _text(key, content)) for name, content in value.items()]
    elif isinstance(value, list):
        pairs = [_assignment(key, word) for word in value]
    else:
        raise BadCommand(f"{key} takes an object of texts or a list of K=V, not {_quote(value)}")
    for name, _ in pairs:
        if not name or "=" in name:
            raise BadCommand(f"{key}: {_quote(name)} cannot be the name of a variable")
    return tuple(pairs)


def _assignment(key: str, value: object) -> tuple[str, str]:
    name, equals, content = _text(key, value).partition("=")
    if not equals:
        raise BadCommand(f"{key}: {_quote(value)} is not of the form K=V")
    return name, content


def _limit(key: str, value: object) -> int:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    size = int(found[1]) * _SIZE_UNITS[found[2]] if found else value
    if not _is_int(size) or not MIN_LIMIT <= size <= MAX_LIMIT:
        raise BadCommand(f"{key}: {_quote(value)} is not a SIZE such as 64K, 10M, 1G, from {MIN_LIMIT} to 1024G")
    return size


def _duration(key: str, value: object) -> float:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = float(found[1]) * _DURATION_UNITS[found[2]] if found else value
    # Before float(), which a long integer overflows. NaN is within no bounds.
    if not (_is_int(seconds) or isinstance(seconds, float)) or not 0 <= seconds <= MAX_DURATION:
        raise BadCommand(f"{key}: {_quote(value)} is not a DURATION such as 90, 90s, 5m, 2h, up to ten years")
    return abs(float(seconds))  # JSON has a -0.0


def _timeout(key: str, value: object) -> float:
    seconds = _duration(key, value)
    if not seconds:
        raise BadCommand(f"{key}: {_quote(value)} leaves the job no time")
    return seconds


def _nice(key: str, value: object) -> int:
    if not _is_int(value) or not -20 <= value <= 19:  # noqa: PLR2004 - setpriority(2)'s bounds
        raise BadCommand(f"{key}: {_quote(value)} is not a whole number from -20 to 19")
    return value


def _cells(key: str, value: object) -> int:
    if not _is_int(value) or not 1 <= value <= _MAX_CELLS:
        raise BadCommand(f"{key}: {_quote(value)} is not a whole number from 1 to {_MAX_CELLS}")
    return value


def _boolean(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadCommand(f"{key} takes true or false, not {_quote(value)}")
    return value


def _signal(key: str, value: object) -> int:
    number = _find_signal(str(value)) if _is_int(value) or isinstance(value, str) else None
    if number is None:
        # Signal 0 only asks whether a process is there. A status says that, and 0 is too near to "none named, end it".
        raise BadCommand(f"{key}: {_quote(value)} is neither a number from 1 to {_MAX_SIGNAL} nor a signal's name")
    return number


def _find_signal(word: str) -> int | None:
    """The number of a signal given as kill(1) takes it; None if there is none such."""
    if _SIGNAL_NUMBER.fullmatch(word):
        return int(word) if int(word) <= _MAX_SIGNAL else None
    found = _SIGNAL_NAME.fullmatch(word.upper()) if word.isascii() else None
    if found is None or found[1] not in _SIGNALS:
        return None
    number = _SIGNALS[found[1]]
    if found[2] is None:
        return number
    if found[1] + found[2] not in {"RTMIN+", "RTMAX-"}:
        return None
    number += int(found[2] + found[3])
    return number if _SIGNALS["RTMIN"] <= number <= _MAX_SIGNAL else None


def _jobs(values: _Values) -> tuple[str, ...]:
    jobs = values.get("jobs", [])
    if not isinstance(jobs, list):
        raise BadCommand(f"jobs takes a list, not {_quote(jobs)}")
    if not jobs:
        raise BadCommand("no job is named: an id, %id, a name, or last")
    return tuple(_job(word) for word in jobs)


def _job(value: object) -> str:
    word = str(value) if _is_int(value) else value
    if isinstance(word, str):
        found = _ID.fullmatch(word)
        if found:
            return found[1]
        if len(word) <= MAX_NAME and _NAME.fullmatch(word):
            return word
    raise BadCommand(f"{_quote(value)} cannot be a job: that is an id, %id, a name, or last")


def _is_int(value: object) -> TypeGuard[int]:
    """Whether it is a whole number; true and false are ints to Python only."""
    return isinstance(value, int) and not isinstance(value, bool)


def _quote(value: object) -> str:
    """A value for a message: short, and without what a terminal would obey."""
    if isinstance(value, list | dict):  # may be too deep to be written out
        return "a list" if isinstance(value, list) else "an object"
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return f"'{printable(text if len(text) <= _QUOTED else text[:_QUOTED] + '...')}'"
