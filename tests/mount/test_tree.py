"""What is in the tree, who may open it how, and what becomes of a job's files when it goes."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.mounted import Mounted, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.mount

ROOT = {"ctl", "events", "table", "table.jsonl"}
JOB = {"cmd", "status", "stdout", "stderr", "stdin", "ctl", "info"}
INFO = {
    *("id", "name", "status", "cmd", "argv", "cwd", "pid", "pgid", "exit_code", "signal", "reason"),
    *("created_at", "started_at", "ended_at", "elapsed_s", "stdout", "stderr", "usage", "spawned_by"),
}


def fails(action: Callable[[], object]) -> int:
    """The errno that `action` fails with; 0 where it does not."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


# What is listed, and what is there by name


def test_empty_table_lists_its_own_files(jobs: Mounted) -> None:
    """A table without jobs lists its own files, and no `last`, which would lead nowhere."""
    assert sorted(ROOT) == sorted(os.listdir(jobs.path))


def test_root_lists_jobs_and_names(jobs: Mounted) -> None:
    """Each job is listed by its id and, where it has one, by its name; `last` is there with the first job."""
    first, second = jobs.spawn("true"), jobs.spawn("--name build true")
    assert sorted({*ROOT, "last", str(first), str(second), "build"}) == sorted(os.listdir(jobs.path))


def test_job_directory_lists_its_files(shared: Mounted) -> None:
    """A job's directory lists its files, and not those that are there only by name."""
    job = shared.spawn("true")
    assert sorted(JOB) == sorted(os.listdir(shared.file("", job)))


def test_job_directory_exists_when_the_write_returns(shared: Mounted) -> None:
    """When the write of a `spawn` returns, the job's directory is there with all its files."""
    job = shared.spawn("true")
    assert [] == [name for name in (*JOB, "env", "cwd") if not os.path.lexists(shared.file(name, job))]


def test_every_job_is_listed_once(jobs: Mounted) -> None:
    """A listing that takes many reads of the directory shows every job once."""
    jobs.ctl("".join(f"spawn --name name-{number} true\n" for number in range(150)))
    listed = [name for name in os.listdir(jobs.path) if name.isdigit()]
    assert sorted(map(str, range(1, 151))) == sorted(listed)


def test_listing_survives_removals(jobs: Mounted) -> None:
    """A listing that is under way when jobs before and after its place go shows each of the others once."""
    jobs.ctl("spawn true\n" * 150)
    until(lambda: jobs.path.joinpath("table").read_text(), lambda table: "running" not in table)
    with os.scandir(jobs.path) as entries:
        seen = [next(entries).name for _ in range(20)]
        jobs.ctl("".join(f"rm {number}\n" for number in range(2, 151, 2)))
        seen += [entry.name for entry in entries]
    odd = [name for name in seen if name.isdigit() and int(name) % 2]
    assert [str(number) for number in range(1, 151, 2)] == sorted(odd, key=int)


@pytest.mark.parametrize("name", ["0", "01", "007", "+1", "1 ", "wait", "new", "all", "self", "config", "help", "by-x"])
def test_what_is_no_job_is_not_there(shared: Mounted, name: str) -> None:
    """Nothing but a job's id without leading zeros, its name, and the tree's own names is found in the root."""
    shared.spawn("true")
    assert errno.ENOENT == fails(lambda: os.lstat(shared.path / name))


def test_modes(shared: Mounted) -> None:
    """Directories are 0700, what takes writes 0600, all else 0400."""
    job = shared.spawn("true")
    root = {name: stat.S_IMODE(shared.file(name).stat().st_mode) for name in (".", *ROOT)}
    files = {name: stat.S_IMODE(shared.file(name, job).stat().st_mode) for name in (".", "env", *JOB)}
    writable = {".": 0o700, "ctl": 0o600, "stdin": 0o600}
    assert {name: writable.get(name, 0o400) for name in root} == root
    assert {name: writable.get(name, 0o400) for name in files} == files


