"""Engines that are wrong about what jobs write, and what is written to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import trio

from jobfs.engines.base import Grown, News
from jobfs.errors import JobfsError
from jobfs.model import JobSpec
from jobfs.states import Event
from jobfs.stream import RingReader, RingWriter
from jobfs.testing import ScriptedEngine
from jobfs.testing.fake_rig import Player
from tests.testing.faults import Gossip, told_by

# Streams


@told_by("a_stream_without_a_byte_has_no_reader", "a_terminal_takes_both_streams", "a_spawn_that_fails_changes_nothing")
class MakesFilesAhead(ScriptedEngine):
    """Makes the ring file of any stream that is asked for."""

    def open_stream(self, job: int, name: str) -> RingReader | None:
        """See `Engine`."""
        path = self._path(job, name)
        if not path.exists():
            RingWriter.create(path, 4096).detach()
        return super().open_stream(job, name)


@told_by("a_stream_has_the_exact_bytes", "each_stream_has_its_own_limit")
class MixesStreams(ScriptedEngine):
    """Writes stderr to stdout."""

    def write(self, job: int, stream: str, data: bytes) -> None:  # noqa: ARG002 - that is the fault
        """See `FakeEngine`."""
        super().write(job, "stdout", data)


@told_by("a_stream_has_the_exact_bytes")
class TranslatesNewlines(ScriptedEngine):
    """Takes what jobs write for text."""

    def write(self, job: int, stream: str, data: bytes) -> None:
        """See `FakeEngine`."""
        super().write(job, stream, data.replace(b"\r\n", b"\n"))


@told_by("a_job_that_runs_can_be_read", "output_after_the_end_is_captured", "a_job_goes_on_while_nobody_is_attached")
class BuffersUntilTheEnd(ScriptedEngine):
    """Shows what a job writes when it has ended."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._kept: list[tuple[int, str, bytes]] = []

    def write(self, job: int, stream: str, data: bytes) -> None:
        """See `FakeEngine`."""
        self._kept.append((job, stream, data))

    def over(self, player: Player, event: Event, code: int) -> None:
        """See `ScriptedEngine`."""
        for job, stream, data in self._kept:
            if job == player.job:
                super().write(job, stream, data)
        self._kept = [kept for kept in self._kept if kept[0] != player.job]
        super().over(player, event, code)


@told_by("offsets_are_absolute", "all_that_was_written_is_readable_when_the_end_is_told")
class WritesTwice(ScriptedEngine):
    """Writes what is much twice."""

    def write(self, job: int, stream: str, data: bytes) -> None:
        """See `FakeEngine`."""
        super().write(job, stream, data * (2 if len(data) > 1000 else 1))


@told_by("only_the_newest_bytes_are_kept", "a_job_is_known_from_its_start_until_it_is_forgotten")
class KeepsAll(ScriptedEngine):
    """Heeds no limit."""

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        await super().spawn(job, replace(spec, limit=1 << 24), environment, directory, holder)


# Watches


@told_by("growth_is_told_once", "each_watched_stream_is_told")
class GrowsTwice(Gossip):
    """Tells twice that a stream has grown."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [news] * (2 if isinstance(news, Grown) else 1)


@told_by(
    "growth_is_told_once",
    "each_watched_stream_is_told",
    "many_watches_at_once_are_told",
    "growth_is_told_before_the_end",
    "what_an_ended_job_left_can_be_watched",
    "the_last_growth_of_a_job_is_told",
)
class NeverGrows(Gossip):
    """Never tells that a stream has grown."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [] if isinstance(news, Grown) else [news]


@told_by("growth_that_was_is_told_at_once", "what_cannot_grow_is_never_told")
class WaitsForMore(ScriptedEngine):
    """Tells of growth when there is more than there was when it was asked."""

    def watch(self, job: int, name: str, past: int) -> None:
        """See `Engine`."""
        writer = self.jobs[job].writers.get(name) if job in self.jobs else None
        super().watch(job, name, past if writer is None else max(past, writer.total))


