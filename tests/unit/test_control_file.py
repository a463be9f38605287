"""What an open `ctl` file answers to writes, reads and closes, and what it never runs."""

import errno
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.control import USAGE, Clean, Command, Kill, Remove, Spawn, Stop
from jobfs.control_file import MAX_LINE, MAX_REPLIES, ControlFile, Step
from jobfs.errors import BadCommand, JobfsError, LineTooLong, NoSuchJob
from jobfs.text import printable

# Lines that are commands, lines that are none, and lines that say nothing.
GOOD = ["spawn make", "spawn echo kill 1", "kill 1", "kill -9 2 3", "stop %4", "clean", '{"op": "clean"}', "rm x\r"]
SILENT = ["", "# a note", "  "]
BAD = ["bogus", "kill", "kill -9", "spawn --name", "eof", "{", "spawn clean\0"]


class Face:
    """Stands for the mount: runs the steps of a ControlFile, and keeps the one file offset as the kernel does."""

    def __init__(self, run: Callable[[Command], str] = lambda _: "ok", max_line: int = MAX_LINE) -> None:
        self.file = ControlFile[str](max_line=max_line)
        self.run = run
        self.ran: list[Command] = []
        self.writers: list[str] = []
        self.offset = 0

    def write(self, data: bytes, writer: str = "writer") -> int:
        """Do what the system call does, to its error or the count of bytes taken."""
        batch = self.file.receive(self.offset, data, writer)
        for step in batch.steps:
            try:
                self._run(step)
            except JobfsError as error:
                taken = self.file.failed(step, error)
                break
        else:
            taken = self.file.commit(batch)
        self.offset += taken
        return taken

    def read(self, size: int = 4096) -> bytes:
        """Do what the system call does."""
        self._finish(self.file.finish)
        found = self.file.read(self.offset, size)
        self.offset += len(found)
        return found

    def close(self) -> None:
        """Do what the opener's system call does; raises what that fails with."""
        step = self.file.finish_on_close()
        if step is not None:
            self._run_last(step)

    def _finish(self, finish: Callable[[], Step[str] | None]) -> None:
        try:
            step = finish()
            if step is not None:
                self._run_last(step)
        except JobfsError:
            pass  # the reply says it

    def _run_last(self, step: Step[str]) -> None:
        try:
            self._run(step)
        except JobfsError as error:
            self.file.failed(step, error)

    def _run(self, step: Step[str]) -> None:
        self.file.succeeded(self.run(step.command))
        self.ran.append(step.command)
        self.writers.append(step.writer)


def failing(*commands: Command) -> Callable[[Command], str]:
    """Give a runner for which these commands fail, as for a job that is not there."""

    def run(command: Command) -> str:
        if command in commands:
            raise NoSuchJob("there is no job '99'")
        return "ok"

    return run


def numbering() -> Callable[[Command], str]:
    """Give a runner that answers 5, 6, 7 ..., as spawning does."""
    numbers = iter(range(5, 1 << 30))
    return lambda _: str(next(numbers))


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, cut at these places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def write_all(face: Face, data: bytes) -> None:
    """Write `data` as a careful program does, to its end or its first error."""
    while data:
        data = data[face.write(data) :]


def replies(face: Face) -> list[str]:
    """All replies there are."""
    return face.read(MAX_REPLIES).decode().splitlines()


# Lines and writes.


def test_a_write_runs_each_line_it_completes_in_order() -> None:
    """The commands of one write run one after another."""
    face = Face()
    data = b"spawn a\n# note\n\nkill 1\r\nstop 2\n"
    assert len(data) == face.write(data)
    assert [Spawn("a", None), Kill(("1",)), Stop(("2",))] == face.ran
    assert ["ok"] * 3 == replies(face)


def test_a_step_says_where_its_line_lies() -> None:
    """Offsets of a step are those of its line in the write's data, newline included."""
    file = ControlFile[None]()
    file.commit(file.receive(0, b"spawn", None))
    batch = file.receive(5, b" a\n#\nclean\nrest", None)
    assert [(0, 3), (5, 11)] == [(step.start, step.end) for step in batch.steps]


