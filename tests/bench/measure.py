"""measure: what all parts need: a daemon of ours, and how to drop, to wait and to count."""

from __future__ import annotations

import atexit
import compileall
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PACKAGE = Path(__file__).parents[2] / "runnerd"
PATIENCE_S = 900
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x20000  # ioctl_iflags(2)
JOB = "command: [sh, -c, 'true']\n"


@dataclass(slots=True)
class Served:
    """A spool that a daemon of ours serves. `here`: a directory beside it."""

    here: Path
    spool: Path
    process: subprocess.Popen[bytes]

    def drop(self, name: str, text: str) -> int:
        """Rename one job into the queue; the time of that (ns)."""
        staged = self.here / f"{name}.yaml"
        staged.write_text(text)
        dropped_at = time.time_ns()
        staged.rename(self.spool / "incoming" / staged.name)
        return dropped_at

    def run(self, name: str, text: str) -> int:
        """The same, and wait for its good end."""
        dropped_at = self.drop(name, text)
        await_that((self.spool / "done" / name).is_dir)
        return dropped_at

    def stage(self, prefix: str, count: int, text: str = JOB, uid: int | None = None) -> list[Path]:
        """So many files, ready to be renamed into the queue."""
        directory = self.here / f"staged-{prefix}"
        directory.mkdir()
        files = [directory / f"{prefix}{number}.yaml" for number in range(count)]
        for each in files:
            each.write_text(text)
            if uid is not None:
                os.chown(each, uid, uid)
        return files

    def queue(self, files: Sequence[Path]) -> None:
        """Rename them into the queue."""
        incoming = os.fspath(self.spool / "incoming")
        for each in files:
            os.rename(each, f"{incoming}/{each.name}")  # noqa: PTH104  # 100,000 of them

    def done(self) -> int:
        """How many jobs are done. None may fail."""
        for each in os.listdir(self.spool / "failed"):
            why = (self.spool / "failed" / each / "result.json").read_text()
            sys.exit(f"bench: {each} has failed: {why}")
        return len(os.listdir(self.spool / "done"))

    def burst_s(self, files: Sequence[Path]) -> float:
        """How long it takes from the first rename until all lie in done/."""
        goal = self.done() + len(files)
        began = time.monotonic()
        self.queue(files)
        await_that(lambda: self.done() >= goal, 0.02)
        return time.monotonic() - began

    @property
    def processes(self) -> list[psutil.Process]:
        """The daemon's, and those that it started."""
        daemon = psutil.Process(self.process.pid)
        return [daemon, *daemon.children(recursive=True)]

    def cpu_s(self) -> float:
        """CPU time of ours until now, and of the jobs that have ended."""
        return sum(sum(each.cpu_times()[:4]) for each in self.processes)

    def ran_s(self) -> float:
        """CPU time of ours alone, to the nanosecond (proc(5)), where `cpu_s` counts in ticks."""
        files = [Path(f"/proc/{each.pid}/schedstat") for each in self.processes]
        return sum(int(each.read_text().split()[0]) for each in files) / 1e9

    def pss_bytes(self) -> int:
        """The memory of ours; what several share counts once."""
        return sum(each.memory_full_info().pss for each in self.processes)


@contextmanager
def serving(slots: int, directory: str | None = None, **config: str) -> Iterator[Served]:
    """A daemon on a new spool, ready and idle."""
    with started(scratch(directory), slots, **config) as served:
        served.run("ready", "command: ['true']\n")
        yield served


def scratch(directory: str | None = None) -> Path:
    """A directory apart from all others, that goes at the end.

    ext4 without a journal passes over the inodes of a block group that were freed in the last
    minutes, one by one, for each new file: what was removed nearby would be measured, up to a
    millisecond for a file. What lies below a "top" begins in a group of its own.
    """
    top = Path(tempfile.mkdtemp(prefix="runnerd-bench-", dir=directory))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    _let_be_a_top(top)
    here = Path(tempfile.mkdtemp(dir=top))
    for each in (top, here):
        each.chmod(0o711)  # jobs of other users have to get to their directories
    return here


def _let_be_a_top(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # where there are no groups
        found = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(4))
        flags = int.from_bytes(found, sys.byteorder) | FS_TOPDIR_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags.to_bytes(4, sys.byteorder))
    os.close(fd)


def disk_us(directory: str | None = None) -> tuple[float, float]:
    """How long this file system takes for a new directory, and for a small file that is synced.

    All who write wait for it, and it depends on what was done there before: see `scratch`.
    """
    here = scratch(directory)
    made, synced = [], []
    for number in range(200):
        began = time.monotonic()
        (here / f"d{number}").mkdir()
        made.append(time.monotonic() - began)
        began = time.monotonic()
        with (here / f"f{number}").open("wb", buffering=0) as file:
            file.write(bytes(300))
            os.fsync(file)
        synced.append(time.monotonic() - began)
    return median(made) * 1e6, median(synced) * 1e6


@contextmanager
def started(here: Path, slots: int, **config: str) -> Iterator[Served]:
    """A daemon on the spool in this directory, ready."""
    file = here / "runnerd.yaml"
    lines = {"slots": str(slots), "retention": "{}", **config}
    file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    spool = here / "spool"
    # As when installed: to compile at each start takes long, and leaves 0.7 MB in memory.
    compileall.compile_dir(PACKAGE, quiet=1)
    program = [sys.executable, "-m", "runnerd", "--config", str(file), "--spool", str(spool)]
    address = f"\0runnerd-bench-{os.getpid()}"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
        (here / "log").open("ab") as log,
    ):
        notices.bind(address)
        notices.setblocking(False)  # noqa: FBT003
        environment = {**os.environ, "NOTIFY_SOCKET": address.replace("\0", "@")}
        with subprocess.Popen(program, stderr=log, env=environment) as process:
            try:
                await_that(lambda: _is_ready(notices, process), 0.001)
                yield Served(here, spool, process)
            finally:
                process.send_signal(signal.SIGTERM)


def _is_ready(notices: socket.socket, daemon: subprocess.Popen[bytes]) -> bool:
    if daemon.poll() is not None:
        sys.exit(f"bench: the daemon has ended with {daemon.returncode}; see its log")
    with contextlib.suppress(BlockingIOError):
        return b"READY=1" in notices.recv(4096)
    return False


def await_that(fact: Callable[[], object], every_s: float = 0.005) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > deadline:
            sys.exit(f"bench: waited {PATIENCE_S} s in vain")
        time.sleep(every_s)


def median(found: Sequence[float]) -> float:
    return statistics.median(found)


def high(found: Sequence[float]) -> float:
    """The value below which 95 % lie."""
    return sorted(found)[int(len(found) * 0.95)]


def spent_s(found: os.times_result) -> float:
    """CPU time of the children that have ended."""
    return found.children_user + found.children_system
