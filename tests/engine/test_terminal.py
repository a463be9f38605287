"""A job with a terminal of its own: what it writes arrives whole, what is written to it is typed."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from jobfs.errors import JobEnded
from jobfs.supervisor.outlet import TURN
from jobfs.supervisor.terminal import Terminal
from tests.engine.workshop import Workshop, error_of, status_of, until

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


def terminals(process: int) -> int:
    """How many descriptors of terminals and their masters a process has."""
    places = [f"/proc/{process}/fd/{number}" for number in os.listdir(f"/proc/{process}/fd")]
    return sum(os.readlink(place).startswith(("/dev/pt", "/dev/tty")) for place in places if os.path.lexists(place))


async def test_the_standard_streams_are_a_terminal(shop: Workshop) -> None:
    """Which is the controlling terminal of the job's session, and 24 rows of 80."""
    job = await shop.run("for n in 0 1 2; do test -t $n && echo $n; done; tty; stty size; echo x >/dev/tty", pty=True)
    *fds, name, size, last = shop.read(job).split(b"\r\n")[:-1]
    assert ([b"0", b"1", b"2"], True, b"24 80", b"x") == (fds, name.startswith(b"/dev/pts/"), size, last)
    stat = (await shop.output("exec cat /proc/self/stat", pty=True)).split()
    assert (stat[0], stat[0], stat[0]) == (stat[4], stat[5], stat[7])  # group, session, and the terminal's foreground
    assert "0" != stat[6]


async def test_a_terminal_is_no_other_jobs(shop: Workshop) -> None:
    """Each has its own, and the supervisor none that controls it."""
    jobs = [await shop.spawn("tty; exec sleep 1000", pty=True) for _ in range(2)]
    names = [await until(lambda job=job: shop.read(job), lambda said: said.endswith(b"\n")) for job in jobs]  # type: ignore[misc]
    assert names[0] != names[1]
    with open(f"/proc/{shop.supervisor}/stat", encoding="ascii") as stat:  # noqa: ASYNC230
        assert "0" == stat.read().rpartition(")")[2].split()[4]
    assert "0 1 2 3\n" == (await shop.output("echo $(ls /proc/self/fd)", cwd="/"))


async def test_stdout_and_stderr_arrive_in_one_stream(shop: Workshop) -> None:
    """In the order in which they were written; stderr stays empty, and is none of the streams that may grow."""
    job = await shop.spawn("echo out; echo err >&2; echo out; sleep 1000 & trap '' HUP; sleep 1000 &", pty=True)
    end = await shop.ended(job)
    assert b"out\r\nerr\r\nout\r\n" == shop.read(job)
    assert (None, True) == (shop.engine.open_stream(job, "stderr"), end.open_streams <= {"stdout"})


async def test_what_is_written_is_typed(shop: Workshop) -> None:
    """The terminal echoes it, and the job reads it line by line."""
    job = await shop.spawn("read line; echo got $line", pty=True)
    await shop.write(job, b"hello\n")
    assert "done:0" == status_of(await shop.ended(job))
    assert b"hello\r\ngot hello\r\n" == shop.read(job)


async def test_a_typed_interrupt_ends_a_foreground_program(shop: Workshop) -> None:
    """As control-C does; a shell that catches it goes on."""
    job = await shop.spawn("echo ready; exec sleep 1000", pty=True)
    await shop.says(job, b"ready\r\n")
    await shop.write(job, b"\x03")
    assert "killed:2" == status_of(await shop.ended(job))


@pytest.mark.parametrize("setting", ["", "stty eof ^X; "])
async def test_eof_types_the_terminals_own_character(shop: Workshop, setting: str) -> None:
    """What reads a line from the terminal meets end of file, and the terminal stays as it is."""
    job = await shop.spawn(f"{setting}stty -echo; echo ready; cat; cat; echo end", pty=True)
    await shop.says(job, b"ready\r\n")
    await shop.write(job, b"one\n")
    await shop.says(job, b"one\r\n")
    await shop.engine.close_stdin(job)
    await shop.write(job, b"two\n")
    await shop.says(job, b"two\r\n")
    await shop.engine.close_stdin(job)
    assert "done:0" == status_of(await shop.ended(job))
    assert b"ready\r\none\r\ntwo\r\nend\r\n" == shop.read(job)


async def test_eof_of_a_terminal_without_that_character_fails(shop: Workshop) -> None:
    """There is nothing that could be typed."""
    job = await shop.spawn("stty eof undef; echo ready; exec sleep 1000", pty=True)
    await shop.says(job, b"ready\r\n")
    assert errno.EINVAL == (await error_of(lambda: shop.engine.close_stdin(job))).errno


