"""recovery: what a directory in running/ means when nobody is known to look after it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from .model import Claim, StartMark
from .outcome import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What was found of a job. `files`: the names in its directory."""

    directory: bool = True
    locked: bool = False
    claim: Claim | None = None
    mark: StartMark | None = None
    retry_at: float | None = None
    result: Result | None = None
    files: frozenset[str] = frozenset()


class Finding(Enum):
    """One meaning, and what to do about it."""

    ALIVE = auto()  # its runner lives: leave it alone
    FINISHED = auto()  # only the move is missing: finish it
    REFUSED = auto()  # never to run: conclude again and file
    UNSTARTED = auto()  # nothing of it has run: start it
    WAITING = auto()  # an attempt failed, and the next has its time: put it in the queue
    INTERRUPTED = auto()  # it may have run: end what is left, file it
    UNCLAIMED = auto()  # the file is still in incoming/: remove the directory
    RETURNING = auto()  # it was being put back: put it back
    STRANGE = auto()  # not understood: set it aside


def classify(traces: Traces, *, boot_id: str) -> Finding:
    """What these traces mean in this boot."""
    match traces:
        case Traces(directory=False):
            return Finding.STRANGE
        case Traces(locked=True):
            return Finding.ALIVE
        case Traces(result=Result()):
            return Finding.FINISHED
        case Traces(files=files) if files <= {".claim"}:
            return Finding.UNCLAIMED
        case Traces(claim=None, files=files) if files == {"job.yaml"}:
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


def why_interrupted(traces: Traces, *, boot_id: str) -> str:
    """The sentence of an interrupted job."""
    past = traces.mark or traces.claim
    if past is not None and past.boot_id != boot_id:
        return "the machine was restarted while the job ran; how the job ended is not known"
    return "the job's runner was killed while the job ran; how the job ended is not known"
