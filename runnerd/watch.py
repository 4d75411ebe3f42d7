"""watch: file-system events -> a wake-up, and nothing more. What has changed, a look finds out.

The observer's thread may do one thing, add to an eventfd, so everything else stays single-threaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

try:
    from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper as Pairing
except ImportError:  # before watchdog 7
    from watchdog.observers.inotify_buffer import (  # type: ignore[import-not-found,no-redef,unused-ignore]
        InotifyBuffer as Pairing,
    )

# Watchdog holds a "moved from" back, and every event behind it, until its "moved to" may have come.
# Each claim is a rename out of a watched directory: the next drop would wait half a second.
Pairing.delay = 0
# An event that comes while we stop is an error to watchdog, and to nobody else.
logging.getLogger("watchdog.observers.inotify").addFilter(
    lambda record: "the thread is inactive" not in str(record.msg)
)


class Watch(FileSystemEventHandler):
    """Adds to `wake_fd` (an eventfd) when a file comes, moves or is closed after writing.

    With `writes`, at each write as well.

    Not on_any_event, and a filter where watchdog has one: newer ones report opening and reading
    too, and a look would wake itself for ever.
    """

    def __init__(self, wake_fd: int, *, writes: bool = False) -> None:
        self._wake_fd = wake_fd
        self._writes = writes
        self._observer = Observer()

    def start(self, directories: Iterable[Path]) -> None:
        """Begin to watch. Raises OSError when the kernel's limit of watches is reached."""
        for each in directories:
            self.add(each)
        self._observer.daemon = True
        self._observer.start()

    def add(self, directory: Path) -> None:
        """Watch one more."""
        kinds = [
            *(DirCreatedEvent, DirMovedEvent),
            *(FileCreatedEvent, FileMovedEvent, FileClosedEvent),
        ]
        if self._writes:
            kinds.append(FileModifiedEvent)
        try:
            self._observer.schedule(self, str(directory), event_filter=kinds)
        except TypeError:  # watchdog 2.2 asks the kernel for more
            self._observer.schedule(self, str(directory))

    def again(self, directories: Iterable[Path]) -> None:
        """Watch these anew: what now has their names."""
        self._observer.unschedule_all()
        for each in directories:
            self.add(each)

    def stop(self) -> None:
        if self._observer.is_alive():
            self._observer.unschedule_all()
            self._observer.stop()
            self._observer.join()

    def on_created(self, event: FileSystemEvent) -> None:  # noqa: ARG002  # the look finds out
        os.eventfd_write(self._wake_fd, 1)

    on_moved = on_closed = on_created

    def on_modified(self, event: FileSystemEvent) -> None:
        if self._writes:
            self.on_created(event)