def test_all_belongs_to_the_owner(shared: Mounted) -> None:
    """Every file belongs to the user who made the mount."""
    job = shared.spawn("true")
    owners = {path.lstat().st_uid for path in (shared.path, shared.file("ctl"), shared.file("stdout", job))}
    assert {os.geteuid()} == owners


# What the files say


def test_cmd_is_the_command_line(shared: Mounted) -> None:
    """`cmd` is the command line as it was written, without its options, and a newline."""
    job = shared.spawn("""--nice 1 --  printf '%s  x'   "$HOME"  # why """)
    assert b"""printf '%s  x'   "$HOME"  # why \n""" == shared.read(job, "cmd")


def test_env_is_the_job_environment(shared: Mounted) -> None:
    """`env` is what the job itself finds in its environment, NUL-separated."""
    job = shared.run("--env GREETING='good day' cat /proc/self/environ")
    # The shell puts variables of its own into what it exports; what it was given is unchanged.
    assert set(shared.read(job, "env").split(b"\0")) <= set(shared.read(job).split(b"\0"))


def test_env_has_id_and_mount(shared: Mounted) -> None:
    """A job finds its id and the mount in JOBFS_ID and JOBFS_MOUNT."""
    job = shared.run('echo "$JOBFS_ID $JOBFS_MOUNT"')
    assert f"{job} {shared.path}\n" == shared.read(job).decode()


def test_cwd_leads_to_the_working_directory(shared: Mounted) -> None:
    """`cwd` is a link to the job's working directory."""
    job = shared.spawn("--cwd /usr/bin sleep 100")
    assert "/usr/bin" == os.readlink(shared.file("cwd", job))
    assert os.path.samefile("/usr/bin", shared.file("cwd", job))


def test_info_has_every_key(shared: Mounted) -> None:
    """`info` is one JSON object on one line, with every key of the contract."""
    text = shared.read(shared.spawn("true"), "info")
    assert (1, True) == (text.count(b"\n"), text.endswith(b"\n"))
    assert set() == INFO - set(json.loads(text))


def test_info_of_an_end(shared: Mounted) -> None:
    """`info` says how a job ended: by an exit status, or by a signal, and the key that does not apply is null."""
    failed, killed = shared.run("exit 7"), shared.run("kill -9 $$")
    ends = [{key: shared.info(job)[key] for key in ("status", "exit_code", "signal")} for job in (failed, killed)]
    assert [
        {"status": "failed:7", "exit_code": 7, "signal": None},
        {"status": "killed:9", "exit_code": None, "signal": 9},
    ] == ends


def test_info_tells_the_writer(shared: Mounted) -> None:
    """`info` tells who wrote the command."""
    writer = {"pid": os.getpid(), "uid": os.geteuid(), "session": os.getsid(0)}
    told = shared.info(shared.spawn("true"))["spawned_by"]
    assert isinstance(told, dict)
    assert writer == {key: told[key] for key in writer}


def test_info_counts_what_lingers(shared: Mounted) -> None:
    """A daemonised grandchild does not keep the job running; it is counted as lingering, and `kill` ends it."""
    job = shared.spawn("setsid sleep 1000 & exit 0")
    shared.until(job, "done:0")

    def lingering() -> object:
        usage = shared.info(job)["usage"]
        return usage["lingering"] if isinstance(usage, dict) else None

    until(lingering, lambda count: count == 1)
    shared.ctl(f"kill {job}")
    until(lingering, lambda count: count == 0)
    assert "done:0" == shared.status(job)


