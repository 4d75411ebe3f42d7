"""kin: processes that others started, as psutil sees them: those of a job, and what a crash left.

Whoever needs this loads it then: psutil is 0.9 MB in every process, and most runners never look at
a process that is not their child. Where jobs have cgroups, the kernel counts what they take.
"""

from __future__ import annotations

import contextlib
import errno
import time

import psutil

from .model import IoShare

PATIENCE_S = 5.0
_BEST_EFFORT = {IoShare.LOW: 7, IoShare.NORMAL: 4, IoShare.HIGH: 0}


class Kin:
    """A process that may be gone at any time. Then it takes nothing."""

    def __init__(self, process: psutil.Process) -> None:
        self.pid = process.pid
        self._process = process

    def cpu_s(self) -> float:
        """Its own CPU time, and its dead children's."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return sum(self._process.cpu_times()[:4])
        return 0.0

    def memory_bytes(self) -> int:
        """What it has in memory."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return int(self._process.memory_info().rss)
        return 0

    def memory_share_bytes(self) -> int:
        """The same, with only its share of each page that it shares. Dear: all are looked at."""
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                return int(self._process.memory_full_info().pss)
            except psutil.AccessDenied:  # it runs as another user now
                return int(self._process.memory_info().rss)
        return 0

    def tasks(self) -> int:
        """How many threads it has."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return int(self._process.num_threads())
        return 0


def below() -> list[Kin]:
    """All processes below the calling one."""
    return [Kin(each) for each in psutil.Process().children(recursive=True)]


def take_io_share(io: IoShare) -> None:
    """Set that of the calling process. Raises OSError."""
    process = psutil.Process()
    try:
        if io is IoShare.IDLE:
            process.ionice(psutil.IOPRIO_CLASS_IDLE)
        else:
            process.ionice(psutil.IOPRIO_CLASS_BE, value=_BEST_EFFORT[io])
    except psutil.Error as error:
        raise PermissionError(errno.EPERM, str(error)) from error


def end_leftovers(job_directory: str) -> int:
    """Kill every process that was started by the job; how many there were.

    Processes that are not ours to look at are not ours to end. A look does not see who is forked
    meanwhile, nor who is just being replaced by exec, so it takes two that find nobody.
    """
    ended, clean, deadline = 0, 0, time.monotonic() + PATIENCE_S
    while clean < 2 and time.monotonic() < deadline:
        found = _kill_those_of(job_directory)
        ended += len(found)
        clean = 0 if found else clean + 1
        while any(map(_lives, found)) and time.monotonic() < deadline:
            time.sleep(0.005)
    return ended


def _kill_those_of(job_directory: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("RUNNER_JOB_DIR") == job_directory and _lives(process):
                process.kill()  # psutil compares the start time first
                found.append(process)
    return found


def _lives(process: psutil.Process) -> bool:
    """Whether it can still do anything. A zombie waits for its parent, which is not us."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
