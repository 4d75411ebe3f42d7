"""openat: open and read what strangers dropped.

A dropped name is looked up once and the open descriptor is judged, so nothing can be swapped
between the look and the use. No link is followed, no FIFO waited for, nothing over the limit read.

Trust: the directory is written by hostile users; this module is short so that it can be reviewed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import stat
import time
from dataclasses import dataclass

FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


SIGN = "user.runnerd.job"
"""Extended attribute by which root says that a file of its own is a job."""


class Busy(Exception):
    """Somebody still writes this file, or has only just put it there."""


class Unfit(Exception):
    """This name cannot be a job, whatever it holds. `keep`: the thing has content worth keeping."""

    def __init__(self, code: str, message: str, status: os.stat_result, *, keep: bool) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.keep = keep


@dataclass(slots=True)
class Dropped:
    """An open, plain file that nobody writes while this is held. Close it with `release`."""

    name: str
    fd: int
    status: os.stat_result

    def read(self, limit: int) -> bytes:
        """All of it, or the first `limit` + 1 bytes. A plain file gives at once what it has.

        Raises Busy where it has changed all the same: on a file system without leases.
        """
        size = self.status.st_size
        data = os.pread(self.fd, min(limit, size) + 1, 0)
        if size <= limit and len(data) != size:
            raise Busy
        return data

    def release(self) -> None:
        """Let writers in again."""
        os.close(self.fd)


def open_dropped(
    name: str, *, at: int, settle_s: float, now: float, what: str = "a job"
) -> Dropped:
    """Open a dropped file and keep writers out, by a read lease, until it is released.

    Where a lease is not to be had, a file counts as whole once it has rested for `settle_s`.
    `what`: how people are to be told of it.
    Raises Busy, Unfit, or FileNotFoundError when the submitter took it away.
    """
    try:
        fd = os.open(name, FLAGS, dir_fd=at)
    except BlockingIOError:
        raise Busy from None  # its owner holds a lease on it, which the kernel breaks in a while
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _why_not(name, at, error, what) from None
    try:
        leased = _leased(fd)
        status = os.fstat(fd)  # after the lease: this is what will be read
        if not stat.S_ISREG(status.st_mode):
            raise _unfit(status, what)
        if status.st_nlink > 1:
            if 0 <= now - status.st_ctime < settle_s:
                raise Busy  # link(2) and unlink(2) is a way to drop without replacing
            raise _unfit(status, what)
        if not leased and 0 <= now - status.st_mtime < settle_s:
            raise Busy
        return Dropped(name, fd, status)
    except BaseException:
        os.close(fd)
        raise


def holds(name: str, data: bytes, *, at: int) -> bool:
    """Whether it is surely a plain file with just this content, which nobody may write now."""
    try:
        file = open_dropped(name, at=at, settle_s=math.inf, now=time.time())
        try:
            return file.read(len(data)) == data
        finally:
            file.release()
    except (Busy, Unfit, OSError):
        return False


def _why_not(name: str, at: int, error: OSError, what: str) -> Exception:
    """What to raise for a name that could not be opened."""
    status = os.stat(name, dir_fd=at, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) or error.errno in (errno.EACCES, errno.EPERM):
        return _unfit(status, what)
    if error.errno in (errno.ELOOP, errno.ENXIO):
        return Busy()  # when it was opened, something else had the name
    return error  # no descriptors, a bad disk: not the submitter's fault


def sign(fd: int) -> None:
    """Say of a file of our own that it is a job, where the file system can keep that."""
    with contextlib.suppress(OSError):
        os.setxattr(fd, SIGN, b"yes")


def is_signed(fd: int) -> bool:
    """Whether the file's owner says that it is a job. Nobody else can write this attribute."""
    try:
        return bool(os.getxattr(fd, SIGN))
    except OSError:
        return False


def _leased(fd: int) -> bool:
    """Whether writers are kept out; Busy while there is one; False where leases are not to be had.

    A writer who comes while the lease is held waits for it, and the kernel sends SIGIO, which every
    process that comes here must ignore (fcntl(2), F_SETLEASE).
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        raise Busy from None
    except OSError:
        return False
    return True


def _unfit(status: os.stat_result, what: str) -> Unfit:
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        kind = "a symbolic link"
    elif stat.S_ISFIFO(mode):
        kind = "a FIFO"
    elif stat.S_ISSOCK(mode):
        kind = "a socket"
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        kind = "a device"
    elif stat.S_ISDIR(mode):
        kind = "a directory"
    elif status.st_nlink > 1:
        kind = "a file with more than one name (hard link)"
    else:
        message = f"the daemon may not read {'this file' if what == 'a job' else what}"
        return Unfit("unreadable", message, status, keep=True)
    message = f"{what} must be a plain file of its own; this is {kind}"
    return Unfit("not-a-file", message, status, keep=stat.S_ISDIR(mode))
