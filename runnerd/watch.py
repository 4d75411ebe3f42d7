"""watch: file-system events -> a descriptor that is readable, and nothing more.

What has changed, a look finds out. Only watchdog's binding of inotify(7) is used, not its observer:
that one has three threads, which every claim (a rename out of a watched directory) would wake up.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

from watchdog.observers.inotify_c import InotifyConstants as Inotify
from watchdog.observers.inotify_c import inotify_add_watch, inotify_init

_COMING = Inotify.IN_CREATE | Inotify.IN_MOVED_TO | Inotify.IN_CLOSE_WRITE
_PIECE = 1 << 16


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

    def add(self, directory: Path) -> None:
        """Watch what now has this name. Raises OSError, also where the kernel allows no more."""
        if self._has_none:
            raise OSError(errno.EMFILE, "the limit fs.inotify.max_user_instances is met")
        if inotify_add_watch(self._fd, os.fsencode(directory), self._mask) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))

    def take(self) -> None:
        """Take in what there is."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, _PIECE):
                pass

    def stop(self) -> None:
        os.close(self._fd)
