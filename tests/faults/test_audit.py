"""The audit itself: it finds nothing wrong in a right world, and what is wrong in each wrong one."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.faults.audit import Row, Stream, World, findings
from tests.faults.load import Glimpses
from tests.faults.plans import RECORD, Plan, expected, tag_of
from tests.faults.sentinels import Sentinels
from tests.faults.truth import Answer, Command, Deeds, Truth, read_marks
from tests.mounted import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SLEEPING = psutil.STATUS_SLEEPING
# By tag and id: what ended, what wrote more than is kept, what runs, what is stopped, what copies its stdin.
ENDED, CHATTY, RUNNING, HALTED, COPYING = range(1, 6)
# And what was refused, what was not answered and ran, what was not answered and did not, what was removed.
REFUSED, RAN, VANISHED, REMOVED, CANCELLED = range(6, 11)
TWO_LINES = 77


def stream(tag: int, name: str, written: int, capacity: int = 1000) -> Stream:
    """A stream as it should be."""
    dropped = max(0, written - capacity)
    return Stream(
        written, written, dropped, capacity, closed=True, data=expected(tag, name, dropped, written - dropped)
    )


def right() -> tuple[Truth, World]:
    """A truth, and the world that is as it says."""
    chatty, endless = Plan("", out=100, err=2), Plan("", holds=True)
    commands = [
        Command(ENDED, Plan(""), 1, Answer.DONE, id=ENDED),
        Command(CHATTY, chatty, TWO_LINES, Answer.DONE, id=CHATTY),
        Command(RUNNING, endless, TWO_LINES, Answer.DONE, id=RUNNING),
        Command(HALTED, endless, 4, Answer.DONE, id=HALTED, stopped=True),
        Command(COPYING, Plan("", fed=True), 5, Answer.DONE, id=COPYING, fed=40, offered=50),
        Command(REFUSED, Plan(""), 6, Answer.REFUSED, "no"),
        Command(RAN, Plan(""), 7),
        Command(VANISHED, Plan(""), 7),
        Command(REMOVED, Plan(""), 9, Answer.DONE, id=REMOVED, removed=True),
        Command(CANCELLED, Plan(""), 10),
    ]
    deeds = {tag: Deeds([(1000 + tag, tag)]) for tag in (ENDED, CHATTY, RUNNING, HALTED, COPYING, RAN, REMOVED)}
    deeds[ENDED].end, deeds[RAN].end, deeds[REMOVED].end = ("exit", 3), ("signal", 9), ("exit", 0)
    deeds[CHATTY] = replace(deeds[CHATTY], out=100 * RECORD, err=2 * RECORD, end=("exit", 0))
    deeds[COPYING].end = ("exit", 0)
    rows = [
        Row(ENDED, ENDED, "failed:3"),
        Row(CHATTY, CHATTY, "done:0"),
        Row(RUNNING, RUNNING, "running", process=SLEEPING),
        Row(HALTED, HALTED, "stopped", process=psutil.STATUS_STOPPED),
        Row(COPYING, COPYING, "done:0"),
        Row(RAN, RAN, "killed:9"),
        Row(CANCELLED, CANCELLED, "cancelled", "the daemon ended before it was started"),
    ]
    rows[1].streams = {"stdout": stream(CHATTY, "stdout", 1600), "stderr": stream(CHATTY, "stderr", 32)}
    rows[4].streams["stdout"] = stream(COPYING, "stdout", 45)
    world = World(
        rows,
        {"jobs", "jobs.sqlite", "log"},
        {"records", f"{CHATTY}.stdout", f"{CHATTY}.stderr", f"{COPYING}.stdout"},
        {row.id for row in rows},
    )
    return Truth({command.tag: command for command in commands}, deeds), world


def row(world: World, tag: int) -> Row:
    """The row of that tag."""
    return next(row for row in world.rows if row.tag == tag)


def test_right_world_is_right() -> None:
    """Where all is as the truth says, there is nothing to be found."""
    assert [] == findings(*right())


def test_job_may_be_lost_where_nobody_watched_it() -> None:
    """`lost`, with a reason, is the truth of a job that nobody watched, and of no other; so may be its last bytes."""
    truth, world = right()
    lost = row(world, CHATTY)
    lost.status, lost.streams["stdout"] = "lost", stream(CHATTY, "stdout", 1500)
    assert findings(truth, world)
    truth.unwatched = True
    assert findings(truth, world)
    lost.reason = "its supervisor ended before it"
    assert [] == findings(truth, world)
    lost.streams["stdout"] = stream(CHATTY, "stdout", 1601)
    assert findings(truth, world)


@pytest.mark.parametrize(("killed", "wrong"), [((5, 6), 0), ((3, 4), 0), ((3, 7), 0), ((1, 2), 1), ((8, 9), 1)])
def test_job_may_be_lost_that_was_being_spawned_as_the_supervisor_was_killed(
    killed: tuple[float, float], wrong: int
) -> None:
    """Of a job whose spawn was answered before or asked for after its supervisor was killed, the end is known."""
    truth, world = right()
    truth.commands[ENDED].asked = (4, 7)
    truth.supervisor_killed.append(killed)
    ended = row(world, ENDED)
    ended.status, ended.reason = "lost", "its supervisor was killed"
    assert wrong == len(findings(truth, world))
    del truth.deeds[ENDED]  # then nobody knows either whether its exec had happened
    assert bool(wrong) == bool(findings(truth, world))


def forged(world: World) -> None:
    """One byte of what is retained is another one."""
    out = row(world, CHATTY).streams["stdout"]
    out.data = out.data[:500] + b"x" + out.data[501:]


def shifted(world: World) -> None:
    """What is retained is of the next record."""
    out = row(world, CHATTY).streams["stdout"]
    out.data = expected(CHATTY, "stdout", out.dropped + RECORD, 1000)


def short(world: World) -> None:
    """The last record is missing."""
    row(world, CHATTY).streams["stderr"] = stream(CHATTY, "stderr", 16)


def long(world: World) -> None:
    """There is a record more than was written."""
    row(world, CHATTY).streams["stderr"] = stream(CHATTY, "stderr", 48)


def leave_out(truth: Truth, world: World) -> None:
    """Of two lines that were not answered the second has run, and the first has not."""
    world.rows.remove(row(world, CHATTY))
    del truth.deeds[CHATTY]
    truth.commands[CHATTY].answer = Answer.NONE


def swap(world: World) -> None:
    """The second of two lines has the smaller id."""
    row(world, CHATTY).id, row(world, RUNNING).id = RUNNING, CHATTY


WRONG: dict[str, tuple[Callable[[Truth, World], object], str]] = {
    "twice in the table": (lambda _, world: world.rows.append(Row(20, ENDED, "failed:3")), "more than once"),
    "started twice": (lambda truth, _: truth.deeds[ENDED].starts.append((5, ENDED)), "more than once"),
    "not in the table": (lambda _, world: world.rows.remove(row(world, ENDED)), "the table does not know it"),
    "never started": (lambda truth, _: truth.deeds.pop(ENDED), "it never started"),
    "under another id": (lambda _, world: setattr(row(world, ENDED), "id", 20), "under different ids"),
    "told another id": (lambda truth, _: setattr(truth.deeds[ENDED], "starts", [(5, 20)]), "under different ids"),
    "refused, and there": (lambda _, world: world.rows.append(Row(20, REFUSED, "done:0")), "it was refused"),
    "refused, and ran": (lambda truth, _: truth.deeds.update({REFUSED: Deeds([(5, 20)])}), "it was refused"),
    "not answered, ran, not there": (
        lambda truth, _: truth.deeds.update({VANISHED: Deeds([(5, 20)])}),
        "the table does not know it",
    ),
    "not answered, there, never ran": (
        lambda _, world: world.rows.append(Row(20, VANISHED, "done:0")),
        "it is there, and never started",
    ),
    "cancelled, and ran": (lambda truth, _: truth.deeds.update({CANCELLED: Deeds([(5, 10)])}), "says that it did not"),
    "cancelled, and was answered": (
        lambda truth, _: setattr(truth.commands[CANCELLED], "answer", Answer.DONE),
        "it was told to run",
    ),
    "removed, and there": (lambda _, world: world.rows.append(Row(9, REMOVED, "done:0")), "it was removed"),
    "nobody's row": (lambda _, world: world.rows.append(Row(20, None, "done:0")), "nobody spawned it"),
    "nobody's process": (lambda truth, _: truth.deeds.update({99: Deeds([(5, 20)])}), "nobody spawned it"),
    "an id twice": (lambda _, world: world.rows.append(Row(RAN, VANISHED, "done:0")), "in the table twice"),
    "a line left out": (leave_out, "one is left out"),
    "lines in another order": (lambda _, world: swap(world), "the ids are [3, 2]"),
    "another exit status": (lambda _, world: setattr(row(world, ENDED), "status", "done:0"), "can only be one of"),
    "another signal": (lambda _, world: setattr(row(world, RAN), "status", "killed:15"), "can only be one of"),
    "a false end": (lambda _, world: setattr(row(world, RUNNING), "status", "killed:9"), "its process is sleeping"),
    "an end that did not happen": (lambda truth, _: setattr(truth.deeds[ENDED], "end", None), "can only be one of []"),
    "running, and gone": (lambda _, world: setattr(row(world, RUNNING), "process", None), "process is not there"),
    "running, and a zombie": (
        lambda _, world: setattr(row(world, RUNNING), "process", psutil.STATUS_ZOMBIE),
        "process is not there",
    ),
    "running, and at its end": (
        lambda truth, _: setattr(truth.deeds[RUNNING], "end", ("exit", 0)),
        "its end was ('exit', 0)",
    ),
    "running for ever": (
        lambda truth, _: setattr(truth.commands[RUNNING], "plan", Plan("finish 0")),
        "is running, and its end was None",
    ),
    "not ended": (lambda truth, _: setattr(truth.commands[RUNNING], "must_end", True), "and was ended"),
    "stopped, and runs": (
        lambda _, world: setattr(row(world, HALTED), "process", SLEEPING),
        "stopped by the load: True",
    ),
    "runs, and is stopped": (
        lambda truth, _: setattr(truth.commands[RUNNING], "stopped", True),
        "stopped by the load: True",
    ),
    "a forged byte": (lambda _, world: forged(world), "are not those that were written there"),
    "shifted bytes": (lambda _, world: shifted(world), "are not those that were written there"),
    "lost bytes": (lambda _, world: short(world), "16 bytes are there, from 32 to 32 were written"),
    "invented bytes": (lambda _, world: long(world), "48 bytes are there, from 32 to 32 were written"),
    "lost input": (lambda truth, _: setattr(truth.commands[COPYING], "fed", 46), "45 bytes are there, from 46 to 50"),
    "doubled input": (lambda truth, _: setattr(truth.commands[COPYING], "offered", 44), "45 bytes are there"),
    "counted otherwise": (
        lambda _, world: setattr(row(world, CHATTY).streams["stderr"], "counted", 31),
        "31 bytes are counted, and the file's size is 32",
    ),
    "dropped too early": (
        lambda _, world: setattr(row(world, CHATTY).streams["stdout"], "capacity", 1010),
        "600 of 1600 bytes are dropped, with room for 1010",
    ),
    "never closed": (lambda _, world: setattr(row(world, ENDED).streams["stderr"], "closed", False), "is not closed"),
    "a file of no job": (lambda _, world: world.job_files.add("20.stdout"), "a file of no job: 20.stdout"),
    "an unfinished file": (lambda _, world: world.job_files.add("1.stdout.new"), "a file of no job: 1.stdout.new"),
    "a record of no job": (lambda _, world: world.recorded.add(20), "records of no job: [20]"),
    "a file in the state": (lambda _, world: world.state_files.add("daemon.json.new"), "['daemon.json.new']"),
    "a zombie": (lambda _, world: setattr(world, "zombies", 1), "1 processes are not reaped"),
    "a stale mount": (lambda _, world: setattr(world, "mounts", 2), "2 mounts, one atop the other"),
    "no mount": (lambda _, world: setattr(world, "mounts", 0), "0 mounts"),
    "an error of our own": (lambda _, world: setattr(world, "log", "ERROR\nTraceback (most"), "Traceback (most"),
    "what was seen": (lambda truth, _: truth.seen_wrong.append("a stranger was signalled"), "a stranger was signalled"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_world_is_found_out(what: str) -> None:
    """Each thing that may be wrong is found, and said."""
    spoil, sentence = WRONG[what]
    truth, world = right()
    spoil(truth, world)
    assert [found for found in findings(truth, world) if sentence in found]


# What the audit stands on


def test_what_was_ended_must_not_change() -> None:
    """A final status that changes, a job that comes back to life, and an id that is another job's are seen."""
    glimpses = Glimpses()
    first: list[dict[str, object]] = [
        {"id": 1, "cmd": "a", "status": "done:0"},
        {"id": 2, "cmd": "b", "status": "stopped"},
    ]
    glimpses.take(first)
    glimpses.take([{"id": 1, "cmd": "a", "status": "done:0"}, {"id": 2, "cmd": "b", "status": "killed:9"}])
    assert [] == glimpses.wrong
    glimpses.take([{"id": 1, "cmd": "a", "status": "failed:1"}])
    glimpses.take([{"id": 2, "cmd": "b", "status": "running"}])
    glimpses.take([{"id": 2, "cmd": "c", "status": "killed:9"}])
    assert ["job 1 had ended as done:0, and is failed:1", "job 2 had ended as killed:9, and is running"] == [
        *glimpses.wrong[:2]
    ]
    assert ["the id 2 was that of b, and is that of c"] == glimpses.wrong[2:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGCONT, signal.SIGUSR1, signal.SIGSTOP, signal.SIGKILL])
