"""The grammar of `ctl`: what each line says, and which word an error names."""

import errno
import json
import os
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.control import (
    MAX_DURATION,
    MAX_LIMIT,
    MAX_LINE,
    MIN_LIMIT,
    RESERVED_NAMES,
    USAGE,
    Clean,
    Command,
    Cont,
    Eof,
    Kill,
    Remove,
    Restart,
    Spawn,
    SpawnOptions,
    Stop,
    Winsize,
    parse_line,
    validate_name,
)
from jobfs.errors import BadCommand, LineTooLong
from jobfs.text import printable

BLANKS = st.text(" \t", min_size=1, max_size=3)
# What a word can hold: any bytes but NUL and the newline that ends the line.
WORDS = st.binary(max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"").replace(b"\n", b"")))


def read(line: str, job: str | None = None) -> Command | None:
    """Parse a line that is given as text."""
    return parse_line(os.fsencode(line), job=job)


def options(line: str) -> SpawnOptions:
    """Give the options of a spawn."""
    command = read(line)
    assert isinstance(command, Spawn)
    return command.options


def refusal(line: str | bytes, job: str | None = None) -> str:
    """Give the sentence that a line is refused with."""
    with pytest.raises(BadCommand) as caught:
        parse_line(line if isinstance(line, bytes) else os.fsencode(line), job=job)
    assert errno.EINVAL == caught.value.errno
    return str(caught.value)


@pytest.mark.parametrize("line", ["", " ", "\t", "\r", "# spawn make", "#", "  # indented"])
def test_blank_lines_and_comments_say_nothing(line: str) -> None:
    """A blank line and a comment are no command."""
    assert read(line) is None


@pytest.mark.parametrize(
    ("line", "cmd"),
    [
        ("spawn make", "make"),
        ("\tspawn \t make -j4  ", "make -j4  "),
        ("spawn make\r", "make"),
        ("spawn make\r\r", "make\r"),
        ("spawn echo 'not closed", "echo 'not closed"),
        ("spawn 'a b' \"c\\", "'a b' \"c\\"),
        ("spawn -- --name x", "--name x"),
        ("spawn --   -x", "-x"),
        ("spawn -", "-"),
        ("spawn - x", "- x"),
        ("spawn '--lease' x", "'--lease' x"),
        ("spawn =x", "=x"),
        ("spawn make # all", "make # all"),
        ("spawn {a}", "{a}"),
        ("spawn x --name y", "x --name y"),
    ],
)
def test_a_command_line_is_verbatim_to_the_end_of_the_line(line: str, cmd: str) -> None:
    """Everything from the first word that is no option is the command line, quotes, blanks and all."""
    assert Spawn(cmd, None) == read(line)


@given(raw=st.binary(min_size=1).filter(lambda raw: b"\0" not in raw and raw.strip(b" \t\r\n")))
def test_any_bytes_but_nul_survive_in_a_command_line(raw: bytes) -> None:
    """The bytes of a command line come back from the text it is held as."""
    command = parse_line(b"spawn -- " + raw + b"\r")
    assert isinstance(command, Spawn)
    assert command.cmd is not None
    assert raw.lstrip(b" \t") == os.fsencode(command.cmd)


def test_each_option_has_its_field() -> None:
    """Each option of spawn is read into the field of its name."""
    line = (
        "spawn --name build --cwd=/src --env A=1 --env=B='x y' --env-file e --stdin in.txt --limit 64K "
        "--timeout 5m --grace=0.5 --nice -5 --lease --pty make all"
    )
    expected = SpawnOptions(
        name="build",
        cwd="/src",
        env=(("A", "1"), ("B", "x y")),
        env_file="e",
        stdin="in.txt",
        limit=65536,
        timeout=300.0,
        grace=0.5,
        nice=-5,
        lease=True,
        pty=True,
    )
    assert Spawn("make all", None, expected) == read(line)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("'a b'", "a b"),
        ('"a b"', "a b"),
        ("a\\ b", "a b"),
        ("a'b'\"c\"d", "abcd"),
        ("'a\\b'", "a\\b"),
        ('"a\\b\\"\\\\\\$\\`"', 'a\\b"\\$`'),
        ("~/x", "~/x"),
        ("$HOME", "$HOME"),
        ("a#b", "a#b"),
        ("a=b", "a=b"),
        ("'\"'", '"'),
        ("--", "--"),
    ],
)
def test_an_option_value_is_quoted_as_in_sh(word: str, value: str) -> None:
    """Quotes and backslashes in a value mean what they mean in sh, and nothing is expanded."""
    assert value == options(f"spawn --cwd {word} x").cwd
    assert value == options(f"spawn --cwd={word} x").cwd


