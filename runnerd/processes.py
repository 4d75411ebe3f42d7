"""processes: find and end what a job leaves running: by kinship, or by its environment.

While its runner lives, kinship tells: the runner is the reaper of all that descends from it, so a
process that forked away and left its session becomes the runner's own child (prctl(2)).

After the runner died, a number in a file proves nothing about a process. What does: every process
of a job carries the job's directory in the environment that it was started with.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

import psutil

PATIENCE_S = 5.0
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs. Not inherited by a fork."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_orphans() -> None:
    """Kill and bury every descendant of this process. One system call if there is none."""
    while True:
        try:
            buried, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if buried == 0:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            os.waitpid(-1, 0)


def bury_orphans(spare: Collection[int | None]) -> None:
    """Take away the dead among the orphans that came to us; the `spare` children are left alone."""
    with contextlib.suppress(ChildProcessError):
        while (dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if dead.si_pid in spare:
                return
            os.waitpid(dead.si_pid, 0)


def wake_holder(pid: int, held: os.stat_result) -> bool:
    """Send SIGUSR1 to a process if it has this file open; a number alone would prove nothing."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(Path(f"/proc/{pid}/fd/{fd}").stat(), held):
                    signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
                    return True
    except OSError:
        return False  # it has ended meanwhile, or is somebody else's
    finally:
        os.close(pidfd)
    return False


def end_leftovers(job_directory: str) -> int:
    """Kill every process that was started by the job; how many there were.

    Processes that are not ours to look at are not ours to end.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("RUNNER_JOB_DIR") == job_directory:
                process.kill()  # psutil compares the start time first
                found.append(process)
    deadline = time.monotonic() + PATIENCE_S
    while any(map(_lives, found)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return len(found)


def _lives(process: psutil.Process) -> bool:
    """Whether it can still do anything. A zombie waits for its parent, which is not us."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
