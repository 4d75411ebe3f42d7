"""debts: the note that something is left which only an executor can remove, like a container.

It is made when that cannot be done at once: an engine is down. It lies in the spool, so it outlives
all processes and the machine's power, and goes when a sweep has found everything in order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from . import traces
from .spool import Spool, exists

OWED, SETTLING = ".sweep", ".sweeping"


def owe(spool: Spool) -> None:
    """Note it, on disk. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(spool.disk.create(OWED, 0o600, at=spool.root_fd))
    spool.disk.sync(spool.root_fd)


def is_owed(spool: Spool) -> bool:
    """Whether there is anything to do."""
    return any(exists(name, at=spool.root_fd) for name in (OWED, SETTLING))


@contextlib.contextmanager
def settling(spool: Spool) -> Iterator[None]:
    """Around a sweep: what is noted meanwhile stays, and so does all if the sweep fails."""
    if exists(OWED, at=spool.root_fd):
        spool.disk.move(OWED, SETTLING, at=spool.root_fd, to=spool.root_fd)
    yield
    with contextlib.suppress(FileNotFoundError):
        spool.disk.remove(SETTLING, at=spool.root_fd)


def lives(spool: Spool, name: str) -> bool:
    """Whether somebody looks after a job of this id now: its claim is locked."""
    try:
        with spool.open_running(name) as dir_fd:
            lock_fd = traces.open_claim(dir_fd)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if lock_fd is None:
        return False
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock_fd)
    return False
