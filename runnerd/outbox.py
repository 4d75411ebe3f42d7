"""outbox: the entries on disk: what is told of jobs and was not delivered yet.

An entry of what is about to happen (a job is filed, an attempt is put away) lies there under a
hidden name until it has happened. So a crash loses no event, and none is told of a job that nobody
finds: `Spool` writes and shows them, and `settle` does it after a crash.

Guarantees: an entry is whole from the moment that its name is there. One that cannot be read keeps
            its content under a name that says so.
Errors:     OSError goes up.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator

from . import records, webhook
from .disk import DIRECTORY, Disk
from .model import JobId, News
from .webhook import Entry, EntryName

DEAD = "dead"
LONGEST_ENTRY = 1 << 25  # twice what a result with the largest of everything takes
_MODE = 0o600
_NEW = ".new"  # `Disk.write`


class Damaged(Exception):
    """This entry is not what was written."""


class Outbox:
    """The directory of one spool, by its descriptor. `host`: where events come from."""

    def __init__(self, disk: Disk, fd: int) -> None:
        self._disk = disk
        self._fd = fd
        self.host = os.uname().nodename

    # --- write ----------------------------------------------------------------------------------

    def stage(self, entry: Entry, *, durable: bool) -> EntryName:
        """Put an entry there under its hidden name."""
        name = EntryName(entry.job, entry.number, entry.name.key, hidden=True)
        self._disk.write(str(name), records.dumps(entry), _MODE, at=self._fd, durable=durable)
        return name

    def show(self, name: EntryName) -> None:
        """Give it the name that the courier looks for; if it has it already, that is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._disk.move(_hidden(name), _shown(name), at=self._fd, to=self._fd)

    def put(self, entry: Entry) -> EntryName:
        """An entry of what has happened. A power cut may lose it."""
        name = entry.name
        self._disk.write(str(name), records.dumps(entry), _MODE, at=self._fd, durable=False)
        return name

    def remove(self, name: EntryName) -> None:
        """It is delivered, or a later one says more. No sync: it may come once more."""
        with contextlib.suppress(FileNotFoundError):
            self._disk.remove(str(name), at=self._fd)

    def give_up(self, name: EntryName) -> None:
        """Make a dead letter of it."""
        with contextlib.suppress(FileNotFoundError), self._dead() as dead_fd:
            self._disk.move(str(name), str(name), at=self._fd, to=dead_fd)

    def set_aside(self, file: str) -> None:
        """Give a damaged entry a name that says so."""
        for number in itertools.count(1):
            kept = f"{file.lstrip('.')}.damaged{'' if number == 1 else f'.{number}'}"
            with contextlib.suppress(FileExistsError):
                self._disk.move_new(file, kept, at=self._fd, to=self._fd)
                return

    def revive(self, job_id: JobId, *, now: float) -> int:
        """Put the dead letters of a job back, as new ones; how many there were."""
        count = 0
        with self._dead() as dead_fd:
            for name in _names_in(dead_fd):
                if name.job == job_id:
                    try:
                        entry = _read(name, dead_fd)
                    except Damaged:
                        continue  # it stays, for people
                    fresh = records.dumps({**records.plain(entry), "since": now})
                    self._disk.write(str(name), fresh, _MODE, at=self._fd, durable=True)
                    self._disk.remove(str(name), at=dead_fd)
                    count += 1
        return count

    # --- read -----------------------------------------------------------------------------------

    def open_to_lock(self) -> int:
        """A descriptor for the lock of the one courier; that on the outbox is the daemon's."""
        with self._dead() as dead_fd:
            return os.open(".", DIRECTORY, dir_fd=dead_fd)

    def waits(self) -> bool:
        """Whether there is anything for a courier."""
        with os.scandir(self._fd) as entries:
            return any(_is_shown(each.name) for each in entries)

    def names(self) -> Iterator[EntryName]:
        """All that waits, in no order."""
        return _names_in(self._fd)

    def dead_names(self) -> Iterator[EntryName]:
        """All dead letters, in no order."""
        with contextlib.suppress(FileNotFoundError), self._open_dead() as dead_fd:
            yield from _names_in(dead_fd)

    def read(self, name: EntryName) -> Entry:
        """Raises FileNotFoundError, or Damaged."""
        return _read(name, self._fd)

    def read_dead(self, name: EntryName) -> Entry:
        """The same for a dead letter."""
        with self._open_dead() as dead_fd:
            return _read(name, dead_fd)

    # --- after a crash --------------------------------------------------------------------------

    def settle(self, is_running: Callable[[str], bool], job_id: JobId | None = None) -> None:
        """Show what tells of jobs that were filed, and remove what never happened.

        `job_id`: of this job alone. What tells of jobs in running/ is left to whoever settles them.
        """
        for file in os.listdir(self._fd):
            torn = file.startswith(".") and file.endswith(_NEW)
            name = webhook.read_name(file[1:].removesuffix(_NEW) if torn else file)
            if name is None or not (torn or name.hidden) or job_id not in (None, name.job):
                continue
            if is_running(name.job):
                continue
            if not torn and name.news is News.FINISHED:
                self.show(name)
            else:
                with contextlib.suppress(FileNotFoundError):
                    self._disk.remove(file, at=self._fd)

    # --- dead letters ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _dead(self) -> Iterator[int]:
        """Their directory, made if it is missing."""
        try:
            dead_fd = os.open(DEAD, DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            dead_fd = self._disk.mkdir(DEAD, 0o700, at=self._fd)
        try:
            yield dead_fd
        finally:
            os.close(dead_fd)

    @contextlib.contextmanager
    def _open_dead(self) -> Iterator[int]:
        dead_fd = os.open(DEAD, DIRECTORY, dir_fd=self._fd)
        try:
            yield dead_fd
        finally:
            os.close(dead_fd)


def _shown(name: EntryName) -> str:
    return str(name).lstrip(".")


def _hidden(name: EntryName) -> str:
    return f".{_shown(name)}"


def _is_shown(file: str) -> bool:
    name = webhook.read_name(file)
    return name is not None and not name.hidden


def _names_in(fd: int) -> Iterator[EntryName]:
    with os.scandir(fd) as entries:
        for each in entries:
            name = webhook.read_name(each.name)
            if name is not None and not name.hidden:
                yield name


def _read(name: EntryName, at: int) -> Entry:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(str(name), flags, dir_fd=at)
    except FileNotFoundError:
        raise
    except OSError as error:
        status = os.stat(str(name), dir_fd=at, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            raise
        raise Damaged("it is no plain file") from error
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Damaged("it is no plain file")
        data = file.read(LONGEST_ENTRY + 1)
    return entry_in(data, name)


def entry_in(data: bytes, name: EntryName) -> Entry:
    """The entry of this name. Raises Damaged."""
    try:
        entry = records.loads(Entry, data)
    except (ValueError, RecursionError) as error:
        raise Damaged(str(error)) from None
    if entry.name != name:
        raise Damaged("its content is that of another entry")
    return entry
