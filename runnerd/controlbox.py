"""controlbox: what is asked for in control/, and what it is about, on disk.

A request lies in control/ until it was carried out, so a daemon that dies carries it out again:
each is such that twice is as good as once. To submit a job anew is not, by itself, so that takes
three steps: its file is staged under a name that the old job's id gives, then the request is
removed, and only then, by one rename, the file is dropped.

Trust: control/ is written by hostile users. Of a file in it, its name and its owner count, and
       whether root has signed it, if it is root's; its content is never read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace

from . import ids, openat, traces
from .control import Request, Verb, read_request
from .disk import DIRECTORY
from .frozen import frozen
from .jobdir import CANCEL, DROPPED
from .model import Claim, JobId, State
from .remains import runner_of
from .spool import Spool, exists

PAUSED = ".paused"
_STAGED = ".retry."


@frozen
class ControlBox:
    """The requests of one spool."""

    _spool: Spool

    @property
    def is_paused(self) -> bool:
        """Whether no job is to be started until somebody says so, by a plain file."""
        try:
            status = os.stat(PAUSED, dir_fd=self._spool.root_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode)

    def set_paused(self, *, paused: bool) -> None:
        if paused:
            self._spool.disk.write(PAUSED, b"", 0o600, at=self._spool.root_fd, durable=False)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._spool.disk.remove(PAUSED, at=self._spool.root_fd)

    # --- requests -------------------------------------------------------------------------------

    def requests(self) -> list[Request]:
        """What is asked for in control/. Names that ask for nothing stay."""
        found = []
        for name in sorted(os.listdir(self._spool.control_fd)):
            with contextlib.suppress(FileNotFoundError):  # it was taken back
                request = self._request(name)
                if request is not None:
                    found.append(request)
        return found

    def _request(self, name: str) -> Request | None:
        status = os.stat(name, dir_fd=self._spool.control_fd, follow_symlinks=False)
        request = read_request(name, status.st_uid)
        if request is None:
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            # A link may be to a file of somebody else's. It must not keep others from asking.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                self._spool.disk.remove(name, at=self._spool.control_fd)
            return None
        if status.st_uid == os.geteuid() and self._spool.is_shared:
            return replace(request, moved=not self._is_signed(name, status))
        return request

    def _is_asked(self, name: str) -> bool:
        """Whether there is a request of this name; anything else of that name is none."""
        try:
            return self._request(name) is not None
        except FileNotFoundError:
            return False

    def _is_signed(self, name: str, status: os.stat_result) -> bool:
        """Whether our own user says that this file of ours is a request."""
        try:
            fd = os.open(name, openat.FLAGS, dir_fd=self._spool.control_fd)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(fd), status) and openat.is_signed(fd)
        finally:
            os.close(fd)

    def settle(self, request: Request) -> None:
        """Remove a request that was carried out, or never will be."""
        with contextlib.suppress(FileNotFoundError):
            self._spool.disk.remove(request.file, at=self._spool.control_fd)

    # --- whose ----------------------------------------------------------------------------------

    def submitter_of(self, job_id: JobId, *places: State) -> int | None:
        """Whose job lies in one of these places, or None if there is none."""
        for place in places:
            at = self._spool.running_fd if place is State.RUNNING else self._spool.filed_fds[place]
            claim = self._claim_at(job_id, at)
            if claim is not None:
                return claim.submitter.uid
        return None

    def owner_of(self, name: str) -> int | None:
        """Whose file this is in incoming/."""
        try:
            return os.stat(name, dir_fd=self._spool.incoming_fd, follow_symlinks=False).st_uid
        except FileNotFoundError:
            return None

    def _claim_at(self, job_id: JobId, at: int) -> Claim | None:
        """The claim in a job's directory, whoever holds it."""
        try:
            dir_fd = os.open(job_id, DIRECTORY, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            return None
        lock_fd = traces.open_claim(dir_fd)
        os.close(dir_fd)
        if lock_fd is None:
            return None
        try:
            return traces.read_claim(lock_fd).claim
        finally:
            os.close(lock_fd)

    # --- once more ------------------------------------------------------------------------------

    def stage(self, job_id: JobId) -> bool:
        """Make what was dropped as a job that has ended ready to be dropped again; False if it was
        never read, or if its inputs have gone on to another job already."""
        for at in self._spool.filed_fds.values():
            claim = self._claim_at(job_id, at)
            if claim is None or claim.text is None:
                continue
            if "/" in claim.file:
                return self._stage_bundle(job_id, at)
            staged = f".{job_id}{_STAGED}{claim.file.rpartition('.')[2]}"
            data = claim.text.encode("utf-8", "surrogateescape")
            self._spool.disk.write(staged, data, 0o600, at=self._spool.root_fd, durable=True)
            fd = os.open(
                staged, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._spool.root_fd
            )
            try:
                if claim.submitter.uid == os.geteuid():
                    openat.sign(fd)
                else:
                    self._spool.disk.give(fd, claim.submitter.uid, -1)
            finally:
                os.close(fd)
            return True
        return False

    def _stage_bundle(self, job_id: JobId, at: int) -> bool:
        """The inputs go on to the new job: they may be too large to be copied here."""
        staged = f".{job_id}{_STAGED}"
        if exists(staged, at=self._spool.root_fd):
            return True
        dir_fd = os.open(job_id, DIRECTORY, dir_fd=at)
        try:
            self._spool.disk.move(DROPPED, staged, at=dir_fd, to=self._spool.root_fd)
        except FileNotFoundError:
            return False
        finally:
            os.close(dir_fd)
        return True

    def drop_staged(self) -> bool:
        """Drop what is staged, as its submitter would; whether there was something.

        Where the request is still there, staging it comes again, and before this.
        """
        dropped = False
        for staged, job_id, suffix in self._staged():
            if self._is_asked(f"{job_id}.{Verb.RETRY}"):
                continue
            self._drop(staged, job_id, suffix)
            dropped = True
        return dropped

    def _staged(self) -> Iterator[tuple[str, JobId, str]]:
        for name in sorted(os.listdir(self._spool.root_fd)):
            job_id, staged, suffix = name[1:].rpartition(_STAGED)
            if staged and name.startswith(".") and ids.is_id(job_id):
                yield name, JobId(job_id), suffix

    def _drop(self, staged: str, job_id: JobId, suffix: str) -> None:
        at, to = self._spool.root_fd, self._spool.incoming_fd
        while True:
            free = ids.free_id(job_id, self._is_taken)
            with contextlib.suppress(FileExistsError):
                name = f"{free}.{suffix}" if suffix else free  # of a bundle
                self._spool.disk.move_new(staged, name, at=at, to=to)
                return

    def _is_taken(self, job_id: JobId) -> bool:
        return self._spool.is_taken(job_id) or self._spool.is_waiting(job_id)

    # --- to end ---------------------------------------------------------------------------------

    def wake_runner(self, job_id: JobId) -> None:
        """Let the runner of a job look at what it is asked, if it has one."""
        with contextlib.suppress(FileNotFoundError):
            pidfd = runner_of(self._spool, job_id)
            if pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
                os.close(pidfd)

    def cancel(self, job_id: JobId, by: str) -> bool:
        """Leave word in a job's directory that it is to end; whether it is there.

        The runner looks for it when it starts the job and when it is told to; see `wake_runner`.
        """
        with contextlib.suppress(FileNotFoundError), self._spool.open_running(job_id) as dir_fd:
            self._spool.disk.write(CANCEL, by.encode(), 0o600, at=dir_fd, durable=False)
            return True
        return False