@given(value=WORDS.filter(bool), cmd=WORDS.map("x".__add__), blanks=BLANKS)
def test_what_shlex_quotes_comes_back(value: str, cmd: str, blanks: str) -> None:
    """A value that shlex.quote quoted is read back, and the command line after it is untouched."""
    command = read(f"spawn{blanks}--cwd{blanks}{shlex.quote(value)}{blanks}{cmd}.")
    assert Spawn(f"{cmd}.", None, SpawnOptions(cwd=value)) == command


@given(words=st.text(alphabet="ab'\"\\ \t", max_size=16))
def test_words_split_where_shlex_splits_them(words: str) -> None:
    """For quotes, backslashes and blanks our scanner agrees with shlex."""
    try:
        expected = tuple(shlex.split(words))
    except ValueError:
        assert "has a" in refusal(f"rm {words}")
        return
    if expected and all(word.isalpha() for word in expected):
        assert Remove(expected) == read(f"rm {words}")
    else:
        refusal(f"rm {words}")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("spawn", "empty"),
        ("spawn  \t", "empty"),
        ("spawn --", "empty"),
        ("spawn --name x", "empty"),
        ("spawn --nosuch x", "--nosuch"),
        ("spawn -n x", "-n"),
        ("spawn --=x y", "--"),
        ("spawn --name", "--name"),
        ("spawn --name ", "--name"),
        ("spawn --name= x", "name"),
        ("spawn --cwd= x", "cwd"),
        ("spawn --cwd '' x", "cwd"),
        ("spawn --name a --name b x", "--name"),
        ("spawn --lease --lease x", "--lease"),
        ("spawn --pty=yes x", "--pty"),
        ("spawn --name 'a x", "'a x"),
        ('spawn --cwd="a x', '"a x'),
        ("spawn --cwd a\\", "a\\"),
        ("spawn --env A x", "'A'"),
        ("spawn --env =1 x", "env"),
        ("spawn --nice 20 x", "20"),
        ("spawn --nice -21 x", "-21"),
        ("spawn --nice 1.5 x", "1.5"),
        ("spawn --nice ٣ x", "٣"),
        ("kill", "no job"),
        ("kill -9", "no job"),
        ("kill -s", "-s"),
        ("kill -0 1", "'0'"),
        ("kill -99 1", "'99'"),
        ("kill -NOSUCH 1", "NOSUCH"),
        ("kill 1 -9", "-9"),
        ("kill -9 -15 1", "-15"),
        ("kill 1 2;", "2;"),
        ("stop 'a", "'a"),
        ("stop -9 1", "-9"),
        ("clean 3", "'3'"),
        ("Spawn x", "'Spawn'"),
        ("'spawn' x", "spawn"),
        ("5", "'5'"),
        ("kill \x1b[31m", "\\x1b"),
    ],
)
def test_an_error_names_the_word_at_fault(line: str, word: str) -> None:
    """What does not parse is refused with a printable sentence that has the word in it."""
    sentence = refusal(line)
    assert word in sentence
    assert printable(sentence) == sentence


@pytest.mark.parametrize("line", [b"spawn a\0b", b"# \0", b"\0", b'{"op":\0}'])
def test_nul_is_refused_anywhere(line: bytes) -> None:
    """A line with a NUL byte is no command, not even as a comment."""
    assert "NUL" in refusal(line)


