"""The Python client, on a directory of plain files that stands for a mount.

A plain `ctl` answers as the real one does if what will be read stands behind what will be written.
"""

import errno
import fcntl
import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs import client, client_files
from jobfs.client import (
    Client,
    ClientError,
    CommandError,
    EvictedError,
    Job,
    NoSuchJobError,
    NotMountedError,
    Stream,
    StrPath,
    find,
)
from jobfs.mountinfo import Mount


def _answering(place: Path, length: int, reply: bytes) -> Client:
    (place / "ctl").write_bytes(b"." * length + reply)
    return Client(place)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Client]:
    """A mount whose `ctl` takes no write and has a reply to read."""
    fd = os.memfd_create("ctl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, b"error: no such job: 7\n")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    (tmp_path / "ctl").symlink_to(f"/proc/{os.getpid()}/fd/{fd}")
    yield Client(tmp_path)
    os.close(fd)


def test_a_command_is_one_line_and_gives_its_reply(tmp_path: Path) -> None:
    """What is written is the command and a newline; what is read behind it is the reply, without its newline."""
    mount = _answering(tmp_path, len(b"kill \xff\n"), b"ok\n")
    assert "ok" == mount.command("kill \udcff")
    assert (tmp_path / "ctl").read_bytes().startswith(b"kill \xff\n")


def test_a_refusal_has_the_errno_of_the_write_and_the_sentence_of_the_reply(refusing: Client) -> None:
    """An error of the write is raised with what the reply says, without its `error: `."""
    with pytest.raises(CommandError, match="no such job: 7") as caught:
        refusing.command("kill 7")
    assert (errno.EPERM, "no such job: 7") == (caught.value.errno, caught.value.strerror)


@pytest.mark.parametrize("line", ["kill 1\nrm 1", "\n"])
def test_a_command_of_several_lines_is_refused(tmp_path: Path, line: str) -> None:
    """What would be several commands, or none, is not written: there is one reply to give."""
    (tmp_path / "ctl").touch()
    with pytest.raises(CommandError, match="one line") as caught:
        Client(tmp_path).command(line)
    assert (errno.EINVAL, b"") == (caught.value.errno, (tmp_path / "ctl").read_bytes())


def test_spawn_writes_json_and_gives_the_job(tmp_path: Path) -> None:
    """A request travels as one line of JSON, without the options that were left out."""
    line = json.dumps({"op": "spawn", "argv": ["make", "a b\n"], "name": "build"})
    mount = _answering(tmp_path, len(line) + 1, b"12\n")
    assert Job(tmp_path, 12) == mount.spawn(["make", "a b\n"], name="build", cwd=None)
    assert line.encode() == (tmp_path / "ctl").read_bytes().splitlines()[0]


def test_every_option_of_spawn_has_its_key(tmp_path: Path) -> None:
    """Each keyword becomes the verb's option of that name; paths become text."""
    expected: dict[str, object] = {
        "op": "spawn",
        "cmd": "make",
        "name": "build",
        "cwd": "/src",
        "env": {"CC": "clang"},
        "env-file": "/env",
        "stdin": "pipe",
        "limit": "64K",
        "timeout": 1.5,
        "grace": "2s",
        "nice": 5,
        "pty": True,
    }
    mount = _answering(tmp_path, len(json.dumps(expected)) + 1, b"1\n")
    mount.spawn(
        "make",
        name="build",
        cwd=Path("/src"),
        env={"CC": "clang"},
        env_file=Path("/env"),
        stdin="pipe",
        limit="64K",
        timeout=1.5,
        grace="2s",
        nice=5,
        pty=True,
    )
    assert expected == json.loads((tmp_path / "ctl").read_bytes().splitlines()[0])


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [("pipe", "pipe"), ("a/b", "a/b"), (Path("pipe"), "./pipe"), (Path("/dev/null"), "/dev/null")],
)
def test_a_path_is_always_a_file_for_stdin(tmp_path: Path, stdin: StrPath, expected: str) -> None:
    """The word `pipe` means a pipe, and Path("pipe") a file of that name."""
    line = json.dumps({"op": "spawn", "cmd": "x", "stdin": expected})
    mount = _answering(tmp_path, len(line) + 1, b"1\n")
    mount.spawn("x", stdin=stdin)
    assert line.encode() == (tmp_path / "ctl").read_bytes().splitlines()[0]


def test_infos_are_the_lines_of_the_table(tmp_path: Path) -> None:
    """Every line of `table.jsonl` is one job; no line, no job."""
    (tmp_path / "table.jsonl").write_text('{"id": 1}\n{"id": 2}\n', encoding="ascii")
    assert [1, 2] == [info["id"] for info in Client(tmp_path).infos()]
    (tmp_path / "table.jsonl").write_text("", encoding="ascii")
    assert [] == Client(tmp_path).infos()


@pytest.fixture
def mount(tmp_path: Path) -> Client:
    """A mount of two jobs, 2 and 10, of which the second has a name and is the last."""
    for name in ("ctl", "events", "table"):
        (tmp_path / name).touch()
    for number in (10, 2):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "web").symlink_to("10")
    (tmp_path / "last").symlink_to("10")
    return Client(tmp_path)


