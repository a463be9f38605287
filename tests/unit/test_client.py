"""The Python client, on a directory of plain files that stands for a mount.

A plain `ctl` answers as the real one does if what will be read stands behind what will be written.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobfs import client
from jobfs.client import Client, CommandError, NotMountedError, find
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


def test_spawn_writes_json_and_gives_the_id(tmp_path: Path) -> None:
    """A request travels as one line of JSON, without the options that were left out."""
    line = json.dumps({"op": "spawn", "argv": ["make", "a b\n"], "name": "build"})
    mount = _answering(tmp_path, len(line) + 1, b"12\n")
    assert 12 == mount.spawn(argv=["make", "a b\n"], name="build", cwd=None)
    assert line.encode() == (tmp_path / "ctl").read_bytes().splitlines()[0]


def test_infos_are_the_lines_of_the_table(tmp_path: Path) -> None:
    """Every line of `table.jsonl` is one job; no line, no job."""
    (tmp_path / "table.jsonl").write_text('{"id": 1}\n{"id": 2}\n', encoding="ascii")
    assert [1, 2] == [info["id"] for info in Client(tmp_path).infos()]
    (tmp_path / "table.jsonl").write_text("", encoding="ascii")
    assert [] == Client(tmp_path).infos()


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
