"""Several who mount, unmount and upgrade at once: one wins, the others say why, and no job notices."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from jobfs.mountinfo import mounts
from tests.mounted import JOBFS, Mounted, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.mount

MANY = 6
ROUNDS = 3


@pytest.fixture
def absent() -> Iterator[Mounted]:
    """A place for a mount, where nothing is mounted yet."""
    mounted = Mounted()
    try:
        yield mounted
    finally:
        mounted.finish()


def at_once(jobs: Mounted, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Runs several `jobfs` commands at once; gives the exit status and the sentence of each."""
    running = [
        subprocess.Popen(
            [JOBFS, *words],
            env=jobs.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words in commands
    ]
    said = [command.communicate()[0] for command in running]
    jobs.note_processes()
    return [(command.returncode, text) for command, text in zip(running, said, strict=True)]


def mounted_at(jobs: Mounted) -> int:
    """How many mounts there are at the place of one, atop of each other."""
    return sum(mount.point == jobs.path for mount in mounts())


def test_one_state_is_mounted_by_one(absent: Mounted) -> None:
    """Of many who mount one state at different places, one does, and the others are told where it is served."""
    for number in range(ROUNDS):
        places = [absent.place / f"m{number}-{each}" for each in range(MANY)]
        done = at_once(absent, [["mount", "--state", str(absent.state), str(place)] for place in places])
        winners = [place for place, (status, _) in zip(places, done, strict=True) if status == 0]
        assert 1 == len(winners), done
        losers = [text for status, text in done if status]
        assert [] == [text for text in losers if f"the state in {absent.state} is being served already" not in text]
        assert [] == [place for place in places if place.exists() and place not in winners]
        absent.path = winners[0]
        absent.umount()


def test_one_directory_is_mounted_on_by_one(absent: Mounted) -> None:
    """Of many who mount different states at one place, one does, and the others are told that it is taken."""
    for number in range(ROUNDS):
        states = [absent.place / f"s{number}-{each}" for each in range(MANY)]
        done = at_once(absent, [["mount", "--state", str(state), str(absent.path)] for state in states])
        winners = [state for state, (status, _) in zip(states, done, strict=True) if status == 0]
        assert (1, 1) == (len(winners), mounted_at(absent)), done
        assert [f"jobfs: jobfs is mounted at {absent.path} already\n"] * (MANY - 1) == [
            text for status, text in done if status
        ]
        absent.state = winners[0]
        absent.note_processes()
        absent.umount()
        assert not absent.path.exists()


def test_what_a_killed_daemon_left_is_cleaned_up_by_one(jobs: Mounted) -> None:
    """Many who mount where a killed daemon was clean that up once, and none takes the new mount for it."""
    job = jobs.spawn("exec sleep 1000")
    for _ in range(ROUNDS):
        daemon = jobs.daemon
        assert daemon is not None
        subprocess.run(["kill", "-9", str(daemon)], check=True)
        done = at_once(jobs, [["mount", "--state", str(jobs.state), str(jobs.path)]] * MANY)
        assert [0] + [1] * (MANY - 1) == sorted(status for status, _ in done), done
        assert [] == [text for status, text in done if status and "is mounted at" not in text]
        assert (1, "running") == (mounted_at(jobs), jobs.status(job))


def test_upgrades_at_once_come_one_after_the_other(jobs: Mounted) -> None:
    """Each of many upgrades replaces the daemon that it finds, and one mount is there in the end."""
    job = jobs.spawn("exec sleep 1000")
    done = at_once(jobs, [["upgrade", str(jobs.path)]] * MANY)
    assert [0] * MANY == [status for status, _ in done], done
    assert (1, "running") == (mounted_at(jobs), jobs.status(job))


@pytest.mark.parametrize("word", ["upgrade", "mount"])
def test_umount_and_its_opposite_at_once_do_both(jobs: Mounted, word: str) -> None:
    """Whichever comes first, in the end the mount is there and works, or it is not, and each command says the truth."""
    job = jobs.spawn("exec sleep 1000")
    words = {"upgrade": ["upgrade", str(jobs.path)], "mount": ["mount", "--state", str(jobs.state), str(jobs.path)]}
    for _ in range(ROUNDS):
        (umount, _), (other, said) = at_once(jobs, [["umount", str(jobs.path)], words[word]])
        assert mounted_at(jobs) < 2
        if jobs.is_mounted:
            assert "running" == jobs.status(job)
        else:
            assert 0 == umount
            until(lambda: not jobs.path.exists())
            assert other == 0 or "mounted" in said, said
            jobs.mount()
    assert "running" == jobs.status(job)
