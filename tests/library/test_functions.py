"""Jobs that are async functions: how they start and how they end by themselves."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
import trio

import jobfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from jobfs import Table, Task


async def answers(task: Task, code: int | None) -> int | None:
    """Ends with that."""
    await task.checkpoint()
    return code


async def raises(task: Task, error: BaseException) -> None:
    """Ends with that."""
    await task.checkpoint()
    raise error


async def sleeps(_: Task) -> None:
    """Never ends by itself."""
    await trio.sleep_forever()


async def test_a_job_is_in_the_table_before_its_first_step(table: Table) -> None:
    """`start` does not wait: the job is there, and running, while its function has not begun."""
    begun: list[int] = []

    async def begin(task: Task) -> None:
        begun.append(task.id)
        await trio.lowlevel.checkpoint()

    job = table.start(begin)
    assert ([], "running", [job]) == (begun, str(job.status), table.jobs())
    assert "done:0" == str(await job.wait())
    assert [job.id] == begun


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (None, "done:0"),
        (0, "done:0"),
        (1, "failed:1"),
        (255, "failed:255"),
        (-9, "killed:9"),
        (-signal.SIGTERM, "killed:15"),
        (signal.SIGTERM, "failed:15"),
    ],
)
async def test_the_answer_of_a_function_is_its_exit_code(table: Table, code: int | None, status: str) -> None:
    """None is 0, and -N is signal N."""
    job = table.start(answers, code)
    assert status == str(await job.wait())
    assert (status, b"") == (str(job.info().status), job.stderr.snapshot().data)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (256, "ValueError: an exit code is from 0 to 255, or minus a signal's number: 256\n"),
        (-999, "ValueError: an exit code is from 0 to 255, or minus a signal's number: -999\n"),
        (True, "TypeError: a job's function returns its exit code, or None, and not True\n"),
        (False, "TypeError: a job's function returns its exit code, or None, and not False\n"),
        ("text", "TypeError: a job's function returns its exit code, or None, and not 'text'\n"),
        (1.0, "TypeError: a job's function returns its exit code, or None, and not 1.0\n"),
    ],
)
async def test_an_answer_that_is_no_exit_code_is_a_crash(table: Table, answer: object, said: str) -> None:
    """The sentence stands in the job's stderr, without lines that are none of the function's."""
    job = table.start(answers, cast("int", answer))
    assert "failed:1" == str(await job.wait())
    assert said == job.stderr.snapshot().data.decode()


async def test_a_function_that_is_not_async_is_a_crash(table: Table) -> None:
    """The sentence stands in the job's stderr."""

    def ordinary(_: Task) -> str:
        return "text"

    job = table.start(cast("Callable[[Task], Awaitable[None]]", ordinary))
    assert "failed:1" == str(await job.wait())
    assert b"TypeError: ordinary is no async function: it returned 'text'\n" == job.stderr.snapshot().data


async def test_wrong_arguments_are_a_crash(table: Table) -> None:
    """Its traceback begins with the error, for no line of the function was reached."""
    job = table.start(cast("Callable[[Task], Awaitable[int | None]]", answers))
    assert "failed:1" == str(await job.wait())
    said = b"TypeError: answers() missing 1 required positional argument: 'code'\n"
    assert said == job.stderr.snapshot().data


@pytest.mark.parametrize("error", [ValueError("mine"), GeneratorExit("mine")])
async def test_what_a_function_raises_is_in_its_stderr(table: Table, error: BaseException) -> None:
    """It is `failed:1`, the traceback begins in the function itself, and nobody else notices."""
    job, other = table.start(raises, error), table.start(sleeps)
    assert "failed:1" == str(await job.wait())
    lines = job.stderr.snapshot().data.decode().splitlines()
    assert "Traceback (most recent call last):" == lines[0]
    assert lines[1].endswith("in raises")
    assert "mine" in lines[-1]
    assert "running" == str(other.status)


class Odd(BaseException):
    """An error of nobody's family."""


