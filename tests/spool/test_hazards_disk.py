"""The spool's file system is full, read-only, gone, another one: one line tells, nothing is lost.

Real mounts below the test's own directory.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from spoolbox import SpoolBox, until

from runnerd.model import Reason, State
from runnerd.openat import sign

DEGRADED, RECOVERED = "no new jobs are taken", "new jobs are taken again"
FLAPS_WITHIN_S = 3.0  # three times what the daemon waits before it tries again
GROUP = "nogroup"


def put(box: SpoolBox, name: str, text: str, *, at: Path | None = None) -> None:
    """Drop a job from within incoming/: the rest of the spool may be another file system."""
    incoming = at or box.path("incoming")
    write_signed(incoming / f".{name}", text)
    (incoming / f".{name}").rename(incoming / f"{name}.yaml")


def write_signed(path: Path, text: str = "") -> None:
    """Root says of its own files in a shared box that they are meant."""
    with path.open("w") as file:
        file.write(text)
        sign(file.fileno())


def said(box: SpoolBox, text: str) -> int:
    return box.log.read_text().count(text)


def stays_degraded(box: SpoolBox, why: str) -> None:
    """One line comes, and for as long as flapping takes no other."""
    until(lambda: said(box, DEGRADED) == 1, "nothing is said")
    box.says(why)
    until(lambda: "degraded: " in box.status() and why in box.status(), "the status is silent")
    deadline = time.monotonic() + FLAPS_WITHIN_S
    while time.monotonic() < deadline:
        assert (said(box, DEGRADED), said(box, RECOVERED)) == (1, 0)
        time.sleep(0.05)


def recovers(box: SpoolBox) -> None:
    until(lambda: said(box, RECOVERED) == 1, f"it does not recover: {box.log.read_text()}")
    until(lambda: "degraded" not in box.status(), "the status still says so")
    assert said(box, DEGRADED) == 1
    assert "Traceback" not in box.log.read_text()


def hold(box: SpoolBox, name: str, script: str = "echo ended") -> None:
    """A job that runs, and waits at its gate before it does this."""
    box.gates[name] = box.gate(f"gate-{name}")
    put(box, name, f"run: |\n  echo begun\n  read x < {box.gates[name]}\n  {script}\n")
    box.started(name)


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[None]:
    subprocess.run(["mount", *options, path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


TMPFS = ("-t", "tmpfs", "-o", "mode=755,size=16m", "none")


@pytest.fixture
def small_box(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SpoolBox]:
    """A spool on a file system of its own; its options are the parameter."""
    options = getattr(request, "param", TMPFS)
    (tmp_path / "spool").mkdir()
    if options[0] == "-o":
        image = tmp_path / "image"
        image.write_bytes(b"")
        os.truncate(image, 8 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", image], check=True)
        options = (*options, str(image))
    with mounted(tmp_path / "spool", *options):
        box = SpoolBox(tmp_path)
        yield box
        box.close()


# --- directories that are replaced --------------------------------------------------------------


@pytest.mark.parametrize("name", ["incoming", "control"])
@pytest.mark.parametrize("made_anew", [True, False])
@pytest.mark.root
def test_a_drop_box_that_is_replaced_or_removed_is_there_again(
    box: SpoolBox, name: str, *, made_anew: bool
) -> None:
    box.start(rescan="0.2s", group=GROUP, slots=1)
    before = box.path(name).stat()
    if made_anew:
        box.path(name).rename(box.scratch / "away")
        box.path(name).mkdir(mode=0o700)
    else:
        box.path(name).rmdir()
        until(box.path(name).exists, "it is not made anew")
        until(lambda: box.path(name).stat().st_mode == before.st_mode, "it has another mode")
        assert box.path(name).stat().st_gid == grp.getgrnam(GROUP).gr_gid
        assert stat.S_IMODE(before.st_mode) == 0o1730
    put(box, "long", "run: sleep 1000")
    box.started("long")
    write_signed(box.path("control", ".asked"))
    box.path("control", ".asked").rename(box.path("control", "long.cancel"))
    assert box.result("long").reason is Reason.CANCELLED
    assert said(box, DEGRADED) == 0


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["running", "done", "failed", "."])
def test_while_jobs_lie_elsewhere_nothing_is_claimed(box: SpoolBox, name: str) -> None:
    box.start(rescan="0.2s")
    hold(box, "held")
    here, away = box.path(name) if name != "." else box.root, box.scratch / "away"
    here.rename(away)
    here.mkdir()
    stays_degraded(box, f"{here} is not the directory any more that runnerd works in; put that one")
    incoming = away / "incoming" if name == "." else box.path("incoming")
    put(box, "queued", "run: echo x", at=incoming)
    put(box, "bad", "run: [", at=incoming)
    box.gates["held"].open()
    done = {"done": away / "held", ".": away / "done/held"}.get(name, box.path("done", "held"))
    until(done.exists, "the job that ran is not filed")
    stays_degraded(box, "put that one back")
    assert {each.name for each in incoming.iterdir()} == {"queued.yaml", "bad.yaml"}
    assert not list(here.iterdir())
    here.rmdir()
    away.rename(here)
    recovers(box)
    assert box.result("queued").state is State.DONE
    assert box.result("bad").reason is Reason.INVALID


@pytest.mark.parametrize("name", ["running", "done", "failed"])
def test_a_directory_that_was_removed_is_made_anew(box: SpoolBox, name: str) -> None:
    """Nothing can have been in it. An idle runner knows the old one, and a busy one files there."""
    box.start(rescan="0.2s")
    assert box.run("first", "run: echo x").state is State.DONE
    box.path("done", "first").rename(box.scratch / "first")
    if name != "running":
        hold(box, "held", "exit 3" if name == "failed" else "echo ended")
    box.path(name).rmdir()
    until(box.path(name).exists, "it is not made anew")
    if name != "running":
        box.gates["held"].open()
        assert box.result("held").reason is (Reason.EXIT if name == "failed" else None)
    assert box.run("next", "run: echo x").state is State.DONE
    assert "Traceback" not in box.log.read_text()
    assert "ended unexpectedly" not in box.log.read_text()


# --- mounts that come and go --------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.root
@pytest.mark.parametrize("name", ["incoming", "control", "running", "done"])
def test_a_file_system_over_a_directory_is_told_once_and_survived(box: SpoolBox, name: str) -> None:
    box.start(rescan="0.2s")
    hold(box, "held")
    over = name in ("incoming", "control")
    with mounted(box.path(name), *TMPFS):
        why = "is on another file system than" if over else "is not the directory any more"
        stays_degraded(box, f"{box.path(name)} {why}")
        box.gates["held"].open()
        if name != "incoming":
            put(box, "queued", "run: echo x")
            stays_degraded(box, why)
            assert box.path("incoming", "queued.yaml").exists()
    recovers(box)
    assert box.result("held").state is State.DONE
    if name != "incoming":
        assert box.result("queued").state is State.DONE
    assert box.run("next", "run: echo x").state is State.DONE


@pytest.mark.heavy
@pytest.mark.root
def test_a_spool_that_is_unmounted_under_the_daemon_and_mounted_again(tmp_path: Path) -> None:
    """Lazily, as it is in use. What the daemon has open is then out of everybody's sight."""
    base, root = tmp_path / "base", tmp_path / "spool"
    for each in (base, root):
        each.mkdir()
    with mounted(base, *TMPFS):
        (base / "spool").mkdir(mode=0o755)
        subprocess.run(["mount", "--bind", base / "spool", root], check=True)
        box = SpoolBox(tmp_path)
        try:
            box.start(rescan="0.2s")
            hold(box, "held")
            subprocess.run(["umount", "-l", root], check=True)
            stays_degraded(box, f"{root} is not the directory any more that runnerd works in")
            put(box, "queued", "run: echo x", at=base / "spool/incoming")
            box.gates["held"].open()
            until((base / "spool/done/held").exists, "the job that ran is not filed")
            stays_degraded(box, "put that one back (mount it, rename it), or restart runnerd")
            assert (base / "spool/incoming/queued.yaml").exists()
            assert not list(root.iterdir())
            subprocess.run(["mount", "--bind", base / "spool", root], check=True)
            recovers(box)
            assert box.result("queued").state is State.DONE
            put(box, "next", "run: echo x")
            assert box.result("next").state is State.DONE
        finally:
            box.close()
            subprocess.run(["umount", "-l", root], check=False)