def test_sentinel_tells_that_it_was_signalled(number: signal.Signals) -> None:
    """Whatever signal a sentinel is sent, that shows afterwards."""
    with Sentinels() as sentinels:
        assert [] == sentinels.touched()
        os.kill(sentinels.pids[0], number)
        assert 1 == len(until(sentinels.touched))


def test_sentinel_takes_the_number_that_was_free() -> None:
    """A sentinel gets the number of a process that has ended, where the kernel lets us choose."""
    with Sentinels() as sentinels:
        free = psutil.Popen(["true"])
        free.wait()
        taken = sentinels.post(free.pid)
        assert taken == (sentinels.pids[-1] == free.pid)
        assert taken or os.geteuid() != 0
        assert [] == sentinels.touched()


def test_notes_of_jobs_are_read(tmp_path: Path) -> None:
    """What jobs note down is theirs by tag; a job that was started twice has two starts."""
    (tmp_path / "marks").write_text(
        "7 start 100 1\n8 start 101 2\n7 out 3\n7 start 102 3\n7 err 2\n8 signal 9\n7 exit 4\n"
    )
    assert {
        7: Deeds([(100, 1), (102, 3)], 3 * RECORD, 2 * RECORD, ("exit", 4)),
        8: Deeds([(101, 2)], end=("signal", 9)),
    } == read_marks(tmp_path / "marks", RECORD)


def test_commands_carry_their_tag(tmp_path: Path) -> None:
    """The tag of a command line is found in it again; other command lines have none."""
    line = Plan("finish 0", "--limit 4096").line(123, tmp_path / "some marks")
    assert 123 == tag_of(line.partition(" -- ")[2])
    assert (None, None) == (tag_of("sleep 1000"), tag_of("set -- a 1 2; true"))
