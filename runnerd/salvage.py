"""salvage: do for one directory in running/ what `recovery` says that it means.

Called for all of them when a daemon starts, and for one when its runner was lost or has put it
away. May be repeated, and may itself be cut short anywhere.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace

from . import events, recovery, retry
from .admit import file_refused
from .conclude import LOG, Origin, attempt_of, conclude, conclude_strange
from .jobdir import Claimed
from .model import Claim, Reason
from .outcome import Ended, Lost, Postponed, Stopped
from .processes import end_leftovers
from .recovery import Finding, Traces
from .spool import Spool


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was found, and what is left to do.

    `claimed`: locked, to be started; at `retry_at`, if it waits for its next attempt. `claim`: of a
    job that lives.
    """

    finding: Finding
    claimed: Claimed | None = None
    retry_at: float | None = None
    claim: Claim | None = None


def salvage(spool: Spool, name: str, origin: Origin, *, give_up: bool = False) -> Salvaged:
    """Settle what can be settled.

    `give_up`: a job that would have to be started again is filed as interrupted instead.
    """
    traces, claimed = spool.examine(name)
    finding = recovery.classify(traces, boot_id=spool.boot_id)
    if finding is Finding.UNSTARTED and give_up:
        finding = Finding.INTERRUPTED
    if finding is Finding.ALIVE:
        return Salvaged(finding, claim=traces.claim)
    if finding in (Finding.UNSTARTED, Finding.WAITING) and claimed is not None:
        by = spool.directory_of(claimed).cancelled_by()
        if by is None:
            return Salvaged(finding, claimed, traces.retry_at)
        _file_cancelled(spool, claimed, by, origin)
        claimed.close()
        return Salvaged(finding)
    try:
        postponed = _settle(spool, name, origin, finding, traces, claimed)
    except BaseException:
        if claimed is not None:
            claimed.close()
        raise
    if postponed is not None and claimed is not None:
        waiting = replace(claimed, attempts=(*claimed.attempts, postponed.attempt))
        return Salvaged(finding, waiting, postponed.retry_at)
    if claimed is not None:
        claimed.close()
    return Salvaged(finding)


def _settle(  # one row of a table
    spool: Spool,
    name: str,
    origin: Origin,
    finding: Finding,
    traces: Traces,
    claimed: Claimed | None,
) -> Postponed | None:
    now = time.time()
    match finding, claimed, traces.result:
        case Finding.FINISHED, _, result if result is not None:
            with spool.open_running(name) as dir_fd:
                spool.finish(result.id, dir_fd, result.state)
        case Finding.REFUSED, Claimed() as job, _ if job.claim.refusal is not None:
            file_refused(spool, job, origin, now=now)
        case Finding.INTERRUPTED, Claimed() as job, _:
            end_leftovers(str(spool.path_of(job.id)))
            return _interrupted(spool, job, traces, origin, now)
        case Finding.UNCLAIMED, _, _:
            with spool.open_running(name) as dir_fd:
                spool.withdraw(name, dir_fd)
        case Finding.RETURNING, _, _:
            with spool.open_running(name) as dir_fd:
                spool.put_back(name, f"{name}.yaml", dir_fd)
        case _:
            result = conclude_strange(name, now, origin) if traces.directory else None
            target = spool.set_aside(name, result)
            events.log(events.JobSetAside(name=name, target=target))
    return None


def _interrupted(
    spool: Spool, job: Claimed, traces: Traces, origin: Origin, now: float
) -> Postponed | None:
    """Put a job away for its next attempt, if it may have one after this; or else file it."""
    why = recovery.why_interrupted(traces, boot_id=spool.boot_id)
    started_at = traces.mark.started_at if traces.mark else None
    ended = Ended(outcome=Lost(why), started_at=started_at, finished_at=now, duration_s=None)
    number = len(job.attempts) + 1
    delay_s = None
    if job.claim.spec is not None and spool.directory_of(job).cancelled_by() is None:
        chance = random.random()  # noqa: S311  # nobody gains by guessing it
        delay_s = retry.delay_after(
            job.claim.spec, Reason.INTERRUPTED, failures=number, chance=chance
        )
    if delay_s is None:
        spool.file(job, conclude(job.claim, ended, origin, before=job.attempts))
        return None
    attempt = attempt_of(ended, number=number, log=LOG.replace(".", f".{number}."))
    postponed = Postponed(attempt=attempt, retry_at=now + delay_s)
    spool.postpone(job, postponed)
    return postponed


def _file_cancelled(spool: Spool, job: Claimed, by: str, origin: Origin) -> None:
    """File a job that was cancelled while it waited."""
    why = Stopped(Reason.CANCELLED, f"the job was cancelled by {by}")
    ended = Ended(outcome=why, started_at=None, finished_at=time.time(), duration_s=None)
    result = conclude(job.claim, ended, origin, before=job.attempts)
    # The attempt that was not made is none.
    spool.file(job, replace(result, attempts=job.attempts))
