"""A spool that is not safe to use is refused, with the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from spoolbox import Opener

from runnerd.errors import SpoolError


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_what_is_missing_is_made(tmp_path: Path, open_spool: Opener) -> None:
    open_spool(tmp_path / "a" / "spool")
    root = tmp_path / "a" / "spool"
    assert {each.name: mode(each) for each in root.iterdir()} == {
        "incoming": 0o700,
        "control": 0o700,
        "running": 0o755,
        "done": 0o755,
        "failed": 0o755,
        "outbox": 0o700,
    }


@pytest.mark.root
def test_members_of_the_group_may_drop_and_not_list(tmp_path: Path, open_spool: Opener) -> None:
    open_spool(tmp_path / "spool", "nogroup")
    for box in ("incoming", "control"):
        status = (tmp_path / "spool" / box).stat()
        assert (status.st_mode & 0o7777, status.st_gid) == (0o1730, 65534)


def loosen(root: Path) -> None:
    (root / "incoming").chmod(0o1777)


def open_done(root: Path) -> None:
    (root / "done").chmod(0o775)


def open_outbox(root: Path) -> None:
    (root / "outbox").chmod(0o750)


def unstick(root: Path) -> None:
    (root / "incoming").chmod(0o730)


def open_root(root: Path) -> None:
    root.chmod(0o777)


def link_away(root: Path) -> None:
    (root / "done").rmdir()
    (root / "done").symlink_to("/tmp")  # noqa: S108  # any directory will do


def make_file(root: Path) -> None:
    (root / "running").rmdir()
    (root / "running").write_text("")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (loosen, "chmod 1770"),
        (open_done, "chmod 0755"),
        (open_outbox, "chmod 0700"),
        (unstick, "chmod +t"),
        (open_root, "chmod 0755"),
        (link_away, "cannot be opened"),
        (make_file, "Not a directory"),
    ],
)
def test_an_unsafe_spool_is_refused(
    tmp_path: Path, open_spool: Opener, damage: Callable[[Path], None], part: str
) -> None:
    root = tmp_path / "spool"
    open_spool(root)
    damage(root)
    with pytest.raises(SpoolError, match="spool") as refused:
        open_spool(root)
    assert part in str(refused.value)
    command = [sys.executable, "-m", "runnerd", "--spool", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, open_spool: Opener) -> None:
    root = tmp_path / "spool"
    open_spool(root)
    os.chown(root / "failed", 65534, 65534)
    with pytest.raises(SpoolError, match="belongs to uid 65534"):
        open_spool(root)


@pytest.mark.root
def test_a_spool_over_two_file_systems_is_refused(tmp_path: Path, open_spool: Opener) -> None:
    root = tmp_path / "spool"
    open_spool(root)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "x", root / "done"], check=True)
    try:
        with pytest.raises(SpoolError, match="on another file system"):
            open_spool(root)
    finally:
        subprocess.run(["umount", root / "done"], check=True)


def test_the_spool_may_be_reached_through_a_link(tmp_path: Path, open_spool: Opener) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert open_spool(tmp_path / "link").root == tmp_path.resolve() / "real"


def test_a_drop_box_for_a_group_may_be_opened_again(tmp_path: Path, open_spool: Opener) -> None:
    root = tmp_path / "spool"
    open_spool(root)
    for box in ("incoming", "control"):
        (root / box).chmod(0o1730)
    open_spool(root)
    assert [mode(root / box) for box in ("incoming", "control")] == [0o1730, 0o1730]


def assert_unusable(root: Path, open_spool: Opener, part: str) -> None:
    with pytest.raises(SpoolError, match="cannot be opened") as refused:
        open_spool(root)
    assert part in str(refused.value)
    command = [sys.executable, "-m", "runnerd", "--spool", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_spool_below_a_file_is_refused(tmp_path: Path, open_spool: Opener) -> None:
    (tmp_path / "file").write_text("")
    assert_unusable(tmp_path / "file" / "spool", open_spool, "Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_root_that_may_not_be_written_is_refused(tmp_path: Path, open_spool: Opener) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    assert_unusable(tmp_path / "closed" / "spool", open_spool, "Permission denied")


@pytest.mark.root
def test_a_read_only_file_system_is_refused(tmp_path: Path, open_spool: Opener) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=755", "x", tmp_path], check=True)
    try:
        assert_unusable(tmp_path / "spool", open_spool, "Read-only file system")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
