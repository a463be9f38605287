"""Programs that walk a whole tree: all end, with a running `yes` in it too, and read what can be read.

The tree has ended jobs, one whose stream has evicted, one with a name, one that waits, and two that never stop writing.
A program that takes a file's size for the length of what it will read (tar, rsync) complains about a stream that has
evicted, as the contract says, fills up with zeros, and is right about everything else. So those meet a `yes` that began
just before, or a slow one.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount

JOB = ["cmd", "ctl", "info", "status", "stderr", "stdin", "stdout"]
TEXT = ["cmd", "info", "status", "stderr", "stdout"]  # of an ended job: what is the same at each read
LIMIT = 65536  # bytes that the evicting streams keep
LINE = b"needle in a very long haystack"
YES = f"exec yes {LINE.decode()}"


class Tree(NamedTuple):
    """The jobs of a mount: those that have ended with all their output, and the others."""

    mounted: Mounted
    small: int
    large: int
    evicted: int
    waiting: int
    slow: int
    writing: int

    @property
    def whole(self) -> tuple[int, int]:
        """The ended jobs of which nothing was evicted."""
        return self.small, self.large

    @property
    def ids(self) -> list[int]:
        """All jobs."""
        return [self.small, self.large, self.evicted, self.waiting, self.slow, self.writing]


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    """A mount with a job of each kind; nothing of what the programs did to it may have met an error of the daemon."""
    mounted = Mounted()
    try:
        mounted.mount()
        small = mounted.run("--name build echo needle; echo needle >&2; exit 3")
        large = mounted.run("seq 200000")
        evicted = mounted.run(f"--limit {LIMIT} seq 100000; echo needle")
        waiting = mounted.spawn("echo needle; exec sleep 1000")
        slow = mounted.spawn(f"--limit {LIMIT} yes {LINE.decode()} | while read -r line; do echo $line; done")
        writing = mounted.spawn(f"--nice 19 --limit 1M {YES}")
        mounted.until_output(waiting, b"needle\n")
        for job in (slow, writing):
            stdout = mounted.file("stdout", job)
            until(stdout.stat, lambda status: status.st_size > status.st_blocks * 512 + LIMIT)
        yield Tree(mounted, small, large, evicted, waiting, slow, writing)
        mounted.umount("--end-jobs")
        assert [] == [line for line in mounted.log().splitlines() if "ERROR" in line or "Traceback" in line]
    finally:
        mounted.finish()


def run(
    mounted: Mounted, script: str, *arguments: str, cwd: Path | None = None, complaint: bytes | None = None
) -> bytes:
    """The output of a script that succeeds; or, with `complaint`, fails and complains about nothing else."""
    done = mounted.sh(f"set -o pipefail; {script}", *arguments, cwd=cwd)
    complaints = [line for line in done.stderr.splitlines() if complaint is None or complaint not in line]
    assert ([], complaint is None) == (complaints, done.returncode == 0)
    return done.stdout


def same(tree: Tree, copy: Path, job: int) -> None:
    """Asserts that `copy` of a job's directory has what the directory has."""
    for name in TEXT:
        assert tree.mounted.read(job, name) == (copy / name).read_bytes(), name


def test_grep_r(tree: Tree) -> None:
    """`grep -r` finds what there is in every job, and follows no link."""
    found = run(tree.mounted, 'cd "$J" && grep -rlx needle .').decode().split()
    small, evicted, waiting = f"./{tree.small}", f"./{tree.evicted}", f"./{tree.waiting}"
    assert sorted([f"{small}/stdout", f"{small}/stderr", f"{evicted}/stdout", f"{waiting}/stdout"]) == sorted(found)


def test_grep_r_of_what_is_being_written(tree: Tree) -> None:
    """`grep -r` of a running `yes` ends, and sees whole lines, as far as it was not overtaken inside one."""
    lines = run(tree.mounted, 'grep -rh . "$J/$1/stdout"', str(tree.writing)).splitlines()
    assert LINE in lines
    assert [] == [line for line in lines if not LINE.startswith(line)]


def test_find(tree: Tree) -> None:
    """`find` lists each job's directory with its files once, and the names as links."""
    found = run(tree.mounted, 'cd "$J" && find . -mindepth 1').decode().split()
    root = ["ctl", "events", "table", "table.jsonl", "last", "build"]
    files = [f"./{name}" for name in root] + [f"./{job}" for job in tree.ids]
    files += [f"./{job}/{name}" for job in tree.ids for name in JOB]
    assert sorted(files) == sorted(found)
    links = run(tree.mounted, 'cd "$J" && find . -type l -printf "%p %l\n"').decode().splitlines()
    assert sorted([f"./build {tree.small}", f"./last {tree.writing}"]) == sorted(links)


