"""mutants: run the daemon with one of its guarantees broken, so that a harness can be seen to fail.

python tests/support/mutants.py NAME [OPTION OF RUNNERD...]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from runnerd import filing, prune, records
from runnerd.__main__ import main
from runnerd.disk import DIRECTORY, Disk
from runnerd.job import JobRun
from runnerd.jobdir import READABLE, Claimed
from runnerd.model import Claim, JobId, News
from runnerd.outcome import Result
from runnerd.output import Log
from runnerd.progress import Progress
from runnerd.spool import Spool
from runnerd.traces import RESULT


def no_claim_sync() -> None:
    """A job is started before its claim is on disk."""
    Spool.secure = _nothing  # type: ignore[method-assign]  # that is the point, here and below


def late_claim_sync() -> None:
    """The claim is synced after the job has begun."""
    secure, start = Spool.secure, JobRun._start  # noqa: SLF001  # there is no other way in

    def start_first(self: JobRun, index: int, progress: Progress) -> None:
        start(self, index, progress)
        secure(self.means.spool, self.claimed)

    Spool.secure = _nothing  # type: ignore[method-assign]
    JobRun._start = start_first  # type: ignore[method-assign]  # noqa: SLF001


def no_result_sync() -> None:
    """The result is renamed into its place without a sync."""
    write = Disk.write

    def write_only(
        self: Disk, name: str, data: bytes, mode: int, *, at: int, durable: bool
    ) -> None:
        write(self, name, data, mode, at=at, durable=durable and name != RESULT)

    Disk.write = write_only  # type: ignore[method-assign]


def rename_before_result() -> None:
    """The directory is moved to where it ends, and then gets its result."""

    def file(spool: Spool, claimed: Claimed, result: Result) -> JobId:
        filed_as = filing.finish(spool, claimed.claim, result, claimed.dir_fd)
        data = records.pretty(result)
        spool.disk.write(RESULT, data, READABLE, at=claimed.dir_fd, durable=True)
        return filed_as

    filing.file = file


def mark_late() -> None:
    """The mark that a job may have begun comes after its start."""
    mark, start = Spool.mark_started, JobRun._start  # noqa: SLF001  # there is no other way in

    def start_first(self: JobRun, index: int, progress: Progress) -> None:
        start(self, index, progress)
        mark(self.means.spool, self.claimed, now=time.time())

    Spool.mark_started = _nothing  # type: ignore[method-assign]
    JobRun._start = start_first  # type: ignore[method-assign]  # noqa: SLF001


def tell_after_filing() -> None:
    """What is told of a job is written only when it is filed."""
    finish, stage = filing.finish, filing._stage  # noqa: SLF001  # there is no other way in

    def finish_first(spool: Spool, claim: Claim | None, result: Result, dir_fd: int) -> JobId:
        filing._stage = _nothing  # noqa: SLF001
        filed_as = finish(spool, claim, result, dir_fd)
        filing._stage = stage  # noqa: SLF001
        if claim is not None:
            told = stage(spool, claim, News.FINISHED, result, at=result.finished_at)
            if told is not None:
                spool.outbox.show(told)
        return filed_as

    filing.finish = finish_first


def no_log_sync() -> None:
    """What a job printed may not be there when its result is."""
    Log.sync = _nothing  # type: ignore[method-assign]


def prune_in_place() -> None:
    """A job begins to be removed where it was filed."""
    bring = prune._Trash._bring  # noqa: SLF001  # there is no other way in

    def remove_first(self: Any, name: str, wanted: str | None, *, at: int) -> None:
        if wanted is not None:
            fd = os.open(name, DIRECTORY, dir_fd=at)
            self._disk.remove(RESULT, at=fd)
            os.close(fd)
        bring(self, name, wanted, at=at)

    prune._Trash._bring = remove_first  # type: ignore[method-assign]  # noqa: SLF001


def _nothing(*_: object, **__: object) -> None:
    pass


MUTANTS: dict[str, Callable[[], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        *(no_claim_sync, late_claim_sync, no_result_sync),
        *(rename_before_result, mark_late, no_log_sync, prune_in_place, tell_after_filing),
    )
}


if __name__ == "__main__":
    MUTANTS[sys.argv[1]]()
    main(sys.argv[2:])