def test_table_has_a_line_for_each_job(jobs: Mounted) -> None:
    """`table` has a heading and one aligned line a job; `table.jsonl` has one `info` object a line."""
    jobs.run("--name first exit 3")
    jobs.run("true")
    lines = jobs.file("table").read_text().splitlines()
    infos = [json.loads(line) for line in jobs.file("table.jsonl").read_text().splitlines()]
    assert ["ID", "1", "2"] == [line.split()[0] for line in lines]
    assert {lines[0].index("STATUS")} == {lines[1].index("failed:3"), lines[2].index("done:0")}
    assert [(1, "first", "failed:3"), (2, None, "done:0")] == [
        (info["id"], info["name"], info["status"]) for info in infos
    ]


def test_events_tell_every_change(jobs: Mounted) -> None:
    """`events` has one JSON object for every change of every job, oldest first."""
    job = jobs.spawn("kill -STOP $$; exec sleep 1000")
    jobs.until(job, "stopped")
    jobs.ctl(f"cont {job}")
    jobs.until(job, "running")
    jobs.ctl(f"kill -9 {job}")
    jobs.until(job, "killed:9")
    jobs.ctl(f"rm {job}")
    events = [json.loads(line) for line in jobs.file("events").read_text().splitlines()]
    assert [("started", job), ("stopped", job), ("continued", job), ("ended", job), ("removed", job)] == [
        (event["event"], event["id"]) for event in events
    ]


def test_no_control_character_reaches_a_terminal(jobs: Mounted) -> None:
    """What a job's author put in the command line never sends a control character through cmd, table or info."""
    raw = b"true \x1b[31m\x07\x08\x7f\xc2\x9b31m \xff \xe2\x80\xa8 \t \r x"
    jobs.ctl(b"spawn " + raw)
    jobs.ctl(json.dumps({"op": "spawn", "cmd": "true\n\x1b]0;title\x07"}))
    jobs.ctl(json.dumps({"op": "spawn", "argv": ["true", "\x1b[2J"]}))
    shown = [jobs.file(name).read_bytes() for name in ("table", "table.jsonl", "events")]
    shown += [jobs.read(job, name) for job in (1, 2, 3) for name in ("cmd", "info")]
    for text in shown:
        letters = text.decode("utf-8")
        assert [] == [letter for letter in letters if letter != "\n" and not letter.isprintable()]


def test_each_cmd_is_one_line(shared: Mounted) -> None:
    """A command of several lines is one line in `cmd`, and runs as it was written."""
    job = int(shared.ask(json.dumps({"op": "spawn", "cmd": "echo one\necho two"})))
    shared.until_closed(job)
    assert b"echo one\\necho two\n" == shared.read(job, "cmd")
    assert b"one\ntwo\n" == shared.read(job)


def test_stdin_reads_as_empty(shared: Mounted) -> None:
    """Reading `stdin` gives end of file; writing to one that is no pipe is EPIPE."""
    job = shared.spawn("sleep 100")
    assert b"" == shared.read(job, "stdin")
    fd = os.open(shared.file("stdin", job), os.O_WRONLY)
    try:
        assert errno.EPIPE == fails(lambda: os.write(fd, b"hello"))
    finally:
        os.close(fd)


# Names


def test_last_is_the_newest_job_of_the_reader_session(jobs: Mounted) -> None:
    """`last` is the newest job that the reader's own session spawned, though others spawned later."""
    script = 'echo "spawn true" > $J/ctl; exec setsid -w bash -c "echo spawn true > $J/ctl; readlink $J/last"'
    own = jobs.sh(f"setsid -w bash -c '{script}'; readlink $J/last")
    assert b"2\n2\n" == own.stdout, own.stderr
    jobs.spawn("true")
    assert "3" == os.readlink(jobs.path / "last")
    other = jobs.sh('setsid -w bash -c "echo spawn true > $J/ctl"; readlink $J/last')
    assert b"3\n" == other.stdout, other.stderr


def test_last_leads_into_the_job(jobs: Mounted) -> None:
    """`last` and names are links to ids, and lead to the job's files."""
    job = jobs.run("--name greeting echo hello")
    assert [str(job), str(job)] == [os.readlink(jobs.path / name) for name in ("last", "greeting")]
    assert [b"hello\n"] * 2 == [(jobs.path / name / "stdout").read_bytes() for name in ("last", "greeting")]


