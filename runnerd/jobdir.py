"""jobdir: the files in the directory of a claimed job, while it runs.

All but `work/`, the FIFO for its progress and the files that it hands values on in belong to us.
Errors: OSError goes up.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass

from . import bundle, openat, records, spares
from .disk import DIRECTORY, Disk
from .frozen import frozen
from .model import Claim, JobId
from .outcome import Attempt, Status
from .traces import LOG, STATUS, TIMING

JOB, DROPPED = "job.yaml", "dropped"
PROGRESS, CANCEL, ARTIFACTS = ".progress", ".cancel", "artifacts"
READABLE = 0o644  # the directory itself says who gets that far


@dataclass(slots=True)
class Claimed:
    """A job directory in running/ whose lock we hold. Close it when the job is filed or lost."""

    claim: Claim
    dir_fd: int
    lock_fd: int
    attempts: tuple[Attempt, ...] = ()

    @property
    def id(self) -> JobId:
        return self.claim.id

    def close(self) -> None:
        os.close(self.lock_fd)
        os.close(self.dir_fd)


@frozen
class JobDir:
    """The directory of one claimed job."""

    _disk: Disk
    _claimed: Claimed

    def open_log(self) -> int:
        """A new `output.log`; one that an earlier start, undone, left behind is replaced."""
        return self._disk.renew(LOG, READABLE, at=self._claimed.dir_fd)

    def open_timing(self) -> int:
        """The same for `output.timing`, which a job without output does not have."""
        return self._disk.renew(TIMING, READABLE, at=self._claimed.dir_fd)

    def open_progress(self, *, spares_at: int | None) -> int:
        """The FIFO that a job tells its progress through: the runner's own, or a new one."""
        if spares_at is not None:
            return spares.lend(self._disk, PROGRESS, root_fd=spares_at, to=self._claimed.dir_fd)
        fd = self._disk.fifo(PROGRESS, 0o600, at=self._claimed.dir_fd)
        self._give(fd)
        return fd

    def make_outputs(self, index: int) -> None:
        """The file that a step hands values on in, for one that cannot make it itself."""
        fd = self._disk.renew(outputs_name(index), 0o600, at=self._claimed.dir_fd)
        try:
            self._give(fd)
        finally:
            os.close(fd)

    def forget_outputs(self, index: int) -> None:
        """Remove what the same step of an earlier attempt handed on."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            self._disk.remove(outputs_name(index), at=self._claimed.dir_fd)

    def read_outputs(self, index: int, most: int) -> bytes:
        """What a step hands on, or the first bytes of it. Raises ValueError, OSError."""
        try:
            fd = os.open(outputs_name(index), openat.FLAGS, dir_fd=self._claimed.dir_fd)
        except FileNotFoundError:
            return b""
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("its file is no plain file any more")
            return os.read(fd, most)
        finally:
            os.close(fd)

    def open_step_log(self, index: int) -> int:
        """The log of a step that may run beside others."""
        return self._disk.renew(f".step.{index}.log", 0o600, at=self._claimed.dir_fd)

    def keep(self, name: str, index: int, data: bytes) -> str:
        """A file of a step that its user may read; the name that it has here."""
        kept = f".{name}.{index}"
        fd = self._disk.renew(kept, READABLE, at=self._claimed.dir_fd)
        try:
            self._disk.append(fd, data)
        finally:
            os.close(fd)
        return kept

    def _give(self, fd: int) -> None:
        account = self._claimed.claim.account
        if account is not None and account.uid != os.geteuid():
            self._disk.give(fd, account.uid, account.gid)

    def take_inputs(self, *, now: float) -> str | None:
        """Make a bundle's inputs the first content of work/; or why that cannot be.

        Once: a bundle whose inputs were copied is called `dropped`, and until then nothing of the
        job has run, so work/ is made anew.
        """
        claim, at = self._claimed.claim, self._claimed.dir_fd
        assert claim.inputs is not None
        assert claim.account is not None
        try:
            source = os.open(JOB, DIRECTORY, dir_fd=at)
        except NotADirectoryError:
            return None
        except FileNotFoundError:
            self._restore_job_file()  # who was to do it has died
            return None
        retried = claim.spec is not None and claim.spec.retry is not None
        copier = bundle.Copier(self._disk, claim.account, durable=retried)
        self._remove_work()
        try:
            with copier.directory("work", 0o755, at) as work_fd:
                bundle.copy(source, work_fd, claim.submitter.uid, claim.inputs, copier, now=now)
        except openat.Unfit as unfit:
            return unfit.message
        except openat.Busy:
            return "an input file was opened for writing after it was dropped"
        except FileNotFoundError as error:
            return f"an input file was removed after it was dropped: {error.filename!a}"
        except OSError:
            self._remove_work()  # its room is wanted
            raise
        finally:
            os.close(source)
        self._disk.move(JOB, DROPPED, at=at, to=at)
        self._restore_job_file()
        return None

    def _remove_work(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._disk.remove_tree("work", at=self._claimed.dir_fd)

    def settle_job_file(self) -> None:
        """See that `job.yaml` is what was judged, and stays it.

        What others wrote is replaced by a copy: a descriptor to the old file, kept open from
        before, then reaches nothing that anybody will read.
        """
        text, ours = self._claimed.claim.text, self._claimed.claim.submitter.uid == os.geteuid()
        if text is None:
            return
        data = text.encode("utf-8", "surrogateescape")
        if not ours or not openat.holds(JOB, data, at=self._claimed.dir_fd):
            self._restore_job_file()

    def _restore_job_file(self) -> None:
        """Put the text that was judged in its place. Not synced: `.claim`, which is, has it too."""
        text = self._claimed.claim.text
        assert text is not None
        data = text.encode("utf-8", "surrogateescape")
        self._disk.write(JOB, data, READABLE, at=self._claimed.dir_fd, durable=False)

    def open_work(self) -> int:
        """The job's working directory, the one place that belongs to the job's user."""
        try:
            work_fd = self._disk.mkdir("work", 0o755, at=self._claimed.dir_fd)
        except FileExistsError:
            work_fd = os.open("work", DIRECTORY, dir_fd=self._claimed.dir_fd)
        self._give(work_fd)
        return work_fd

    def new_artifacts(self) -> int:
        """A directory for artifacts, which is not shown yet; those of an earlier attempt go."""
        self.forget_artifacts()
        return self._disk.mkdir(f".{ARTIFACTS}", 0o755, at=self._claimed.dir_fd)

    def show_artifacts(self) -> None:
        """Give it its name. On disk when the result is."""
        dir_fd = self._claimed.dir_fd
        self._disk.move(f".{ARTIFACTS}", ARTIFACTS, at=dir_fd, to=dir_fd)

    def forget_artifacts(self) -> None:
        """Remove what no result will list."""
        for name in (f".{ARTIFACTS}", ARTIFACTS):
            with contextlib.suppress(FileNotFoundError):
                self._disk.remove_tree(name, at=self._claimed.dir_fd)

    def write_log(self, text: str) -> None:
        """An `output.log` for a job that had no output: our own words about it."""
        data = text.encode("utf-8", "backslashreplace")
        self._disk.write(LOG, data, READABLE, at=self._claimed.dir_fd, durable=True)

    def show_status(self, status: Status) -> None:
        """Replace `status.json`."""
        data = records.dumps(status)
        self._disk.write(STATUS, data, READABLE, at=self._claimed.dir_fd, durable=False)

    def cancelled_by(self) -> str | None:
        """Who wants the job to end, if somebody does."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(CANCEL, flags, dir_fd=self._claimed.dir_fd)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, errors="replace") as file:
            plain = stat.S_ISREG(os.fstat(fd).st_mode)
            return file.read(200) if plain else None


def outputs_name(index: int) -> str:
    """The file in which a step hands values on."""
    return f".outputs.{index}"
