"""Programs that read streams or walk the whole tree: all end, with a running `yes` too, and read what can be read.

The tree has ended jobs, one whose stream has evicted, one with a name, one that waits, and two that never stop writing.
A program that takes a file's size for the length of what it will read (tar, rsync) complains about a stream that has
evicted, as the contract says, fills up with zeros, and is right about everything else. So those meet a `yes` that began
just before, or a slow one.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mount

ROOT_FILES = ["ctl", "events", "table", "table.jsonl"]
LINKS = 2  # the name `build`, and `last`
JOB = ["cmd", "ctl", "info", "status", "stderr", "stdin", "stdout"]
TEXT = ["cmd", "info", "status", "stderr", "stdout"]  # of an ended job: what is the same at each read
LIMIT = 65536  # bytes that the evicting streams keep
LINE = b"haystack with a needle in it"  # which begins with no line of another job
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
def still() -> Iterator[Tree]:
    """A mount with a job of each kind, the writing ones stopped.

    The programs leave the tree alone, and none may have met an error of the daemon.
    """
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
        mounted.ctl(f"stop {slow} {writing}")
        before = sorted(os.listdir(mounted.path))
        yield Tree(mounted, small, large, evicted, waiting, slow, writing)
        assert before == sorted(os.listdir(mounted.path))
        mounted.umount("--end-jobs")
        assert [] == [line for line in mounted.log().splitlines() if "ERROR" in line or "Traceback" in line]
    finally:
        mounted.finish()


@pytest.fixture
def tree(still: Tree) -> Iterator[Tree]:
    """The same with all of them running; only while it takes, for they keep the machine busy."""
    with running(still, still.slow, still.writing):
        yield still


@pytest.fixture
def chatty(still: Tree) -> Iterator[Tree]:
    """The same with the slow one running: for rg, which has read all only when it meets the end twice in a row."""
    with running(still, still.slow):
        yield still


@contextmanager
def running(tree: Tree, *jobs: int) -> Iterator[None]:
    """Lets stopped jobs run for a while."""
    words = " ".join(map(str, jobs))
    tree.mounted.ctl(f"cont {words}")
    for job in jobs:
        tree.mounted.until(job, "running")
    yield
    tree.mounted.ctl(f"stop {words}")


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
    files = [f"./{name}" for name in (*ROOT_FILES, "last", "build")] + [f"./{job}" for job in tree.ids]
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


@pytest.mark.needs("rsync")
def test_rsync(tree: Tree, tmp_path: Path) -> None:
    """`rsync -a` of ended jobs copies them, and the second time finds nothing to do."""
    small, large = map(str, tree.whole)
    script = 'rsync -a --itemize-changes "$J/$1" "$J/$2" "$3"'
    run(tree.mounted, script, small, large, str(tmp_path))
    for job in tree.whole:
        same(tree, tmp_path / str(job), job)
    assert b"" == run(tree.mounted, script, small, large, str(tmp_path))


@pytest.mark.needs("rsync")
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


@pytest.mark.needs("diff")
def test_diff_r(tree: Tree, tmp_path: Path) -> None:
    """`diff -r` of a copy of ended jobs and the jobs finds no difference but that of `ctl`, which is no content."""
    for job in (*tree.whole, tree.evicted):
        run(tree.mounted, 'cp -r "$J/$1" "$2"', str(job), str(tmp_path))
        assert b"" == run(tree.mounted, 'diff -r "$J/$1" "$2/$1"', str(job), str(tmp_path))


@pytest.mark.needs("jq")
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


# Programs of other makers.


@pytest.mark.needs("rg")
def test_rg(chatty: Tree) -> None:
    """`rg` finds what there is in every job, and follows the names into no other place with `-L`."""
    found = run(chatty.mounted, 'cd "$J" && rg -lx needle').decode().split()
    small = f"{chatty.small}/std"
    assert sorted([f"{small}out", f"{small}err", f"{chatty.evicted}/stdout", f"{chatty.waiting}/stdout"]) == sorted(
        found
    )
    followed = run(chatty.mounted, 'cd "$J" && rg -Llx needle').decode().split()
    assert {*found, "build/stdout", "build/stderr"} == set(followed)
    listed = run(chatty.mounted, 'cd "$J" && rg --files --hidden').decode().split()
    assert sorted([*ROOT_FILES, *(f"{job}/{name}" for job in chatty.ids for name in JOB)]) == sorted(listed)


@pytest.mark.needs("rg")
@pytest.mark.parametrize("option", ["", "--mmap", "--text"])
def test_rg_of_what_is_being_written(chatty: Tree, option: str) -> None:
    """`rg` of what is being written ends, in whichever way it reads."""
    lines = run(chatty.mounted, 'rg -N $2 needle "$J/$1/stdout"', str(chatty.slow), option).splitlines()
    assert LINE in lines


@pytest.mark.parametrize(
    "search",
    [
        'grep -re "$1" .',
        "find . -type f -exec grep -e \"$1\" '{}' +",
        pytest.param('rg -uuu --hidden -e "$1" .', marks=pytest.mark.needs("rg")),
    ],
    ids=["grep", "find", "rg"],
)
def test_search_meets_no_environment(chatty: Tree, search: str) -> None:
    """A search of the whole tree meets no job's environment, which may hold what is secret."""
    done = chatty.mounted.sh(f'cd "$J" && {search}', "^JOBFS_MOUNT=")
    assert (b"", b"") == (done.stdout, done.stderr)


