"""salvage: do for one directory in running/ what `recovery` says that it means.

Called for all of them when a daemon starts, and for one when its runner was lost. May be repeated,
and may itself be cut short anywhere.
"""

from __future__ import annotations

import time

from . import events, recovery
from .admit import file_refused
from .conclude import Origin, conclude, conclude_strange
from .outcome import Ended, Lost
from .processes import end_leftovers
from .recovery import Finding, Traces
from .spool import Claimed, Spool


def salvage(
    spool: Spool, name: str, origin: Origin, *, give_up: bool = False
) -> tuple[Finding, Claimed | None]:
    """Settle what can be settled. An UNSTARTED job is returned, locked, to be started.

    `give_up`: a job that would have to be started again is filed as interrupted instead.
    """
    traces, claimed = spool.examine(name)
    finding = recovery.classify(traces, boot_id=spool.boot_id)
    if finding is Finding.UNSTARTED and give_up:
        finding = Finding.INTERRUPTED
    if finding is Finding.UNSTARTED:
        return finding, claimed
    try:
        _settle(spool, name, origin, finding, traces, claimed)
    finally:
        if claimed is not None:
            claimed.close()
    return finding, None


def _settle(  # one row of a table
    spool: Spool,
    name: str,
    origin: Origin,
    finding: Finding,
    traces: Traces,
    claimed: Claimed | None,
) -> None:
    now = time.time()
    match finding, claimed, traces.result:
        case Finding.ALIVE, _, _:
            return
        case Finding.FINISHED, _, result if result is not None:
            with spool.open_running(name) as dir_fd:
                spool.finish(result.id, dir_fd, result.state)
        case Finding.REFUSED, Claimed() as job, _ if job.claim.refusal is not None:
            file_refused(spool, job, origin, now=now)
        case Finding.INTERRUPTED, Claimed() as job, _:
            end_leftovers(str(spool.path_of(job.id)))
            why = recovery.why_interrupted(traces, boot_id=spool.boot_id)
            started_at = traces.mark.started_at if traces.mark else None
            ended = Ended(
                outcome=Lost(why), started_at=started_at, finished_at=now, duration_s=None
            )
            spool.file(job, conclude(job.claim, ended, origin))
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
