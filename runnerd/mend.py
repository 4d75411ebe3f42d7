"""mend: look at one job in done/ or failed/, and put right what `damage` says is wrong with it.

Each change leaves a job that is either whole or damaged in a way that the next look finds, so
whoever dies in between may begin anew.

Trust: a job's user may have written in work/ and nowhere else; a disk may have damaged anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace

from . import ids, records, traces
from .conclude import Origin, conclude, conclude_refused, conclude_strange
from .damage import Content, Fault, Filed, Wrong, is_leftover, right_mode, with_id, wrong_with
from .disk import DIRECTORY
from .jobdir import JOB, READABLE
from .model import JobId, State
from .outcome import Ended, Lost, Result
from .remains import keep_damaged, set_aside
from .spool import Spool, exists
from .traces import CLAIM, LONGEST_RECORD, RESULT, UNNAMED, Ledger


class FiledJob:
    """One name in done/ or failed/; open while it is looked at, and locked if it can be."""

    def __init__(self, spool: Spool, place: State, name: str, origin: Origin) -> None:
        self.name = name
        self.place = place
        self._spool = spool
        self._origin = origin
        self._at = spool.filed_fds[place]
        self._fd = -1
        self._ledger = Ledger(None)

    # --- look -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def opened(self) -> Iterator[list[Wrong]]:
        """All that is wrong, and the job open for `mend`. FileNotFoundError if it is gone."""
        with contextlib.ExitStack() as stack:
            yield list(wrong_with(self._look(stack)))

    def _look(self, stack: contextlib.ExitStack) -> Filed:
        status = os.stat(self.name, dir_fd=self._at, follow_symlinks=False)
        seen = Filed(
            name=self.name,
            place=self.place,
            directory=stat.S_ISDIR(status.st_mode),
            is_open=False,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            own_uid=os.geteuid(),
        )
        if not seen.directory:
            return seen
        try:
            self._fd = os.open(self.name, DIRECTORY, dir_fd=self._at)
        except PermissionError:
            return seen
        stack.callback(os.close, self._fd)
        claim_is, locked = self._lock(stack)
        if locked:
            return replace(seen, locked=True)
        result_is, result = _read_result(self._fd, RESULT)
        text = self._text
        job_is, job_size = _kind(JOB, self._fd)
        leftovers = filter(is_leftover, sorted(os.listdir(self._fd)))
        twin = self.place is State.FAILED and exists(
            self.name, at=self._spool.filed_fds[State.DONE]
        )
        return replace(
            seen,
            is_open=True,
            claim_is=claim_is,
            twin=twin,
            result=result,
            result_is=result_is,
            spare=self._spare() is not None,
            text_size=None if text is None else len(text),
            job_is=job_is,
            job_size=job_size,
            leftovers=tuple(each for each in leftovers if not self._is_directory(each)),
        )

    def _lock(self, stack: contextlib.ExitStack) -> tuple[Content, bool]:
        """Lock and read `.claim`; what it is, and whether a live runner holds it."""
        kind, _ = _kind(CLAIM, self._fd)
        if kind is not Content.GOOD:
            return kind, False
        try:
            lock_fd = traces.open_claim(self._fd)
        except PermissionError:
            return Content.CLOSED, False
        if lock_fd is None:
            return Content.OTHER, False
        stack.callback(os.close, lock_fd)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return kind, True
        self._ledger = traces.read_claim(lock_fd)
        return (Content.BROKEN if self._ledger.claim is None else Content.GOOD), False

    @property
    def _text(self) -> bytes | None:
        """The job's file by its claim."""
        claim = self._ledger.claim
        if claim is None or claim.text is None:
            return None
        return claim.text.encode("utf-8", "surrogateescape")

    def _spare(self) -> Result | None:
        _, result = _read_result(self._fd, UNNAMED)
        return result if result is not None and result.id == self.name else None

    def _is_directory(self, name: str) -> bool:
        return stat.S_ISDIR(os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode)

    # --- mend -----------------------------------------------------------------------------------

    def mend(self, wrong: Wrong) -> None:
        """Put one thing right. After that the job is to be looked at anew."""
        match wrong.fault, wrong.file:
            case Fault.WRONG_KIND, "":
                message = (
                    f"this was found in {self.place}/ and is no job; it was set aside as it is"
                )
                result = conclude_strange(self.name, time.time(), self._origin, message)
                set_aside(self._spool, self.name, result, at=self._at)
            case Fault.OWNER, "":
                if os.geteuid() != 0:
                    raise PermissionError(errno.EPERM, "only root can do that")
                self._spool.disk.give(self._fd, os.geteuid(), -1)
            case Fault.MODE, name:
                self._let_in(name)
            case Fault.WRONG_KIND, name:
                keep_damaged(self._spool.disk, name, at=self._fd)
            case Fault.NO_RESULT | Fault.BAD_RESULT, name:
                keep_damaged(self._spool.disk, name, at=self._fd)
                self._restore_result()
            case Fault.MISPLACED | Fault.WRONG_ID | Fault.DUPLICATE, _:
                self._rehouse()
            case Fault.JOB_FILE, name:
                self._restore_job(name)
            case Fault.LEFTOVER, name:
                self._spool.disk.remove(name, at=self._fd)

    def _let_in(self, name: str) -> None:
        with opened_anyhow(name or self.name, at=self._fd if name else self._at) as fd:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            right = {RESULT: READABLE, CLAIM: 0o600}.get(name, right_mode(mode))
            self._spool.disk.set_mode(fd, right)

    def _restore_result(self) -> None:
        if self._spare() is not None:
            self._spool.disk.move(UNNAMED, RESULT, at=self._fd, to=self._fd)
        else:
            data = records.pretty(self._conclude())
            self._spool.disk.write(RESULT, data, READABLE, at=self._fd, durable=True)
        self._spool.disk.sync(self._fd)

    def _conclude(self) -> Result:
        """What can honestly be said of a job whose result cannot be read."""
        now, claim = time.time(), self._ledger.claim
        damaged = exists(f"{RESULT}.damaged", at=self._fd)
        what = "was damaged, and is kept as result.json.damaged" if damaged else "was lost"
        message = f"the result of the job {what}; how the job ended is not known"
        if claim is None:
            return conclude_strange(self.name, now, self._origin, message)
        if claim.refusal is not None:
            result = conclude_refused(claim, claim.refusal, now, self._origin)
        else:
            mark = self._ledger.mark
            started_at = mark.started_at if mark is not None else None
            ended = Ended(
                outcome=Lost(message), started_at=started_at, finished_at=now, duration_s=None
            )
            result = conclude(claim, ended, self._origin, before=self._ledger.attempts)
        return replace(result, id=JobId(self.name))

    def _restore_job(self, name: str) -> None:
        kind, size = _kind(name, self._fd)
        if kind is not Content.ABSENT and size:
            keep_damaged(self._spool.disk, name, at=self._fd)
        text = self._text
        assert text is not None
        self._spool.disk.write(name, text, READABLE, at=self._fd, durable=True)

    # --- the right place and id -----------------------------------------------------------------

    def _rehouse(self) -> None:
        """Move the job to the place and the id that its result names, or as near as can be.

        First the result gets the id, then the directory: who dies in between leaves a directory
        whose result names a free id.
        """
        _, result = _read_result(self._fd, RESULT)
        assert result is not None
        target = self._target(result)
        if target != result.id:
            self._change_id(target)
        to = self._spool.filed_fds[result.state]
        if (result.state, target) != (self.place, self.name):
            self._spool.disk.move(self.name, target, at=self._at, to=to)
        self._spool.disk.sync(self._fd)

    def _target(self, result: Result) -> JobId:
        wanted = result.id if ids.is_id(result.id) else ids.safe_id(self.name)[0]
        if not self._is_taken(wanted):
            return wanted
        if result.state == self.place and self.name != wanted and ids.is_id(self.name):
            return JobId(self.name)
        return ids.free_id(wanted, self._is_taken)

    def _is_taken(self, job_id: JobId) -> bool:
        """Whether the id belongs to anything but this directory."""
        spool = self._spool
        places = [(spool.running_fd, None), *((fd, place) for place, fd in spool.filed_fds.items())]
        return any(
            exists(job_id, at=fd) and (place, job_id) != (self.place, self.name)
            for fd, place in places
        )

    def _change_id(self, job_id: JobId) -> None:
        """Give the result another id, and keep it as it was beside that."""
        data = _read(RESULT, self._fd)
        kept = f"{RESULT}.original"
        number = 1
        while exists(kept, at=self._fd) and _read(kept, self._fd) != data:
            number += 1
            kept = f"{RESULT}.original.{number}"
        self._spool.disk.write(kept, data, READABLE, at=self._fd, durable=True)
        self._spool.disk.write(RESULT, with_id(data, job_id), READABLE, at=self._fd, durable=True)


@contextlib.contextmanager
def opened_anyhow(name: str, *, at: int) -> Iterator[int]:
    """A descriptor of a thing that we may not read, good for looking at it and for its mode."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        yield fd
    finally:
        os.close(fd)


def _kind(name: str, at: int) -> tuple[Content, int]:
    """Whether there is a plain file of this name, and its size."""
    try:
        status = os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return Content.ABSENT, 0
    if not stat.S_ISREG(status.st_mode):
        return Content.OTHER, 0
    return Content.GOOD, status.st_size


def _read(name: str, at: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=at), "rb") as file:
        return file.read(LONGEST_RECORD)


def _read_result(at: int, name: str) -> tuple[Content, Result | None]:
    """A result that says how a job ended, whosever it is."""
    kind, _ = _kind(name, at)
    if kind is not Content.GOOD:
        return kind, None
    try:
        result = records.loads(Result, _read(name, at))
    except PermissionError:
        return Content.CLOSED, None
    except (ValueError, RecursionError):
        return Content.BROKEN, None
    if result.state not in (State.DONE, State.FAILED):
        return Content.BROKEN, None
    return Content.GOOD, result
