"""The life of a job: which event may follow which status, and the words of the contract."""

import os

import pytest

from jobfs.states import FINAL, QUEUED, TRANSITIONS, Event, IllegalTransition, State, Status, after, ending

ENDS = {
    Event.EXIT_ZERO: "done",
    Event.EXIT_NONZERO: "failed",
    Event.SIGNAL: "killed",
    Event.CANCEL: "cancelled",
    Event.LOSE: "lost",
}
# Written down a second time, as the contract has it: whatever is not here is illegal.
LEGAL = {
    "queued": {Event.START: "running", Event.CANCEL: "cancelled", Event.LOSE: "lost"},
    "running": {Event.STOP: "stopped", Event.CONTINUE: "running", **ENDS},
    "stopped": {Event.STOP: "stopped", Event.CONTINUE: "running", **ENDS},
}
PAIRS = [(state, event) for state in State for event in Event]
# Every word that the contract's table has, with the smallest and largest numbers.
LIVING = ["queued", "running", "stopped"]
ENDED = ["done:0", "failed:1", "failed:255", "killed:1", "killed:9", "killed:64", "cancelled", "lost"]


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_an_event_leads_where_the_table_says_and_else_raises(state: State, event: Event) -> None:
    """Each event leads to the one state that the contract names, and is refused in every other state."""
    expected = LEGAL.get(state.value, {}).get(event)
    before = Status(state)
    if expected is None:
        with pytest.raises(IllegalTransition, match=state.value):
            after(before, event, 1)
    else:
        assert Status(State(expected), 1) == after(before, event, 1)
    assert Status(state) == before


def test_every_state_stands_in_the_table() -> None:
    """No state lacks its row, so that an event is always either legal or an IllegalTransition."""
    assert set(State) == set(TRANSITIONS)


@pytest.mark.parametrize("state", [state for state in State if state in FINAL])
def test_a_final_status_never_changes(state: State) -> None:
    """Whatever happens to a job that has ended, its word stays."""
    status = Status(state, 3)
    for event in Event:
        with pytest.raises(IllegalTransition):
            after(status, event)
    assert status.final


def test_a_word_says_whether_it_is_final() -> None:
    """The last five words of the contract are final, the first three are not."""
    assert ENDED == [word for word in LIVING + ENDED if Status.parse(word).final]


@pytest.mark.parametrize("word", LIVING + ENDED)
def test_a_word_parses_back(word: str) -> None:
    """A word that was stored is read as the status that it was made of."""
    assert word == Status.parse(word).word


@pytest.mark.parametrize("word", ["", "done:", "done:x", "gone", "failed:1:2", ":1"])
def test_what_is_no_word_is_refused(word: str) -> None:
    """A stored word that was scribbled on is a ValueError, not some status."""
    with pytest.raises(ValueError, match=r"."):
        Status.parse(word)


def test_a_new_job_is_queued() -> None:
    """Before its exec a job is queued."""
    assert "queued" == QUEUED.word


@pytest.mark.parametrize(
    ("wait_status", "event", "code"),
    [
        (0, Event.EXIT_ZERO, 0),
        (1 << 8, Event.EXIT_NONZERO, 1),
        (255 << 8, Event.EXIT_NONZERO, 255),
        (9, Event.SIGNAL, 9),
        (11 | 0x80, Event.SIGNAL, 11),  # with a core dump
        (64, Event.SIGNAL, 64),
    ],
)
def test_an_end_is_read_from_the_wait_status(wait_status: int, event: Event, code: int) -> None:
    """A wait status says by itself whether a job is done, failed or killed, and by which number."""
    assert (event, code) == ending(wait_status)


def test_a_stop_is_no_end() -> None:
    """The wait status of a process that was stopped is not taken for an end."""
    stopped = (19 << 8) | 0x7F
    assert os.WIFSTOPPED(stopped)
    with pytest.raises(ValueError, match="stopped"):
        ending(stopped)