async def test_base_exceptions_of_the_program_are_crashes_too(table: Table) -> None:
    """Those that are no Exception end their job alone."""
    job = table.start(raises, Odd("very"))
    assert "failed:1" == str(await job.wait())
    assert job.stderr.snapshot().data.endswith(b"Odd: very\n")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        (None, "done:0", ""),
        (0, "done:0", ""),
        (3, "failed:3", ""),
        (-9, "killed:9", ""),
        ("no such file", "failed:1", "no such file\n"),
        (256, "failed:1", "ValueError: an exit code is from 0 to 255, or minus a signal's number: 256\n"),
        (True, "failed:1", "TypeError: a job's function returns its exit code, or None, and not True\n"),
    ],
)
async def test_system_exit_is_an_exit_code(table: Table, code: int | str | None, status: str, said: str) -> None:
    """SystemExit(N) is as if N had been returned; a text goes to stderr, as Python has it."""
    job = table.start(raises, SystemExit(code))
    assert status == str(await job.wait())
    assert said == job.stderr.snapshot().data.decode()


async def test_system_exit_in_a_nursery_is_an_exit_code(table: Table) -> None:
    """A group of one is what it holds."""

    async def exits(task: Task) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raises, task, SystemExit(4))
            nursery.start_soon(trio.sleep_forever)

    assert "failed:4" == str(await table.start(exits).wait())


async def test_a_group_is_printed_as_one(table: Table) -> None:
    """What several tasks of a function raised is all in its stderr."""

    async def raise_at_once(error: Exception) -> None:
        raise error

    async def crash(_: Task) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raise_at_once, ValueError("one"))
            nursery.start_soon(raise_at_once, KeyError("two"))

    job = table.start(crash)
    assert "failed:1" == str(await job.wait())
    said = job.stderr.snapshot().data
    assert [True] * 3 == [word in said for word in (b"ExceptionGroup", b"ValueError: one", b"KeyError: 'two'")]


async def test_a_cancellation_that_was_kept_is_a_crash(table: Table) -> None:
    """A trio.Cancelled that nobody waits for does not get out of the job that raises it."""

    async def keep(_: Task) -> None:
        kept: list[trio.Cancelled] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                kept.append(error)
                raise
        raise kept[0]

    job = table.start(keep)
    assert "failed:1" == str(await job.wait())
    assert b"trio.Cancelled" in job.stderr.snapshot().data


async def test_a_job_is_called_as_its_function(table: Table) -> None:
    """Without the place where that was defined, or what it was given beforehand; `command` is another name."""

    class Callable_:  # noqa: N801 - its name is seen
        async def __call__(self, _: Task) -> None:
            await trio.lowlevel.checkpoint()

        async def method(self, _: Task) -> None:
            await trio.lowlevel.checkpoint()

    jobs = [
        table.start(sleeps),
        table.start(partial(answers, code=0)),
        table.start(Callable_()),
        table.start(Callable_().method),
        table.start(sleeps, command="sleep well"),
        table.start(sleeps, command=""),
    ]
    names = ["sleeps", "answers", "Callable_", "Callable_.method", "sleep well", "sleeps"]
    assert names == [job.command for job in jobs]
    assert [None] * 6 == [job.pid for job in jobs]


async def test_a_task_knows_its_job(table: Table) -> None:
    """Its id and name are those of the job, and its streams have the job's capacity."""
    seen: list[tuple[int, str | None, int, int]] = []

    async def look(task: Task) -> None:
        await task.checkpoint()
        seen.append((task.id, task.name, task.stdout.capacity, task.stderr.capacity))

    job = table.start(look, name="looker", limit="64K")
    await job.wait()
    assert [(job.id, "looker", 65536, 65536)] == seen
    assert ("looker", 65536) == (job.name, job.stdout.state.capacity)


BAD: list[Callable[[Table], object]] = [
    lambda table: table.start(sleeps, limit="x"),
    lambda table: table.start(sleeps, limit=cast("str", b"1M")),
    lambda table: table.start(sleeps, limit=100),
    lambda table: table.start(sleeps, timeout=-1),
    lambda table: table.start(sleeps, timeout=0),
    lambda table: table.start(sleeps, grace="soon"),
    lambda table: table.start(sleeps, name="1x"),
    lambda table: table.start(sleeps, name="ctl"),
]


async def test_a_bad_option_starts_nothing(table: Table) -> None:
    """BadCommand, and there is no job."""
    for start in BAD:
        with pytest.raises(jobfs.BadCommand):
            start(table)
    assert [] == table.jobs()