def _say(job: Job, **files: str) -> None:
    for name, text in files.items():
        (job.directory / name).write_text(text)


def test_jobs_are_the_directories_in_the_order_of_their_ids(mount: Client) -> None:
    """Numbers are jobs; what else the root has is none."""
    assert [2, 10] == [job.id for job in mount.jobs()]


@pytest.mark.parametrize("word", [10, "10", "%10", "web", "last"])
def test_a_job_is_found_by_id_and_by_name(mount: Client, word: int | str) -> None:
    """An id as a number or a word, `%id`, a name, and `last`; where its files are follows from that."""
    job = mount.job(word)
    assert (10, mount.directory / "10") == (job.id, job.directory)


@pytest.mark.parametrize("word", [3, "3", "nobody", "ctl", "2/ctl", "", "%", "-1", "..", "x" * 300])
def test_no_such_job_is_an_error_of_its_own(mount: Client, word: int | str) -> None:
    """What is no job's id or name is ENOENT, by a sentence with the word, whatever else it may be called."""
    with pytest.raises(NoSuchJobError, match="no such job") as caught:
        mount.job(word)
    assert errno.ENOENT == caught.value.errno


def test_nothing_of_a_removed_job_can_be_had(mount: Client) -> None:
    """Where the directory has gone, each method says that there is no such job."""
    gone = Job(mount.directory, 99)
    for ask in (lambda: gone.status, gone.info, gone.wait, gone.read, gone.kill, lambda: list(gone.follow())):
        with pytest.raises(NoSuchJobError, match="no such job: 99"):
            ask()


@pytest.mark.parametrize("beneath", [[], ["ctl"]])
def test_a_mountpoint_without_a_mount_says_so(tmp_path: Path, beneath: list[str]) -> None:
    """Also where the directory has the `ctl` that is beneath a mount; no list of no jobs is given."""
    for name in beneath:
        (tmp_path / name).mkdir()
    bare = Client(tmp_path)
    for ask in (bare.jobs, bare.infos, bare.clean, lambda: bare.job(1), lambda: Job(tmp_path, 1).status):
        with pytest.raises(NotMountedError, match="is not mounted at") as caught:
            ask()
        assert errno.ENOENT == caught.value.errno


@pytest.mark.parametrize(
    ("word", "ended"), [("queued", False), ("running", False), ("stopped", False), ("done:0", True), ("lost", True)]
)
def test_the_status_is_a_word_which_is_final_or_not(mount: Client, word: str, *, ended: bool) -> None:
    """`status` is the file's word without its newline."""
    job = mount.job(2)
    _say(job, status=f"{word}\n")
    assert (word, ended) == (job.status, job.ended)


def test_reading_gives_all_or_what_follows_an_offset(mount: Client) -> None:
    """From an offset that is not evicted, the bytes there; at the end and past it, none."""
    job = mount.job(2)
    _say(job, stdout="0123456789", stderr="errors", info=json.dumps({"stdout": {"capacity": 6}}))
    assert (b"0123456789", b"errors") == (job.read(), job.read(stream="stderr"))
    assert [b"456789", b"9", b"", b""] == [job.read(offset) for offset in (4, 9, 10, 99)]


def test_bytes_that_were_evicted_are_an_error_and_never_others(mount: Client) -> None:
    """What had been written when all was read tells: an offset below what is kept raises, with where to go on."""
    job = mount.job(2)
    _say(job, stdout="0123456789", info=json.dumps({"stdout": {"capacity": 6}}))
    with pytest.raises(EvictedError, match="byte 3 was evicted") as caught:
        job.read(3)
    assert (errno.ENODATA, 4) == (caught.value.errno, caught.value.oldest)


def test_a_negative_offset_is_refused(mount: Client) -> None:
    """There is no byte before the first."""
    job = mount.job(2)
    _say(job, stdout="0123456789")
    with pytest.raises(OSError, match="Invalid argument"):
        job.read(-1)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_following_what_has_ended_gives_all_and_ends(mount: Client, stream: Stream) -> None:
    """A file that is always ready to be read, as the kernel has them, ends by the status."""
    job = mount.job(2)
    _say(job, status="done:0\n", stdout="x" * 1_000_000, stderr="x" * 1_000_000)
    assert b"x" * 1_000_000 == b"".join(job.follow(stream))


def test_following_goes_on_after_the_job_was_removed(mount: Client) -> None:
    """What was open reads on; a job that is not there any more has ended."""
    job = mount.job(2)
    _say(job, stdout="early\n")
    output = job.follow()
    assert b"early\n" == next(output)
    (job.directory / "stdout").unlink()
    job.directory.rmdir()
    assert [] == list(output)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", []), ("a\n\nb\n", [b"a\n", b"\n", b"b\n"]), ("a\rb\nc", [b"a\rb\n", b"c"]), ("a", [b"a"])],
)
def test_lines_end_at_newlines_alone(mount: Client, text: str, expected: list[bytes]) -> None:
    """Each line has its newline, but for a last one that lacks it; a carriage return ends none."""
    job = mount.job(2)
    _say(job, status="done:0\n", stdout=text)
    assert expected == list(job.lines())


