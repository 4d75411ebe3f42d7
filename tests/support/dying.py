"""A disk on which the process dies before its n-th change."""

from __future__ import annotations

import errno
import os
import stat

from runnerd.disk import Disk


class Died(BaseException):
    """The machine stops here. No handler of the program may catch it."""


class FailingDisk(Disk):
    """The sync with the given number (from 0) fails, once."""

    def __init__(self, fails_at: int) -> None:
        self._left = fails_at

    def sync(self, fd: int) -> None:
        self._left -= 1
        if self._left == -1:
            raise OSError(errno.EIO, "injected")
        super().sync(fd)


class DyingDisk(Disk):
    """Counts the changes, and dies before the one with the given number (from 0)."""

    def __init__(self, dies_at: int) -> None:
        self._left = dies_at

    def _change(self) -> None:
        if self._left == 0:
            raise Died
        self._left -= 1

    def mkdir(self, name: str, mode: int, *, at: int) -> int:
        self._change()
        return super().mkdir(name, mode, at=at)

    def create(self, name: str, mode: int, *, at: int) -> int:
        self._change()
        return super().create(name, mode, at=at)

    def fifo(self, name: str, mode: int, *, at: int) -> int:
        self._change()
        return super().fifo(name, mode, at=at)

    def append(self, fd: int, data: bytes) -> None:
        self._change()
        super().append(fd, data[: len(data) // 2])  # torn: the first half only, and then the end
        self._change()
        super().append(fd, data[len(data) // 2 :])

    def copy(self, source: int, target: int, size: int) -> int:
        self._change()
        return super().copy(source, target, size)

    def move(self, name: str, target: str, *, at: int, to: int) -> None:
        self._change()
        super().move(name, target, at=at, to=to)

    def move_new(self, name: str, target: str, *, at: int, to: int) -> None:
        self._change()
        super().move_new(name, target, at=at, to=to)

    def link(self, name: str, target: str, *, at: int, to: int) -> None:
        self._change()
        super().link(name, target, at=at, to=to)

    def remove(self, name: str, *, at: int) -> None:
        self._change()
        super().remove(name, at=at)

    def rmdir(self, name: str, *, at: int) -> None:
        self._change()
        super().rmdir(name, at=at)

    def give(self, fd: int, uid: int, gid: int) -> None:
        self._change()
        super().give(fd, uid, gid)

    def set_mode(self, fd: int, mode: int) -> None:
        self._change()
        super().set_mode(fd, mode)

    def show_to(self, fd: int, reader: int | None, gid: int, *, passer: int | None) -> None:
        self._change()
        super().show_to(fd, reader, gid, passer=passer)

    def sync(self, fd: int) -> None:
        self._change()
        super().sync(fd)


class ForgetfulDisk(DyingDisk):
    """The power goes: names are there up to the end, as a journal keeps them, content is not.

    Of a file that was made here, what no sync has covered is lost.
    """

    def __init__(self, dies_at: int) -> None:
        super().__init__(dies_at)
        self._files: dict[int, tuple[int, int]] = {}  # by inode: a descriptor, and what is safe

    def _change(self) -> None:
        try:
            super()._change()
        except Died:
            for fd, safe in self._files.values():
                os.truncate(fd, min(safe, os.fstat(fd).st_size))
            raise

    def create(self, name: str, mode: int, *, at: int) -> int:
        fd = super().create(name, mode, at=at)
        again = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=at)  # a copy would share its lock
        self._files[os.fstat(fd).st_ino] = again, 0
        return fd

    def sync(self, fd: int) -> None:
        super().sync(fd)
        status = os.fstat(fd)
        if status.st_ino in self._files and stat.S_ISREG(status.st_mode):
            self._files[status.st_ino] = self._files[status.st_ino][0], status.st_size
