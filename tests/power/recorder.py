"""recorder: a real file system on a disk that notes every write, and what was done on it.

nbdkit (with the plugin in `volatile`) -> nbdfuse -> a loop device -> ext4 or XFS. Needs root. All
mounts are this process's own, so that nothing is left of them, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from namespaces import do_apart, run
from writelog import Entry, Image, load_image, load_log, save_log

PATIENCE_S = 10.0
PLUGIN = Path(__file__).parent / "volatile.py"


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One kind, the size of its disk, how it is made and mounted."""

    name: str
    size: int
    make: tuple[str, ...]
    options: str = "noatime"


# 4096 bytes: mke2fs would choose less for a disk so small. XFS is not made smaller than 300 MB; two
# of one UUID (a disk and what is left of it) are mounted at the same time here.
_EXT4 = "mke2fs -q -F -t ext4 -b 4096 -E lazy_itable_init=0,lazy_journal_init=0"
KINDS = {
    "ext4": FileSystem("ext4", 32 << 20, tuple(_EXT4.split())),
    "xfs": FileSystem("xfs", 320 << 20, ("mkfs.xfs", "-q", "-f"), "noatime,nouuid"),
}


@dataclass(frozen=True, slots=True)
class Recording:
    """What was done: the disk before, every request to it, and the acknowledgements."""

    base: Image
    entries: list[Entry]
    acks: bytes


def missing(kind: FileSystem) -> list[str]:
    """What this machine lacks for a recording, in words."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    programs = ("nbdkit", "nbdfuse", "fusermount3", "setpriv", kind.make[0])
    lacks += [f"the program {each}" for each in programs if shutil.which(each) is None]
    if (
        shutil.which("nbdkit")
        and subprocess.run(
            ["nbdkit", "python", "--dump-plugin"], capture_output=True, check=False
        ).returncode
    ):
        lacks.append("nbdkit's python plugin")
    lacks += [
        f"the device {each}"
        for each in ("/dev/fuse", "/dev/loop-control")
        if not Path(each).exists()
    ]
    return lacks


def make(kind: FileSystem, disk: Path) -> None:
    """A new file system."""
    with disk.open("wb") as file:
        file.truncate(kind.size)
    run(*kind.make, str(disk))


def record(
    kind: FileSystem, here: Path, base: Image, acks: Path, work: Callable[[Path], None]
) -> Recording:
    """Do the work in the mounted file system, and note what that does to the disk."""
    disk, log, mount = here / "disk.img", here / "writes.log", here / "mnt"
    base.save(disk)
    log.write_bytes(b"")
    mount.mkdir(exist_ok=True)
    with _served(here, disk, log, acks) as front:
        # A loop device that the kernel takes and gives back with the mount, even if we are killed.
        run("mount", "-t", kind.name, "-o", f"loop,{kind.options}", str(front), str(mount))
        try:
            do_apart(lambda: work(mount))
        finally:
            run("umount", str(mount))
    recording = Recording(base, load_log(log), acks.read_bytes())
    disk.unlink()
    log.unlink()
    return recording


@contextlib.contextmanager
def _served(here: Path, disk: Path, log: Path, acks: Path) -> Iterator[Path]:
    """The disk's file, as it is seen through the plugin."""
    front = here / "front"
    front.touch()
    parts = [f"file={disk}", f"log={log}", f"acks={acks}"]
    server = ["nbdkit", "--exit-with-parent", "python", str(PLUGIN), *parts]
    command = ["setpriv", "--pdeathsig", "KILL", "nbdfuse", str(front), "[", *server, "]"]
    with subprocess.Popen(command) as nbdfuse, contextlib.ExitStack() as undo:
        undo.callback(run, "fusermount3", "-u", str(front))
        _await(lambda: front.stat().st_size > 0 or nbdfuse.poll() is not None)
        yield front


def _await(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError("nbdfuse does not come up")
        time.sleep(0.01)


def save(recording: Recording, directory: Path, place: Path) -> None:
    """Keep a recording, and the place at which it was made."""
    directory.mkdir(parents=True, exist_ok=True)
    recording.base.save(directory / "base.img")
    save_log(recording.entries, directory / "writes.log")
    (directory / "acks").write_bytes(recording.acks)
    (directory / "place").write_text(str(place))


def load(directory: Path) -> Recording:
    base, entries = load_image(directory / "base.img"), load_log(directory / "writes.log")
    return Recording(base, entries, (directory / "acks").read_bytes())


def new_disk(kind: FileSystem, here: Path) -> Image:
    """A new file system, as an image."""
    disk = here / "new.img"
    make(kind, disk)
    image = load_image(disk)
    disk.unlink()
    return image
