"""processes: find and end what a job left running after its runner died.

A number in a file proves nothing about a process. What does: every process of a job carries the
job's directory in the environment that it was started with, and the kernel shows that to us.
"""

from __future__ import annotations

import contextlib
import time

import psutil

PATIENCE_S = 5.0


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
