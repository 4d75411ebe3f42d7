"""spares: the FIFO of a runner, which its jobs get one after the other.

To make an inode and to free it is dear: a file system looks for a free one, and some (ext4 without
a journal) keep away for minutes from all that were freed. Another name for the same is not.

Only for jobs of our own user whose processes all end with them: whoever keeps such a FIFO open
reaches the next job's.
"""

from __future__ import annotations

import contextlib
import os
import re

from .disk import Disk

FIFO = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_SPARE = re.compile(r"\.spare\.[1-9][0-9]*", re.ASCII)


def is_spare(name: str) -> bool:
    """Whether this name, in the spool's root, is that of a runner's FIFO."""
    return _SPARE.fullmatch(name) is not None


def lend(disk: Disk, name: str, *, root_fd: int, to: int) -> int:
    """Give this process's FIFO a name in a job's directory, in place of what has it; open it."""
    spare = _own()
    while True:
        try:
            disk.link(spare, name, at=root_fd, to=to)
        except FileNotFoundError:
            os.close(disk.fifo(spare, 0o600, at=root_fd))
        except FileExistsError:
            disk.remove(name, at=to)
        else:
            return os.open(name, FIFO, dir_fd=to)


def forget(disk: Disk, *, root_fd: int) -> None:
    """Remove what this process, or an earlier one with its number, has made, if that can be."""
    with contextlib.suppress(OSError):  # it is in nobody's way
        disk.remove(_own(), at=root_fd)


def clear(disk: Disk, *, root_fd: int) -> None:
    """The same for all. A runner that goes on from before has no more jobs to lend to."""
    with contextlib.suppress(OSError):
        for name in filter(is_spare, os.listdir(root_fd)):
            with contextlib.suppress(OSError):
                disk.remove(name, at=root_fd)


def _own() -> str:
    return f".spare.{os.getpid()}"