def test_name_is_the_newest_job_that_was_given_it(jobs: Mounted) -> None:
    """A name is that of the newest job that was given it, and goes with it."""
    first = jobs.run("--name build true")
    assert str(first) == os.readlink(jobs.path / "build")
    second = jobs.run("--name build true")
    assert str(second) == os.readlink(jobs.path / "build")
    jobs.ctl("rm build")
    assert errno.ENOENT == fails(lambda: os.readlink(jobs.path / "build"))
    assert (True, False) == (jobs.file("", first).exists(), jobs.file("", second).exists())


# Who may open what how


@pytest.mark.parametrize("name", ["cmd", "status", "stdout", "stderr", "info", "env"])
def test_opening_a_read_only_file_for_writing_is_refused(shared: Mounted, name: str) -> None:
    """Opening a 0400 file for writing is EACCES, for root too, and access(2) says so before."""
    path = shared.file(name, shared.spawn("true"))
    flags = (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC)
    assert [errno.EACCES] * 4 == [fails(lambda flag=flag: os.open(path, flag)) for flag in flags]  # type: ignore[misc]
    assert (True, False, False) == tuple(os.access(path, mode) for mode in (os.R_OK, os.W_OK, os.X_OK))


def test_read_only_files_of_the_root_are_refused_too(shared: Mounted) -> None:
    """`events`, `table` and `table.jsonl` cannot be opened for writing."""
    assert [errno.EACCES] * 3 == [
        fails(lambda name=name: os.open(shared.file(name), os.O_WRONLY))  # type: ignore[misc]
        for name in ("events", "table", "table.jsonl")
    ]


def test_nothing_can_be_created(shared: Mounted) -> None:
    """Creating anything is EACCES, in the root and in a job's directory."""
    job = shared.spawn("true")
    places = (shared.path, shared.file("", job))
    makers: list[Callable[[Path], object]] = [
        lambda place: os.open(place / "x", os.O_WRONLY | os.O_CREAT),
        lambda place: os.mkdir(place / "x"),
        lambda place: os.mkfifo(place / "x"),
        lambda place: os.symlink("target", place / "x"),
        lambda place: os.link(place / "ctl", place / "x"),
        lambda place: os.rename(place / "ctl", place / "x"),
    ]
    got = [fails(lambda make=make, place=place: make(place)) for place in places for make in makers]  # type: ignore[misc]
    assert [errno.EACCES] * 12 == got


def test_ctl_takes_what_programs_do_to_files(shared: Mounted) -> None:
    """Truncate, chmod and utimes on `ctl` succeed and do nothing."""
    for path in (shared.file("ctl"), shared.file("ctl", shared.spawn("true"))):
        before = path.stat()
        os.truncate(path, 0)
        os.truncate(path, 1000)
        path.chmod(0o644)
        os.utime(path)
        os.utime(path, (0, 0))
        after = path.stat()
        assert (before.st_mode, before.st_size, before.st_mtime_ns) == (after.st_mode, after.st_size, after.st_mtime_ns)


# How a job goes


def test_rmdir_removes_an_ended_job(shared: Mounted) -> None:
    """`rmdir` of an ended job's directory is `rm`."""
    job = shared.run("echo hello")
    shared.file("", job).rmdir()
    assert (False, False) == (shared.file("", job).exists(), str(job) in os.listdir(shared.path))
    assert f"error: no such job: {job}" == shared.ask(f"kill {job}")


def test_rm_r_removes_an_ended_job(shared: Mounted) -> None:
    """`rm -r` of an ended job's directory works."""
    job = shared.run("echo hello; echo oops >&2")
    done = shared.sh('rm -r "$J/$1"', str(job))
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert not shared.file("", job).exists()