@pytest.mark.needs("tree")
def test_tree(tree: Tree) -> None:
    """`tree` draws each job with its files, and counts them once."""
    lines = run(tree.mounted, 'tree -a "$J"').decode().splitlines()
    directories = len(tree.ids) + 1
    assert lines[-1].startswith(
        f"{directories + LINKS} directories, {len(tree.ids) * len(JOB) + len(ROOT_FILES)} files"
    )
    assert [f"build -> {tree.small}", f"last -> {tree.writing}"] == [line[4:] for line in lines if " -> " in line]


@pytest.mark.needs("busybox")
def test_busybox(tree: Tree, tmp_path: Path) -> None:
    """Busybox walks, searches, lists, packs and copies as the GNU programs do."""
    found = run(tree.mounted, 'cd "$J" && busybox find . -mindepth 1').decode().split()
    assert sorted(run(tree.mounted, 'cd "$J" && find . -mindepth 1').decode().split()) == sorted(found)
    searched = run(tree.mounted, 'cd "$J" && busybox grep -rlx needle .').decode().split()
    assert sorted(run(tree.mounted, 'cd "$J" && grep -rlx needle .').decode().split()) == sorted(searched)
    assert b"" == run(tree.mounted, 'busybox ls -laR "$J" > /dev/null; busybox du "$J" > /dev/null')
    script = 'busybox tar -cf - -C "$J" "$1" "$2" | busybox tar -xf - -C "$3"'
    run(tree.mounted, script, *map(str, tree.whole), str(tmp_path))
    for job in tree.whole:
        same(tree, tmp_path / str(job), job)


def test_python_copytree(tree: Tree, tmp_path: Path) -> None:
    """Python's copytree copies the whole tree, links as links, and what is retained."""
    copy = tmp_path / "copy"
    shutil.copytree(tree.mounted.path, copy, symlinks=True)
    for job in (*tree.whole, tree.evicted):
        same(tree, copy / str(job), job)
    assert str(tree.small) == os.readlink(copy / "build")


@pytest.mark.needs("node")
def test_node_copy(tree: Tree, tmp_path: Path) -> None:
    """Node's copying, which goes by the size, copies jobs of which nothing was evicted."""
    script = 'node -e \'fs.cpSync(process.argv[1], process.argv[2], {recursive: true})\' "$J/$1" "$2/$1"'
    for job in tree.whole:
        assert b"" == run(tree.mounted, script, str(job), str(tmp_path))
        same(tree, tmp_path / str(job), job)


@pytest.mark.needs("perl")
def test_perl_find(tree: Tree) -> None:
    """Perl's File::Find finds each file once."""
    found = (
        run(tree.mounted, "perl -MFile::Find -e 'find(sub { print \"$_\\n\" if -f && !-l }, $ENV{J})'").decode().split()
    )
    assert sorted([*ROOT_FILES, *JOB * len(tree.ids)]) == sorted(found)


@pytest.mark.needs("node")
def test_text_that_grows_is_whole_for_who_goes_by_its_size(tree: Tree) -> None:
    """What node reads of a live `info` and of `table.jsonl`, as many bytes as their size says, is whole each time."""
    script = """node -e 'for (let n = 0; n < 300; n++) {
        for (const file of ["table.jsonl", process.argv[1] + "/info"])
            fs.readFileSync(process.env.J + "/" + file, "utf8").trim().split("\\n").forEach(JSON.parse)
    }' "$1" """
    assert b"" == run(tree.mounted, script, str(tree.writing))


# One stream.

