"""namespaces: mounts and processes that nobody else sees, and that go with whoever made them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

_NEW_MOUNTS, _NEW_PIDS = 0x20000, 0x20000000  # CLONE_NEWNS, CLONE_NEWPID
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    if _LIBC.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def enter_own_mounts() -> None:
    """From here on, what this process mounts is its own business."""
    _unshare(_NEW_MOUNTS)
    run("mount", "--make-rprivate", "/")


def enter_own_processes() -> None:
    """The next child is process 1 of its own world: when it ends, so does all below it."""
    _unshare(_NEW_PIDS)


def end_with_parent() -> None:
    """Be killed when the parent dies."""
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def cover(path: Path, by: Path) -> None:
    """Let one file stand in for another."""
    run("mount", "--bind", str(by), str(path))


def run(*command: str) -> str:
    """Run a program of the system; what it printed. Raises OSError with its complaint."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def in_own_world() -> int:
    """Fork twice: the grandchild, process 1 of its own world, gets 0, we get the child's pid.

    The child waits for it, and ends with its status.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        end_with_parent()
        enter_own_mounts()
        enter_own_processes()
        inner = os.fork()
        if inner == 0:
            end_with_parent()
            run("mount", "-t", "proc", "proc", "/proc")
            return 0
        status = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
    finally:
        if os.getpid() != 1:
            os._exit(status & 255)
    raise AssertionError("never reached")


def do_apart(work: Callable[[], None]) -> None:
    """Do it in a world of its own, of which no process is left then. RuntimeError if it failed."""
    pid = in_own_world()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # told here, and by the status
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        raise RuntimeError("what was to be recorded has failed; see above")