def test_live_job_cannot_be_removed(shared: Mounted) -> None:
    """`rmdir`, `unlink` of a file and `rm -r` of a live job are EBUSY, and change nothing."""
    job = shared.spawn("sleep 1000")
    assert errno.EBUSY == fails(shared.file("", job).rmdir)
    assert errno.EBUSY == fails(shared.file("stdout", job).unlink)
    done = shared.sh('rm -r "$J/$1"', str(job))
    assert (1, True) == (done.returncode, b"busy" in done.stderr)
    assert ("running", sorted(JOB)) == (shared.status(job), sorted(os.listdir(shared.file("", job))))


def test_unlinking_a_file_of_an_ended_job_does_nothing(shared: Mounted) -> None:
    """Unlinking a file of an ended job succeeds and does nothing."""
    job = shared.run("echo hello")
    shared.file("stdout", job).unlink()
    assert b"hello\n" == shared.read(job)


def test_root_files_cannot_be_unlinked(shared: Mounted) -> None:
    """The tree's own files and the links cannot be removed."""
    shared.run("--name kept true")
    for name in (*ROOT, "last", "kept"):
        assert 0 != fails(shared.file(name).unlink)
    assert 0 == fails(lambda: os.lstat(shared.file("kept")))


def test_open_files_of_a_removed_job_read_on(shared: Mounted) -> None:
    """A removed job's open files read on until they are closed."""
    job = shared.run("seq 100000; echo oops >&2")
    whole = shared.read(job)
    names = ("stdout", "stderr", "status", "info", "cmd")
    files = [shared.file(name, job).open("rb", buffering=0) for name in names]
    try:
        start = files[0].read(1000)
        shared.ctl(f"rm {job}")
        assert whole == start + files[0].readall()
        assert [b"oops\n", b"done:0\n"] == [file.readall() for file in files[1:3]]
        assert job == json.loads(files[3].readall())["id"]
        assert len(whole) == os.fstat(files[0].fileno()).st_size
    finally:
        for file in files:
            file.close()


def test_removed_id_is_not_given_again(jobs: Mounted) -> None:
    """An id is never given again, though its job was removed."""
    job = jobs.run("true")
    jobs.ctl("clean")
    assert job + 1 == jobs.spawn("true")


# Times


def times(jobs: Mounted, job: int) -> dict[str, int]:
    """The mtimes of a job's files."""
    return {name: jobs.file(name, job).stat().st_mtime_ns for name in JOB}


def test_mtimes_move_only_with_their_content(shared: Mounted, tmp_path: Path) -> None:
    """An mtime moves when its file's content does, and only then; that of `ctl` never moves."""
    gates = [tmp_path / name for name in ("one", "two", "three")]
    for gate in gates:
        os.mkfifo(gate)
    one, two, three = (f"read x < {gate}" for gate in gates)
    job = shared.spawn(f"echo one; {one}; echo two; {two}; echo oops >&2; {three}")
    shared.until_output(job, b"one\n")
    before = times(shared, job)
    gates[0].write_text("go\n")
    shared.until_output(job, b"two\n")
    wrote = times(shared, job)
    assert ["stdout"] == [name for name in before if wrote[name] != before[name]]
    gates[1].write_text("go\n")
    shared.until_output(job, b"oops\n", "stderr")
    complained = times(shared, job)
    assert ["stderr"] == [name for name in before if complained[name] != wrote[name]]
    gates[2].write_text("go\n")
    shared.until(job, "done:0")
    ended = times(shared, job)
    assert ["info", "status"] == sorted(name for name in before if ended[name] != complained[name])


def test_other_jobs_move_no_mtimes(shared: Mounted) -> None:
    """What happens to one job moves no mtime of another one's files, nor that of the root's `ctl`."""
    job = shared.run("echo one")
    before = times(shared, job), shared.file("ctl").stat().st_mtime_ns
    shared.ctl(f"rm {shared.run('echo two')}")
    assert before == (times(shared, job), shared.file("ctl").stat().st_mtime_ns)