# --- read-only ----------------------------------------------------------------------------------


@pytest.mark.root
def test_a_spool_that_is_read_only_at_the_start_is_refused(small_box: SpoolBox) -> None:
    small_box.start()
    small_box.stop()
    assert mount_again(small_box, "ro")
    done = subprocess.run(small_box.program, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert f"{small_box.root} is on a file system that is mounted read-only" in done.stderr
    assert "mount -o remount,rw" in done.stderr
    assert "Traceback" not in done.stderr
    assert mount_again(small_box, "rw")
    small_box.start()
    put(small_box, "j", "run: echo x")
    assert small_box.result("j").state is State.DONE


@pytest.mark.heavy
@pytest.mark.root
@pytest.mark.parametrize("small_box", [TMPFS, ("-o", "loop")], indirect=True)
def test_a_spool_that_turns_read_only_keeps_jobs_waiting(small_box: SpoolBox) -> None:
    """The kernel allows it while nothing is open for writing: no job runs, one has yet to start."""
    box = small_box
    box.start(rescan="0.2s")
    put(box, "first", "run: echo x")
    assert box.result("first").state is State.DONE
    put(box, "queued", "run: echo x\ndelay: 1s\n")
    put(box, "again", "run: '[ $RUNNER_ATTEMPT -gt 1 ]'\nretry: {max: 1, delay: 1s}\n")
    until(box.path("running", "again", "output.1.log").exists, "no attempt has failed")
    until(lambda: mount_again(box, "ro"), "the kernel does not allow it")
    stays_degraded(box, "Read-only file system")
    assert box.path("incoming", "queued.yaml").exists()
    assert mount_again(box, "rw")
    assert box.result("queued").state is State.DONE
    assert box.result("again").state is State.DONE
    recovers(box)


def mount_again(box: SpoolBox, how: str) -> bool:
    command = ["mount", "-o", f"remount,{how}", str(box.root)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# --- full ---------------------------------------------------------------------------------------


def fill_bytes(box: SpoolBox) -> None:
    """Take every block that is left."""
    fd = os.open(box.root / "filler", os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 4096, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(fd, b"x" * size)
    os.close(fd)


def fill_inodes(box: SpoolBox) -> None:
    (box.root / "filler").mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (box.root / "filler" / str(number)).touch()


def make_room(box: SpoolBox) -> None:
    filler = box.root / "filler"
    if filler.is_dir():
        for each in filler.iterdir():
            each.unlink()
        filler.rmdir()
    else:
        filler.unlink()


FULL = [
    (TMPFS, fill_bytes),
    (("-t", "tmpfs", "-o", "mode=755,nr_inodes=60", "none"), fill_inodes),
    (("-o", "loop"), fill_bytes),
    (("-o", "loop"), fill_inodes),
]


@pytest.mark.heavy
@pytest.mark.root
@pytest.mark.parametrize(("small_box", "fill"), FULL, indirect=["small_box"])
def test_a_full_file_system_keeps_jobs_waiting_and_loses_no_result(
    small_box: SpoolBox, fill: Callable[[SpoolBox], None]
) -> None:
    box = small_box
    box.start(rescan="0.3s", slots=2)
    hold(box, "held", "head -c 200000 /dev/zero")
    for name, text in (("queued", "run: echo x"), ("bad", "run: ["), ("later", "run: echo y")):
        box.path("incoming", f".{name}").write_text(text)
    fill(box)
    for name in ("queued", "bad"):
        box.path("incoming", f".{name}").rename(box.path("incoming", f"{name}.yaml"))
    stays_degraded(box, "No space left on device")
    box.gates["held"].open()
    until(lambda: "held: ended, but its result cannot be written yet" in box.log.read_text(), "")
    box.path("incoming", ".later").rename(box.path("incoming", "later.yaml"))
    stays_degraded(box, "No space left on device")
    assert said(box, "cannot be written yet") == 1
    assert said(box, "not started, will be tried again") <= 2
    assert {each.name for each in (*box.path("done").iterdir(), *box.path("failed").iterdir())} == (
        set()
    )
    make_room(box)
    held = box.result("held")
    assert held.state is State.DONE
    assert held.truncated == (("output",) if fill is fill_bytes else ())
    assert box.result("queued").state is State.DONE
    assert box.result("later").state is State.DONE
    assert box.result("bad").reason is Reason.INVALID
    recovers(box)


@pytest.mark.heavy
@pytest.mark.root
@pytest.mark.parametrize("small_box", [TMPFS, ("-o", "loop")], indirect=True)
def test_room_that_comes_page_by_page_tears_nothing(small_box: SpoolBox) -> None:
    """So each write meets the end of the disk at some time, and the last of them are short."""
    box = small_box
    box.start(rescan="0.2s", slots=2)
    hold(box, "held", "echo ended; exit 3")
    for number in range(6):
        name = f"j{number}"
        box.path("incoming", f".{name}").write_text(f"run: echo {name} # {'x' * 9000}")
    fill_bytes(box)
    box.gates["held"].open()
    for number in range(6):
        box.path("incoming", f".j{number}").rename(box.path("incoming", f"j{number}.yaml"))
    until(lambda: said(box, DEGRADED) == 1, "nothing is said")
    size = (box.root / "filler").stat().st_size
    while size > 0 and len(list(box.path("done").iterdir())) < 6:
        size = max(0, size - 4096)
        os.truncate(box.root / "filler", size)
        time.sleep(0.1)
    for number in range(6):
        assert box.result(f"j{number}").state is State.DONE
    result = box.result("held")
    assert (result.reason, result.exit_code) == (Reason.EXIT, 3)
    until(lambda: not os.listdir(box.path("running")), "something is left in running/")
    assert "Traceback" not in box.log.read_text()