def test_find_by_size_and_time(tree: Tree) -> None:
    """`find` by size, time and `-newer` goes by the streams' own sizes and times."""
    newer = run(tree.mounted, 'find "$J" -name stdout -newer "$J/$1/stdout"', str(tree.large)).decode().split()
    assert {str(tree.mounted.file("stdout", job)) for job in tree.ids[2:]} == set(newer)
    script = 'find "$J/$1" "$J/$2" "$J/$3" -type f -size +1M'
    large = run(tree.mounted, script, str(tree.small), str(tree.large), str(tree.writing)).decode().split()
    assert [str(tree.mounted.file("stdout", job)) for job in (tree.large, tree.writing)] == large


def test_find_exec(tree: Tree) -> None:
    """`find -exec cat` reads every file of the tree to its end."""
    assert b"" == run(tree.mounted, 'find "$J" -type f -exec cat {} + > /dev/null')


def test_ls_lar(tree: Tree) -> None:
    """`ls -laR` lists every directory, with sizes that are those of what is read."""
    lines = run(tree.mounted, 'ls -laR "$J"').decode().splitlines()
    assert {f"{tree.mounted.path}:", *(f"{tree.mounted.path}/{job}:" for job in tree.ids)} == {
        line for line in lines if line.endswith(":")
    }
    size = len(tree.mounted.read(tree.large))
    assert [size] == [int(line.split()[4]) for line in lines if line.endswith(" stdout") and f" {size} " in line]


def test_tar(tree: Tree, tmp_path: Path) -> None:
    """`tar` of the whole tree ends, complains only about streams that evicted or grew, and has the rest right."""
    script = 'tar -cf "$1" -C "$J" --exclude "./$2" .'
    run(tree.mounted, script, str(tmp_path / "jobs.tar"), str(tree.writing), complaint=b"tar: ")
    listed = run(tree.mounted, 'tar -tf "$1"', str(tmp_path / "jobs.tar")).decode().split()
    assert {f"./{job}/{name}" for job in tree.ids[:-1] for name in JOB} <= set(listed)
    run(tree.mounted, 'tar -xf "$1" -C "$2"', str(tmp_path / "jobs.tar"), str(tmp_path))
    for job in tree.whole:
        same(tree, tmp_path / str(job), job)
    assert str(tree.small) == os.readlink(tmp_path / "build")


def test_tar_of_what_is_being_written(jobs: Mounted) -> None:
    """`tar` of a running `yes` ends."""
    job = jobs.spawn(f"--limit 1M {YES}")
    until(jobs.file("stdout", job).stat, lambda status: status.st_size > 1 << 23)
    listed = run(jobs, 'tar -cf - -C "$J" "$1" | tar -tf -', str(job), complaint=b"tar: ").decode().split()
    assert [f"{job}/{name}" for name in ("", *JOB)] == sorted(listed)


def test_tar_of_whole_streams_is_content(tree: Tree, tmp_path: Path) -> None:
    """`tar` of ended jobs of which nothing was evicted has nothing to complain about."""
    small, large = map(str, tree.whole)
    assert b"" == run(tree.mounted, 'tar -cf - -C "$J" "$1" "$2" | tar -xf - -C "$3"', small, large, str(tmp_path))
    for job in tree.whole:
        same(tree, tmp_path / str(job), job)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_tar_complains_about_what_was_evicted(tree: Tree) -> None:
    """`tar` says that a stream which has evicted is shorter than its size, and goes on."""
    done = tree.mounted.sh('tar -cf - -C "$J" "$1" | tar -tf -', str(tree.evicted))
    assert [f"{tree.evicted}/{name}" for name in ("", *JOB)] == sorted(done.stdout.decode().split())
    assert b"shrank" in done.stderr


def test_cp_r(tree: Tree, tmp_path: Path) -> None:
    """`cp -r` of the whole tree ends without complaint; of an evicted stream it copies what is retained."""
    assert b"" == run(tree.mounted, 'cp -r "$J" "$1"', str(tmp_path / "copy"))
    for job in (*tree.whole, tree.evicted):
        same(tree, tmp_path / "copy" / str(job), job)
    lines = set((tmp_path / "copy" / str(tree.writing) / "stdout").read_bytes().splitlines())
    assert LINE in lines
    assert [] == [line for line in lines if not LINE.startswith(line)]


