"""spool: the layout on disk, and the moves of a job until it runs; the last ones are in `filing`.

Guarantees: after each method the spool is in one row of the table in the package's docstring, and a
            machine that dies within a method leaves it in the row before or after.
Syncing:    file systems that keep names in one log (ext4, XFS, btrfs, ZFS; F2FS checkpoints) make
            every earlier rename durable with a later one, in order. So a claim is two syncs, of
            its file and of the job's directory; a result is one, of its content, for whoever finds
            that in running/ goes on from there. The shared directories, which change all the time
            and would make each job wait for all others, are not synced at all.
Errors:     OSError of the disk goes up; the file that is gone (its submitter cancelled it) is None.
Trust:      incoming/ is written by hostile users; every other directory by runnerd alone. A job's
            directory is locked through `.claim`, which only the daemon's user can open, so that no
            reader of the directory can hold the lock and make a dead job look alive.
Not here:   what a job may do (policy), which one is next (schedule), how it runs (runner).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import ids, openat, records, traces
from .disk import DIRECTORY, Disk
from .errors import SpoolError
from .jobdir import CANCEL, JOB, Claimed, JobDir
from .layout import follow, open_layout
from .model import (
    Account,
    Callback,
    Claim,
    Inputs,
    JobId,
    JobSpec,
    OnDuplicate,
    Problem,
    Reason,
    Refusal,
    StartMark,
    State,
    Submitter,
)
from .outbox import Outbox
from .processes import lock_holder, oom_kills
from .traces import CLAIM

SETTLE_S = 0.5
OOM_KILLS_FOR_S = 1.0


@dataclass(slots=True)
class Judged:
    """What was dropped and what we think of it. Writers are kept out of its file while it is open.

    `name`: in incoming/; `file`: the same, or that of the job file in a bundle, which has `inputs`
    if it is accepted. `account`: whom an accepted job runs as. `callback`: who is told of it.
    """

    name: str
    file: str
    status: os.stat_result
    submitter: Submitter
    verdict: JobSpec | Refusal
    account: Account | None = None
    text: str | None = None
    dropped: openat.Dropped | None = None
    callback: Callback | None = None
    inputs: Inputs | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let writers in again."""
        if self.dropped is not None:
            self.dropped.release()


