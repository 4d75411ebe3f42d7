"""bundle: a dropped directory that holds a job file, and beside it the job's input files.

The daemon looks at all of it before it takes the job. The runner copies it into work/: so nobody
who still holds a descriptor of an input can change what the job reads, nor own what another user's
job works with. What is not as it was judged, it does not take.

Trust: all of it belongs to a hostile user, who may change it at any moment. Each part is opened by
       itself, no link is followed, no FIFO waited for, no other file system entered, nothing taken
       that is another user's or that others may write, and no more than was said before.
Errors: Unfit, with the path, is the submitter's fault; Busy while somebody writes an input;
        FileNotFoundError if one has just been removed; any other OSError is the machine's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from . import ids, openat
from .accounts import account_of, is_private_group
from .disk import DIRECTORY, Disk
from .frozen import frozen
from .model import Account, Inputs
from .openat import Unfit
from .units import size_in_words

_DEEPEST = 50
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP)


def open_bundle(name: str, *, at: int) -> int:
    """Open a directory in incoming/. Raises Unfit, or FileNotFoundError when it is none now."""
    try:
        return os.open(name, DIRECTORY, dir_fd=at)
    except NotADirectoryError:
        raise FileNotFoundError(name) from None
    except PermissionError:
        status = os.stat(name, dir_fd=at, follow_symlinks=False)
        message = "the daemon may not look into this directory"
        raise Unfit("unreadable", message, status, keep=True) from None


def job_file(fd: int) -> str:
    """The name of the job file in a bundle. Raises FileNotFoundError while there is none, Unfit."""
    found = [name for name in ids.JOB_FILES if _exists(name, at=fd)]
    if not found:
        raise FileNotFoundError(ids.JOB_FILES[0])
    if len(found) > 1:
        message = f"there is more than one job file in it: {', '.join(found)}"
        raise Unfit("bundle", message, os.fstat(fd), keep=True)
    return found[0]


def survey(fd: int, uid: int, most: Inputs, *, settle_s: float, now: float) -> Inputs:
    """How much there is beside the job file; all of it can be copied, as far as can be seen."""
    walk = _Walk(fd, uid, most, settle_s=settle_s, now=now)
    walk.through(fd, "", None)
    return Inputs(files=most.files - walk.files_left, size_bytes=most.size_bytes - walk.bytes_left)


def copy(fd: int, to: int, uid: int, most: Inputs, copier: Copier, *, now: float) -> None:
    """Copy what is beside the job file into a new directory."""
    _Walk(fd, uid, most, settle_s=0.0, now=now).through(fd, "", (to, copier))


def others_may_write(status: os.stat_result, account: Account | None) -> bool:
    """Whether anybody but its owner may write it. A group of the owner alone does not count."""
    group = status.st_mode & stat.S_IWGRP and not is_private_group(account, status.st_gid)
    return bool(status.st_mode & stat.S_IWOTH or group)


@frozen
class Copier:
    """Makes files and directories that belong to this user. `durable`: and on disk."""

    disk: Disk
    account: Account
    durable: bool

    def file(self, dropped: openat.Dropped, size: int, at: int) -> None:
        """Copy the first `size` bytes."""
        status = dropped.status
        fd = self.disk.create(dropped.name, 0o600 | status.st_mode & 0o755, at=at)
        try:
            self.disk.copy(dropped.fd, fd, size)
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
            self._hand_over(fd)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def directory(self, name: str, mode: int, at: int) -> Iterator[int]:
        """Make a directory; it is theirs when it is full."""
        fd = self.disk.mkdir(name, 0o700 | mode & 0o755, at=at)
        try:
            yield fd
            self._hand_over(fd)
        finally:
            os.close(fd)

    def _hand_over(self, fd: int) -> None:
        if self.account.uid != os.geteuid():
            self.disk.give(fd, self.account.uid, self.account.gid)
        if self.durable:
            self.disk.sync(fd)


class _Walk:
    """One way through a bundle. `files_left`, `bytes_left`: how much more there may be."""

    def __init__(self, fd: int, uid: int, most: Inputs, *, settle_s: float, now: float) -> None:
        self.files_left = most.files
        self.bytes_left = most.size_bytes
        self._most = most
        self._uid = uid
        self._owner = account_of(uid)
        self._device = os.fstat(fd).st_dev
        self._settle_s = settle_s
        self._now = now

    def through(self, fd: int, above: str, into: tuple[int, Copier] | None) -> None:
        """All that is below a directory, whose path is `above`."""
        if above.count("/") > _DEEPEST:
            raise _unfit(above, f"lies deeper than {_DEEPEST} directories", os.fstat(fd))
        for name in self._names(fd, above):
            path = above + name
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._directory(fd, name, path, into)
            else:
                self._file(fd, name, path, into)

    def _names(self, fd: int, above: str) -> list[str]:
        names = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if not above and entry.name in ids.JOB_FILES:
                    continue
                self.files_left -= 1
                if self.files_left < 0:
                    message = f"there are more than {self._most.files} input files and directories"
                    raise Unfit("inputs", message, os.fstat(fd), keep=True)
                names.append(entry.name)
        return sorted(names)

    def _directory(self, at: int, name: str, path: str, into: tuple[int, Copier] | None) -> None:
        try:
            fd = os.open(name, DIRECTORY, dir_fd=at)
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
            raise _unfit(path, f"cannot be opened: {error.strerror}", os.fstat(at)) from None
        try:
            status = os.fstat(fd)
            self._check(path, status)
            if into is None:
                self.through(fd, f"{path}/", None)
            else:
                to, copier = into
                with copier.directory(name, status.st_mode, to) as made:
                    self.through(fd, f"{path}/", (made, copier))
        finally:
            os.close(fd)

    def _file(self, at: int, name: str, path: str, into: tuple[int, Copier] | None) -> None:
        dropped = openat.open_dropped(
            name, at=at, settle_s=self._settle_s, now=self._now, what=f"the input {path!a}"
        )
        try:
            self._check(path, dropped.status)
            size = dropped.status.st_size
            if size > self.bytes_left:
                room = size_in_words(self._most.size_bytes)
                message = f"the input files have more than {room} together"
                raise Unfit("inputs", message, dropped.status, keep=True)
            self.bytes_left -= size
            if into is not None:
                to, copier = into
                copier.file(dropped, size, to)
        finally:
            dropped.release()

    def _check(self, path: str, status: os.stat_result) -> None:
        if status.st_uid != self._uid:
            raise _unfit(path, f"belongs to another user, uid {status.st_uid}", status)
        if status.st_dev != self._device:
            raise _unfit(path, "is another file system", status)
        if others_may_write(status, self._owner):
            mode = stat.S_IMODE(status.st_mode)
            raise _unfit(path, f"has mode {mode:04o}, so that others may write it", status)


def _unfit(path: str, why: str, status: os.stat_result) -> Unfit:
    return Unfit("inputs", f"the input {path!a} {why}", status, keep=True)


def _exists(name: str, *, at: int) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