@given(
    lines=st.lists(st.sampled_from(GOOD + SILENT), max_size=8),
    cuts=st.lists(st.integers(0, 1000), max_size=12),
)
def test_commands_do_not_depend_on_how_they_are_split_over_writes(lines: list[str], cuts: list[int]) -> None:
    """The same bytes run the same commands, with the same replies, over any number of writes."""
    data = "".join(line + "\n" for line in lines).encode()
    whole, parts = Face(numbering()), Face(numbering())
    write_all(whole, data)
    for piece in split(data, cuts):
        assert len(piece) == parts.write(piece)
    assert whole.ran == parts.ran
    assert not parts.file.pending
    if data:
        assert replies(whole) == replies(parts)


def test_the_writer_of_the_newline_is_the_commands() -> None:
    """A command belongs to whoever completes it, and an unterminated one to the last writer."""
    face = Face()
    face.write(b"spawn a", "first")
    face.write(b"b", "second")
    face.write(b"\nspawn", "third")
    face.write(b" c", "fourth")
    face.read()
    assert ["third", "fourth"] == face.writers


def test_an_empty_write_changes_nothing() -> None:
    """A write of no bytes is taken, and the file still counts as unwritten."""
    face = Face()
    assert 0 == face.write(b"")
    assert USAGE.encode() == face.read()


def test_a_jobs_own_ctl_has_its_grammar() -> None:
    """With a job, a line is one of that job's ctl."""
    file = ControlFile[None](job="3")
    assert [Kill(("3",), 9)] == [step.command for step in file.receive(0, b"kill -9\n", None).steps]


# Unterminated lines.


def test_a_read_runs_the_unterminated_line() -> None:
    """Reading gives the reply of a command that has no newline yet."""
    face = Face(numbering())
    face.write(b"spawn a")
    waiting = face.file.pending
    assert (True, b"5\n", False) == (waiting, face.read(), face.file.pending)
    assert [Spawn("a", None)] == face.ran


def test_a_close_runs_the_unterminated_line() -> None:
    """The last line needs no newline where the file is closed."""
    face = Face()
    face.write(b"clean")
    face.close()
    assert [Clean()] == face.ran


@pytest.mark.parametrize("blocks", [1, 8, 16])
def test_a_line_that_looks_cut_short_is_dropped_on_close(blocks: int) -> None:
    """Where the last write filled whole blocks, the unterminated line is not run and close says why."""
    face = Face()
    face.write(b"spawn " + b"x" * (512 * blocks - 6))
    with pytest.raises(BadCommand, match="cut short"):
        face.close()
    assert [] == face.ran
    assert not face.file.pending


def test_a_line_of_whole_blocks_is_run_by_a_read() -> None:
    """A reader waits for the answer to what it wrote, so its line is whole."""
    face = Face()
    face.write(b"spawn " + b"x" * 506)
    assert b"ok\n" == face.read()


def test_only_the_last_writes_length_makes_a_line_look_cut_short() -> None:
    """A shorter write after a full block shows that the writer came to its end."""
    face = Face()
    face.write(b"spawn " + b"x" * 506)
    face.write(b"yz")
    face.close()
    assert [Spawn("x" * 506 + "yz", None)] == face.ran


def test_an_unterminated_line_that_fails_is_the_error_of_close() -> None:
    """A syntax error and a failing command are what close(2) gives."""
    face = Face()
    face.write(b"bogus")
    with pytest.raises(BadCommand, match="bogus"):
        face.close()
    face = Face(failing(Clean()))
    face.write(b"clean")
    with pytest.raises(NoSuchJob):
        face.close()


@pytest.mark.parametrize("text", [b"bogus", b"clean"])
def test_an_unterminated_line_that_fails_is_a_reply_to_its_reader(text: bytes) -> None:
    """A reader gets the error as its line."""
    face = Face(failing(Clean()))
    face.write(text)
    assert face.read().startswith(b"error: ")
    assert b"" == face.read()


def test_a_comment_or_nothing_is_finished_silently() -> None:
    """An unterminated comment is no command."""
    face = Face()
    face.write(b"# note")
    assert b"" == face.read()
    face.close()
    assert [] == face.ran


