"""lent: the FIFO of a runner, which its jobs get one after the other to tell their progress.

To make an inode and to free it is dear: a file system looks for a free one, and some (ext4 without
a journal) keep away for minutes from all that were freed. And it has to be a file with a name: what
lies below /proc, PHP does not open.

Only for jobs of our own user whose processes all end with them: whoever keeps such a FIFO open
reaches the next job's.
"""

from __future__ import annotations

import contextlib
import os
import re

from .disk import Disk

_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_LENT = re.compile(r"\.lent\.[1-9][0-9]*", re.ASCII)


def is_lent(name: str) -> bool:
    """Whether this name, in the spool's root, is that of a runner's FIFO."""
    return _LENT.fullmatch(name) is not None


def own() -> str:
    """The name of this process's."""
    return f".lent.{os.getpid()}"


def open_own(disk: Disk, *, root_fd: int) -> int:
    """Open it, both ends in one; it is made if it is not there."""
    try:
        return os.open(own(), _FLAGS, dir_fd=root_fd)
    except FileNotFoundError:
        return disk.fifo(own(), 0o600, at=root_fd)


def forget(disk: Disk, *, root_fd: int) -> None:
    """Remove what this process, or an earlier one with its number, has made, if that can be."""
    with contextlib.suppress(OSError):  # it is in nobody's way
        disk.remove(own(), at=root_fd)


def clear(disk: Disk, *, root_fd: int) -> None:
    """The same for all. A runner that goes on from before has no more jobs to lend to."""
    with contextlib.suppress(OSError):
        for name in filter(is_lent, os.listdir(root_fd)):
            with contextlib.suppress(OSError):
                disk.remove(name, at=root_fd)