@told_by("growth_up_to_the_offset_is_no_news")
class TellsEarly(ScriptedEngine):
    """Tells of any growth, whatever the offset."""

    def watch(self, job: int, name: str, past: int) -> None:
        """See `Engine`."""
        writer = self.jobs[job].writers.get(name) if job in self.jobs else None
        super().watch(job, name, past if writer is not None and past < writer.total else 0)


@told_by("the_lowest_of_several_offsets_counts", "many_watches_at_once_are_told")
class HeedsTheLastWatch(ScriptedEngine):
    """Forgets what it was asked about before."""

    def watch(self, job: int, name: str, past: int) -> None:
        """See `Engine`."""
        self._watches.pop((job, name), None)
        super().watch(job, name, past)


@told_by("what_nobody_watches_is_no_news", "a_watch_ends_with_its_attachment")
class TellsUnasked(ScriptedEngine):
    """Tells whenever a stream has grown."""

    def _tell_if_grown(self, job: int, stream: str) -> None:
        self._watches.setdefault((job, stream), 0)
        super()._tell_if_grown(job, stream)


@told_by("what_cannot_grow_is_never_told")
class FailsToWatch(ScriptedEngine):
    """Fails a watch of what is not there."""

    def watch(self, job: int, name: str, past: int) -> None:
        """See `Engine`."""
        assert not self.jobs[job].ended
        super().watch(job, name, past)


@told_by("a_watch_ends_with_its_attachment")
class KeepsWatches(ScriptedEngine):
    """Tells a new listener what the last one asked about."""

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`."""
        kept = dict(self._watches)
        answer = await super().attach(alive, tell)
        self._watches.update(kept)
        return answer


# Stdin


@told_by(
    "a_job_reads_what_is_written_until_end_of_file",
    "what_was_written_before_end_of_file_is_read_first",
    "much_that_is_written_comes_through",
    "what_is_written_to_a_terminal_is_typed",
)
class NeverEndsInput(ScriptedEngine):
    """Does nothing where stdin is to be closed."""

    async def close_stdin(self, job: int) -> None:
        """See `Engine`."""
        await self._asked()
        self._require_somebody(job, f"fake {job}")


@told_by("a_descriptor_of_stdin_never_blocks")
class BlocksWriters(ScriptedEngine):
    """Gives a descriptor that blocks."""

    async def open_stdin(self, job: int) -> int:
        """See `Engine`."""
        fd = await super().open_stdin(job)
        os.set_blocking(fd, True)
        return fd


@told_by("a_write_to_a_job_that_has_closed_its_stdin_fails")
class HoldsThePipe(ScriptedEngine):
    """Keeps the end of the pipe that a job reads."""

    def hang_up_stdin(self, job: int) -> None:
        """See `FakeEngine`."""


@told_by("a_job_that_reads_nothing_cannot_be_written_to")
class TakesInputForNobody(ScriptedEngine):
    """Gives a pipe that nobody reads."""

    async def open_stdin(self, job: int) -> int:
        """See `Engine`."""
        try:
            return await super().open_stdin(job)
        except JobfsError:
            return os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)


@told_by("a_job_without_stdin_reads_end_of_file")
class WaitsForInput(ScriptedEngine):
    """Lets a job without stdin wait for input."""

    async def copy_input(self, job: int) -> None:
        """See `ScriptedEngine`."""
        await super().copy_input(job)
        if not self.jobs[job].spec.takes_input:
            await trio.sleep_forever()


@told_by("the_stdin_of_an_ended_job_cannot_be_closed")
class ClosesAnyStdin(ScriptedEngine):
    """Finds nothing wrong in closing the stdin of a job that has ended."""

    async def close_stdin(self, job: int) -> None:
        """See `Engine`."""
        if job in self.jobs and self.jobs[job].ended is None:
            await super().close_stdin(job)


# Terminals


@told_by("a_terminal_takes_both_streams", "what_is_written_to_a_terminal_is_typed")
class HasPipesOnly(ScriptedEngine):
    """Gives a pipe to a job that asked for a terminal."""

    def show(self, job: int, stream: str, data: bytes) -> None:
        """See `ScriptedEngine`."""
        if job in self.jobs:
            self.write(job, stream, data)