def test_the_beginning_of_a_line_in_flight_is_not_taken_by_a_read() -> None:
    """While a batch runs, the line that it completed is no longer unterminated."""
    file = ControlFile[None]()
    file.commit(file.receive(0, b"spawn a", None))
    batch = file.receive(7, b"b\nclean\n", None)
    assert file.finish() is None
    assert 8 == file.commit(batch)


def test_an_unterminated_line_may_fail_while_a_write_is_under_way() -> None:
    """The failure of a command that a read runs is no matter of the write that came meanwhile."""
    file = ControlFile[None]()
    file.commit(file.receive(0, b"stop 99", None))
    step = file.finish()
    assert step is not None
    batch = file.receive(7, b"clean\nkill 99\n", None)
    with pytest.raises(NoSuchJob):
        file.failed(step, NoSuchJob("there is no job '99'"))
    assert 6 == file.failed(batch.steps[1], NoSuchJob("there is no job '99'"))


# Syntax errors.


@pytest.mark.parametrize("bad", BAD)
def test_a_syntax_error_anywhere_runs_nothing(bad: str) -> None:
    """A write with a faulty line fails whole, with one reply, and leaves no rest behind."""
    face = Face()
    with pytest.raises(BadCommand):
        face.write(f"clean\n{bad}\nspawn x\nspawn y".encode())
    assert not face.file.pending
    assert [] == face.ran
    (reply,) = replies(face)
    assert reply.startswith("error: ")


def test_a_faulty_line_takes_its_earlier_bytes_with_it() -> None:
    """After an error the next line starts afresh."""
    face = Face()
    face.write(b"bog")
    with pytest.raises(BadCommand):
        face.write(b"us\n")
    face.write(b"clean\n")
    assert [Clean()] == face.ran


def test_the_end_of_a_faulty_line_is_not_a_command_however_often_it_comes() -> None:
    """Python's writer sends a failed write twice; its fragment gets the same error again, and one reply in all."""
    face = Face()
    face.write(b"kill 99; ")
    messages = set()
    for _ in range(3):
        with pytest.raises(BadCommand) as caught:
            face.write(b"clean\nspawn x\n")
        messages.add(str(caught.value))
    assert 1 == len(messages)
    assert [] == face.ran
    assert [f"error: {messages.pop()}"] == replies(face)


def test_the_end_of_a_good_line_is_no_command_either_when_a_later_one_is_faulty() -> None:
    """A fragment is refused whichever line of its write was at fault, also with more or other data after it."""
    face = Face()
    face.write(b"spawn make ")
    for data in (b"clean\nbogus\n", b"clean\n", b"clean\nspawn x\n"):
        with pytest.raises(BadCommand, match="bogus"):
            face.write(data)
    assert [] == face.ran


def test_the_end_of_a_comment_is_no_command() -> None:
    """A fragment is one also where its line said nothing, and the write failed when it was run."""
    face = Face(failing(Kill(("99",))))
    face.write(b"# to ")
    for _ in range(2):
        with pytest.raises(NoSuchJob):
            face.write(b"clean\nkill 99\n")
    assert [] == face.ran


def test_a_corrected_write_is_run_at_the_same_offset() -> None:
    """A write that was refused for a later line, and began no earlier, may come again with that line put right."""
    face = Face()
    with pytest.raises(BadCommand):
        face.write(b"clean\nbogus\n")
    face.write(b"clean\nspawn x\n")
    assert [Clean(), Spawn("x", None)] == face.ran


def test_a_refused_fragment_is_known_by_its_offset_until_another_write_is_taken() -> None:
    """The same bytes elsewhere are a command, and at the same offset too once something else was taken there."""
    face = Face()
    face.write(b"x")
    for _ in range(2):
        with pytest.raises(BadCommand):
            face.write(b"clean\n")
    face.read()
    face.write(b"clean\n")
    file = ControlFile[None]()
    file.commit(file.receive(0, b"x", None))
    with pytest.raises(BadCommand):
        file.receive(0, b"clean\n", None)
    file.commit(file.receive(0, b"#\n", None))
    assert [Clean()] == face.ran == [step.command for step in file.receive(0, b"clean\n", None).steps]