async def test_a_file_can_be_the_stdin_of_a_job_with_a_terminal(shop: Workshop, tmp_path: Path) -> None:
    """The other two are the terminal, which still controls the session."""
    (tmp_path / "input").write_text("from the file\n", encoding="utf-8")
    script = "cat; test -t 0 || echo no; test -t 1 && test -t 2 && echo yes; read line </dev/tty; echo got $line"
    job = await shop.spawn(script, stdin=f"{tmp_path}/input", pty=True)
    await shop.says(job, b"from the file\r\nno\r\nyes\r\n")
    await shop.write(job, b"typed\n")
    await shop.ended(job)
    assert shop.read(job).endswith(b"typed\r\ngot typed\r\n")


async def test_stdin_pipe_adds_nothing_to_a_terminal(shop: Workshop) -> None:
    """A terminal can be written to."""
    assert "yes\r\n" == await shop.output("test -t 0 && echo yes", stdin="pipe", pty=True)


async def test_the_size_can_be_set(shop: Workshop) -> None:
    """The job is sent SIGWINCH, and finds the new size."""
    job = await shop.spawn('trap "stty size; exit" WINCH; echo ready; while :; do sleep 0.01; done', pty=True)
    await shop.says(job, b"ready\r\n")
    await shop.engine.resize(job, 50, 65535)
    assert "done:0" == status_of(await shop.ended(job))
    assert b"ready\r\n50 65535\r\n" == shop.read(job)
    assert isinstance(await error_of(lambda: shop.engine.resize(job, 1, 1)), JobEnded)


async def test_a_job_without_a_terminal_has_no_size(shop: Workshop) -> None:
    """The engine says so."""
    job = await shop.spawn("exec sleep 1000", stdin="pipe")
    assert errno.ENOTTY == (await error_of(lambda: shop.engine.resize(job, 1, 1))).errno


async def test_the_last_words_are_there_when_the_end_is_told(shop: Workshop) -> None:
    """What a job wrote just before its exit is in the stream when its status is final; fifty times over."""
    for n in range(50):
        job = await shop.run(f"printf 'last words {n}'", pty=True)
        assert f"last words {n}".encode() == shop.read(job)


@pytest.mark.parametrize("lingering", ["", "trap '' HUP; sleep 1000 & "])
@pytest.mark.parametrize("size", [1, 4096, 70_000, MIB])
async def test_all_that_the_process_wrote_is_there_when_the_end_is_told(
    shop: Workshop, size: int, lingering: str
) -> None:
    """More than the kernel hands over at once too, and where a descendant holds the terminal."""
    job = await shop.run(f"stty -opost; {lingering}head -c {size} /dev/zero; printf end", pty=True)
    assert bytes(size) + b"end" == shop.read(job)


async def test_megabytes_arrive_whole(shop: Workshop) -> None:
    """Byte for byte, where the terminal adds none."""
    job = await shop.run("stty -opost; seq 700000", pty=True)
    assert "".join(f"{n}\n" for n in range(1, 700_001)).encode() == shop.read(job)


async def test_megabytes_can_be_typed(shop: Workshop) -> None:
    """A terminal that takes bytes as they are gives the job every one, at the speed at which it reads."""
    job = await shop.spawn("stty raw -echo; printf ready; head -c 2000000 | md5sum", pty=True)
    await shop.says(job, b"ready")
    data = os.urandom(1000) * 2000
    await shop.write(job, data)
    await shop.ended(job)
    expected = await trio.run_process(["md5sum"], stdin=data, capture_stdout=True)
    assert b"ready" + expected.stdout == shop.read(job)


async def test_descendants_that_hold_the_terminal_are_heard_on(shop: Workshop) -> None:
    """The end of the leader hangs up its foreground; who ignores that writes on, until the last has closed it."""
    job = await shop.spawn("trap '' HUP; (read go < $FIFO; echo late) & echo early", pty=True, environment=shop.fifo())
    end = await shop.ended(job)
    assert ("done:0", frozenset({"stdout"}), b"early\r\n") == (status_of(end), end.open_streams, shop.read(job))
    assert errno.EPIPE == await shop.refusal(job)
    await shop.go()
    await shop.closed(job)
    assert b"early\r\nlate\r\n" == shop.read(job)