async def test_a_timeout_ends_a_function(table: Table) -> None:
    """It is cancelled as by `kill`, and its `reason` says so."""
    job = table.start(sleeps, timeout=0.01)
    assert "killed:15" == str(await job.wait())
    assert "it was ended after its timeout of 0.01 s" == job.info().reason


async def test_a_long_timeout_and_a_long_grace_period(autojump_clock: MockClock, table: Table) -> None:
    """SIGKILL follows after the grace period of the job, in the time of trio."""
    begun = autojump_clock.current_time()

    async def linger(task: Task) -> None:
        with task.open_signal_receiver(signal.SIGTERM) as received:
            await anext(received)
        await trio.sleep_forever()

    job = table.start(linger, timeout="2h", grace="5m")
    assert "killed:9" == str(await job.wait())
    assert 7500 == round(autojump_clock.current_time() - begun)
    assert "it was ended after its timeout of 7200 s" == job.info().reason


async def test_a_timeout_that_was_not_needed_changes_nothing(table: Table) -> None:
    """A function that ends before it has no `reason`."""
    job = table.start(answers, 0, timeout="1h")
    assert "done:0" == str(await job.wait())
    assert job.info().reason is None


async def test_info_tells_a_function(table: Table) -> None:
    """It has no process, and its times are those of its life."""
    job = table.start(answers, 3)
    await job.wait()
    info = job.info()
    assert (True, None, None, "answers") == (info.spec.function, info.pid, info.reason, info.spec.line)
    assert info.started_at is not None
    assert info.ended_at is not None
    assert info.created_at <= info.started_at <= info.ended_at


async def test_restart_runs_the_same_again(table: Table) -> None:
    """The same function with the same arguments, under a new id and the old name; not before it has ended."""
    runs: list[int] = []

    async def run(task: Task, code: int) -> int:
        await task.checkpoint()
        runs.append(task.id)
        return code

    first = table.start(run, 7, name="runner", limit="1M")
    with pytest.raises(jobfs.JobAlive, match=r"job 1 is running"):
        await first.restart()
    await first.wait()
    second = await first.restart()
    assert "failed:7" == str(await second.wait())
    assert ([first.id, second.id], second) == (runs, table["runner"])
    assert ("runner", 1 << 20) == (second.name, second.stdout.state.capacity)


async def test_a_process_is_restarted(table: Table) -> None:
    """The same command under a new id."""
    first = await table.spawn("echo again; exit 3")
    await first.wait()
    second = await first.restart()
    assert "failed:3" == str(await second.wait())
    assert b"again\n" == second.stdout.snapshot().data
    assert [first.id, second.id] == table.ids()


async def test_a_function_that_reads(table: Table) -> None:
    """What is written to its job comes out of its stdin, to the end of file."""

    async def read(task: Task) -> None:
        async for data in task.stdin:
            await task.stdout.write(bytes(data))

    job = table.start(read, stdin=True)
    await job.write(b"one\n")
    await job.write(b"x" * 1_000_000)
    await job.close_stdin()
    assert "done:0" == str(await job.wait())
    assert b"one\n" + b"x" * 1_000_000 == job.stdout.snapshot().data


async def test_nobody_reads_the_stdin_of_a_function_that_has_ended(table: Table) -> None:
    """A write that waits while the pipe is full, and one that comes later, is StdinClosed."""
    go_on = trio.Event()

    async def read(_: Task) -> None:
        await go_on.wait()

    job = table.start(read, stdin=True)

    async def write() -> None:
        with pytest.raises(jobfs.StdinClosed):
            await job.write(b"x" * 1_000_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    with pytest.raises(jobfs.StdinClosed):
        await job.write(b"x")
    with pytest.raises(jobfs.JobEnded):
        await job.close_stdin()


async def test_a_function_without_stdin(table: Table) -> None:
    """StdinClosed on both sides."""

    async def read(task: Task) -> None:
        await task.stdin.receive_some()

    job = table.start(read)
    with pytest.raises(jobfs.StdinClosed):
        await job.write(b"x")
    assert "failed:1" == str(await job.wait())
    assert b"StdinClosed: it was started without stdin=True" in job.stderr.snapshot().data


async def test_a_function_has_no_terminal(table: Table) -> None:
    """To resize it is an error of the family."""
    job = table.start(sleeps)
    with pytest.raises(jobfs.JobfsError):
        await job.resize(24, 80)
