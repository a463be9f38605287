"""Engines that are wrong about how jobs start and end."""

from __future__ import annotations

import signal
from dataclasses import replace

from jobfs.engines.base import Continued, Ended, News, Started, Stopped
from jobfs.engines.fake import FakeJob
from jobfs.errors import JobfsError
from jobfs.model import STREAMS, JobSpec
from jobfs.states import Event
from jobfs.testing import ScriptedEngine
from jobfs.testing.fake_rig import Player
from tests.testing.faults import Gossip, told_by

# Starts


@told_by("a_start_is_told_before_spawn_returns")
class StartsLate(ScriptedEngine):
    """Tells that a job was started when spawn has returned."""

    def _say(self, news: News) -> None:
        if isinstance(news, Started):
            self._stage.nursery.start_soon(self._say_late, news)
        else:
            super()._say(news)

    async def _say_late(self, news: News) -> None:
        super()._say(news)


@told_by("a_start_is_told_before_spawn_returns", "an_end_is_told_once")
class StartsTwice(Gossip):
    """Tells each start twice."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [news] * (2 if isinstance(news, Started) else 1)


@told_by("a_start_has_its_time_on_both_clocks")
class MixesClocks(Gossip):
    """Tells the time of the epoch for that of the monotonic clock."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [replace(news, started_clock=news.started_at) if isinstance(news, Started) else news]


@told_by("many_jobs_at_once_keep_apart")
class MixesJobs(ScriptedEngine):
    """Writes what a job writes to the newest job's stream."""

    def show(self, job: int, stream: str, data: bytes) -> None:
        """See `ScriptedEngine`."""
        super().show(max(self.jobs, default=job), stream, data)


@told_by("a_spawn_that_fails_changes_nothing")
class SpawnsAnyway(ScriptedEngine):
    """Keeps what could not be started."""

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        try:
            await super().spawn(job, spec, environment, directory, holder)
        except JobfsError:
            self.jobs[job] = FakeJob(spec, environment, directory, Started(job, 0.0, 0.0, None, ""))
            raise


@told_by("a_spawn_that_fails_changes_nothing")
class RaisesWhatItMeets(ScriptedEngine):
    """Fails with an error that is not of the family."""

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        try:
            await super().spawn(job, spec, environment, directory, holder)
        except JobfsError as error:
            raise FileNotFoundError(error.errno, str(error)) from error


@told_by("a_job_has_its_directory_and_environment", "a_job_has_its_umask_and_niceness")
class IgnoresSurroundings(ScriptedEngine):
    """Starts every job in the same place."""

    async def spawn(
        self, job: int, spec: JobSpec, environment: str, directory: int | None, holder: int | None = None
    ) -> None:
        """See `Engine`."""
        spec = replace(spec, directory="/", cwd=None, umask=0o022, nice=None)
        await super().spawn(job, spec, environment, directory, holder)


# Ends


@told_by("an_end_is_told_once")
class EndsTwice(Gossip):
    """Tells each end twice."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [news] * (2 if isinstance(news, Ended) else 1)


@told_by("a_job_ends_with_its_exit_code", "how_a_job_ended_is_what_it_made_of_it")
class KnowsNoCodes(Gossip):
    """Takes every exit for a success."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        known = isinstance(news, Ended) and news.event is Event.EXIT_NONZERO
        return [replace(news, event=Event.EXIT_ZERO, code=0) if isinstance(news, Ended) and known else news]


@told_by(
    "a_job_that_dies_of_a_signal_ends_with_its_number",
    "a_signal_reaches_the_job",
    "a_job_ends_when_it_is_asked_to",
    "a_job_that_ignores_it_is_killed_after_its_grace",
)
class SpeaksShell(Gossip):
    """Says that what died of a signal exited with 128 and its number."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        if isinstance(news, Ended) and news.event is Event.SIGNAL:
            return [replace(news, event=Event.EXIT_NONZERO, code=128 + (news.code or 0))]
        return [news]


@told_by("an_end_has_its_time")
class CountsMilliseconds(Gossip):
    """Tells times in milliseconds."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [replace(news, ended_at=news.ended_at * 1000) if isinstance(news, Ended) else news]


@told_by("an_end_has_its_time", "a_job_that_ends_has_closed_its_streams")
class NeverLetsGo(ScriptedEngine):
    """Thinks that something holds the streams of every ended job."""

    def over(self, player: Player, event: Event, code: int) -> None:
        """See `ScriptedEngine`."""
        self._players[player.job].remove(player)
        reason = self._ending.get(player.job)
        self._end_as(player.job, event, code, open_streams=frozenset(STREAMS), reason=reason)


