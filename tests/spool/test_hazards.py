"""What machines do to a daemon: lost events, clocks that are set, stops, no descriptors, no memory.

The disk has a file of its own: test_hazards_disk.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from spoolbox import PATIENCE_S, SETUP, SpoolBox, until

from runnerd import accounts, records
from runnerd.admit import judge
from runnerd.kin import end_leftovers
from runnerd.model import Reason, StartMark, State
from runnerd.spool import Spool

DEGRADED, RECOVERED = "no new jobs are taken", "new jobs are taken again"
MEMBER = "games"  # nss-systemd makes up nobody, without any file


def said(box: SpoolBox, text: str) -> int:
    return box.log.read_text().count(text)


def hold(box: SpoolBox, name: str, **fields: object) -> None:
    """A job that runs and waits at its gate."""
    box.gates[name] = box.gate(f"gate-{name}")
    more = "".join(f"{key}: {value}\n" for key, value in fields.items())
    box.drop(name, f"run: |\n  echo begun\n  read x < {box.gates[name]}\n  echo ended\n{more}")
    box.started(name)


def the_daemon(box: SpoolBox) -> psutil.Process:
    assert box.daemon is not None
    return psutil.Process(box.daemon.pid)


# --- events that are lost -----------------------------------------------------------------------


@pytest.mark.heavy
def test_a_job_is_found_when_the_kernel_has_dropped_events(box: SpoolBox) -> None:
    box.start(rescan="1h")
    assert box.run("first", "run: echo x").state is State.DONE
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    the_daemon(box).suspend()
    for number in range(most // 2 + 1000):  # each is made and closed: two events
        path = box.path("incoming", f".{number}")
        path.touch()
        path.unlink()
    box.drop("lost", "run: echo x")
    the_daemon(box).resume()
    box.drop("after", "run: echo y")
    assert box.result("lost").state is State.DONE
    assert box.result("after").state is State.DONE
    assert box.run("next", "run: echo z", within_s=5).state is State.DONE


# --- the clock ----------------------------------------------------------------------------------


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that says how far off the clock of the daemons to come is; nobody else's changes."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "this test needs libfaketime; on Debian: apt install faketime"
    file = tmp_path / "clock"
    file.write_text("+0")
    for name, value in {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return file


ONCE_MORE = "test -e ../../../../{name} || {{ touch ../../../../{name}; exit 1; }}"


@pytest.mark.heavy
@pytest.mark.parametrize("by_s", [-3600, 3600])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_that_is_set_moves_no_span_of_time(
    box: SpoolBox, clock: Path, by_s: int, *, restarts: bool
) -> None:
    """Attempts, delays, time-outs and expiry count seconds; only dates look at the clock."""
    box.start(slots=3)
    hold(box, "held")
    box.drop("slow", "run: exec sleep 60\ntimeout: 5s")
    box.started("slow")
    retry = "retry: {max: 1, delay: 4s, max_delay: 4s}"
    began = time.monotonic()
    box.drop("again", f"run: {ONCE_MORE.format(name='again')}\n{retry}")
    until(lambda: said(box, "attempt 1 failed") == 1, "it does not fail")
    box.drop("delayed", "run: echo x\ndelay: 4s")
    box.drop("patient", "run: echo x\nexpires: 30m\nneeds: [held]")
    box.drop("bad", "run: [")
    assert box.result("bad").reason is Reason.INVALID  # so the others were judged
    clock.write_text(f"{by_s:+d}")
    if restarts:
        box.kill()
        box.start(slots=3)
    for name in ("again", "delayed"):
        assert box.result(name, within_s=15).state is State.DONE
        if by_s < 0 or not restarts:  # a new daemon cannot know that the clock was set forward
            assert time.monotonic() - began >= 3  # an attempt may be a quarter early
    assert box.result("slow").reason is Reason.TIMEOUT
    assert 4.9 < (box.result("slow").duration_s or 0) < 15
    box.gates["held"].open()
    held = box.result("held")
    assert held.state is State.DONE
    assert held.duration_s is not None
    assert 0 <= held.duration_s < 60
    assert held.started_at is not None
    assert (held.finished_at < held.started_at) == (by_s < 0)
    if not restarts or by_s < 0:
        assert box.result("patient").state is State.DONE
    assert box.run("next", "run: echo x", within_s=5).state is State.DONE
    if not restarts:
        assert said(box, f"the clock was set by {by_s:+d} s") == 1


# --- stopped, and killed as a watchdog does -----------------------------------------------------


def test_a_daemon_that_was_stopped_goes_on_where_it_was(box: SpoolBox) -> None:
    box.start(slots=2)
    for name in ("a", "b"):
        hold(box, name)
    the_daemon(box).suspend()
    box.drop("next", "run: echo x")
    for name in ("a", "b"):
        box.gates[name].open()
        assert box.result(name).state is State.DONE  # their runners need nobody
    assert box.path("incoming", "next.yaml").exists()
    the_daemon(box).resume()
    assert box.result("next", within_s=5).state is State.DONE
    for name in ("c", "d"):  # both slots are free
        hold(box, name)
    for name in ("c", "d"):
        box.gates[name].open()
        assert box.result(name).state is State.DONE


def test_a_daemon_that_is_aborted_while_it_hangs_is_followed_by_another(box: SpoolBox) -> None:
    """systemd's watchdog: SIGABRT, and SIGKILL if that does not help, as here."""
    box.start(slots=1)
    hold(box, "held")
    the_daemon(box).suspend()
    box.drop("next", "run: echo x")
    the_daemon(box).send_signal(signal.SIGABRT)
    box.kill()
    box.start(slots=1)
    assert box.path("incoming", "next.yaml").exists()
    box.gates["held"].open()
    assert box.result("held").state is State.DONE
    assert box.result("next").state is State.DONE