# Each reads the file that it is told to its end, and writes something that depends on all it has read.
FORWARD = {
    "cat": 'cat "$1"',
    "sort": 'sort "$1"',
    "od": 'od -An -c "$1"',
    "cut": 'cut -c 1-3 "$1"',
    "head": 'head -n 1000000 "$1"',
    "tail": 'tail -n +1 "$1"',
    "tail of 10": 'tail "$1"',
    "tail of bytes": 'tail -c 100 "$1"',
    "sha256sum": 'sha256sum < "$1"',
    "awk": "awk '{ n += length($0) } END { print n, NR }' \"$1\"",
    "dd": 'dd if="$1" bs=7K status=none',
    "split": 'split --filter cat -b 100K "$1"',
}
FORWARD_TOO = {
    "xxd": 'xxd "$1"',
    "rg": 'rg -N "" "$1"',
    "rg --mmap": 'rg --mmap -N "" "$1"',
    "busybox": 'busybox sort "$1"',
    "perl": "perl -ne 'print' \"$1\"",
    "node": "node -e 'fs.createReadStream(process.argv[1]).pipe(process.stdout)' \"$1\"",
}
# These go by its size, from its end backwards or for a buffer, and so are content only where nothing was evicted.
BY_SIZE = {
    "tac": 'tac "$1"',
    "head but 5": 'head -n -5 "$1"',
    "tail of many": 'tail -n 15000 "$1"',
    "wc": 'wc -c < "$1"',
}


def readers(*tables: dict[str, str]) -> list[pytest.ParameterSet]:
    """The scripts of the tables; a name in `FORWARD_TOO` begins with the program that is needed."""
    return [
        pytest.param(script, id=name, marks=pytest.mark.needs(*name.split()[: name in FORWARD_TOO]))
        for table in tables
        for name, script in table.items()
    ]


def same_as_on_disk(tree: Tree, tmp_path: Path, job: int, script: str) -> None:
    """Asserts that the script makes of a stream what it makes of the same bytes on a disk."""
    stream = tree.mounted.file("stdout", job)
    (tmp_path / "stream").write_bytes(stream.read_bytes())
    assert run(tree.mounted, script, str(tmp_path / "stream")) == run(tree.mounted, script, str(stream))


@pytest.mark.parametrize("script", readers(FORWARD, FORWARD_TOO, BY_SIZE))
def test_whole_streams(still: Tree, tmp_path: Path, script: str) -> None:
    """What a program reads of a stream that has evicted nothing is what it would read on a disk."""
    for job in (*still.whole, still.waiting):
        same_as_on_disk(still, tmp_path, job, script)


@pytest.mark.parametrize("script", readers(FORWARD, FORWARD_TOO))
def test_evicted_stream(still: Tree, tmp_path: Path, script: str) -> None:
    """What a program reads of a stream that has evicted is what is retained."""
    same_as_on_disk(still, tmp_path, still.evicted, script)


@pytest.mark.parametrize("script", readers(FORWARD))
def test_stream_that_is_being_written(tree: Tree, script: str) -> None:
    """A program that reads to the end of a stream meets it, though the job writes faster than it reads."""
    stream = tree.mounted.file("stdout", tree.writing)
    assert b"" == run(tree.mounted, f"{script} > /dev/null", str(stream))


@pytest.mark.parametrize("script", readers(FORWARD_TOO))
def test_stream_of_a_chatty_job(chatty: Tree, script: str) -> None:
    """A program that reads to the end of a stream meets it, while the job writes."""
    stream = chatty.mounted.file("stdout", chatty.slow)
    assert b"" == run(chatty.mounted, f"{script} > /dev/null", str(stream))


def test_offset_is_kept(still: Tree) -> None:
    """Who keeps an offset asks for what follows it: `tail -c +N` and `dd skip=N` count from the first byte written."""
    end = len(still.mounted.read(still.large))
    for job in (still.large, still.evicted):
        stream = still.mounted.file("stdout", job)
        offset = stream.stat().st_size - 100
        tail = run(still.mounted, 'tail -c "+$2" "$1"', str(stream), str(offset + 1))
        dd = run(still.mounted, 'dd if="$1" iflag=skip_bytes skip="$2" status=none', str(stream), str(offset))
        assert still.mounted.read(job)[-100:] == tail == dd
    assert end == still.mounted.file("stdout", still.large).stat().st_size


def test_mmap_of_an_ended_job(still: Tree) -> None:
    """The stream of an ended job that evicted nothing can be mapped, shared and private."""
    for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
        with (
            still.mounted.file("stdout", still.large).open("rb") as file,
            mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as mapped,
        ):
            assert still.mounted.read(still.large) == mapped[:]


def test_walks_side_by_side(tree: Tree) -> None:
    """Many programs that walk the tree at the same time all end."""
    scripts = ["grep -rq nothing $J", "find $J -type f -exec cat {} + > /dev/null", "du -s $J > /dev/null"]
    environment = {**os.environ, "J": str(tree.mounted.path)}
    walks = [subprocess.Popen(["sh", "-c", script], env=environment) for script in scripts * 3]
    assert [1, 0, 0] * 3 == [walk.wait() for walk in walks]
