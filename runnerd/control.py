"""control: requests about jobs and about the daemon: small files in control/.

`ID.cancel`, `ID.retry` and `ID.tell` (its callbacks, once more) are for the job's submitter and for
root, `pause` and `resume` for the daemon's user and for root. `ping` asks for nothing but to be
taken away, which tells whoever can drop it that a daemon looks. Who asks is the owner of the file;
nothing in it is read. Root signs its requests, as it does its jobs (see `admit`).
"""

from __future__ import annotations

from enum import StrEnum

from . import ids
from .frozen import frozen


class Verb(StrEnum):
    """What can be asked."""

    CANCEL = "cancel"
    RETRY = "retry"
    TELL = "tell"
    PAUSE = "pause"
    RESUME = "resume"
    PING = "ping"


OF_A_JOB = (Verb.CANCEL, Verb.RETRY, Verb.TELL)


@frozen
class Request:
    """One request. `job_id` is None where it is about the daemon.

    `moved`: it may be a file of root's that somebody else has moved here.
    """

    verb: Verb
    job_id: str | None
    uid: int
    moved: bool = False

    @property
    def file(self) -> str:
        """Its name in control/."""
        return self.verb if self.job_id is None else f"{self.job_id}.{self.verb}"


def read_request(name: str, uid: int) -> Request | None:
    """What a file's name asks for, or None if it is none of ours."""
    job_id, _, word = name.rpartition(".")
    if word not in list(Verb):
        return None
    verb = Verb(word)
    if verb in OF_A_JOB:
        return Request(verb, job_id, uid) if ids.is_id(job_id) else None
    return Request(verb, None, uid) if not job_id else None


def may(request: Request, *, submitter_uid: int | None, own_uid: int) -> bool:
    """Whether this user may ask for that."""
    return request.uid in (0, own_uid) or (
        request.job_id is not None and request.uid == submitter_uid
    )