@pytest.mark.heavy
def test_of_two_daemons_that_start_at_once_one_serves(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    for turn in range(20):
        logs = [tmp_path / f"{turn}-{each}" for each in "ab"]
        command = [sys.executable, "-m", "runnerd", "--spool", str(root)]
        both = []
        for log in logs:
            with log.open("wb") as file:
                both.append(subprocess.Popen(command, stderr=file))
        until(lambda both=both: any(each.poll() is not None for each in both), "both serve")  # type: ignore[misc]
        (lost,) = [each for each in (0, 1) if both[each].poll() is not None]
        assert both[lost].wait() == 78, logs[lost].read_text()
        (line,) = [each for each in logs[lost].read_text().splitlines() if "limits:" not in each]
        assert f"{root} is served by another runnerd" in line
        until(lambda log=logs[1 - lost]: " serves " in log.read_text(), "the other does not serve")  # type: ignore[misc]
        both[1 - lost].terminate()
        assert both[1 - lost].wait(PATIENCE_S) == 0


# --- no descriptors -----------------------------------------------------------------------------


@contextlib.contextmanager
def descriptors_left(pid: int, left: int) -> Iterator[None]:
    """A process can open so many files more, and no other."""
    used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    free = [each for each in range(len(used) + left + 1) if each not in used]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[left], before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.heavy
@pytest.mark.parametrize("left", range(8))
def test_a_daemon_without_descriptors_waits_and_says_so_once(box: SpoolBox, left: int) -> None:
    """Each step meets the limit at some number: to look, to open, to claim, to start a runner."""
    box.start(rescan="0.2s", slots=2)
    hold(box, "held")
    with descriptors_left(the_daemon(box).pid, left):
        box.drop("queued", "run: echo x")
        box.drop("bad", "run: [")
        box.gates["held"].open()
        assert box.result("held").state is State.DONE
        if left < 2:
            until(lambda: said(box, DEGRADED) == 1, "nothing is said")
            until(lambda: "degraded: [Errno 24] Too many open files" in box.status(), "no status")
            deadline = time.monotonic() + 2.5
            while time.monotonic() < deadline:
                assert (said(box, DEGRADED), said(box, RECOVERED)) == (1, 0)
                time.sleep(0.05)
    assert box.result("queued").state is State.DONE
    assert box.result("bad").reason is Reason.INVALID
    until(lambda: said(box, RECOVERED) == said(box, DEGRADED), "it does not recover")
    assert said(box, DEGRADED) <= 1
    assert "Traceback" not in box.log.read_text()
    assert not os.listdir(box.path("running"))


@pytest.mark.root
def test_an_account_that_cannot_be_looked_up_is_no_refusal(box: SpoolBox) -> None:
    """To the C library, a file of users that cannot be opened holds none."""
    box.start(rescan="0.2s", policy=f"[{{users: [{MEMBER}]}}]")
    box.scratch.chmod(0o755)
    staged = box.scratch / "staged"
    staged.write_text("run: id -un")
    os.chown(staged, pwd.getpwnam(MEMBER).pw_uid, -1)
    with descriptors_left(the_daemon(box).pid, 1):
        staged.rename(box.path("incoming", "j.yaml"))
        until(lambda: said(box, "Too many open files") > 0, "nothing is said")
        assert box.path("incoming", "j.yaml").exists()
    until(lambda: not box.path("incoming", "j.yaml").exists(), "it is not taken")
    result = box.result("j")
    assert (result.user, result.submitter) == (MEMBER, MEMBER)
    assert result.reason is not Reason.DENIED


def test_who_nobody_is_cannot_be_told_without_descriptors() -> None:
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        try:
            accounts.account_of(54321)
        except OSError:
            os._exit(7)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_file_that_cannot_be_judged_now_is_closed(box: SpoolBox) -> None:
    """Or each try would keep one more of the descriptors that are missing."""
    with contextlib.closing(Spool.open(box.root)) as spool:
        box.path("incoming", "j.yaml").write_text("run: x\nuser: not-looked-up-before")
        with descriptors_left(os.getpid(), 1):
            for _ in range(3):
                with pytest.raises(OSError, match=r"/etc/(passwd|group)"):
                    judge(spool, "j.yaml", SETUP, now=time.time())


# --- no memory ----------------------------------------------------------------------------------


@contextlib.contextmanager
def memory_cgroup(limit: int, *pids: int) -> Iterator[None]:
    """These processes, and those that they start, get so much memory together, and no swap."""
    for above, key in (  # cgroup v1, v2
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = above / f"runnerd-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / key).exists():
                break
            group.rmdir()
    else:
        pytest.skip("no cgroup with a memory controller can be made here")
    try:
        (group / key).write_text(str(limit))
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.procs").write_text(left)
        group.rmdir()


@pytest.mark.heavy
@pytest.mark.root
def test_a_runner_that_the_kernel_kills_for_memory_is_an_interrupted_job(box: SpoolBox) -> None:
    box.start(slots=1)
    gate = box.gate()
    eat = f"{sys.executable} -c 'x = bytearray(200 << 20); import time; time.sleep(1000)'"
    box.drop("j", f"run: |\n  sleep 1000 &\n  read x < {gate}\n  {eat}\n")
    box.started("j")
    (runner,) = box.runners()
    job = runner.children(recursive=True)
    with memory_cgroup(64 << 20, runner.pid, *(each.pid for each in job)):
        Path(f"/proc/{runner.pid}/oom_score_adj").write_text("1000")  # it, and not the job
        gate.open()
        result = box.result("j")
        runner.wait(PATIENCE_S)
    assert (result.state, result.reason) == (State.FAILED, Reason.INTERRUPTED)
    assert said(box, "the runner of slot 0 ended unexpectedly; its job: j") == 1
    for each in job:
        until(lambda each=each: not lives(each), "a process of the job is left")  # type: ignore[misc]
    assert box.run("next", "run: echo x").state is State.DONE


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- numbers that were given away again ---------------------------------------------------------


@pytest.mark.parametrize("boot_id", [None, "6f1c5bd4-0000-4000-8000-000000000000"])
def test_a_stranger_with_the_number_of_a_dead_runner_is_left_alone(
    box: SpoolBox, boot_id: str | None
) -> None:
    """After a reboot, or when numbers have gone round, the number is anybody's."""
    with subprocess.Popen(["sleep", "1000"], env={}, cwd="/") as stranger:
        try:
            with contextlib.closing(Spool.open(box.root)) as spool:
                spool.boot_id = boot_id or spool.boot_id
                box.path("incoming", "job.yaml").write_text("run: echo x")
                with judge(spool, "job.yaml", SETUP, now=time.time()) as judged:
                    claimed = spool.claim(judged)
                assert claimed is not None
                mark = StartMark(
                    boot_id=spool.boot_id, runner_pid=stranger.pid, started_at=time.time()
                )
                spool.disk.append(claimed.lock_fd, b"\n" + records.dumps(mark))
                claimed.close()
            box.control("job.cancel")
            box.start(rescan="0.2s")
            result = box.result("job")
            assert result.reason is Reason.INTERRUPTED
            assert ("machine was restarted" in result.message) == (boot_id is not None)
            until(lambda: not os.listdir(box.path("control")), "the request is not seen")
            assert box.run("next", "run: echo x").state is State.DONE
            assert stranger.poll() is None
        finally:
            stranger.kill()


# --- many ---------------------------------------------------------------------------------------

MANY = 100_000


@pytest.fixture
def vast_box(tmp_path: Path) -> Iterator[SpoolBox]:
    """A spool in memory: to make and to remove that many files takes minutes on a disk."""
    root = tmp_path / "spool"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,size=2g", "none", root], check=True)
    try:
        spool_box = SpoolBox(tmp_path)
        yield spool_box
        spool_box.close()
    finally:
        subprocess.run(["umount", "-l", root], check=True)


@pytest.mark.heavy
@pytest.mark.root
def test_a_spool_of_a_hundred_thousand_jobs_starts(vast_box: SpoolBox) -> None:
    """As many queued, and as many done. The first to be dropped, with priority, is the first."""
    Spool.open(vast_box.root).close()
    box = vast_box
    for number in range(MANY):
        directory = box.path("done", f"d{number}")
        directory.mkdir()
        (directory / "result.json").touch()
        box.path("incoming", f"q{number}.yaml").write_text("run: exit 0")
    box.path("incoming", "q77777.yaml").write_text("run: exit 0\npriority: 1")
    began = time.monotonic()
    box.start(slots=2)
    ready_s = time.monotonic() - began
    assert not os.listdir(box.path("running"))  # so nothing was judged before
    until(lambda: said(box, ": started as") > 0, "no job starts", within_s=120)
    first_s = time.monotonic() - began
    until(box.path("done", "q77777").exists, "priority is not kept", within_s=120)
    until(lambda: known(box) >= MANY, f"not all are found: {box.status()}", within_s=120)
    all_s = time.monotonic() - began
    rss = the_daemon(box).memory_info().rss >> 20
    print(f"ready {ready_s:.2f} s, first {first_s:.2f} s, all judged {all_s:.1f} s, RSS {rss} MiB")


def known(box: SpoolBox) -> int:
    """How many of the jobs the daemon has in its queue, or has taken from there."""
    running, queued = (int(each.split()[0]) for each in box.status()[len("STATUS=") :].split(", "))
    return queued + running + len(os.listdir(box.path("done"))) - MANY


# --- a job that forks all the time --------------------------------------------------------------

SPAWN = """
import os, time
for number in range(400):
    if os.fork() == 0:
        os.setsid()
        os.execv("/bin/sleep", ["sleep", "1000"])
    if number == 100:
        open("many", "w").close()
time.sleep(1000)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("turn", range(5))
def test_a_job_that_forks_while_it_is_ended_leaves_nothing(box: SpoolBox, turn: int) -> None:
    """Daemon and runner died: its processes are looked for, and more come while that is done."""
    box.start(slots=1)
    box.drop("j", json.dumps({"command": [sys.executable, "-c", SPAWN]}))
    until(box.path("running", "j", "work", "many").exists, f"it does not run: {turn}")
    (runner,) = box.runners()
    box.kill()
    runner.kill()
    runner.wait(PATIENCE_S)
    job = box.path("running", "j")
    end_leftovers(str(job))
    assert not [each for each in psutil.process_iter() if belongs(each, str(job))]
    box.start(slots=1)
    assert box.result("j").reason is Reason.INTERRUPTED


def belongs(process: psutil.Process, job_directory: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return lives(process) and process.environ().get("RUNNER_JOB_DIR") == job_directory
    return False