def test_a_line_of_the_longest_length_is_read_and_no_longer_one() -> None:
    """The bound on a line is 1 MiB, and the errno beyond it E2BIG."""
    assert Spawn("x" * (MAX_LINE - 6), None) == parse_line(b"spawn " + b"x" * (MAX_LINE - 6))
    with pytest.raises(LineTooLong) as caught:
        parse_line(b"#" * (MAX_LINE + 1))
    assert errno.E2BIG == caught.value.errno


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("kill 1", Kill(("1",))),
        ("kill 1 %2 name last", Kill(("1", "2", "name", "last"))),
        ("kill -- 1", Kill(("1",))),
        ("kill -9 -- 1", Kill(("1",), 9)),
        ("kill '1' \"a\"b", Kill(("1", "ab"))),
        ("stop 1", Stop(("1",))),
        ("cont 1 2", Cont(("1", "2"))),
        ("eof x.y-z_", Eof(("x.y-z_",))),
        ("winsize 24 80 1 %2", Winsize(24, 80, ("1", "2"))),
        ("winsize 1 65535 -- web", Winsize(1, 65535, ("web",))),
        ("winsize '007' 080 last", Winsize(7, 80, ("last",))),
        ("rm %3 ", Remove(("3",))),
        ("restart 1\r", Restart(("1",))),
        ("clean", Clean()),
        (" clean ", Clean()),
    ],
)
def test_each_verb_is_a_command(line: str, command: Command) -> None:
    """Each verb gives its command, with the jobs in order."""
    assert command == read(line)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("-9", 9),
        ("-64", 64),
        ("-KILL", 9),
        ("-SIGKILL", 9),
        ("-sigkill", 9),
        ("-s SIGUSR1", 10),
        ("-s usr1", 10),
        ("-s 10", 10),
        ("-sUSR1", 10),
        ("-s15", 15),
        ("-stop", 19),
        ("-sTOP", 19),
        ("-segv", 11),
        ("-sys", 31),
        ("-ssys", 31),
        ("-CLD", 17),
        ("-RTMIN", 34),
        ("-SIGRTMIN+3", 37),
        ("-rtmax-1", 63),
        ("-RTMAX-30", 34),
        ("'-KILL'", 9),
    ],
)
def test_a_signal_is_a_number_or_a_name(words: str, number: int) -> None:
    """A signal is given as for kill(1): a number, a name with or without SIG, in any case."""
    assert Kill(("1",), number) == read(f"kill {words} 1")


@pytest.mark.parametrize(
    "word",
    ["0", "65", "09", "-1", "", "SIG", "SIG9", "RTMIN-1", "RTMAX+1", "RTMIN+31", "RTMAX-31", "KILL+1", "\u017fEGV"],
)
def test_other_signals_are_refused(word: str) -> None:
    """Signal 0, numbers out of range, and names that are none do not parse."""
    refusal(f"kill -s '{word}' 1")
    refusal(json.dumps({"op": "kill", "job": 1, "signal": word}))


@pytest.mark.parametrize(
    "word", ["0", "007", "%0", "%", "%x", "%last", "1.5", "+1", "-1", "a/b", ".", "..", "a b", "é"]
)
def test_a_word_that_the_tree_could_not_hold_is_no_job(word: str) -> None:
    """Only canonical digits are an id, as in /proc, and only what can be a name is one."""
    assert word in refusal(f"rm '{word}'")


def test_an_id_always_fits_in_63_bits() -> None:
    """An id is never longer than what the table can hold."""
    assert Remove(("9" * 18,)) == read("rm " + "9" * 18)
    refusal("rm " + "9" * 19)


@pytest.mark.parametrize(
    ("word", "size"), [("4096", MIN_LIMIT), ("4K", MIN_LIMIT), ("10M", 10 << 20), ("1G", 1 << 30), ("1024G", MAX_LIMIT)]
)
def test_a_size_counts_bytes_in_powers_of_1024(word: str, size: int) -> None:
    """A SIZE is plain bytes or K, M, G of them."""
    assert size == options(f"spawn --limit {word} x").limit


@pytest.mark.parametrize("word", ["0", "4095", "1025G", "10m", "1.5M", "-1", "1T", "M", "", "٤٠٩٦", "9" * 5000])
def test_other_sizes_are_refused(word: str) -> None:
    """What is no SIZE, or outside 4 KiB to 1 TiB, does not parse."""
    assert "limit" in refusal(f"spawn --limit '{word}' x")


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("2h", 7200.0), ("1.5m", 90.0), (".5", 0.5), ("3650.0", 3650.0)],
)
def test_a_duration_is_seconds_unless_it_says_otherwise(word: str, seconds: float) -> None:
    """A DURATION is in seconds, minutes or hours, decimals allowed."""
    assert (seconds, seconds) == (
        options(f"spawn --timeout {word} x").timeout,
        options(f"spawn --grace {word} x").grace,
    )


@pytest.mark.parametrize("word", ["-1", "inf", "nan", "1e3", "1d", "5 m", "1.", ".", "", "87601h", "9" * 5000])
def test_other_durations_are_refused(word: str) -> None:
    """What is no DURATION, not finite, or longer than ten years does not parse."""
    assert "timeout" in refusal(f"spawn --timeout '{word}' x")
    assert "grace" in refusal(f"spawn --grace '{word}' x")


