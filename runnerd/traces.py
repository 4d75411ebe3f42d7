"""traces: read what a directory in running/ holds of a job: its claim, its mark, its result.

Trusts nothing: a crash may have torn a file, and an administrator may have put anything there. What
is not plainly ours is None.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TypeVar

from . import records, recovery
from .frozen import frozen
from .model import Claim, StartMark, State
from .outcome import Attempt, Postponed, Result

CLAIM, RESULT, STATUS = ".claim", "result.json", "status.json"
UNNAMED = f".{RESULT}.new"  # a result until it has its name
LOG, TIMING = "output.log", "output.timing"

T = TypeVar("T")
LONGEST_RECORD = 1 << 24  # far above what a claim with the largest job file takes
_PIDS = range(1, 1 << 31)
_TAIL = 4096
_MOST_LINES = 1 << 13  # a job has at most 1000 attempts, each of which writes a few


def open_claim(dir_fd: int) -> int | None:
    """The file to lock, or None where there is none that we could have made."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(CLAIM, flags, dir_fd=dir_fd)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


@frozen
class Ledger:
    """What `.claim` says; None for what is missing or torn.

    `mark`: of the attempt that may run. `retry_at`: none does, the next one starts then.
    """

    claim: Claim | None
    mark: StartMark | None = None
    attempts: tuple[Attempt, ...] = ()
    retry_at: float | None = None


def read_claim(fd: int) -> Ledger:
    """Read the lines of `.claim`: what was decided, and then each start and each failure."""
    size = min(os.fstat(fd).st_size, LONGEST_RECORD)
    first, *others = os.pread(fd, size, 0).split(b"\n", _MOST_LINES)
    mark, retry_at = None, None
    attempts: dict[int, Attempt] = {}  # by number: a line is written again if its sync failed
    for line in filter(None, others):
        if (started := _mark(line)) is not None:
            mark, retry_at = started, None
        elif (postponed := _postponed(line)) is not None:
            mark, retry_at = None, postponed.retry_at
            attempts[postponed.attempt.number] = postponed.attempt
    claim = _record(Claim, first)
    if claim is None or not recovery.is_sound(claim):
        return Ledger(None)
    return Ledger(claim, mark, tuple(attempts.values()), retry_at)


def result_at(dir_fd: int, name: str, file: str = RESULT) -> Result | None:
    """The complete result of this very job, if there is one."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(file, flags, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise
        return None
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        result = _record(Result, os.pread(fd, LONGEST_RECORD, 0)) if regular else None
    finally:
        os.close(fd)
    ours = result is not None and result.id == name and result.state in (State.DONE, State.FAILED)
    return result if ours else None


def tail_at(dir_fd: int) -> bytes:
    """The last of what a job printed, whole lines if there are any; b"" if that cannot be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(LOG, flags, dir_fd=dir_fd)
    except OSError:
        return b""
    try:
        start = max(0, os.fstat(fd).st_size - _TAIL)
        data = os.pread(fd, _TAIL, start)
    except OSError:
        return b""
    finally:
        os.close(fd)
    return data.partition(b"\n")[2] or data if start else data


def _mark(line: bytes) -> StartMark | None:
    mark = _record(StartMark, line)
    sound = mark is not None and recovery.is_time(mark.started_at) and mark.runner_pid in _PIDS
    return mark if sound else None


def _postponed(line: bytes) -> Postponed | None:
    found = _record(Postponed, line)
    return found if found is not None and recovery.is_time(found.retry_at) else None


def _record(kind: type[T], data: bytes) -> T | None:
    try:
        return records.loads(kind, data)
    except (ValueError, RecursionError):
        return None