def test_a_resent_faulty_write_has_one_reply() -> None:
    """C libraries send a failed buffer again for each byte that follows; its reply is queued once."""
    face = Face()
    for end in range(20):
        with pytest.raises(BadCommand):
            face.write(b"bogus\n" + b"x" * end)
    assert 1 == len(replies(face))


def test_the_same_mistake_after_its_reply_was_read_has_a_reply_again() -> None:
    """A program that writes and reads at one offset gets a line for each of its commands."""
    face = Face()
    for _ in range(2):
        for _ in range(3):
            with pytest.raises(BadCommand):
                face.file.receive(0, b"bogus\n", "writer")
        assert 1 == face.file.read(0, 1000).count(b"error: ")


# Commands that fail.


def test_the_first_commands_error_is_the_writes() -> None:
    """Where the first command fails, the write does, and what comes after is not run."""
    face = Face(failing(Kill(("99",))))
    with pytest.raises(NoSuchJob) as caught:
        face.write(b"# note\nkill 99\nclean\n")
    assert errno.ENOENT == caught.value.errno
    assert [] == face.ran
    assert ["error: there is no job '99'"] == replies(face)


def test_a_later_commands_error_is_a_short_write_and_the_retrys() -> None:
    """Most shells retry the rest: it gets the error, no command is run twice, and there is one reply."""
    face = Face(failing(Kill(("99",))))
    assert 8 == face.write(b"spawn a\nkill 99\nclean\n")
    with pytest.raises(NoSuchJob):
        face.write(b"kill 99\nclean\n")
    assert [Spawn("a", None)] == face.ran
    assert ["ok", "error: there is no job '99'"] == replies(face)


def test_comments_before_a_failing_line_count_as_written() -> None:
    """A short write ends where the failing line begins."""
    face = Face(failing(Kill(("99",))))
    assert len(b"clean\n\n# note\n") == face.write(b"clean\n\n# note\nkill 99\n")
    with pytest.raises(NoSuchJob):
        face.write(b"kill 99\n")


def test_a_retry_gets_the_error_once_and_is_then_run() -> None:
    """Who still tries after the error wants the command run: the job may be there now."""
    face = Face(failing(Kill(("99",))))
    face.write(b"clean\nkill 99\n")
    with pytest.raises(NoSuchJob):
        face.write(b"kill 99\n")
    face.run = failing()
    face.write(b"kill 99\n")
    assert [Clean(), Kill(("99",))] == face.ran


def test_a_write_that_is_no_retry_is_treated_as_any() -> None:
    """Not every shell retries; what one writes instead is a command of its own, and the error is forgotten."""
    face = Face(failing(Kill(("99",))))
    face.write(b"clean\nkill 99\n")
    face.write(b"spawn b\n")
    face.run = failing()
    face.write(b"kill 99\n")
    assert [Clean(), Spawn("b", None), Kill(("99",))] == face.ran


def test_a_failed_first_command_may_be_tried_again() -> None:
    """A shell loop that repeats a command until it works has it run each time."""
    face = Face(failing(Clean()))
    with pytest.raises(NoSuchJob):
        face.write(b"clean\n")
    face.run = failing()
    face.write(b"clean\n")
    assert [Clean()] == face.ran


def test_a_failed_first_command_that_is_sent_again_has_one_reply() -> None:
    """ksh93 and Python's writer send what failed once more by themselves: the reply is the last try's."""
    face = Face(failing(Kill(("99",))))
    face.write(b"clean\n")
    for _ in range(2):
        with pytest.raises(NoSuchJob):
            face.write(b"# note\nkill 99\n")
    assert ["ok", "error: there is no job '99'"] == replies(face)
    with pytest.raises(NoSuchJob):
        face.write(b"kill 99\n")
    face.run = failing()
    face.write(b"kill 99\nclean\n")
    assert ["ok", "ok"] == replies(face)