@told_by(
    "all_that_was_written_is_readable_when_the_end_is_told",
    "an_end_that_nobody_was_there_for_is_told_by_the_next_attach",
    "what_was_written_before_end_of_file_is_read_first",
    "much_that_is_written_comes_through",
)
class LosesTheLastWrite(ScriptedEngine):
    """Writes each piece when the next one comes, and the last one never."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._kept: dict[tuple[int, str], bytes] = {}

    def write(self, job: int, stream: str, data: bytes) -> None:
        """See `FakeEngine`."""
        before, self._kept[job, stream] = self._kept.get((job, stream)), data
        if data.endswith(b"ready\n"):
            before, self._kept[job, stream] = data, b""
        if before:
            super().write(job, stream, before)


@told_by("a_timeout_ends_the_job_and_says_so")
class HasAllTheTime(ScriptedEngine):
    """Knows no timeout."""

    async def _time_out(self, job: int, seconds: float) -> None:
        pass


@told_by("a_timeout_ends_the_job_and_says_so")
class SaysNothingOfTimeouts(Gossip):
    """Ends a job by its timeout without a reason."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [replace(news, reason=None) if isinstance(news, Ended) else news]


@told_by("a_timeout_that_is_not_reached_is_no_reason", "a_job_ends_with_its_exit_code", "a_signal_reaches_the_job")
class AlwaysHasAReason(Gossip):
    """Has a reason for every end."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [replace(news, reason=news.reason or "it has ended") if isinstance(news, Ended) else news]


# Signals and ends


@told_by("a_signal_reaches_the_job", "what_an_ended_job_left_can_be_signalled")
class DropsSignals(ScriptedEngine):
    """Takes note of signals, and that is all."""

    def deliver(self, job: int, number: int) -> None:
        """See `ScriptedEngine`."""
        if number == signal.SIGTERM:
            super().deliver(job, number)


@told_by("a_job_that_has_ended_cannot_be_signalled_nor_ended", "a_terminal_can_be_resized")
class RefusesNobody(ScriptedEngine):
    """Finds nothing wrong in asking something of a job that has ended."""

    async def signal(self, job: int, handle: str, number: int) -> None:
        """See `Engine`."""
        if job in self._players:
            await super().signal(job, handle, number)

    async def end(self, job: int, handle: str, grace: float, reason: str | None = None) -> None:
        """See `Engine`."""
        if job in self._players:
            await super().end(job, handle, grace, reason)

    async def resize(self, job: int, rows: int, columns: int) -> None:
        """See `Engine`."""


@told_by("a_job_ends_when_it_is_asked_to", "a_second_end_changes_nothing")
class ForgetsReasons(ScriptedEngine):
    """Does not say why a job was ended."""

    def begin_end(self, job: int, grace: float, reason: str | None) -> None:  # noqa: ARG002 - that is the fault
        """See `ScriptedEngine`."""
        super().begin_end(job, grace, None)


@told_by("a_second_end_changes_nothing")
class TheLastReasonCounts(ScriptedEngine):
    """Says the reason of the last one who asked."""

    def begin_end(self, job: int, grace: float, reason: str | None) -> None:
        """See `ScriptedEngine`."""
        super().begin_end(job, grace, reason)
        self._ending[job] = reason


@told_by("a_second_end_changes_nothing")
class TheSecondEndKills(ScriptedEngine):
    """Loses its patience with who is asked twice."""

    def begin_end(self, job: int, grace: float, reason: str | None) -> None:
        """See `ScriptedEngine`."""
        if job in self._ending:
            self.deliver(job, signal.SIGKILL)
        else:
            super().begin_end(job, grace, reason)


@told_by("how_a_job_ended_is_what_it_made_of_it", "a_job_that_ignores_it_lives_as_long_as_its_grace")
class HasNoGrace(ScriptedEngine):
    """Kills at once."""

    def begin_end(self, job: int, grace: float, reason: str | None) -> None:  # noqa: ARG002 - that is the fault
        """See `ScriptedEngine`."""
        self._ending.setdefault(job, reason)
        self.deliver(job, signal.SIGKILL)


@told_by("a_job_that_ignores_it_is_killed_after_its_grace", "what_an_ended_job_left_is_killed_after_the_grace")
class NeverKills(ScriptedEngine):
    """Asks once."""

    async def _grace_over(self, job: int, grace: float) -> None:
        pass


@told_by("a_stopped_job_can_be_ended")
class LeavesThemStopped(ScriptedEngine):
    """Asks a stopped job to end, and leaves it stopped."""

    def begin_end(self, job: int, grace: float, reason: str | None) -> None:  # noqa: ARG002 - that is the fault
        """See `ScriptedEngine`."""
        stopped = self.jobs[job].stopped
        super().begin_end(job, 1e9, reason)
        assert self.jobs[job].stopped == stopped

    def deliver(self, job: int, number: int) -> None:
        """See `ScriptedEngine`."""
        if number != signal.SIGCONT:
            super().deliver(job, number)


@told_by("a_stop_and_a_continue_are_told", "a_stopped_job_is_answered_to_be")
class StopsInSilence(Gossip):
    """Does not tell that a job was stopped."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [] if isinstance(news, Stopped) else [news]


@told_by("a_stop_and_a_continue_are_told")
class ContinuesTwice(Gossip):
    """Tells twice that a job goes on."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [news] * (2 if isinstance(news, Continued) else 1)