async def test_the_end_hangs_up_what_is_in_the_foreground(shop: Workshop) -> None:
    """That is the terminal's own rule: SIGHUP."""
    job = await shop.spawn("(trap 'echo hung up' HUP; echo ready; while :; do sleep 0.01; done) & read go", pty=True)
    await shop.says(job, b"ready\r\n")
    await shop.write(job, b"\n")
    await shop.ended(job)
    await until(lambda: b"hung up\r\n" in shop.read(job))


async def test_a_job_that_lets_go_of_its_terminal_runs_on(shop: Workshop) -> None:
    """It is not hung up, and may open its terminal anew."""
    script = "exec >/dev/null 2>&1 </dev/null; read go < $FIFO; echo back >/dev/tty; exit 4"
    job = await shop.spawn(script, pty=True, environment=shop.fifo())
    await shop.go()
    assert "failed:4" == status_of(await shop.ended(job))
    assert b"back\r\n" == shop.read(job)


async def test_terminals_of_a_daemon_that_went_are_the_next_ones(bare: Workshop) -> None:
    """The job is not hung up, and can be typed to."""
    async with bare.attached():
        job = await bare.spawn("read line; echo got $line; read line", pty=True)
        async with bare.stdin_of(job) as stdin:
            await stdin.open()
    async with bare.attached(job):
        await bare.write(job, b"hello\n")
        await bare.says(job, b"got hello\r\n")
        await bare.write(job, b"\n")
        assert "done:0" == status_of(await bare.ended(job))


async def test_ending_reaches_a_job_with_a_terminal(shop: Workshop) -> None:
    """SIGTERM, and SIGKILL after the grace."""
    job = await shop.spawn("trap '' TERM HUP; echo ready; while :; do sleep 0.01; done", pty=True, grace=0.1)
    await shop.says(job, b"ready\r\n")
    await shop.end(job)
    assert "killed:9" == status_of(await shop.ended(job))


async def test_no_terminal_is_left(shop: Workshop) -> None:
    """Neither of jobs that have ended nor of those that never ran."""
    for _ in range(5):
        await shop.closed(await shop.run("true", pty=True))
        await error_of(lambda: shop.spawn(argv=("/nonexistent/program",), pty=True))
    await until(lambda: terminals(shop.supervisor), lambda left: not left)
    job = await shop.spawn("exec sleep 1000", pty=True)
    assert 2 == terminals(shop.supervisor)
    await shop.signal(job, signal.SIGKILL)


async def test_what_a_removed_job_left_writes_into_nothing(shop: Workshop) -> None:
    """And is not harmed by its terminal's end, which is seen also then."""
    script = "trap '' HUP; (read go < $FIFO; head -c 300000 /dev/zero) & :"
    job = await shop.run(script, pty=True, environment=shop.fifo())
    await shop.engine.forget([job])
    await shop.go()
    await until(lambda: terminals(shop.supervisor), lambda left: not left)


def test_a_full_disk_stalls_a_terminal_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read waits in the queue, what was not in the terminal, and all of it comes when there is room."""
    full = [False]
    splice = os.splice

    def maybe_full(source: int, target: int, size: int, flags: int) -> int:
        if full[0] and target == terminal.ring:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return splice(source, target, size, flags=flags)

    terminal = Terminal()
    terminal.assign(str(tmp_path / "stdout"), MIB, lambda _: None)
    os.write(terminal.job_end, b"one")
    assert (TURN, 3) == (terminal.waiting(), terminal.drain())
    monkeypatch.setattr(os, "splice", maybe_full)
    full[0] = True
    os.write(terminal.job_end, b"two")
    assert (0, True) == (terminal.drain(), terminal.stalled)
    os.write(terminal.job_end, b"three")
    assert (0, True) == (terminal.drain(), terminal.stalled)
    full[0] = False
    terminal.process_ended()
    assert (8, False) == (terminal.drain(), terminal.stalled)
    assert (0, True) == (terminal.drain(), terminal.at_end)
    terminal.close()
    assert b"onetwothree" == (tmp_path / "stdout").read_bytes()[4096 : 4096 + 11]


def test_a_terminal_that_nobody_wrote_to_makes_no_file(tmp_path: Path) -> None:
    """Its end is seen all the same."""
    terminal = Terminal()
    terminal.assign(str(tmp_path / "stdout"), MIB, lambda _: None)
    assert (0, 0, False) == (terminal.waiting(), terminal.drain(), terminal.at_end)
    terminal.process_ended()
    assert (0, True, False) == (terminal.drain(), terminal.at_end, (tmp_path / "stdout").exists())
    terminal.close()