def test_a_failed_first_command_has_a_reply_for_each_time_it_was_read() -> None:
    """Who has read the reply and writes the same again waits for another one."""
    face = Face(failing(Kill(("99",))))
    for _ in range(2):
        with pytest.raises(NoSuchJob):
            face.write(b"kill 99\n")
        found = face.read()
        face.offset = 0
        assert b"error: there is no job '99'\n" == found


def test_another_command_between_two_that_fail_leaves_both_replies() -> None:
    """What comes in between shows that the second is no retry."""
    face = Face(failing(Kill(("99",)), Clean()))
    for line in (b"kill 99\n", b"clean\n", b"kill 99\n"):
        with pytest.raises(NoSuchJob):
            face.write(line)
    assert 3 == len(replies(face))


def test_the_end_of_a_line_that_failed_is_not_a_command() -> None:
    """A line begun by an earlier write is dropped when it fails, and its end gets the error again."""
    face = Face(failing(Spawn("no clean", None)))
    face.write(b"spawn no ")
    for _ in range(3):
        with pytest.raises(NoSuchJob):
            face.write(b"clean\n")
    assert [] == face.ran
    assert 1 == len(replies(face))


def test_a_short_write_after_a_line_begun_earlier_counts_its_own_bytes() -> None:
    """The count of a short write is of the write's own bytes."""
    face = Face(failing(Kill(("99",))))
    face.write(b"spawn ")
    assert 2 == face.write(b"a\nkill 99\n")
    with pytest.raises(NoSuchJob):
        face.write(b"kill 99\n")
    assert [Spawn("a", None)] == face.ran


# Lines that are too long.


def test_a_line_over_the_bound_fails_the_write_that_passes_it() -> None:
    """The bound is on the line, however many writes it came in; exactly the bound is not over it."""
    face = Face()
    face.write(b"spawn " + b"x" * (MAX_LINE - 6))
    with pytest.raises(LineTooLong) as caught:
        face.write(b"y")
    assert errno.E2BIG == caught.value.errno
    assert not face.file.pending
    face = Face()
    face.write(b"spawn " + b"x" * (MAX_LINE - 6))
    face.write(b"\n")
    assert 1 == len(face.ran)


def test_the_rest_of_a_long_line_is_never_a_command() -> None:
    """What follows is refused up to the end of the first write that ends with a newline; its resend is too."""
    face = Face(max_line=20)
    for data in (
        b"spawn " + b"x" * 20,
        b"clean",
        b"clean\nstop 1",
        b"kill 1\nclean\n",
        b"kill 1\nclean\n",
        b"kill 1\n",
    ):
        with pytest.raises(LineTooLong):
            face.write(data)
    face.write(b"rm 2\n")
    assert [Remove(("2",))] == face.ran
    assert ["error: a line is longer than 20 bytes; it is dropped", "ok"] == replies(face)


def test_a_long_line_refuses_what_stands_beside_it() -> None:
    """Commands in the write of a line too long are not run, as with any syntax error."""
    face = Face(max_line=20)
    for data in (b"clean\n#" + b"x" * 20 + b"\nclean\n", b"bogus\n" + b"x" * 21):
        with pytest.raises(LineTooLong):
            face.write(data)
    with pytest.raises(LineTooLong):
        face.write(b"clean\n")
    assert [] == face.ran


def test_the_bound_is_on_a_line_and_not_on_what_stands_beside_it() -> None:
    """A write may hold more than one line's worth."""
    face = Face(max_line=20)
    face.write(b"spawn " + b"x" * 12)
    face.write(b"\nspawn " + b"y" * 14)
    face.write(b"\n")
    assert 2 == len(face.ran)


# Replies.


def test_an_unwritten_file_reads_as_the_usage_text() -> None:
    """The usage text lies at its absolute offsets."""
    face = Face()
    assert USAGE.encode()[:10] == face.read(10)
    assert USAGE.encode()[10:] == face.read()
    assert b"" == face.read()
    assert USAGE.encode()[3:7] == face.file.read(3, 4)


def test_commands_after_the_usage_text_was_read_have_replies() -> None:
    """A file that was read first can be written."""
    face = Face()
    face.read()
    face.write(b"clean\n")
    assert b"ok\n" == face.read()