def test_cp_a_keeps_times(tree: Tree, tmp_path: Path) -> None:
    """`cp -a` takes the files' times and modes along."""
    run(tree.mounted, 'cp -a "$J/$1" "$2"', str(tree.large), str(tmp_path))
    for name in TEXT:
        original, copy = tree.mounted.file(name, tree.large).stat(), (tmp_path / str(tree.large) / name).stat()
        assert (original.st_mtime_ns, original.st_mode) == (copy.st_mtime_ns, copy.st_mode)


def test_rsync(tree: Tree, tmp_path: Path) -> None:
    """`rsync -a` of ended jobs copies them, and the second time finds nothing to do."""
    small, large = map(str, tree.whole)
    script = 'rsync -a --itemize-changes "$J/$1" "$J/$2" "$3"'
    run(tree.mounted, script, small, large, str(tmp_path))
    for job in tree.whole:
        same(tree, tmp_path / str(job), job)
    assert b"" == run(tree.mounted, script, small, large, str(tmp_path))


def test_rsync_of_all(tree: Tree, tmp_path: Path) -> None:
    """`rsync -a` of the whole tree ends, and what it can have right is right."""
    done = tree.mounted.sh('rsync -a --exclude "/$2" "$J/" "$1"', str(tmp_path), str(tree.writing))
    assert 23 == done.returncode  # a partial transfer: some streams are shorter than their size
    for job in tree.whole:
        same(tree, tmp_path / str(job), job)
    assert str(tree.small) == os.readlink(tmp_path / "build")


def test_du(tree: Tree) -> None:
    """`du` tells what is retained, not what was ever written."""
    kib = {
        Path(path).name: int(size)
        for size, path in (line.split("\t") for line in run(tree.mounted, 'du -k -d1 "$J"').decode().splitlines())
    }
    assert kib[str(tree.large)] > kib[str(tree.evicted)] > 0
    bound = (LIMIT + (1 << 20)) // 1024
    assert kib[str(tree.evicted)] <= bound
    assert kib[str(tree.writing)] <= 2 * 1024 + 1


def test_wc(tree: Tree) -> None:
    """`wc` counts what can be read, and ends on a running `yes`."""
    streams = [f"{job}/stdout" for job in (*tree.whole, tree.evicted, tree.writing)]
    lines = run(tree.mounted, 'cd "$J" && wc -l "$@"', *streams).decode().splitlines()
    counted = [int(line.split()[0]) for line in lines]
    assert [1, 200000, tree.mounted.read(tree.evicted).count(b"\n")] == counted[:3]
    assert counted[3] > 0
    assert b"1288895\n" == run(tree.mounted, 'wc -c < "$J/$1/stdout"', str(tree.large))


def test_diff_r(tree: Tree, tmp_path: Path) -> None:
    """`diff -r` of a copy of ended jobs and the jobs finds no difference but that of `ctl`, which is no content."""
    for job in (*tree.whole, tree.evicted):
        run(tree.mounted, 'cp -r "$J/$1" "$2"', str(job), str(tmp_path))
        assert b"" == run(tree.mounted, 'diff -r "$J/$1" "$2/$1"', str(job), str(tmp_path))


def test_jq(tree: Tree) -> None:
    """`jq` reads `table.jsonl` and each `info`."""
    statuses = run(tree.mounted, 'jq -c "[.id, .status]" "$J/table.jsonl"').decode().splitlines()
    words = ["failed:3", "done:0", "done:0", "running", "running", "running"]
    assert [[job, word] for job, word in zip(tree.ids, words, strict=True)] == [
        json.loads(line) for line in statuses[: len(words)]
    ]
    dropped = run(tree.mounted, 'jq .stdout.dropped "$J"/[0-9]*/info').split()
    assert [b"0", b"0", b"0"] == [dropped[0], dropped[1], dropped[3]]
    assert [True, True] == [int(number) > 0 for number in (dropped[2], dropped[4])]


def test_walks_side_by_side(tree: Tree) -> None:
    """Many programs that walk the tree at the same time all end."""
    scripts = ["grep -rq nothing $J", "find $J -type f -exec cat {} + > /dev/null", "du -s $J > /dev/null"]
    environment = {**os.environ, "J": str(tree.mounted.path)}
    walks = [subprocess.Popen(["sh", "-c", script], env=environment) for script in scripts * 3]
    assert [1, 0, 0] * 3 == [walk.wait() for walk in walks]
