"""Filed jobs go when they are not to be kept: whole, and nothing else with them."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from spoolbox import PATIENCE_S, SpoolBox, until

from runnerd import prune
from runnerd.layout import PRUNING
from runnerd.model import State
from runnerd.settings import Keep, Retention
from runnerd.spool import Spool

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, "-c", "from runnerd.ctl import main; main(prog_name='runnerctl')"]
DAY_S = 86400
NONE_KEPT = Retention(done=Keep(count=0), failed=Keep(count=0))
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, IMMUTABLE = 0x80086601, 0x40086602, 0x10


def ctl(box: SpoolBox, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "--spool", str(box.root), "--config", str(box.config_file), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def age(box: SpoolBox, name: str, days: float) -> None:
    """Make a job so old."""
    then = time.time() - days * DAY_S
    (path,) = box.root.glob(f"[df]*/{name}/result.json")
    os.utime(path, (then, then))


def filed(box: SpoolBox) -> set[str]:
    return {each.name for state in ("done", "failed") for each in box.path(state).iterdir()}


def is_clean(box: SpoolBox) -> bool:
    return not box.path(PRUNING).exists()


@pytest.fixture
def lived_in(box: SpoolBox) -> SpoolBox:
    """A spool with jobs that are 1, 2, 3 and 4 days old, and no daemon any more."""
    box.start()
    for name, run in (("a", "exit 3"), ("b", "echo b"), ("c", "exit 1"), ("d", "echo d > file")):
        box.run(name, f"run: {run}")
    box.stop()
    for days, name in enumerate("dcba", start=1):
        age(box, name, days)
    return box


# --- by the daemon ------------------------------------------------------------------------------


def test_nothing_is_removed_unless_the_configuration_says_so(lived_in: SpoolBox) -> None:
    lived_in.start()
    lived_in.run("e", "run: echo")
    lived_in.stop()
    assert filed(lived_in) == {"a", "b", "c", "d", "e"}


def test_the_daemon_removes_what_is_too_old_when_it_starts_and_the_id_is_free(
    lived_in: SpoolBox,
) -> None:
    lived_in.start(retention="{done: {age: 36h}, failed: {age: 84h}}")
    until(lambda: filed(lived_in) == {"c", "d"}, "it was not removed")
    until(lambda: is_clean(lived_in), "something is left")
    until(lambda: "says: 2" in lived_in.log.read_text(), "no line in the log")
    assert lived_in.run("a", "run: echo").id == "a"


def test_a_bound_that_is_new_holds_after_a_reload(lived_in: SpoolBox) -> None:
    lived_in.start()
    lived_in.configure(retention="{done: {count: 1}, failed: {size: 0}}")
    lived_in.reload()
    until(lambda: filed(lived_in) == {"d"}, "it was not removed")


@pytest.mark.heavy
def test_a_job_goes_when_its_time_has_come(box: SpoolBox) -> None:
    box.start(retention="{done: {age: 1s}}")
    box.run("early", "run: echo")
    until(lambda: not filed(box), "it was not removed", within_s=90)


def test_while_a_removal_hangs_jobs_run_and_the_next_daemon_finishes_it(
    lived_in: SpoolBox,
) -> None:
    work = lived_in.path("done", "b", "work")
    for number in range(20000):
        (work / str(number)).touch()
    lived_in.start(retention="{done: {age: 36h}}")
    until(lambda: pruner(lived_in) is not None, "nobody prunes")
    found = pruner(lived_in)
    assert found is not None
    found.suspend()
    try:
        assert filed(lived_in) == {"a", "c", "d"}
        assert lived_in.run("e", "run: echo").state is State.DONE
        assert "just being pruned" in ctl(lived_in, "prune").stderr
        lived_in.kill()
        assert not is_clean(lived_in)
    finally:
        found.resume()
    found.wait(PATIENCE_S)  # nobody wants it any more
    lived_in.start(retention="{done: {age: 36h}}")
    until(lambda: is_clean(lived_in), "the rest was not removed")
    assert filed(lived_in) == {"a", "c", "d", "e"}


def pruner(box: SpoolBox) -> psutil.Process | None:
    """The runner that holds `.pruning`."""
    for runner in box.runners():
        fds = Path(f"/proc/{runner.pid}/fd")
        for fd in fds.iterdir() if fds.exists() else ():
            try:
                if fd.readlink() == box.path(PRUNING):
                    return runner
            except FileNotFoundError:
                continue
    return None


def test_a_daemon_without_bounds_finishes_what_was_begun(lived_in: SpoolBox) -> None:
    lived_in.path(PRUNING).mkdir(mode=0o700)
    lived_in.path("done", "b").rename(lived_in.path(PRUNING, "b"))
    lived_in.start("--once")
    assert lived_in.daemon is not None
    assert lived_in.daemon.wait(PATIENCE_S) == 0
    assert is_clean(lived_in)
    assert filed(lived_in) == {"a", "c", "d"}


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand_it_goes_by_age_and_state_and_a_dry_run_changes_nothing(
    lived_in: SpoolBox,
) -> None:
    dry = ctl(lived_in, "prune", "--dry-run", "--older-than", "60h", "--json")
    assert [each["id"] for each in json.loads(dry.stdout)["pruned"]] == ["a", "b"]
    assert filed(lived_in) == {"a", "b", "c", "d"}
    assert is_clean(lived_in)
    done = ctl(lived_in, "prune", "--older-than", "60h", "--state", "failed")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].endswith("failed/a")
    assert done.stdout.splitlines()[1] == "jobs removed: 1"
    assert filed(lived_in) == {"b", "c", "d"}
    lived_in.configure(retention="{done: {count: 1}}")
    assert ctl(lived_in, "prune").returncode == 0
    assert filed(lived_in) == {"c", "d"}


def test_without_a_bound_it_asks_for_one(lived_in: SpoolBox) -> None:
    refused = ctl(lived_in, "prune")
    assert refused.returncode == 1
    assert refused.stderr == (
        "runnerctl: all jobs are kept, as `retention` says; give --older-than AGE\n"
    )
    assert ctl(lived_in, "prune", "--older-than", "old").returncode == 2
    assert ctl(lived_in, "--spool", "/nonexistent", "prune", "--older-than", "1d").returncode == 1


def test_a_job_whose_callbacks_wait_is_kept(lived_in: SpoolBox) -> None:
    lived_in.path("outbox", "a~0001.json").touch()
    lived_in.path("outbox", ".b~0002.json").touch()
    lived_in.path("outbox", "cd~1.json").touch()
    ended = ctl(lived_in, "prune", "--older-than", "1s", "--json")
    assert [each["id"] for each in json.loads(ended.stdout)["waiting"]] == ["a", "b"]
    assert filed(lived_in) == {"a", "b"}


def test_what_is_no_filed_job_is_left_alone(lived_in: SpoolBox) -> None:
    done = lived_in.path("done")
    (done / "file").write_text("x")
    (done / "link").symlink_to(done / "b")
    (done / "empty").mkdir()
    shutil.copytree(done / "b", done / "copy")  # by its result, it is another job
    shutil.copytree(done / "b", lived_in.path("failed", "b"))
    lock_fd = os.open(done / "d" / ".claim", os.O_RDWR)
    fcntl.flock(lock_fd, fcntl.LOCK_EX)  # its runner is just filing it
    assert ctl(lived_in, "prune", "--older-than", "1s").returncode == 0
    assert sorted(os.listdir(done)) == ["copy", "d", "empty", "file", "link"]
    assert os.listdir(lived_in.path("failed")) == ["b"]
    os.close(lock_fd)


def test_fsck_knows_what_is_half_removed(lived_in: SpoolBox) -> None:
    pruning = lived_in.path(PRUNING)
    pruning.mkdir(mode=0o700)
    lived_in.path("done", "b").rename(pruning / "b")
    (pruning / "b" / "result.json").unlink()
    found = json.loads(ctl(lived_in, "fsck", "--json").stdout)
    assert [(each["path"], each["fault"]) for each in found] == [(PRUNING, "pending")]
    shutil.rmtree(pruning)
    pruning.write_text("x")
    assert ctl(lived_in, "prune", "--older-than", "1s").returncode == 1
    assert ctl(lived_in, "fsck", "--repair").returncode == 0
    assert ctl(lived_in, "prune", "--older-than", "1s").returncode == 0
    assert not filed(lived_in)


# --- hostile directories ------------------------------------------------------------------------


def empty(box: SpoolBox) -> prune.Report:
    """Remove all filed jobs, in this process."""
    spool = Spool.open(box.root)
    try:
        return prune.prune(spool, NONE_KEPT, time.time(), lambda: None)
    finally:
        spool.close()


def test_a_deep_tree_goes_with_a_few_descriptors(lived_in: SpoolBox) -> None:
    fd = os.open(lived_in.path("done", "b", "work"), os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert empty(lived_in).stuck == ()
    assert is_clean(lived_in)


def test_no_link_is_followed_and_odd_things_go(lived_in: SpoolBox, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    work = lived_in.path("done", "b", "work")
    (work / "link").symlink_to(outside)
    (work / "d").mkdir()
    (work / "d" / "up").symlink_to("../../../..")
    os.mkfifo(work / "d" / "fifo")
    os.link(outside / "file", work / "hard")
    (work / os.fsdecode(b"\xff\n\x1b[2J")).mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(work / "sock")[:107])
    assert empty(lived_in).stuck == ()
    assert (outside / "file").read_text() == "precious"
    assert not filed(lived_in)
    assert is_clean(lived_in)


def test_its_size_is_what_it_takes_on_the_disk(lived_in: SpoolBox) -> None:
    work = lived_in.path("done", "b", "work")
    with (work / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (work / "real").write_bytes(bytes(300_000))
    for number in range(9):
        os.link(work / "real", work / f"again{number}")
    spool = Spool.open(lived_in.root)
    plan = prune.plan(spool, Retention(done=Keep(size=250_000)), time.time(), lambda: None)
    spool.close()
    assert [each.id for each in plan.jobs] == ["b"]
    assert 300_000 <= (plan.jobs[0].size or 0) < 400_000


@pytest.fixture
def mounts() -> Iterator[list[Path]]:
    points: list[Path] = []
    yield points
    for each in points:
        subprocess.run(["umount", "--lazy", str(each)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("same", [False, True], ids=["of another file system", "of the same one"])
def test_what_is_mounted_below_a_job_is_not_entered(
    lived_in: SpoolBox, tmp_path: Path, mounts: list[Path], *, same: bool
) -> None:
    point = lived_in.path("done", "b", "work", "deep", "mnt")
    point.mkdir(parents=True)
    source = tmp_path / "source"
    source.mkdir()
    if same:
        subprocess.run(["mount", "--bind", source, point], check=True)
    else:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
    mounts.append(point)
    (point / "inner").mkdir()
    (point / "inner" / "file").write_text("precious")
    report = empty(lived_in)
    (mounted,) = lived_in.path(PRUNING).glob(".*/mnt")
    mounts[:] = [mounted]
    assert report.stuck == (f"{mounted.relative_to(lived_in.root)}: Device or resource busy",)
    assert (mounted / "inner" / "file").read_text() == "precious"
    assert not filed(lived_in)
    subprocess.run(["umount", mounted], check=True)
    mounts.clear()
    assert empty(lived_in).stuck == ()
    assert is_clean(lived_in)


@pytest.mark.root
def test_what_cannot_be_removed_is_told_and_the_rest_goes(lived_in: SpoolBox) -> None:
    work = lived_in.path("done", "b", "work")
    for name in ("aa", "kept", "zz"):
        (work / name).write_text(name)
    with (work / "kept").open() as file:
        set_immutable(file.fileno(), on=True)
        lived_in.start(retention="{done: {count: 0}, failed: {count: 0}}")
        until(lambda: "not all that" in lived_in.log.read_text(), "it was not told")
        until(lambda: not filed(lived_in), "the others were not removed")
        lived_in.stop()
        left = [each for each in lived_in.path(PRUNING).rglob("*") if each.is_file()]
        assert [each.name for each in left] == ["kept"]
        assert "kept: Operation not permitted" in lived_in.log.read_text()
        set_immutable(file.fileno(), on=False)
    assert empty(lived_in).stuck == ()
    assert is_clean(lived_in)


def set_immutable(fd: int, *, on: bool) -> None:
    flags = struct.unpack("L", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))[0]
    flags = flags | IMMUTABLE if on else flags & ~IMMUTABLE
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("L", flags))


@pytest.mark.root
def test_a_user_without_rights_gets_rid_of_closed_directories(lived_in: SpoolBox) -> None:
    """The daemon of an ordinary user, whose job closed directories against itself."""
    account = pwd.getpwnam("nobody")
    home = Path(tempfile.mkdtemp(prefix="prune-"))
    try:
        shutil.copytree(lived_in.root, home / "spool")
        work = home / "spool/done/b/work"
        (work / "closed" / "inner").mkdir(parents=True)
        (work / "closed" / "inner" / "file").touch()
        for each in [home, *home.rglob("*")]:
            os.chown(each, account.pw_uid, account.pw_gid)
        (work / "closed" / "inner").chmod(0)
        (work / "closed").chmod(0o500)
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            spool = Spool.open(home / "spool")
            stuck = prune.prune(spool, NONE_KEPT, time.time(), lambda: None).stuck
            os._exit(len(stuck))
        assert os.waitpid(pid, 0)[1] == 0
        assert os.listdir(home / "spool/done") == []
        assert not (home / "spool" / PRUNING).exists()
    finally:
        shutil.rmtree(home)


@pytest.mark.root
def test_somebody_who_goes_on_making_files_does_not_hold_it_up(lived_in: SpoolBox) -> None:
    work = lived_in.path("done", "b", "work")
    script = "i=0; while :; do i=$((i+1)); : >f$i 2>&- || : ; done"
    busy = subprocess.Popen(["sh", "-c", script], cwd=work)
    try:
        until(lambda: len(os.listdir(work)) > 10, "it makes no files")
        empty(lived_in)
        assert not filed(lived_in)
    finally:
        busy.send_signal(signal.SIGKILL)
        busy.wait()
    assert empty(lived_in).stuck == ()
    assert is_clean(lived_in)
