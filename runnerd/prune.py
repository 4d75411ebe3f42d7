"""prune: remove filed jobs that are not to be kept, in small pieces.

A job is first renamed into `.pruning`, in the spool's root: who looks sees it whole or not at all,
its id is free, and what lies there is garbage that whoever prunes next removes as well. The
directory is locked by the one who prunes, and is gone when it is empty.

Syncing: none. File systems keep names in order (see `spool`): what was removed of a job can only be
         missing where its rename is on disk as well.
Trust: the job's user may still write below work/, and have made there what it likes. So no link is
       followed, and no tree is climbed: a directory with something in it is moved up into
       `.pruning`, to be emptied by itself. However deep a tree is, that takes one descriptor; and
       the kernel moves no mount point, so what is mounted there is never entered.
Errors: what cannot be removed is told, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from . import ids, retention, traces
from .disk import DIRECTORY
from .errors import SpoolError
from .frozen import frozen
from .layout import PRUNING
from .mend import opened_anyhow
from .model import State
from .retention import Filed
from .settings import Keep, Retention
from .spool import Spool, exists, is_name_of
from .traces import RESULT

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_MOST_LEVELS = 64  # of a tree that is measured, with a descriptor for each
_MOST_TOLD = 100
_MOST_PASSES = 10  # over a directory in which somebody makes new files all the time

_BITE_S = 0.01

Pace = Callable[[], None]


class Interrupted(Exception):
    """Who asked for it is gone."""


class Halves:
    """A pace: half of the time the disk is left to others. Ends when `asker` has closed."""

    def __init__(self, asker: socket.socket) -> None:
        self._asker = asker
        self._began = time.monotonic()

    def __call__(self) -> None:
        took_s = time.monotonic() - self._began
        if took_s < _BITE_S:
            return
        if select.select([self._asker], [], [], took_s)[0]:
            raise Interrupted
        self._began = time.monotonic()


@frozen(kw_only=True)
class Report:
    """What was done, or would be. `stuck`: what could not be removed, and why."""

    pruned: tuple[Filed, ...]
    waiting: tuple[Filed, ...] = ()
    stuck: tuple[str, ...] = ()
    next_at: float | None = None


@frozen(kw_only=True)
class Plan:
    """Which jobs are to go, the oldest first, and which would be if no callback of them waited."""

    jobs: tuple[Filed, ...]
    waiting: tuple[Filed, ...]
    next_at: float | None


def plan(spool: Spool, wanted: Retention, now: float, pace: Pace) -> Plan:
    """Look at the filed jobs, and change nothing. `pace` is called after each little piece."""
    found: list[Filed] = []
    times: list[float] = []
    for state, keep in wanted.bounded.items():
        jobs = list(_filed(spool, state, keep, pace))
        found += retention.overdue(jobs, keep, now)
        if (due := retention.next_due(jobs, keep, now)) is not None:
            times.append(due)
    # After the jobs: an entry is there before its job is filed.
    waiting = _ids_in_outbox(spool) if found else frozenset()
    marked = sorted(
        (replace(each, waits=each.id in waiting) for each in found), key=lambda job: job.ended_at
    )
    return Plan(
        jobs=tuple(each for each in marked if not each.waits),
        waiting=tuple(each for each in marked if each.waits),
        next_at=min(times, default=None),
    )


def prune(spool: Spool, wanted: Retention, now: float, pace: Pace) -> Report:
    """Finish what was begun before, then remove the jobs that are not to be kept.

    Raises SpoolError if somebody else is just doing it.
    """
    planned = plan(spool, wanted, now, pace)
    if not planned.jobs and not exists(PRUNING, at=spool.root_fd):
        return Report(pruned=(), waiting=planned.waiting, next_at=planned.next_at)
    with _opened(spool) as trash_fd:
        trash = _Trash(spool, trash_fd, pace)
        trash.empty()
        pruned = []
        for job in planned.jobs:
            if trash.take(job):
                pruned.append(job)
                trash.empty()
    return Report(
        pruned=tuple(pruned),
        waiting=planned.waiting,
        stuck=tuple(trash.stuck),
        next_at=planned.next_at,
    )


# --- look ---------------------------------------------------------------------------------------


def _filed(spool: Spool, state: State, keep: Keep, pace: Pace) -> Iterator[Filed]:
    """The jobs of one state. What is no filed job is not ours to judge, but fsck's."""
    at = spool.filed_fds[state]
    with os.scandir(at) as entries:
        for entry in entries:
            pace()
            if not ids.is_id(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):  # it is just being moved, or damaged
                # Nobody but us can make anything in done/ or in a job's directory.
                status = os.stat(f"{entry.name}/{RESULT}", dir_fd=at, follow_symlinks=False)
                size = None if keep.size is None else _size(entry.name, at, pace)
                yield Filed(id=entry.name, state=state, ended_at=status.st_mtime, size=size)


def _ids_in_outbox(spool: Spool) -> frozenset[str]:
    """The jobs of which callbacks wait: an entry is ID~SOMETHING, with a dot ahead while it is
    written."""
    fd = os.open("outbox", DIRECTORY, dir_fd=spool.root_fd)
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    return frozenset(each.removeprefix(".").partition("~")[0] for each in names if "~" in each)


