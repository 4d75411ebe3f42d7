"""watch: file-system events -> a descriptor that is readable, and the names that have come.

What has changed, a look finds out; a name only says where to look first. Only watchdog's binding of
inotify(7) is used, not its observer: that one has three threads, which every claim (a rename out of
a watched directory) would wake up.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from pathlib import Path

from watchdog.observers.inotify_c import InotifyConstants as Inotify
from watchdog.observers.inotify_c import inotify_add_watch, inotify_init

_COMING = Inotify.IN_CREATE | Inotify.IN_MOVED_TO | Inotify.IN_CLOSE_WRITE
_PIECE = 1 << 16
_EVENT = struct.Struct("iIII")


class Watch:
    """Readable when a file has come, has moved here or was closed after writing.

    With `writes`, at each write as well. Where the kernel had no room for an event it says so by an
    event, so there is always one for any number of changes.
    """

    def __init__(self, *, writes: bool = False) -> None:
        self._mask = _COMING | (Inotify.IN_MODIFY if writes else 0) | Inotify.IN_ONLYDIR
        self._fd = inotify_init()
        self._has_none = self._fd < 0
        if self._has_none:
            self._fd = os.eventfd(0)  # which nobody will ever add to
        os.set_inheritable(self._fd, False)  # noqa: FBT003
        os.set_blocking(self._fd, False)

    def fileno(self) -> int:
        return self._fd

    def add(self, directory: Path) -> int:
        """Watch what now has this name; the number by which `take` calls it.

        Raises OSError, also where the kernel allows no more.
        """
        if self._has_none:
            raise OSError(errno.EMFILE, "the limit fs.inotify.max_user_instances is met")
        number = inotify_add_watch(self._fd, os.fsencode(directory), self._mask)
        if number < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(directory))
        return number

    def take(self) -> list[tuple[int, str]]:
        """Take in what there is: in which directory, and the name of what came there.

        "" where it is not a file that came: something was lost, or it is a directory.
        """
        found = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, _PIECE):
                at = 0
                while at < len(data):
                    number, mask, _, size = _EVENT.unpack_from(data, at)
                    at += _EVENT.size
                    is_file = mask & _COMING and not mask & Inotify.IN_ISDIR
                    name = data[at : at + size].rstrip(b"\0") if is_file else b""
                    found.append((number, os.fsdecode(name)))
                    at += size
        return found

    def stop(self) -> None:
        os.close(self._fd)
