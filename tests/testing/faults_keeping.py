"""Engines that are wrong about what is left of jobs, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from jobfs.engines.base import Closed, Continued, Ended, News, Stopped, Trace
from jobfs.engines.fake import FakeJob
from jobfs.errors import JobEnded
from jobfs.model import Usage
from jobfs.states import Event
from jobfs.stream import RingWriter
from jobfs.testing import ScriptedEngine
from tests.testing.faults import Gossip, told_by

# What jobs leave behind


@told_by("a_job_has_ended_when_its_process_has", "which_streams_of_an_ended_job_are_open_is_answered")
class LooksAway(Gossip):
    """Says nothing of the streams that may still grow."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [replace(news, open_streams=frozenset()) if isinstance(news, Ended) else news]


@told_by("output_after_the_end_is_captured", "what_an_ended_job_left_can_be_ended")
class NeverCloses(Gossip):
    """Does not tell that streams are closed."""

    def retell(self, news: News) -> list[News]:
        """See `Gossip`."""
        return [] if isinstance(news, Closed) else [news]


@told_by("output_after_the_end_is_captured", "what_an_ended_job_left_can_be_watched")
class StopsListening(ScriptedEngine):
    """Reads nothing more of a job that has ended."""

    def show(self, job: int, stream: str, data: bytes) -> None:
        """See `ScriptedEngine`."""
        if self.jobs[job].ended is None:
            super().show(job, stream, data)


@told_by(
    "what_an_ended_job_left_can_be_ended",
    "what_an_ended_job_left_is_killed_after_the_grace",
    "what_an_ended_job_left_can_be_signalled",
)
class ReachesTheLivingOnly(ScriptedEngine):
    """Finds nobody where a job has ended."""

    def _require_somebody(self, job: int, handle: str) -> None:
        if job in self.jobs and self.jobs[job].ended is not None:
            raise JobEnded("it has ended")
        super()._require_somebody(job, handle)


@told_by("what_an_ended_job_left_is_counted", "living_jobs_have_a_usage")
class CountsNobody(ScriptedEngine):
    """Knows nothing of usage."""

    def usage(self, handles: Mapping[int, str]) -> Mapping[int, Usage]:
        """See `Engine`."""
        return {job: Usage(processes=0) for job in handles}


@told_by("an_ended_job_uses_nothing")
class CountsTheDead(ScriptedEngine):
    """Counts a process of every job."""

    def usage(self, handles: Mapping[int, str]) -> Mapping[int, Usage]:
        """See `Engine`."""
        return {job: Usage(processes=1) for job in handles}


# What is kept


@told_by("what_a_forgotten_job_left_writes_into_nothing")
class RemembersLeftovers(ScriptedEngine):
    """Goes on with what a forgotten job left behind."""

    def show(self, job: int, stream: str, data: bytes) -> None:
        """See `ScriptedEngine`."""
        if job not in self.jobs:
            RingWriter.create(self._path(job, stream), 4096).close()
        super().show(job, stream, data)


@told_by("a_job_is_known_from_its_start_until_it_is_forgotten")
class KnowsTheLivingOnly(ScriptedEngine):
    """Does not know jobs that have ended."""

    def known(self) -> Mapping[int, Trace]:
        """See `Engine`."""
        return {job: trace for job, trace in super().known().items() if trace.may_live}


@told_by("an_acknowledged_end_takes_nothing_away", "of_a_job_that_is_not_asked_about_nothing_is_answered")
class ForgetsWhenAcknowledged(ScriptedEngine):
    """Takes an acknowledgement for the permission to forget."""

    async def acknowledge(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        listed = list(jobs)
        await super().acknowledge(listed)
        await self.forget(listed)


@told_by("a_forgotten_jobs_output_is_gone", "what_a_forgotten_job_left_writes_into_nothing")
class ForgetsNothing(ScriptedEngine):
    """Forgets what it knows of jobs, and leaves their files."""

    async def forget(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        for job in jobs:
            self.jobs.pop(job, None)


@told_by("what_is_not_known_can_be_forgotten")
class ForgetsOnce(ScriptedEngine):
    """Fails to forget what it does not know."""

    async def forget(self, jobs: Iterable[int]) -> None:
        """See `Engine`."""
        listed = list(jobs)
        if not self.jobs.keys() >= set(listed):
            raise JobEnded("no such job")
        await super().forget(listed)


# Attaching


@told_by("an_end_is_told_again_until_it_is_acknowledged", "whoever_attaches_last_is_told")
class AnswersHalfTheStory(ScriptedEngine):
    """Answers how jobs ended, and not that they were started."""

    def _story(self, fake: FakeJob) -> list[News]:
        return super()._story(fake)[1:]


@told_by("a_job_goes_on_while_nobody_is_attached", "whoever_attaches_last_is_told")
class AnswersOtherHandles(ScriptedEngine):
    """Has another handle for a job each time."""

    def _story(self, fake: FakeJob) -> list[News]:
        return [replace(fake.started, handle="another"), *super()._story(fake)[1:]]


@told_by("an_end_that_nobody_was_there_for_is_told_by_the_next_attach")
class ForgetsUnheardEnds(ScriptedEngine):
    """Does not tell an end that nobody heard."""

    def _say(self, news: News) -> None:
        self._unheard: set[int] = getattr(self, "_unheard", set())
        if isinstance(news, Ended) and self._tell is None:
            self._unheard.add(news.job)
        super()._say(news)

    def _story(self, fake: FakeJob) -> list[News]:
        unheard = fake.started.job in self._unheard
        return [fake.started] if unheard else super()._story(fake)


@told_by("of_a_job_that_is_not_asked_about_nothing_is_answered")
class AnswersUnasked(ScriptedEngine):
    """Answers the story of every job."""

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`."""
        return await super().attach({**dict.fromkeys(self.jobs), **alive}, tell)


@told_by("which_streams_of_an_ended_job_are_open_is_answered")
class AnswersNothingUnasked(ScriptedEngine):
    """Does not say of an ended job which of its streams are open."""

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`."""
        return [news for news in await super().attach(alive, tell) if news.job in alive]


@told_by("a_stopped_job_is_answered_to_be")
class ForgetsWhoIsStopped(ScriptedEngine):
    """Answers that every job runs."""

    def _story(self, fake: FakeJob) -> list[News]:
        story = super()._story(fake)
        return [Continued(news.job) if isinstance(news, Stopped) else news for news in story]


@told_by("jobs_that_the_engine_does_not_know_have_ended")
class AnswersForItsOwnOnly(ScriptedEngine):
    """Says nothing of jobs that it does not know."""

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`."""
        return [news for news in await super().attach(alive, tell) if news.job in self.jobs]


@told_by("jobs_that_the_engine_does_not_know_have_ended")
class CancelsWhatHadBegun(ScriptedEngine):
    """Says of a job that had begun, and that it does not know, that it never did."""

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`."""
        answer = await super().attach(alive, tell)
        lost = {news.job for news in answer if isinstance(news, Ended) and news.event is Event.LOSE}
        return [
            replace(news, event=Event.CANCEL) if isinstance(news, Ended) and news.job in lost else news
            for news in answer
        ]


@told_by("whoever_attaches_last_is_told")
class TellsTheFirstListener(ScriptedEngine):
    """Goes on telling whoever attached before."""

    async def attach(self, alive: Mapping[int, str | None], tell: Callable[[News], None]) -> list[News]:
        """See `Engine`."""
        return await super().attach(alive, self._tell or tell)
