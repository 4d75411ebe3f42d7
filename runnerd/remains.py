"""remains: what a crash has left of a job in running/: look at it, and set aside what is strange.

What it means, `recovery` says. Trust: a disk may have damaged anything, people put anything there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
from dataclasses import replace

from . import ids, records, traces
from .disk import DIRECTORY, Disk
from .jobdir import READABLE, Claimed
from .model import JobId, State
from .outcome import Result
from .processes import holder
from .recovery import Traces
from .spool import Spool, exists, is_name_of
from .traces import CLAIM, RESULT, UNNAMED

FOUND = "found"  # what a thing that is no directory is called in the one that it was given


def examine(spool: Spool, name: str) -> tuple[Traces, Claimed | None]:
    """What is left of a job in running/, and the job itself, locked by us, if it can be had.

    Raises FileNotFoundError when it is not there any more. All but the lock is looked at under
    the lock: what its runner did before it let go is then seen whole.
    """
    try:
        dir_fd = os.open(name, DIRECTORY, dir_fd=spool.running_fd)
    except NotADirectoryError:
        return Traces(directory=False), None
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, dir_fd)
        lock_fd = traces.open_claim(dir_fd)
        ledger = traces.Ledger(None)
        if lock_fd is not None:
            opened.callback(os.close, lock_fd)
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Traces(locked=True, claim=traces.read_claim(lock_fd).claim), None
            ledger = traces.read_claim(lock_fd)
        if not is_name_of(name, dir_fd, at=spool.running_fd):
            raise FileNotFoundError(errno.ENOENT, "it was filed meanwhile", name)
        claim = ledger.claim if ledger.claim is not None and ledger.claim.id == name else None
        files = frozenset(os.listdir(dir_fd))
        written = UNNAMED if UNNAMED in files and RESULT not in files else RESULT
        found = Traces(
            claim=claim,
            mark=ledger.mark if claim is not None else None,
            retry_at=ledger.retry_at if claim is not None else None,
            result=traces.result_at(dir_fd, name, written),
            filed=spool.ended(JobId(name)) is not None,
            plain=CLAIM not in files or (lock_fd is not None and claim is ledger.claim),
            files=files,
        )
        if claim is None or lock_fd is None:
            return found, None
        opened.pop_all()
        return found, Claimed(claim, dir_fd, lock_fd, ledger.attempts)


def set_aside(spool: Spool, name: str, result: Result, *, at: int | None = None) -> JobId:
    """Move what nobody understands into failed/, with a result that says so.

    `at`: from where; running/ if it is None. What is no directory gets one. The result comes
    first, so who dies in between leaves a thing that is set aside again, or filed.
    """
    at = spool.running_fd if at is None else at
    failed_fd = spool.filed_fds[State.FAILED]

    def taken(job_id: JobId) -> bool:
        ours = job_id == name or not exists(job_id, at=spool.running_fd)
        return not ours or spool.ended(job_id) is not None

    target = ids.free_id(ids.safe_id(name)[0], taken)
    is_directory = stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    if is_directory:
        fd = os.open(name, DIRECTORY, dir_fd=at)
    else:
        fd = spool.disk.mkdir(target, 0o700, at=failed_fd)
    try:
        if not any(traces.result_at(fd, each) for each in (name, target)):
            keep_damaged(spool.disk, RESULT, at=fd)  # part of the riddle
            data = records.pretty(replace(result, id=target))
            spool.disk.write(RESULT, data, READABLE, at=fd, durable=True)
        if is_directory:
            spool.disk.move(name, target, at=at, to=failed_fd)
        else:
            spool.disk.move(name, FOUND, at=at, to=fd)
        spool.disk.sync(fd)
    finally:
        os.close(fd)
    return target


def filed_result(spool: Spool, name: str) -> Result | None:
    """The result of a job that was filed, if there is one and it is whole."""
    for at in spool.filed_fds.values():
        try:
            dir_fd = os.open(name, DIRECTORY, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            return traces.result_at(dir_fd, name)
        finally:
            os.close(dir_fd)
    return None


def runner_of(spool: Spool, name: str) -> int | None:
    """A pidfd of the living runner of a job in running/, if it can be known."""
    with spool.open_running(name) as dir_fd:
        lock_fd = traces.open_claim(dir_fd)
    if lock_fd is None:
        return None
    try:
        mark = traces.read_claim(lock_fd).mark
        if mark is None or mark.boot_id != spool.boot_id:
            return None
        return holder(mark.runner_pid, os.fstat(lock_fd))
    finally:
        os.close(lock_fd)


def keep_damaged(disk: Disk, name: str, *, at: int) -> None:
    """Give what has this name, if anything, one that says that it is not to be relied on."""
    if not exists(name, at=at):
        return
    stem = f"{name.lstrip('.')}.damaged"
    for number in itertools.count(1):
        kept = stem if number == 1 else f"{stem}.{number}"
        if not exists(kept, at=at):
            disk.move(name, kept, at=at, to=at)
            return