def test_a_timeout_is_some_time_and_a_grace_may_be_none() -> None:
    """A timeout of zero is refused; a grace period of zero means SIGKILL at once."""
    assert "timeout" in refusal("spawn --timeout 0.0 x")
    assert "timeout" in refusal('{"op": "spawn", "cmd": "x", "timeout": -0.0}')
    assert options("spawn --grace 0 x").grace == 0.0
    assert options(f"spawn --timeout {MAX_DURATION:.0f} x").timeout == MAX_DURATION


@pytest.mark.parametrize("name", ["a", "_", "A.b-c_9", "x" * 255, "by", "byte", "lasting"])
def test_a_name_is_ascii_letters_digits_and_three_signs(name: str) -> None:
    """What matches the rule is a name."""
    assert name == validate_name(name)


@pytest.mark.parametrize("name", [*sorted(RESERVED_NAMES), "by-", "by-name", "", "1", "-a", ".a", "a/b", "é", "a\n"])
def test_reserved_and_odd_names_are_refused(name: str) -> None:
    """The tree's own names, later ones, and what could not stand in a path or be taken for an id are no names."""
    with pytest.raises(BadCommand):
        validate_name(name)


def test_a_name_fits_in_a_directory_entry() -> None:
    """A name has at most 255 bytes, in `--name` and as a JOB word."""
    assert "name" in refusal(f"spawn --name {'x' * 256} y")
    refusal(f"kill {'x' * 256}")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("kill", Kill(("7",))),
        ("kill -KILL", Kill(("7",), 9)),
        ("kill -s 9", Kill(("7",), 9)),
        ("stop", Stop(("7",))),
        ("cont ", Cont(("7",))),
        ("eof", Eof(("7",))),
        ("winsize 24 80", Winsize(24, 80, ("7",))),
        ("restart", Restart(("7",))),
        ("rm\r", Remove(("7",))),
        ("# note", None),
    ],
)
def test_a_jobs_own_ctl_takes_the_verbs_without_the_job(line: str, command: Command | None) -> None:
    """In a job's own ctl the job is that one."""
    assert command == read(line, job="7")


@pytest.mark.parametrize("line", ["kill 7", "kill -9 7", "stop x", "spawn x", "clean", '{"op": "kill"}', "{"])
def test_a_jobs_own_ctl_takes_nothing_else(line: str) -> None:
    """More words, the verbs of the root and JSON are refused in a job's own ctl."""
    refusal(line, job="7")


def test_json_spawns_with_every_option() -> None:
    """The keys of the JSON form are the options' names, their values typed."""
    line = json.dumps(
        {
            "op": "spawn",
            "argv": ["printf", "%s\n", ""],
            "name": "n",
            "cwd": "/c",
            "env": {"A": "1", "B": "x=y"},
            "env-file": "f",
            "stdin": "pipe",
            "limit": 4096,
            "timeout": 1.5,
            "grace": "2m",
            "nice": 3,
            "lease": True,
            "pty": False,
        }
    )
    expected = SpawnOptions(
        name="n",
        cwd="/c",
        env=(("A", "1"), ("B", "x=y")),
        env_file="f",
        stdin="pipe",
        limit=4096,
        timeout=1.5,
        grace=120.0,
        nice=3,
        lease=True,
    )
    assert Spawn(None, ("printf", "%s\n", ""), expected) == read(line)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ('{"op": "spawn", "cmd": "a\\nb"}', Spawn("a\nb", None)),
        ('  {"op": "spawn", "cmd": "a"} \r', Spawn("a", None)),
        ('{"op":"spawn","cmd":"a","env":["A=b=c"]}', Spawn("a", None, SpawnOptions(env=(("A", "b=c"),)))),
        ('{"op":"spawn","cmd":"a","env_file":"f"}', Spawn("a", None, SpawnOptions(env_file="f"))),
        ('{"op":"spawn","cmd":"a","limit":"64K"}', Spawn("a", None, SpawnOptions(limit=65536))),
        ('{"op":"spawn","cmd":"é😀"}', Spawn("é😀", None)),
        ('{"op":"spawn","cmd":"\\ud83d\\ude00"}', Spawn("😀", None)),
        ('{"op":"kill","jobs":[1,"%2","x"]}', Kill(("1", "2", "x"))),
        ('{"op":"kill","job":1,"signal":9}', Kill(("1",), 9)),
        ('{"op":"kill","job":"last","signal":"SIGKILL"}', Kill(("last",), 9)),
        ('{"op":"stop","job":1}', Stop(("1",))),
        ('{"op":"cont","job":1}', Cont(("1",))),
        ('{"op":"eof","job":1}', Eof(("1",))),
        ('{"op":"winsize","rows":24,"cols":80,"jobs":[1,"x"]}', Winsize(24, 80, ("1", "x"))),
        ('{"cols":80,"job":"%3","rows":24,"op":"winsize"}', Winsize(24, 80, ("3",))),
        ('{"op":"rm","jobs":[1]}', Remove(("1",))),
        ('{"op":"restart","jobs":["x"]}', Restart(("x",))),
        ('{"op":"clean"}', Clean()),
    ],
)
def test_json_says_what_the_words_say(line: str, command: Command) -> None:
    """Each verb has a JSON form."""
    assert command == read(line)


