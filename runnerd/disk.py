"""disk: the few changes that runnerd makes to a file system. Nothing else in the package renames.

Every name is one component, relative to an open directory, and no link is followed. Each method is
one point at which the machine may die, so a test can stand here, lose what was not synced, and look
at what is left.

Errors: OSError goes up as it is; the caller says which ones it expects.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """The real disk. Holds nothing."""

    def mkdir(self, name: str, mode: int, *, at: int) -> int:
        """Make a directory and open it."""
        os.mkdir(name, mode, dir_fd=at)
        return os.open(name, DIRECTORY, dir_fd=at)

    def create(self, name: str, mode: int, *, at: int) -> int:
        """Make a new file, open for reading and writing; FileExistsError if the name is taken."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode, dir_fd=at)

    def renew(self, name: str, mode: int, *, at: int) -> int:
        """The same in place of a file that has the name."""
        try:
            return self.create(name, mode, at=at)
        except FileExistsError:
            self.remove(name, at=at)
            return self.create(name, mode, at=at)

    def fifo(self, name: str, mode: int, *, at: int) -> int:
        """Make a FIFO and open it, both ends in one: it never blocks, and never ends.

        In place of a file that has the name.
        """
        try:
            os.mkfifo(name, mode, dir_fd=at)
        except FileExistsError:
            self.remove(name, at=at)
            os.mkfifo(name, mode, dir_fd=at)
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=at)

    def append(self, fd: int, data: bytes) -> None:
        """Write all of the data at the descriptor's position; a full disk may take it in pieces."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def copy(self, source: int, target: int, size: int) -> int:
        """Copy the first `size` bytes into an empty file, sharing them on disk where the file
        system can; how many there were."""
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:
            done = 0
            while done < size:
                count = os.copy_file_range(source, target, min(size - done, 1 << 26), done, done)
                if count == 0:
                    break  # it has become shorter
                done += count
        else:
            os.ftruncate(target, min(size, os.fstat(target).st_size))
        return os.fstat(target).st_size

    def write(self, name: str, data: bytes, mode: int, *, at: int, durable: bool) -> None:
        """Put a whole file in place of whatever has the name: readers see the old or the new one.

        Durable: the content is on disk before the name shows. The name itself is only there for
        good once the directory is synced.
        """
        new = f".{name}.new"
        fd = self.renew(new, mode, at=at)  # one who died here may have left it
        try:
            self.append(fd, data)
            if durable:
                self.sync(fd)
        finally:
            os.close(fd)
        self.move(new, name, at=at, to=at)

    def extend(self, name: str, data: bytes, mode: int, *, at: int, most: int) -> None:
        """Add a line to a file, which is made if it is missing, while it is not longer than that.

        OSError where the name is that of something else than a plain file.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name, flags | os.O_CLOEXEC, mode, dir_fd=at)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise OSError(errno.EINVAL, "no plain file", name)
            if status.st_size < most:
                self.append(fd, data)
        finally:
            os.close(fd)

    def move(self, name: str, target: str, *, at: int, to: int) -> None:
        """Rename; both names relative to their directories."""
        os.rename(name, target, src_dir_fd=at, dst_dir_fd=to)

    def move_new(self, name: str, target: str, *, at: int, to: int) -> None:
        """Rename; FileExistsError if the target is taken, where `move` replaces a file."""
        rename_new(name, target, at=at, to=to)

    def link(self, name: str, target: str, *, at: int, to: int) -> None:
        """Give it one more name; FileExistsError if the target is taken."""
        os.link(name, target, src_dir_fd=at, dst_dir_fd=to, follow_symlinks=False)

    def remove(self, name: str, *, at: int) -> None:
        """Unlink a file, a link, a FIFO."""
        os.unlink(name, dir_fd=at)

    def rmdir(self, name: str, *, at: int) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=at)

    def remove_tree(self, name: str, *, at: int) -> None:
        """Remove a directory of ours and all that is in it. No link is followed."""
        shutil.rmtree(name, dir_fd=at)

    def give(self, fd: int, uid: int, gid: int) -> None:
        """Change the owner of a file or directory that we have just made."""
        os.fchown(fd, uid, gid)

    def set_mode(self, fd: int, mode: int) -> None:
        """Change the mode, of something that was perhaps opened with O_PATH alone."""
        Path(f"/proc/self/fd/{fd}").chmod(mode)

    def show_to(self, fd: int, reader: int | None, gid: int, *, passer: int | None) -> None:
        """Let one more user read a directory of ours, and one pass through it, by an access list.

        Where the file system has none, the reader's group may read, as the next best thing.
        """
        rights = {uid: right for uid, right in ((reader, 5), (passer, 1)) if uid is not None}
        try:
            os.setxattr(fd, "system.posix_acl_access", _access_list(rights))
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            if reader is not None:
                os.fchown(fd, -1, gid)
                os.fchmod(fd, 0o750)

    def sync(self, fd: int) -> None:
        """What was written to this file, or changed in this directory, survives a power cut."""
        os.fsync(fd)


def rename_new(name: str, target: str, *, at: int, to: int) -> None:
    """renameat2(2) with RENAME_NOREPLACE, which Python does not have."""
    rename_noreplace = 1
    if _libc.renameat2(at, os.fsencode(name), to, os.fsencode(target), rename_noreplace) == 0:
        return
    error = ctypes.get_errno()
    if error != errno.EINVAL:
        raise OSError(error, os.strerror(error), target)
    # A file system without it: two steps, between which the file has both names.
    os.link(name, target, src_dir_fd=at, dst_dir_fd=to, follow_symlinks=False)
    os.unlink(name, dir_fd=at)


def _access_list(rights: Mapping[int, int]) -> bytes:
    """rwx for the owner, these rights for these users, nothing for anybody else.

    acl(5), linux/posix_acl_xattr.h.
    """
    owner, user, group, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
    nobody = 0xFFFFFFFF
    entries = [(owner, 7, nobody), *((user, rights[uid], uid) for uid in sorted(rights))]
    entries += [(group, 0, nobody), (mask, 5, nobody), (other, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