def test_each_reply_is_read_once() -> None:
    """Reading on gives nothing again."""
    face = Face(numbering())
    face.write(b"spawn a\nspawn b\n")
    assert b"5\n6\n" == face.read()
    assert b"" == face.read()
    face.write(b"spawn c\n")
    assert b"7\n" == face.read()


def test_replies_can_be_read_in_small_pieces() -> None:
    """A shell may read byte by byte."""
    face = Face()
    face.write(b"clean\nclean\n")
    assert [b"o", b"k", b"\n", b"o", b"k", b"\n", b""] == [face.read(1) for _ in range(7)]


def test_a_reader_that_seeks_back_finds_the_rest_again() -> None:
    """Bash reads a block, uses one line, and seeks back to its end: the next read there gives the next line."""
    face = Face(numbering())
    face.write(b"spawn a\nspawn b\n")
    assert b"5\n6\n" == face.read()
    face.offset -= 2
    assert b"6\n" == face.read()
    assert b"" == face.read()


def test_a_write_after_seeking_back_leaves_the_rest_unread() -> None:
    """Bash reads one line of two, then writes: the second line is still the next to be read, before the new one."""
    face = Face(numbering())
    face.write(b"spawn a\nspawn b\n")
    face.read()
    face.offset -= 2
    face.write(b"spawn c\n")
    assert b"6\n7\n" == face.read()


def test_reading_a_little_and_again_from_the_start_gives_all() -> None:
    """A pager reads some bytes, seeks to where it began, and reads on; several reads in a row count as one."""
    face = Face()
    face.write(b"clean\nclean\n")
    start = face.offset
    assert [b"ok", b"\no"] == [face.read(2), face.read(2)]
    face.offset = start
    assert b"ok\nok\n" == face.read()


def test_a_program_that_reads_and_writes_at_one_offset_gets_each_reply() -> None:
    """Programs that use pwrite and pread at 0 are served as those with moving offsets."""
    file = ControlFile[None]()
    for number in range(3):
        batch = file.receive(0, b"clean\n", None)
        file.succeeded(str(number))
        file.commit(batch)
        assert f"{number}\n".encode() == file.read(0, 100)


def test_a_reply_is_one_line_whatever_it_says() -> None:
    """Control characters in a reply are shown as escapes."""
    file = ControlFile[None]()
    file.receive(0, b"clean\n", None)
    file.succeeded("a\nb\x1b\udcff")
    assert b"a\\nb\\x1b\\xff\n" == file.read(6, 100)


def test_unread_replies_are_bounded() -> None:
    """Who never reads loses the oldest replies, whole lines of them."""
    file = ControlFile[None]()
    file.receive(0, b"clean\n", None)
    for number in range(300_000):
        file.succeeded(str(number))
    left = file.read(6, 2 * MAX_REPLIES)
    assert MAX_REPLIES - 7 <= len(left) <= MAX_REPLIES
    lines = left.decode().splitlines()
    assert [str(number) for number in range(300_000 - len(lines), 300_000)] == lines