@given(raw=st.binary(min_size=1).filter(lambda raw: b"\0" not in raw and raw.strip()))
def test_json_can_carry_any_bytes(raw: bytes) -> None:
    """Python's JSON of a path or command that is not UTF-8 gives the same bytes, and the form that the words have."""
    text = os.fsdecode(raw)
    assert Spawn(text, None) == read(json.dumps({"op": "spawn", "cmd": text}))


def test_surrogate_escapes_of_valid_utf8_become_that_text() -> None:
    """Two spellings of the same bytes are the same command."""
    assert Spawn("é", None) == read('{"op": "spawn", "cmd": "\\udcc3\\udca9"}')


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "JSON"),
        ("{}", "op"),
        ("{} {}", "JSON"),
        ('{"op": "dance"}', "op"),
        ('{"op": ["spawn"]}', "op"),
        ('{"op":"spawn"}', "cmd"),
        ('{"op":"spawn","cmd":"a","argv":["a"]}', "cmd"),
        ('{"op":"spawn","cmd":" \\n"}', "empty"),
        ('{"op":"spawn","cmd":["a"]}', "cmd"),
        ('{"op":"spawn","cmd":null}', "cmd"),
        ('{"op":"spawn","argv":[]}', "argv"),
        ('{"op":"spawn","argv":"a"}', "argv"),
        ('{"op":"spawn","argv":["a",1]}', "argv"),
        ('{"op":"spawn","cmd":"a","nosuch":1}', "nosuch"),
        ('{"op":"spawn","cmd":"a","jobs":[1]}', "jobs"),
        ('{"op":"spawn","cmd":"a","name":null}', "name"),
        ('{"op":"spawn","cmd":"a","name":1}', "name"),
        ('{"op":"spawn","cmd":"a","env":"A=1"}', "env"),
        ('{"op":"spawn","cmd":"a","env":{"A":1}}', "env"),
        ('{"op":"spawn","cmd":"a","env":{"A=B":"1"}}', "A=B"),
        ('{"op":"spawn","cmd":"a","env":{"A":"1","A":"2"}}', "'A'"),
        ('{"op":"spawn","cmd":"a","env-file":"x","env_file":"y"}', "env-file"),
        ('{"op":"spawn","cmd":"a","cmd":"b"}', "cmd"),
        ('{"op":"spawn","cmd":"a","limit":true}', "limit"),
        ('{"op":"spawn","cmd":"a","limit":4096.0}', "limit"),
        ('{"op":"spawn","cmd":"a","timeout":NaN}', "timeout"),
        ('{"op":"spawn","cmd":"a","timeout":Infinity}', "timeout"),
        ('{"op":"spawn","cmd":"a","timeout":1e999}', "timeout"),
        ('{"op":"spawn","cmd":"a","timeout":true}', "timeout"),
        ('{"op":"spawn","cmd":"a","grace":-1}', "grace"),
        ('{"op":"spawn","cmd":"a","nice":"5"}', "nice"),
        ('{"op":"spawn","cmd":"a","nice":1.0}', "nice"),
        ('{"op":"spawn","cmd":"a","lease":1}', "lease"),
        ('{"op":"spawn","cmd":"a\\u0000b"}', "NUL"),
        ('{"op":"spawn","cmd":"a\\ud800"}', "cmd"),
        ('{"op":"spawn","cmd":"a","cwd":"\\udc00"}', "cwd"),
        ('{"op":"kill"}', "no job"),
        ('{"op":"kill","jobs":[]}', "no job"),
        ('{"op":"kill","jobs":1}', "jobs"),
        ('{"op":"kill","jobs":[true]}', "true"),
        ('{"op":"kill","jobs":[-1]}', "-1"),
        ('{"op":"kill","jobs":[1.0]}', "1.0"),
        ('{"op":"kill","job":1,"jobs":[2]}', "jobs"),
        ('{"op":"kill","job":1,"signal":true}', "signal"),
        ('{"op":"stop","job":1,"signal":9}', "signal"),
        ('{"op":"clean","jobs":[1]}', "jobs"),
        ('{"op":"kill","job":' + "9" * 5000 + "}", "JSON"),
        ('{"op":"spawn","cmd":"\udcff"}', "UTF-8"),
    ],
)
def test_a_json_error_names_the_key_at_fault(line: str, word: str) -> None:
    """What is no JSON of a command is refused with a printable sentence that has the key in it."""
    sentence = refusal(line)
    assert word in sentence
    assert printable(sentence) == sentence


