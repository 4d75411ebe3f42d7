"""The doctor beside disks that are full, read-only or others, and in a divided cgroup.

Real mounts below the test's own directory, and a cgroup of our own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from examined import Report, case, found_in, hung_daemon
from spoolbox import SpoolBox, until

pytestmark = [pytest.mark.heavy, pytest.mark.root]


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SpoolBox]:
    """A spool without a daemon on a small file system; its options are the parameter."""
    (tmp_path / "spool").mkdir()
    with mounted(tmp_path / "spool", f"mode=755,{request.param}"):
        box = SpoolBox(tmp_path)
        box.start()
        box.stop()
        yield box
        box.close()


def fill(path: Path, up_to: int) -> None:
    """Write until only so many bytes are free."""
    room = os.statvfs(path)
    with (path / "running" / ".fill").open("wb") as file:
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, room.f_bfree * room.f_frsize - up_to)


@pytest.mark.parametrize("small", ["size=64m"], indirect=True)
def test_space_that_runs_out_is_told(small: SpoolBox) -> None:
    assert found_in(case(small), "space") == []
    fill(small.root, 1 << 20)
    (gone,) = found_in(case(small), "space")
    assert (gone.finding, gone.message) == ("space-gone", f"{small.root}: 1M are free")


@pytest.mark.parametrize("small", ["size=640m"], indirect=True)
def test_space_that_will_run_out_is_told(small: SpoolBox) -> None:
    fill(small.root, 24 << 20)
    (low,) = found_in(case(small), "space")
    assert (low.finding, low.verdict) == ("space-low", "warning")
    assert low.message == f"{small.root}: 24M of 640M are free"


@pytest.mark.parametrize("small", ["size=64m,nr_inodes=100"], indirect=True)
def test_inodes_that_run_out_are_told(small: SpoolBox) -> None:
    for number in range(50):
        (small.path("done") / str(number)).touch()
    (gone,) = found_in(case(small), "space")
    assert gone.finding == "inodes-gone"


@pytest.mark.parametrize("small", ["size=64m,nr_inodes=4000"], indirect=True)
def test_inodes_that_will_run_out_are_told(small: SpoolBox) -> None:
    for number in range(3860):
        (small.path("done") / str(number)).touch()
    (low,) = found_in(case(small), "space")
    assert low.finding == "inodes-low"


@pytest.mark.parametrize("small", ["size=64m"], indirect=True)
def test_a_read_only_disk_is_told(small: SpoolBox) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small.root], check=True)
    assert "read-only" in {each.finding for each in found_in(case(small), "spool")}
    with hung_daemon(small):
        (line,) = found_in(case(small), "daemon")
    assert line.finding == "cannot-ask"
    assert line.message.endswith("nothing can be dropped: Read-only file system")


def test_a_part_of_the_spool_on_another_disk_is_told(box: SpoolBox) -> None:
    box.start()
    box.stop()
    with mounted(box.path("done"), "mode=755"):
        assert "other-device" in {each.finding for each in found_in(case(box), "spool")}


def test_a_mount_in_the_way_is_told(box: SpoolBox) -> None:
    box.start()
    box.path("incoming", "x.yaml").mkdir()
    box.path("incoming", "y").mkdir()
    with mounted(box.path("incoming", "y"), "mode=755"):
        lines = found_in(case(box), "incoming")
        assert [each.finding for each in lines] == ["file-stuck"]
        assert lines[0].message == f"{box.path('incoming')}/y cannot be taken: it is a mount point"


@pytest.mark.parametrize("small", ["size=1m"], indirect=True)
def test_a_daemon_that_takes_no_jobs_is_told_by_its_metrics(small: SpoolBox) -> None:
    small.start(metrics=f"{{file: {small.scratch}/runnerd.prom, every: 1s}}")
    small.path("incoming", "x.part").write_text("run: echo x")
    fill(small.root, 0)
    small.path("incoming", "x.part").rename(small.path("incoming", "x.yaml"))
    until(lambda: "no new jobs are taken" in small.log.read_text(), "it is not degraded")
    metrics = small.scratch / "runnerd.prom"
    until(metrics.exists, "there are no metrics")
    until(lambda: "runnerd_degraded 1" in metrics.read_text(), "its metrics do not tell")
    words = Report(small).words()
    assert {"degraded", "space-gone"} <= words
    small.path("running", ".fill").unlink()
    small.result("x")
    until(lambda: "runnerd_degraded 0" in metrics.read_text(), "its metrics do not tell")
    assert "degraded" not in Report(small).words()


@pytest.fixture
def ground() -> Iterator[Path]:
    """An empty cgroup of version 2, which a daemon may divide."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    line = next((each for each in mounts if " - cgroup2 " in each), None)
    if line is None:
        pytest.skip("no cgroup v2 is mounted")
    directory = Path(line.split()[4]) / f"runnerd-doctor-{os.getpid()}"
    directory.mkdir()
    yield directory
    until(lambda: "populated 0" in (directory / "cgroup.events").read_text(), "it is not empty")
    for each in [*(path for path in directory.iterdir() if path.is_dir()), directory]:
        each.rmdir()


def test_cgroups_without_controllers_are_told(
    ground: Path, box: SpoolBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.start()
    assert [each.finding for each in Report(box).of("cgroups")] == ["no-cgroups"]
    box.stop()
    there = ["sh", "-c", f'echo 0 > {ground}/cgroup.procs; exec "$@"', "sh", *box.program]
    monkeypatch.setattr(SpoolBox, "program", there)
    box.start()
    held = set((ground / "cgroup.subtree_control").read_text().split())
    lines = [each for each in Report(box).of("cgroups") if each.finding is not None]
    assert {each.finding for each in lines} <= {"no-controller"}
    names = {each.message.partition("controller ")[2].partition(":")[0] for each in lines}
    assert names == {"cpu", "memory", "pids", "io"} - held
    box.stop()
