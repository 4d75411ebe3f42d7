"""controlbox: what is asked for in control/, and what it is about, on disk.

Trust: control/ is written by hostile users. Of a file in it, its name and its owner count, and
       whether root has signed it, if it is root's; its content is never read.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, replace

from . import ids, openat, traces
from .control import Request, read_request
from .disk import DIRECTORY
from .jobdir import CANCEL
from .model import Claim, JobId, State
from .processes import wake_holder
from .spool import Spool, exists

PAUSED = ".paused"


@dataclass(frozen=True, slots=True)
class ControlBox:
    """The requests of one spool."""

    _spool: Spool

    @property
    def is_paused(self) -> bool:
        """Whether no job is to be started until somebody says so."""
        return exists(PAUSED, at=self._spool.root_fd)

    def set_paused(self, *, paused: bool) -> None:
        if paused:
            self._spool.disk.write(PAUSED, b"", 0o600, at=self._spool.root_fd, durable=False)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._spool.disk.remove(PAUSED, at=self._spool.root_fd)

    def take_requests(self) -> list[Request]:
        """Read and remove what is asked for in control/. Names that ask for nothing stay."""
        control_fd, found = self._spool.control_fd, []
        for name in sorted(os.listdir(control_fd)):
            try:
                status = os.stat(name, dir_fd=control_fd, follow_symlinks=False)
                request = read_request(name, status.st_uid)
                if request is None:
                    continue
                # A link may be to a file of somebody else's.
                plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
                if plain and status.st_uid == os.geteuid() and self._spool.is_shared:
                    request = replace(request, moved=not self._is_signed(name, status))
                self._spool.disk.remove(name, at=control_fd)
            except (FileNotFoundError, IsADirectoryError, PermissionError):
                continue
            if plain:
                found.append(request)
        return found

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

    def resubmit(self, job_id: JobId) -> JobId | None:
        """Drop a job that has ended once more, as its submitter would; its new id."""
        for at in self._spool.filed_fds.values():
            claim = self._claim_at(job_id, at)
            if claim is None or claim.text is None:
                continue
            new_id = ids.free_id(job_id, self._spool.is_taken)
            hidden = f".{new_id}.retry"
            data = claim.text.encode("utf-8", "surrogateescape")
            self._spool.disk.write(hidden, data, 0o600, at=self._spool.incoming_fd, durable=True)
            fd = os.open(
                hidden, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._spool.incoming_fd
            )
            if claim.submitter.uid == os.geteuid():
                openat.sign(fd)
            else:
                self._spool.disk.give(fd, claim.submitter.uid, -1)
            os.close(fd)
            suffix = claim.file.rpartition(".")[2]
            self._spool.disk.move_new(
                hidden, f"{new_id}.{suffix}", at=self._spool.incoming_fd, to=self._spool.incoming_fd
            )
            return new_id
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

    def wake_runner(self, job_id: JobId) -> None:
        """Let the runner of a job look at what it is asked, if it has one."""
        with contextlib.suppress(FileNotFoundError), self._spool.open_running(job_id) as dir_fd:
            lock_fd = traces.open_claim(dir_fd)
            if lock_fd is None:
                return
            mark = traces.read_claim(lock_fd).mark
            status = os.fstat(lock_fd)
            os.close(lock_fd)
            if mark is not None and mark.boot_id == self._spool.boot_id:
                wake_holder(mark.runner_pid, status)

    def cancel(self, job_id: JobId, by: str) -> bool:
        """Leave word in a job's directory that it is to end; whether it is there.

        The runner looks for it when it starts the job and when it is told to; see `wake_runner`.
        """
        with contextlib.suppress(FileNotFoundError), self._spool.open_running(job_id) as dir_fd:
            self._spool.disk.write(CANCEL, by.encode(), 0o600, at=dir_fd, durable=False)
            return True
        return False
