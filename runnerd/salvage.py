"""salvage: do for one directory in running/ what `recovery` says that it means.

Called for all of them when a daemon starts, and for one when its runner was lost or has put it
away. May be repeated, and may itself be cut short anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
from dataclasses import replace

from . import debts, events, filing, recovery, retry
from .admit import file_refused
from .conclude import LOG, Origin, attempt_of, conclude, conclude_strange
from .frozen import frozen
from .jobdir import JOB, Claimed
from .model import Claim, JobId, Reason
from .outcome import Ended, Lost, Postponed, Result, Stopped
from .processes import end_strays, oom_kills
from .recovery import Finding, Traces
from .remains import examine, runner_of, set_aside
from .spool import Spool, is_directory
from .traces import tail_at

# A directory where a file belongs, a link, a socket, a thing that does not end: damage of this job
# alone, which no other try mends.
_WRONG_KIND = {
    *(errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO),
    *(errno.ENOTEMPTY, errno.EEXIST),
}


@frozen
class Salvaged:
    """What was found, and what is left to do.

    `claimed`: locked, to be started; at `retry_at`, if it waits for its next attempt. `claim`: of a
    job that lives; `pidfd`: of its runner, if that is known. `unswept`: an interrupted job is to be
    looked at again after a sweep. `result`: of one that was filed by this.
    """

    finding: Finding
    claimed: Claimed | None = None
    retry_at: float | None = None
    claim: Claim | None = None
    pidfd: int | None = None
    unswept: bool = False
    result: Result | None = None


def salvage(
    spool: Spool,
    name: str,
    origin: Origin,
    *,
    give_up: bool = False,
    returned: bool = False,
    spare_pid: int | None = None,
    swept: str | None = None,
) -> Salvaged:
    """Settle what can be settled.

    `returned`: its runner has said that nothing of this attempt has begun, whatever the mark says.
    `give_up`: a job that would have to be started again is filed as interrupted instead.
    `spare_pid`: the one child of this process that no lost runner has left. `swept`: how a sweep
    for it went ("", or why it failed), if there was one.
    """
    traces, claimed = examine(spool, name)
    if returned:
        waits = claimed is not None and claimed.attempts
        traces = replace(traces, mark=None, retry_at=time.time() if waits else None)
    finding = recovery.classify(traces, boot_id=spool.boot_id)
    if finding is Finding.UNSTARTED and give_up:
        finding = Finding.INTERRUPTED
    over = finding in (Finding.INTERRUPTED, Finding.STRANGE)
    if over and spare_pid is not None and traces.mark is not None:
        end_strays(traces.mark.runner_pid, spare_pid=spare_pid)
    with contextlib.ExitStack() as held:
        if claimed is not None:
            held.callback(claimed.close)
        try:
            if finding is Finding.WAITING and claimed is not None:
                filing.tell_postponed(spool, claimed)
            salvaged = _settle(spool, name, origin, finding, traces, claimed, swept)
        except OSError as error:
            if error.errno not in _WRONG_KIND:
                raise
            return Salvaged(Finding.STRANGE, result=_set_aside(spool, name, origin))
        if salvaged.claimed is not None:
            held.pop_all()
    return salvaged


def _settle(  # noqa: C901  # one row of a table
    spool: Spool,
    name: str,
    origin: Origin,
    finding: Finding,
    traces: Traces,
    claimed: Claimed | None,
    swept: str | None,
) -> Salvaged:
    now = time.time()
    match finding, claimed, traces.result:
        case Finding.ALIVE, _, _:
            return Salvaged(finding, claim=traces.claim, pidfd=runner_of(spool, name))
        case Finding.UNSTARTED | Finding.WAITING, Claimed() as job, _:
            by = spool.directory_of(job).cancelled_by()
            if by is None:
                return Salvaged(finding, job, traces.retry_at)
            return Salvaged(finding, result=_file_cancelled(spool, job, by, origin))
        case Finding.FINISHED, _, result if result is not None:
            with spool.open_running(name) as dir_fd:
                filing.settle_result(spool, dir_fd)
                filing.finish(spool, traces.claim, result, dir_fd)
                events.log(events.job_ended(result, tail_at(dir_fd)))
            return Salvaged(finding, result=result)
        case Finding.REFUSED, Claimed() as job, _ if job.claim.refusal is not None:
            return Salvaged(finding, result=file_refused(spool, job, origin, now=now))
        case Finding.INTERRUPTED, Claimed() as job, _:
            _end_leftovers(spool, job.id)
            if swept is None and recovery.may_have_left(traces):
                return Salvaged(finding, claim=job.claim, unswept=True)
            over = _interrupted(spool, job, traces, origin, now, swept)
            if isinstance(over, Result):
                return Salvaged(finding, result=over)
            waiting = replace(job, attempts=(*job.attempts, over.attempt))
            return Salvaged(finding, waiting, over.retry_at)
        case Finding.UNCLAIMED, _, _:
            with spool.open_running(name) as dir_fd:
                spool.withdraw(name, dir_fd)
        case Finding.RETURNING, _, _:
            with spool.open_running(name) as dir_fd:
                file = name if is_directory(JOB, at=dir_fd) else f"{name}.yaml"
                spool.put_back(name, file, dir_fd)
        case _:
            if recovery.may_have_left(traces):
                debts.owe(spool)
            return Salvaged(finding, result=_set_aside(spool, name, origin))
    return Salvaged(finding)


def _end_leftovers(spool: Spool, name: str) -> None:
    from . import kin  # noqa: PLC0415  # see there

    kin.end_leftovers(spool.path_of(JobId(name)))


def _set_aside(spool: Spool, name: str, origin: Origin) -> Result:
    _end_leftovers(spool, name)
    result = conclude_strange(name, time.time(), origin)
    target = set_aside(spool, name, result)
    events.log(events.JobSetAside(name=name, id=target))
    return result


def _interrupted(
    spool: Spool, job: Claimed, traces: Traces, origin: Origin, now: float, swept: str | None
) -> Postponed | Result:
    """Put a job away for its next attempt, if it may have one after this; or else file it."""
    why = recovery.why_interrupted(traces, boot_id=spool.boot_id, oom_kills=oom_kills())
    if swept:
        why += f"; what it left may be there still: {swept}"
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
        return _file(spool, job, conclude(job.claim, ended, origin, before=job.attempts))
    attempt = attempt_of(ended, number=number, log=LOG.replace(".", f".{number}."))
    postponed = Postponed(attempt=attempt, retry_at=now + delay_s)
    filing.postpone(spool, job, postponed)
    return postponed


def _file_cancelled(spool: Spool, job: Claimed, by: str, origin: Origin) -> Result:
    """File a job that was cancelled while it waited."""
    why = Stopped(Reason.CANCELLED, f"the job was cancelled by {by}")
    ended = Ended(outcome=why, started_at=None, finished_at=time.time(), duration_s=None)
    result = conclude(job.claim, ended, origin, before=job.attempts)
    # The attempt that was not made is none.
    return _file(spool, job, replace(result, attempts=job.attempts))


def _file(spool: Spool, job: Claimed, result: Result) -> Result:
    filing.file(spool, job, result)
    events.log(events.job_ended(result, tail_at(job.dir_fd)))
    return result
