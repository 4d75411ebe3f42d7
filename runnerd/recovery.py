"""recovery: what a directory in running/ means when nobody is known to look after it. Pure.

A disk may have damaged any byte, so a record that can be read is not yet one that we wrote:
`is_sound` and `is_time` say whether the rest of runnerd can reckon with what it holds.
"""

from __future__ import annotations

from enum import Enum, auto

from . import ids
from .frozen import frozen
from .model import Account, Claim, Retry, StartMark
from .outcome import Result


@frozen(kw_only=True)
class Traces:
    """What was found of a job. `files`: the names in its directory.

    `filed`: a job with this id lies in done/ or failed/ as well. `plain`: `.claim` is a plain file
    and no other job's, if there is one.
    """

    directory: bool = True
    locked: bool = False
    claim: Claim | None = None
    mark: StartMark | None = None
    retry_at: float | None = None
    result: Result | None = None
    filed: bool = False
    plain: bool = True
    files: frozenset[str] = frozenset()


CONTAINER = ".container"  # the start of the name of a file that is there before a container is
_LAST_TIME = 253402300799  # the end of the year 9999, where datetime ends
_LARGEST_ID = 2**32 - 2  # (uid_t) -1 is none


def is_time(epoch_s: float) -> bool:
    """Whether it can be a time that we took, or reckoned."""
    return 0 <= epoch_s <= _LAST_TIME


def is_sound(claim: Claim) -> bool:
    """Whether a claim that was read holds what a claim of ours holds."""
    spec, account, refusal = claim.spec, claim.account, claim.refusal
    named = ids.is_id(claim.id) and ids.is_dropped(claim.file)
    dated = is_time(claim.submitted_at) and _is_number_of_user(claim.submitter.uid)
    to_run = spec is not None and account is not None
    refused = refusal is not None and bool(refusal.problems)
    whole = spec is None or (bool(spec.steps) and (spec.retry is None or _is_usable(spec.retry)))
    known = account is None or _is_usable_account(account)
    return named and dated and (refused if refusal is not None else to_run) and whole and known


def _is_usable(retry: Retry) -> bool:
    spans = (retry.delay_s, retry.max_delay_s)
    return all(0 <= each < _LAST_TIME for each in spans) and 0 <= retry.backoff <= 100


def _is_usable_account(account: Account) -> bool:
    return all(map(_is_number_of_user, (account.uid, account.gid, *account.groups)))


def _is_number_of_user(number: int) -> bool:
    return 0 <= number <= _LARGEST_ID


class Finding(Enum):
    """One meaning, and what to do about it."""

    ALIVE = auto()  # its runner lives: leave it alone
    FINISHED = auto()  # only the move is missing: finish it
    REFUSED = auto()  # never to run: conclude again and file
    UNSTARTED = auto()  # nothing of it has run: start it
    WAITING = auto()  # an attempt failed, and the next has its time: put it in the queue
    INTERRUPTED = auto()  # it may have run: end what is left, file it
    UNCLAIMED = auto()  # the file is still in incoming/: remove the directory
    RETURNING = auto()  # nothing of it has run, and its claim is gone or torn: put it back
    STRANGE = auto()  # not understood: set it aside


def classify(traces: Traces, *, boot_id: str) -> Finding:
    """What these traces mean in this boot."""
    match traces:
        case Traces(locked=True):
            return Finding.ALIVE
        case Traces(result=Result()):
            return Finding.FINISHED
        case _ if _is_odd(traces):
            return Finding.STRANGE
        case Traces(mark=None, retry_at=None, files=files) if files <= {".claim", ".cancel"}:
            return Finding.UNCLAIMED
        # Before anything else is made here, the claim is on disk (`Spool.secure`). One that is torn
        # lost its content in a power cut.
        case Traces(claim=None, files=files) if files <= {".claim", "job.yaml"}:
            return Finding.RETURNING
        case Traces(claim=Claim(refusal=None), retry_at=float() | int()):
            return Finding.WAITING
        case Traces(claim=Claim(refusal=None) as claim, mark=None) if claim.boot_id == boot_id:
            return Finding.UNSTARTED
        case Traces(claim=Claim(refusal=None)):
            return Finding.INTERRUPTED
        case Traces(claim=Claim()):
            return Finding.REFUSED
        case _:
            return Finding.STRANGE


def _is_odd(traces: Traces) -> bool:
    """Whether it can only come from a bad disk, or from somebody's hand.

    What has ended, and what was filed, must not run a second time.
    """
    ended = traces.result is None and "result.json" in traces.files
    return not traces.directory or not traces.plain or traces.filed or ended


def may_have_left(traces: Traces) -> bool:
    """Whether there may be something of it, like a container, that only an executor can remove."""
    spec = traces.claim.spec if traces.claim is not None else None
    asked = spec is not None and any(step.executor == "docker" for step in spec.steps)
    return asked or any(name.startswith(CONTAINER) for name in traces.files)


def why_interrupted(traces: Traces, *, boot_id: str, oom_kills: int | None = None) -> str:
    """The sentence of an interrupted job. `oom_kills`: as in the mark, but now."""
    past = traces.mark or traces.claim
    if past is not None and past.boot_id != boot_id:
        what = "the machine was restarted while the job ran"
    else:
        what = "the job's runner was killed while the job ran"
        before = traces.mark.oom_kills if traces.mark is not None else None
        if before is not None and oom_kills is not None and oom_kills > before:
            what += ", probably because the machine ran out of memory"
    return f"{what}; how the job ended is not known"