class Spool:
    """An open spool: one descriptor for each of its directories."""

    def __init__(
        self, root: Path, disk: Disk, fds: dict[str, int], group: str | None = None
    ) -> None:
        self.root = root
        self.disk = disk
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        self.outbox = Outbox(disk, fds["outbox"])
        self.incoming_fd = fds["incoming"]
        self.running_fd = fds["running"]
        self.control_fd = fds["control"]
        self.root_fd = fds["."]
        self.filed_fds = {State.DONE: fds["done"], State.FAILED: fds["failed"]}
        self._fds = fds
        self._group = group
        self._counted: int | None = None
        self._counted_at = -math.inf  # monotonic
        self.is_shared = bool(os.fstat(self.incoming_fd).st_mode & stat.S_IWGRP)

    # --- opening --------------------------------------------------------------------------------

    @classmethod
    def open(cls, root: Path, *, group: str | None = None, disk: Disk | None = None) -> Spool:
        """Make what is missing, check what is there. Raises SpoolError with the remedy."""
        root = Path(os.path.realpath(root))  # the administrator's own links are fine
        disk = disk or Disk()
        return cls(root, disk, open_layout(root, group=group, disk=disk), group)

    def close(self) -> None:
        """Let go of the directories, and of the lock."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def lock(self) -> None:
        """Become the one daemon of this spool, until the process ends or closes it."""
        # A directory that nobody else may open: a lock file of its own looks stale to people, who
        # remove it. Opened anew: a lock is shared with whoever has a copy of the descriptor.
        fd = os.open("outbox", DIRECTORY, dir_fd=self.root_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = lock_holder(os.fstat(fd))
            os.close(fd)
            who = f" (pid {pid})" if pid else ""
            raise SpoolError(f"{self.root} is served by another runnerd{who}") from None
        self._fds["lock"] = fd

    # --- the queue: incoming/ -------------------------------------------------------------------

    def look(self) -> dict[str, int]:
        """The job files and bundles in incoming/, and their inode numbers."""
        with os.scandir(self.incoming_fd) as entries:
            return {each.name: each.inode() for each in entries if _is_job(each)}

    def ended(self, job_id: str) -> bool | None:
        """Whether a job is done (True), has failed (False), or is neither."""
        if exists(job_id, at=self.filed_fds[State.DONE]):
            return True
        return False if exists(job_id, at=self.filed_fds[State.FAILED]) else None

    def follow(self) -> bool:
        """See `layout.follow`."""
        return follow(self.root, self._fds, group=self._group, disk=self.disk)

    def dropped_at(self, name: str) -> int:
        """When a file came into incoming/ (ns), or 0 if it is gone. A rename sets the ctime."""
        try:
            return os.stat(name, dir_fd=self.incoming_fd, follow_symlinks=False).st_ctime_ns
        except FileNotFoundError:
            return 0

    def is_waiting(self, job_id: JobId) -> bool:
        """Whether anything in incoming/ has this id, or would be in the way of a bundle."""
        names = (job_id, *(job_id + suffix for suffix in ids.SUFFIXES))
        return any(exists(name, at=self.incoming_fd) for name in names)

    # --- claim: incoming/NAME -> running/ID/job.yaml --------------------------------------------

    def claim(self, judged: Judged, *, refusal: Refusal | None = None) -> Claimed | None:
        """Take the judged file out of the queue. None: it is gone, or is not that file any more.

        `refusal`: why a job that was accepted will not run after all. Then the claim is whole on
        disk before it shows, for nothing else has the answer; of one that will run nothing is
        synced here: whoever starts the job calls `secure` first.
        """
        verdict = judged.verdict
        wanted, _ = ids.wanted_id(judged.file)
        job_id, dir_fd = self._reserve(wanted)
        if isinstance(verdict, Refusal):
            refusal = verdict
        elif refusal is None and job_id != wanted:
            refusal = _rejected(verdict, wanted)
        claim = Claim(
            id=job_id,
            file=judged.file,
            submitter=judged.submitter,
            submitted_at=judged.status.st_ctime,
            boot_id=self.boot_id,
            text=judged.text,
            spec=None if isinstance(verdict, Refusal) else verdict,
            account=judged.account if refusal is None else None,
            refusal=refusal,
            callback=judged.callback,
            inputs=judged.inputs if refusal is None else None,
        )
        claimed, fds = None, [dir_fd]
        try:
            claimed = self._take(judged, claim, fds)
        finally:
            if claimed is None:
                for fd in fds:
                    os.close(fd)
        return claimed

    def _take(self, judged: Judged, claim: Claim, fds: list[int]) -> Claimed | None:
        """Move a file into the directory that was made for it. What is opened is added to `fds`."""
        name, (dir_fd,) = judged.name, fds
        try:
            self._show(dir_fd, claim, judged.status.st_gid)
            lock_fd = self.disk.create(CLAIM, 0o600, at=dir_fd)
            fds.append(lock_fd)
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.disk.append(lock_fd, records.terse(claim))
            if claim.refusal is not None:
                self.disk.sync(lock_fd)
            self.disk.move(name, JOB, at=self.incoming_fd, to=dir_fd)  # the claim: S1 -> S2
        except FileNotFoundError:  # removing the file is how one cancels
            self.withdraw(claim.id, dir_fd)
            return None
        except OSError:
            self.withdraw(claim.id, dir_fd)
            raise
        taken = os.stat(JOB, dir_fd=dir_fd, follow_symlinks=False)
        if not os.path.samestat(taken, judged.status):
            self.put_back(claim.id, name, dir_fd)  # replaced after it was judged: judge that one
            return None
        return Claimed(claim, dir_fd, lock_fd)

    def secure(self, claimed: Claimed) -> None:
        """Put a claim on disk. Before this returns, nothing of the job may run."""
        self.disk.sync(claimed.lock_fd)
        self.disk.sync(claimed.dir_fd)

    def _show(self, dir_fd: int, claim: Claim, gid: int, *, ended: bool = False) -> None:
        """Let the submitter look at the job and, until it has ended, its user pass to work/."""
        reader = claim.submitter.uid if claim.submitter.uid != os.geteuid() else None
        passer = self._passer(claim)
        if reader is not None or passer is not None:
            self.disk.show_to(dir_fd, reader, gid, passer=None if ended else passer)

    def keep_out(self, claimed: Claimed) -> None:
        """Let the job's user, if that is not its submitter, pass no more: the job has ended."""
        if self._passer(claimed.claim) is not None:
            gid = os.fstat(claimed.dir_fd).st_gid
            self._show(claimed.dir_fd, claimed.claim, gid, ended=True)

    def _passer(self, claim: Claim) -> int | None:
        """Whom the job runs as, if that is neither its submitter nor ourselves."""
        uid = claim.account.uid if claim.account is not None else None
        return None if uid in (claim.submitter.uid, os.geteuid()) else uid

    def withdraw(self, job_id: str, dir_fd: int) -> None:
        """Remove a directory whose claim did not happen: S1 -> S0."""
        for name in (CANCEL, CLAIM):
            if exists(name, at=dir_fd):
                self.disk.remove(name, at=dir_fd)
        self.disk.rmdir(job_id, at=self.running_fd)

    def put_back(self, job_id: str, name: str, dir_fd: int) -> None:
        """Undo a claim: S2 -> S0. Where the name was dropped again meanwhile, it gets a number.

        The claim goes first: a directory with a job and no claim is one that is being put back.
        """
        with contextlib.suppress(FileNotFoundError):
            self.disk.remove(CLAIM, at=dir_fd)
        suffix = next((each for each in ids.SUFFIXES if name.endswith(each)), "")
        stem = name.removesuffix(suffix)
        for number in itertools.count(1):
            free = name if number == 1 else f"{stem}.{number}{suffix}"
            with contextlib.suppress(FileExistsError):
                self.disk.move_new(JOB, free, at=dir_fd, to=self.incoming_fd)
                break
        self.disk.rmdir(job_id, at=self.running_fd)

    def _reserve(self, wanted: JobId) -> tuple[JobId, int]:
        while True:
            job_id = ids.free_id(wanted, self.is_taken)
            try:
                return job_id, self.disk.mkdir(job_id, 0o700, at=self.running_fd)
            except FileExistsError:
                continue

    def is_taken(self, job_id: JobId) -> bool:
        # running/ first: a job that is filed between two looks is then seen at least once.
        return exists(job_id, at=self.running_fd) or self.ended(job_id) is not None

    def is_running(self, name: str) -> bool:
        """Whether there is something of this name in running/."""
        return exists(name, at=self.running_fd)

    # --- a running job --------------------------------------------------------------------------

    def received(self, job_id: JobId, lock_fd: int) -> Claimed:
        """The claim that belongs to a locked `.claim` descriptor."""
        ledger = traces.read_claim(lock_fd)
        if ledger.claim is None or ledger.claim.id != job_id:
            raise SpoolError(f"{job_id}: the claim in hand is not this job's")
        try:
            dir_fd = os.open(job_id, DIRECTORY, dir_fd=self.running_fd)
        except FileNotFoundError:
            self.follow()  # running/ was removed meanwhile, and the daemon has made it anew
            dir_fd = os.open(job_id, DIRECTORY, dir_fd=self.running_fd)
        return Claimed(ledger.claim, dir_fd, lock_fd, ledger.attempts)

    def mark_started(self, claimed: Claimed, *, now: float) -> None:
        """Say that the job may have begun.

        On a first attempt it is not synced: after a reboot, no mark proves nothing. On a later one
        it is, for what is on disk already says that the job waits.
        """
        mark = StartMark(
            boot_id=self.boot_id,
            runner_pid=os.getpid(),
            started_at=now,
            oom_kills=self._oom_kills(),
        )
        self.note(claimed, records.terse(mark))
        if claimed.attempts:
            self.disk.sync(claimed.lock_fd)

    def _oom_kills(self) -> int | None:
        """As of a moment ago: it takes the kernel longer than anything else that a start needs."""
        now = time.monotonic()
        if now - self._counted_at >= OOM_KILLS_FOR_S:
            self._counted, self._counted_at = oom_kills(), now
        return self._counted

    def is_in_place(self, claimed: Claimed) -> bool:
        """Whether the job's directory is still where it was: a job may remove or move its own."""
        return is_name_of(claimed.id, claimed.dir_fd, at=self.running_fd)

    def note(self, claimed: Claimed, line: bytes) -> None:
        """Add a line to the claim. Not synced."""
        os.lseek(claimed.lock_fd, 0, os.SEEK_END)
        # A new line first: a full disk may have torn an earlier one.
        self.disk.append(claimed.lock_fd, b"\n" + line)

    def directory_of(self, claimed: Claimed) -> JobDir:
        """The files of a claimed job."""
        return JobDir(self.disk, claimed)

    def path_of(self, job_id: JobId) -> str:
        """Where a running job lies, for people and for the job itself."""
        return f"{self.root}/running/{job_id}"

    def rebuild(self, claimed: Claimed) -> None:
        """Make the directory of a job anew: the job has removed or moved its own."""
        dir_fd = self.disk.mkdir(claimed.id, 0o700, at=self.running_fd)
        lock_fd = self.disk.create(CLAIM, 0o600, at=dir_fd)
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.disk.append(lock_fd, records.terse(claimed.claim))
        claimed.close()
        claimed.dir_fd, claimed.lock_fd = dir_fd, lock_fd
        self.mark_started(claimed, now=claimed.claim.submitted_at)

    # --- after a crash --------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """The names in running/."""
        return sorted(os.listdir(self.running_fd))

    @contextlib.contextmanager
    def open_running(self, name: str) -> Iterator[int]:
        """The directory of a job in running/, by descriptor."""
        fd = os.open(name, DIRECTORY, dir_fd=self.running_fd)
        try:
            yield fd
        finally:
            os.close(fd)


def _is_job(entry: os.DirEntry[str]) -> bool:
    if ids.is_job_file(entry.name):
        return True
    return ids.is_bundle(entry.name) and entry.is_dir(follow_symlinks=False)


def _rejected(spec: JobSpec, wanted: JobId) -> Refusal | None:
    """The answer to a file whose id is taken, if it wants one."""
    if spec.on_duplicate is not OnDuplicate.REJECT:
        return None
    message = f"there is a job {wanted} already, and `on_duplicate` is reject"
    problem = Problem(code="on_duplicate", message=message)
    return Refusal(reason=Reason.DUPLICATE, problems=(problem,))


def is_name_of(name: str, fd: int, *, at: int) -> bool:
    """Whether the name is that of the open directory."""
    try:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))


def is_directory(name: str, *, at: int) -> bool:
    """Whether there is a directory of this name, and no link to one."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def exists(name: str, *, at: int) -> bool:
    """Whether there is something of this name, whatever it is."""
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