def _size(name: str, at: int, pace: Pace) -> int:
    """What a job takes on the disk. Other file systems and the deepest levels do not count."""
    seen: set[int] = set()  # what has several names counts once
    device = os.stat(name, dir_fd=at, follow_symlinks=False).st_dev

    def below(name: str, at: int, levels: int) -> int:
        total = 0
        with contextlib.suppress(OSError):  # gone meanwhile, or closed to us
            fd = os.open(name, DIRECTORY, dir_fd=at)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        pace()
                        total += one(entry, fd, levels)
            finally:
                os.close(fd)
        return total

    def one(entry: os.DirEntry[str], fd: int, levels: int) -> int:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return 0
        if status.st_dev != device or status.st_ino in seen:
            return 0
        if status.st_nlink > 1:
            seen.add(status.st_ino)
        size = status.st_blocks * 512
        if stat.S_ISDIR(status.st_mode) and levels:
            size += below(entry.name, fd, levels - 1)
        return size

    return below(name, at, _MOST_LEVELS)


# --- remove -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(spool: Spool) -> Iterator[int]:
    """`.pruning`, locked by us; without anything in it, it is removed afterwards."""
    while True:
        try:
            fd = spool.disk.mkdir(PRUNING, 0o700, at=spool.root_fd)
        except FileExistsError:
            try:
                fd = os.open(PRUNING, DIRECTORY, dir_fd=spool.root_fd)
            except FileNotFoundError:
                continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise SpoolError(f"{spool.root} is just being pruned by somebody else") from None
        if is_name_of(PRUNING, fd, at=spool.root_fd):
            break
        os.close(fd)  # removed by the one who had locked it
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):  # something is left, for the next one
            spool.disk.rmdir(PRUNING, at=spool.root_fd)
        os.close(fd)


class _Trash:
    """What lies in `.pruning`. `stuck`: what does not go, with the reason."""

    def __init__(self, spool: Spool, fd: int, pace: Pace) -> None:
        self._spool = spool
        self._disk = spool.disk
        self._fd = fd
        self._pace = pace
        self._numbers = itertools.count()
        self._todo = deque(sorted(os.listdir(fd)))
        self.stuck: list[str] = []

    def take(self, job: Filed) -> bool:
        """Bring a job here. Not if it is gone, or is none that was filed, or is in use."""
        at = self._spool.filed_fds[job.state]
        try:
            with contextlib.ExitStack() as opened:
                fd = os.open(job.id, DIRECTORY, dir_fd=at)
                opened.callback(os.close, fd)
                lock_fd = traces.open_claim(fd)
                if lock_fd is not None:
                    opened.callback(os.close, lock_fd)
                    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                result = traces.result_at(fd, job.id)
                written_at = os.stat(RESULT, dir_fd=fd, follow_symlinks=False).st_mtime
                if result is None or result.state != job.state or written_at != job.ended_at:
                    return False
                self._bring(job.id, job.id, at=at)
        except (FileNotFoundError, BlockingIOError):
            return False
        except OSError as error:
            self._tell(f"{job.state}/{job.id}", error)
            return False
        return True

    def empty(self) -> None:
        """Remove all that lies here."""
        while self._todo:
            name = self._todo.popleft()
            try:
                self._remove(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._tell(f"{PRUNING}/{name}", error)

    def _remove(self, name: str) -> None:
        if not stat.S_ISDIR(os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode):
            self._disk.remove(name, at=self._fd)
            return
        self._let_in(name, at=self._fd)
        fd = os.open(name, DIRECTORY, dir_fd=self._fd)
        try:
            for left in range(_MOST_PASSES, 0, -1):
                if not self._clear(name, fd):
                    return
                try:
                    self._disk.rmdir(name, at=self._fd)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY or left == 1:
                        raise
                else:
                    return
        finally:
            os.close(fd)

    def _clear(self, name: str, fd: int) -> bool:
        """Take all out of a directory, once; whether all of it went."""
        told = False
        with os.scandir(fd) as entries:
            for entry in entries:
                self._pace()
                try:
                    self._take_out(entry, fd)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if not told:  # one cause for many: a flag, a mount, a failing disk
                        self._tell(f"{PRUNING}/{name}/{entry.name}", error)
                    told = True
        return not told

    def _take_out(self, entry: os.DirEntry[str], fd: int) -> None:
        if not entry.is_dir(follow_symlinks=False):
            self._disk.remove(entry.name, at=fd)
            return
        try:
            self._disk.rmdir(entry.name, at=fd)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            self._let_in(entry.name, at=fd)
            self._bring(entry.name, None, at=fd)

    def _bring(self, name: str, wanted: str | None, *, at: int) -> None:
        """Move a directory here, under a name that is free."""
        target = wanted or f".{next(self._numbers)}"
        while True:
            try:
                self._disk.move(name, target, at=at, to=self._fd)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                target = f".{next(self._numbers)}"
            else:
                self._todo.append(target)
                return

    def _let_in(self, name: str, *, at: int) -> None:
        """Give ourselves the right to empty a directory of our own. Root has it anyway."""
        if os.geteuid() == 0:
            return
        with opened_anyhow(name, at=at) as fd:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o700 != 0o700:
                self._disk.set_mode(fd, 0o700)

    def _tell(self, what: str, error: OSError) -> None:
        if len(self.stuck) < _MOST_TOLD:
            self.stuck.append(f"{what}: {error.strerror}")