@given(st.lists(st.text("ab\n").map(str.encode)))
def test_lines_are_the_same_wherever_the_chunks_end(chunks: list[bytes]) -> None:
    """Chunks are cut anywhere: lines are those of the whole."""
    assert b"".join(chunks).splitlines(keepends=True) == list(client_files.lines(chunks))


def test_events_are_objects_and_what_was_cut_short_is_passed_over(mount: Client) -> None:
    """A reader who was overtaken meets the beginning of an event, which is none."""
    (mount.directory / "events").write_text('{"event": "ended", "id": 1}\n{"event": "st\n{"event": "removed"}\n')
    assert ["ended", "removed"] == [event["event"] for event in mount.events()]


@pytest.mark.parametrize(
    ("method", "line"),
    [
        (Job.kill, b"kill"),
        (lambda job: job.kill(9), b"kill -s 9"),
        (lambda job: job.kill(signal.SIGUSR1), b"kill -s 10"),
        (lambda job: job.kill("HUP"), b"kill -s HUP"),
        (lambda job: job.kill("a b"), b"kill -s 'a b'"),
        (Job.stop, b"stop"),
        (Job.cont, b"cont"),
        (Job.eof, b"eof"),
        (lambda job: job.winsize(24, 80), b"winsize 24 80"),
        (Job.remove, b"rm"),
    ],
)
def test_a_jobs_verbs_are_written_to_its_own_ctl(mount: Client, method: Callable[[Job], None], line: bytes) -> None:
    """Each method is one line, without the job's id."""
    job = mount.job(2)
    (job.directory / "ctl").write_bytes(b"." * (len(line) + 1) + b"ok\n")
    method(job)
    assert line + b"\nok\n" == (job.directory / "ctl").read_bytes()


def test_restart_gives_the_new_job(mount: Client) -> None:
    """The reply is its id."""
    job = mount.job(2)
    (job.directory / "ctl").write_bytes(b"." * len(b"restart\n") + b"11\n")
    assert Job(mount.directory, 11) == job.restart()


def test_writing_gives_all_of_it_to_stdin(mount: Client) -> None:
    """However much it is."""
    job = mount.job(2)
    (job.directory / "stdin").touch()
    job.write(b"x" * 3_000_000)
    assert b"x" * 3_000_000 == (job.directory / "stdin").read_bytes()


@pytest.mark.parametrize("kind", [NotMountedError, CommandError, NoSuchJobError, EvictedError])
def test_errors_are_one_family(kind: type[ClientError]) -> None:
    """Who catches ClientError, or OSError, has them all; an error can travel between processes."""
    error = kind(errno.ENOENT, "a sentence")
    assert isinstance(error, ClientError)
    assert isinstance(error, OSError)
    same = pickle.loads(pickle.dumps(error))  # noqa: S301 - what was just written
    assert (kind, error.args) == (type(same), same.args)


def _mounts(*points: tuple[str, str, int]) -> list[Mount]:
    return [Mount(1, "0:1", Path(point), kind, "/state", user) for point, kind, user in points]


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([("/a", client.TYPE, 0), ("/v/jobs", client.TYPE, 0), ("/b", client.TYPE, 0)], "/v/jobs"),
        ([("/a", client.TYPE, 0), ("/home/me/jobs", client.TYPE, 0)], "/home/me/jobs"),
        ([("/a", client.TYPE, 0), ("/v/jobs", client.TYPE, 1), ("/b", "fuse.other", 0)], "/a"),
    ],
)
def test_the_users_own_mount_is_found(
    monkeypatch: pytest.MonkeyPatch, there: list[tuple[str, str, int]], expected: str
) -> None:
    """`/v/jobs`, else `~/jobs`, else the only one; where it is this user's, and no other file system's."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("JOBFS_MOUNT", raising=False)
    monkeypatch.setattr(client, "mounts", lambda: _mounts(*((p, t, os.geteuid() + u) for p, t, u in there)))
    assert Path(expected) == find()


def test_which_of_several_mounts_is_meant_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mounts in unusual places: the error names both, and how to say which."""
    monkeypatch.delenv("JOBFS_MOUNT", raising=False)
    monkeypatch.setattr(client, "mounts", lambda: _mounts(*((p, client.TYPE, os.geteuid()) for p in ("/a", "/b"))))
    with pytest.raises(NotMountedError, match=r"/a, /b.*JOBFS_MOUNT"):
        find()


def test_inside_a_job_its_own_mount_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """JOBFS_MOUNT, which every job has, goes before what is mounted."""
    monkeypatch.setenv("JOBFS_MOUNT", "/some/where")
    assert Path("/some/where") == Client().directory


def test_no_mount_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is mounted, the error says how to."""
    monkeypatch.delenv("JOBFS_MOUNT", raising=False)
    monkeypatch.setattr(client, "mounts", list[Mount])
    with pytest.raises(NotMountedError, match="jobfs mount"):
        find()
