"""processes: find and end what a job leaves running.

While its runner lives, kinship tells: the runner is the reaper of all that descends from it, so a
process that forked away and left its session becomes the runner's own child (prctl(2)). When the
runner dies, its children become those of its daemon, which is a reaper as well.

After both died, a number in a file proves nothing about a process. What does: every process of a
job carries the job's directory in the environment that it was started with (kin).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Collection
from pathlib import Path

PATIENCE_S = 5.0
# As the kernel knows them: at most 15 bytes.
RUNNER_NAME, COURIER_NAME, CARRIER_NAME = "runnerd-runner", "runnerd-courier", "runnerd-carrier"
# The daemon's own cgroup in the one that it divides: systemd's, and ours where that makes none.
SUPERVISOR, DAEMON = "supervisor", "daemon"
_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_CHILD_SUBREAPER = 36
_OOM_KILL = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs. Not inherited by a fork."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def give_memory_back() -> None:
    """Give the kernel what was freed since the start, before a fork makes it be shared."""
    with contextlib.suppress(AttributeError):  # malloc_trim(3) is of the GNU C library
        _libc.malloc_trim(0)


def end_orphans() -> None:
    """Kill and bury every descendant of this process. One system call if there is none."""
    while True:
        try:
            buried, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if buried == 0:
            _kill(_children())
            os.waitpid(-1, 0)  # what it had becomes ours


def end_strays(runner_pid: int, *, spare_pid: int) -> None:
    """Kill and bury what a runner left that has died: all children of this process but one.

    Its files are closed, and its locks free, a moment before its children come to us.
    """
    deadline = time.monotonic() + PATIENCE_S
    while _is_runner(runner_pid) and time.monotonic() < deadline:
        time.sleep(0.001)
    while strays := [pid for pid in _children() if pid != spare_pid]:
        _kill(strays)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)  # what it had becomes ours


def _children() -> list[int]:
    """Those of the calling process. Nobody else gets such a number before it is buried."""
    own = b"%d" % os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has gone meanwhile
                status = Path(f"/proc/{name}/stat").read_bytes()
                if status.rpartition(b")")[2].split()[1] == own:
                    found.append(int(name))
    return found


def _kill(pids: Collection[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # another user's by now
            os.kill(pid, signal.SIGKILL)


def _is_runner(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text("ascii").strip() == RUNNER_NAME
    except (OSError, ValueError):
        return False


def bury_orphans(spare: Collection[int | None]) -> None:
    """Take away the dead among the orphans that came to us; the `spare` children are left alone."""
    with contextlib.suppress(ChildProcessError):
        while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if dead.si_pid in spare:
                return
            os.waitpid(dead.si_pid, 0)


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since it started: proc(5)."""
    fd = os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)  # for each job: without a text layer
    try:
        found = _OOM_KILL.search(os.pread(fd, 1 << 16, 0))
    finally:
        os.close(fd)
    return None if found is None else int(found[1])


def lock_holder(locked: os.stat_result) -> int | None:
    """Who holds a lock (flock) on this file, if the kernel tells: proc(5), /proc/locks."""
    device = f"{os.major(locked.st_dev):02x}:{os.minor(locked.st_dev):02x}"
    for line in Path("/proc/locks").read_text("ascii").splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5] == f"{device}:{locked.st_ino}":
            return int(words[4]) or None
    return None


def holder(pid: int, held: os.stat_result) -> int | None:
    """A pidfd of this process if it has the file open; a number alone would prove nothing."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with contextlib.suppress(OSError):  # it has ended meanwhile, or is somebody else's
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(Path(f"/proc/{pid}/fd/{fd}").stat(), held):
                    return pidfd
    os.close(pidfd)
    return None


def cgroup_of(pid: int | str) -> Path | None:
    """The directory of a process in the cgroup v2 tree, if it is to be seen from here.

    Raises OSError if there is no such process.
    """
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None or ".." in own.split("/"):
        return None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        root, point = (_unescaped(each) for each in mount.split()[3:5])
        if kind.split()[0] == "cgroup2" and f"{own}/".startswith(f"{root.rstrip('/')}/"):
            return Path(point, own[len(root.rstrip("/")) :].lstrip("/"))
    return None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