@pytest.mark.parametrize("bracket", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [10, 500, 100_000])
def test_deep_nesting_is_an_error_as_any_other(bracket: str, depth: int) -> None:
    """JSON nested to any depth, closed or not, is refused."""
    refusal('{"op":' + bracket * depth)
    closing = {"[": "]", '{"a":': "}"}[bracket]
    refusal('{"op":"kill","jobs":' + bracket * depth + "1" + closing * depth + "}")


@given(st.integers(), st.integers())
def test_a_size_is_two_numbers_that_a_terminal_can_have(rows: int, columns: int) -> None:
    """Rows and columns from 1 to 65535, the same in both spellings; all else is refused, and the key is named."""
    words = f"winsize {rows} {columns} 1"
    text = json.dumps({"op": "winsize", "rows": rows, "cols": columns, "jobs": [1]})
    wrong = [key for key, value in (("rows", rows), ("cols", columns)) if not 1 <= value <= 65535]
    if wrong:
        assert [wrong[0]] * 2 == [refusal(line).partition(":")[0] for line in (words, text)]
    else:
        assert [Winsize(rows, columns, ("1",))] * 2 == [read(words), read(text)]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("winsize", "rows"),
        ("winsize 24", "cols"),
        ("winsize 24 80", "no job"),
        ("winsize 24 80 --", "no job"),
        ("winsize 24 eighty 1", "'eighty'"),
        ("winsize +24 80 1", "'+24'"),
        ("winsize 24 123456 1", "'123456'"),
        ("winsize \u0662 80 1", "rows"),
        ('{"op":"winsize","jobs":[1]}', "rows"),
        ('{"op":"winsize","rows":"24","cols":80,"jobs":[1]}', "rows"),
        ('{"op":"winsize","rows":24,"cols":true,"jobs":[1]}', "cols"),
        ('{"op":"winsize","rows":24,"cols":80.0,"jobs":[1]}', "cols"),
        ('{"op":"winsize","rows":24,"cols":80,"size":1,"jobs":[1]}', "size"),
        ('{"op":"eof","rows":24,"jobs":[1]}', "rows"),
    ],
)
def test_a_size_that_is_none_is_named(line: str, word: str) -> None:
    """The message has the key or the word at fault."""
    assert word in refusal(line)


@given(
    raw=st.one_of(
        st.binary(),
        st.builds(
            b" ".join,
            st.lists(
                st.one_of(
                    st.sampled_from([b"spawn", b"kill", b"rm", b"clean", b"--name", b"--env=", b"--", b"-s", b"-9"]),
                    st.sampled_from([b"--nice", b"--limit=", b"'", b'"', b"\\", b"%1", b"last", b"5m", b"\r", b"\xff"]),
                    st.binary(max_size=4),
                )
            ),
        ),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
            lambda inner: st.one_of(
                st.lists(inner),
                st.dictionaries(
                    st.one_of(st.text(), st.sampled_from(["op", "cmd", "argv", "job", "jobs", "env", "limit", "nice"])),
                    st.one_of(inner, st.sampled_from(["spawn", "kill", "clean"])),
                ),
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    job=st.sampled_from([None, "1"]),
)
def test_no_bytes_raise_anything_else(raw: bytes, job: str | None) -> None:
    """Whatever the line, the answer is a command, nothing, or BadCommand with a sentence that a terminal can show."""
    try:
        parse_line(raw, job=job)
    except BadCommand as error:
        assert printable(str(error)) == str(error)  # noqa: PT017 - most lines drawn raise, and some do not


def test_the_usage_text_says_nothing_as_commands() -> None:
    """The usage text, written back into a ctl, is comments."""
    assert USAGE.endswith("\n")
    assert all(line.startswith("# ") for line in USAGE.splitlines())
    assert [None] * USAGE.count("\n") == [read(line) for line in USAGE.splitlines()]