def test_dropping_old_replies_does_not_deliver_others_again() -> None:
    """What goes first is what was delivered already."""
    file = ControlFile[None]()
    file.receive(0, b"clean\n", None)
    for _ in range(3):
        file.succeeded("x" * (MAX_REPLIES // 4))
    taken = len(file.read(6, MAX_REPLIES))
    for number in range(2):
        file.succeeded(f"{number}" * (MAX_REPLIES // 4))
        assert b"\n" == file.read(5 + taken, 1)
        assert f"{number}" * 9 == file.read(6 + taken, MAX_REPLIES).decode()[:9]
        taken += MAX_REPLIES // 4 + 1


@given(st.lists(st.tuples(st.sampled_from(["spawn", "read", "line"]), st.integers(1, 9)), max_size=40))
def test_bash_and_plain_readers_get_every_reply_once(actions: list[tuple[str, int]]) -> None:
    """Any mix of writing, reading on, and reading a line and seeking back delivers each reply once and in order."""
    face = Face(numbering())
    face.write(b"#\n")
    got = b""
    for action, number in actions:
        if action == "spawn":
            face.write(b"spawn x\n" * number)
            continue
        block = face.read(number)
        used = block if action == "read" else block[: block.find(b"\n") + 1] or block
        # One that seeks back uses something first; it never gives a block back whole.
        face.offset -= len(block) - len(used)
        got += used
    while block := face.read(7):
        got += block
    assert "".join(f"{number + 5}\n" for number in range(len(face.ran))).encode() == got


# Whatever comes.


@given(
    writes=st.lists(
        st.tuples(
            st.sampled_from(["write", "write", "read", "close", "seek"]),
            st.one_of(
                st.binary(max_size=30),
                st.lists(st.sampled_from([line + "\n" for line in GOOD + BAD + SILENT] + ["kil", "cle", "an\n"])).map(
                    lambda lines: "".join(lines).encode()
                ),
            ),
        ),
        max_size=20,
    ),
    failures=st.sets(st.sampled_from([Clean(), Spawn("make", None), Kill(("1",))])),
)
def test_no_bytes_raise_anything_but_our_errors(writes: list[tuple[str, bytes]], failures: set[Command]) -> None:
    """Any bytes, written and read in any order, are answered with bytes or an error of the family."""
    face = Face(failing(*failures), max_line=40)
    for action, data in writes:
        try:
            if action == "write":
                assert 0 <= face.write(data) <= len(data)
            elif action == "read":
                face.read(len(data))
            elif action == "close":
                face.close()
            else:
                face.offset = len(data)
        except JobfsError as error:
            assert printable(str(error)) == str(error)  # noqa: PT017 - most of what is drawn raises


@given(data=st.data())
def test_no_fragment_of_a_failed_or_long_line_is_ever_run(data: st.DataObject) -> None:
    """A writer that splits anywhere, resends what failed and then gives up or goes on with its next line runs no part.

    Every line's tail is a command of its own, so a fragment that slipped through would be seen.
    """
    tails = st.sampled_from(["spawn tail", "clean", "kill 7"])
    long = "spawn " + "x" * 60
    beginnings = st.sampled_from(["spawn whole ", "spawn failing ", "bogus ", "# ", "kill 1 ; ", long])
    face = Face(max_line=50)

    def run(command: Command) -> str:
        assert isinstance(command, Spawn), f"{command} is a fragment"
        assert command.cmd is not None
        assert command.cmd.startswith(("whole ", "failing ")), f"{command} is a fragment"
        if command.cmd.startswith("failing "):
            raise NoSuchJob("it fails")
        return "ok"

    face.run = run
    for _ in range(data.draw(st.integers(1, 4))):
        # One writer's text: lines, split anywhere.
        lines = data.draw(st.lists(st.builds(str.__add__, beginnings, tails), min_size=1, max_size=4))
        text = "".join(line + "\n" for line in lines).encode()
        # On an error that stays it gives up. What comes next is another writer's, and whole lines again.
        for piece in split(text, data.draw(st.lists(st.integers(0, 300), max_size=6))):
            if not _deliver(face, piece, resends=data.draw(st.integers(0, 2))):
                break


def _deliver(face: Face, piece: bytes, resends: int) -> bool:
    """Write a piece with its retries, as libraries do; whether all of it was taken."""
    while piece:
        try:
            piece = piece[face.write(piece) :]
        except JobfsError:
            if not resends:
                return False
            resends -= 1
    return True


@given(cuts=st.lists(st.integers(0, 400), max_size=12), lines=st.lists(st.booleans(), max_size=8))
def test_a_writer_that_ignores_errors_runs_no_part_of_a_long_line(cuts: list[int], lines: list[bool]) -> None:
    """Of lines whose every part would be a command, only whole ones are run, whatever is lost beside the long ones."""
    face = Face(max_line=30)
    text = "".join("clean " * 10 + "\n" if is_long else f"stop {number + 1}\n" for number, is_long in enumerate(lines))
    for piece in split(text.encode(), cuts):
        _deliver(face, piece, resends=0)
    allowed = [Stop((str(number + 1),)) for number, is_long in enumerate(lines) if not is_long]
    assert face.ran == [command for command in allowed if command in face.ran]
