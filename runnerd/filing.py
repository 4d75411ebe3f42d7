"""filing: from running/ to where a job ends, or to its next attempt.

Guarantees: as in `spool`, whose rows S2 to S4 these are. The result is on disk before the job
            moves, and so is the event that tells of it, which shows only after that.
Errors:     OSError of the disk goes up; each may be repeated until the disk takes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time

from . import ids, records, webhook
from .conclude import waiting_status
from .jobdir import DROPPED, JOB, READABLE, Claimed
from .model import Claim, JobId, News
from .outcome import Postponed, Result
from .spool import Spool, exists, is_directory, is_name_of
from .traces import CLAIM, LOG, RESULT, STATUS, TIMING, UNNAMED
from .units import epoch
from .webhook import EntryName

_PASSING = (STATUS, ".")


def postpone(spool: Spool, claimed: Claimed, postponed: Postponed) -> None:
    """Put a failed attempt away, until the next. On disk, so that it is never made again."""
    number = postponed.attempt.number
    told = _stage(
        spool,
        claimed.claim,
        News.RETRYING,
        {
            **records.plain(waiting_status(claimed.claim, postponed)),
            "failed": records.plain(postponed.attempt),
        },
        at=postponed.attempt.finished_at,
        attempt=number,
    )
    for name in (LOG, TIMING):
        with contextlib.suppress(FileNotFoundError):
            stem, _, suffix = name.partition(".")
            kept = f"{stem}.{number}.{suffix}"
            spool.disk.move(name, kept, at=claimed.dir_fd, to=claimed.dir_fd)
    spool.note(claimed, records.terse(postponed))
    spool.secure(claimed)
    if told is not None:
        spool.outbox.show(told)


def tell_postponed(spool: Spool, claimed: Claimed) -> None:
    """Show what tells of the last failed attempt, if who put it away did not come to that."""
    callback = claimed.claim.callback
    if callback is not None and News.RETRYING in callback.events:
        number = webhook.number_of(News.RETRYING, attempt=len(claimed.attempts))
        spool.outbox.show(EntryName(claimed.id, number, webhook.key_of(callback.url)))


def _stage(
    spool: Spool, claim: Claim, news: News, data: object, *, at: str, attempt: int = 0
) -> EntryName | None:
    """Make ready what is told once something has happened; None if nobody is to be told."""
    if claim.callback is None:
        return None
    now, host = time.time(), spool.outbox.host
    entry = webhook.event(claim, news, data, host=host, now=now, at=epoch(at), attempt=attempt)
    return None if entry is None else spool.outbox.stage(entry, durable=True)


def file(spool: Spool, claimed: Claimed, result: Result) -> JobId:
    """Write the result and move the job to where it ends: S2 -> S3 -> S4. May be repeated."""
    dir_fd = claimed.dir_fd
    spool.keep_out(claimed)
    if claimed.claim.text is not None:
        if "/" in claimed.claim.file and is_directory(JOB, at=dir_fd):  # inputs never taken
            spool.disk.move(JOB, DROPPED, at=dir_fd, to=dir_fd)
        spool.directory_of(claimed).settle_job_file()
    spec = claimed.claim.spec
    if spec is not None and spec.artifacts and not result.artifacts:
        spool.directory_of(claimed).forget_artifacts()  # of an attempt that was cut short
    data = records.pretty(result)
    spool.disk.write(RESULT, data, READABLE, at=dir_fd, durable=True)
    return finish(spool, claimed.claim, result, dir_fd)


def settle_result(spool: Spool, dir_fd: int) -> None:
    """Let a complete result have its name and be on disk: its writer may have died before."""
    if not exists(RESULT, at=dir_fd):
        spool.disk.move(UNNAMED, RESULT, at=dir_fd, to=dir_fd)
    fd = os.open(RESULT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        spool.disk.sync(fd)
    finally:
        os.close(fd)


def finish(spool: Spool, claim: Claim | None, result: Result, dir_fd: int) -> JobId:
    """Move a job with a complete result, and have that told: S3 -> S4.

    Neither the result's name nor the move is synced: its content is, and who finds that in
    running/ goes on from there and tells the same.
    `claim`: None if it is lost; then nobody knows whom to tell, but for what is staged already.
    """
    job_id, told = result.id, None
    if claim is not None:
        told = _stage(spool, claim, News.FINISHED, result, at=result.finished_at)
    for name in os.listdir(dir_fd):  # what was of use while it ran, and what a crash left
        if name.startswith(_PASSING) and name != CLAIM:
            try:
                spool.disk.remove(name, at=dir_fd)
            except (IsADirectoryError, FileNotFoundError):
                continue  # a job of our own user can make what it likes here
    _disarm(spool, dir_fd)
    target = _move_to(spool, spool.filed_fds[result.state], job_id, dir_fd)
    if told is not None:
        spool.outbox.show(told)
    elif claim is None:
        spool.outbox.settle(spool.is_running, job_id)
    return target


def _move_to(spool: Spool, to: int, job_id: JobId, dir_fd: int) -> JobId:
    target = job_id
    while True:
        try:
            spool.disk.move(job_id, target, at=spool.running_fd, to=to)
        except FileNotFoundError:
            if not is_name_of(target, dir_fd, at=to):  # it is, if only telling had failed
                raise
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            target = ids.free_id(job_id, spool.is_taken)  # somebody put a thing there by hand
            continue
        return target


def _disarm(spool: Spool, dir_fd: int) -> None:
    """Of what was refused unread: keep content, drop names that lead elsewhere (links, FIFOs).

    Only after the result: until then the name is what shows that the file was claimed.
    """
    try:
        status = os.stat(JOB, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        spool.disk.move(JOB, DROPPED, at=dir_fd, to=dir_fd)
    elif not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        spool.disk.remove(JOB, at=dir_fd)
