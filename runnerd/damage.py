"""damage: what can be wrong with a spool, and which of it is wrong with a filed job. Pure.

Guarantee: nothing of what is wrong here is ever mended by removing what could be a result, an
           output or a submitted job; such a thing gets another name or another place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum, StrEnum, auto

from . import ids, records
from .frozen import frozen
from .model import State
from .outcome import Result
from .recovery import Finding


class Fault(StrEnum):
    """What is wrong, in one word. The last few are only worth knowing."""

    MISSING = "missing"  # a directory of the spool
    WRONG_KIND = "wrong-kind"  # a directory, a link, a FIFO where something else belongs
    MODE = "mode"
    OWNER = "owner"
    OTHER_DEVICE = "other-device"
    STRANGE = "strange"  # in running/, and not to be understood
    DUPLICATE = "duplicate"  # two jobs with one id
    NO_RESULT = "no-result"
    BAD_RESULT = "bad-result"
    WRONG_ID = "wrong-id"  # the result has another than the directory
    MISPLACED = "misplaced"  # a failed job in done/, or the other way round
    JOB_FILE = "job-file"
    BAD_ENTRY = "bad-entry"  # in the outbox, and no event that can be told
    LEFTOVER = "leftover"  # of ours, and of no use any more

    RUNNING = "running"  # its runner lives
    PENDING = "pending"  # the daemon settles it when it starts
    NO_CLAIM = "no-claim"
    UNKNOWN = "unknown"  # not ours to judge


NOTES = frozenset({Fault.RUNNING, Fault.PENDING, Fault.NO_CLAIM, Fault.UNKNOWN})


@frozen
class Wrong:
    """One thing that is wrong with one file; `file` is "" for the directory itself.

    `remedy` says what a repair does, or what a person has to do.
    """

    fault: Fault
    file: str
    message: str
    remedy: str | None = None


@frozen(kw_only=True)
class Found:
    """A line of the report. `path` is relative to the spool."""

    path: str
    fault: Fault
    message: str
    remedy: str | None
    mended: bool = False

    @property
    def is_open(self) -> bool:
        """Whether something is left to be mended."""
        return not self.mended and self.fault not in NOTES


class Content(Enum):
    """What a name that is to be a plain file turned out to be."""

    ABSENT = auto()
    OTHER = auto()  # a directory, a link, a FIFO
    CLOSED = auto()  # we may not read it
    BROKEN = auto()
    GOOD = auto()


@frozen(kw_only=True)
class Filed:
    """What lies under one name in done/ or failed/.

    `is_open`: it is a directory that we could look into; without, the rest is not known. `twin`: a
    job in done/ has this id as well. `spare`: a whole result that never got its name. `text_size`:
    how long the job's file was by its claim, or None if it was not read.
    """

    name: str
    place: State
    directory: bool = True
    is_open: bool = True
    locked: bool = False
    mode: int
    uid: int
    own_uid: int
    twin: bool = False
    result: Result | None = None
    result_is: Content = Content.ABSENT
    spare: bool = False
    claim_is: Content = Content.ABSENT
    text_size: int | None = None
    job_is: Content = Content.ABSENT
    job_size: int = 0
    leftovers: tuple[str, ...] = ()


def wrong_with(filed: Filed) -> Iterator[Wrong]:
    """All that is wrong, in the order in which it has to be mended."""
    if not filed.directory:
        remedy = "move it into a directory of its own in failed/, with a result that says so"
        yield Wrong(Fault.WRONG_KIND, "", "this is no directory, and so no job", remedy)
        return
    if filed.locked:
        yield Wrong(Fault.RUNNING, "", "its runner is just filing it")
        return
    yield from _rights(filed)
    if not filed.is_open:
        return
    if filed.claim_is is Content.OTHER:
        yield _aside(".claim", "claim.damaged")
    yield from _result(filed)
    yield from _job_file(filed)
    for name in filed.leftovers:
        if name == ".result.json.new" and filed.result is None and filed.spare:
            continue  # it is to become the result
        yield Wrong(Fault.LEFTOVER, name, "this was of use while the job ran", "remove it")
    if filed.claim_is in (Content.ABSENT, Content.BROKEN):
        yield Wrong(
            Fault.NO_CLAIM, ".claim", "it is lost or damaged: the job cannot be submitted again"
        )


def _rights(filed: Filed) -> Iterator[Wrong]:
    if filed.uid != filed.own_uid:
        message = f"it belongs to uid {filed.uid}, the daemon runs as uid {filed.own_uid}"
        yield Wrong(Fault.OWNER, "", message, f"give it to uid {filed.own_uid}")
    right = right_mode(filed.mode)
    if right != filed.mode:
        what = "lets others in" if filed.mode & ~right else "keeps the daemon out"
        message = f"its mode {filed.mode:04o} {what}"
        yield Wrong(Fault.MODE, "", message, f"change it to {right:04o}")
    for name, content in (("result.json", filed.result_is), (".claim", filed.claim_is)):
        if content is Content.CLOSED:
            message = "its mode keeps the daemon out"
            yield Wrong(Fault.MODE, name, message, "let its owner read it")


def right_mode(mode: int) -> int:
    """The mode that a job's directory should have: its group may read, if anybody may."""
    return (mode | 0o700) & 0o750


def _result(filed: Filed) -> Iterator[Wrong]:
    result = filed.result
    if filed.result_is is Content.CLOSED:
        return
    if result is None:
        yield _bad_result(filed)
    elif result.state != filed.place:
        message = f"the job is {result.state} by its result, and lies in {filed.place}/"
        remedy = f"move it to {result.state}/, under the next free id if its own is taken"
        yield Wrong(Fault.MISPLACED, "", message, remedy)
    elif result.id != filed.name or not ids.is_id(filed.name):
        message = f"its result is that of the job {result.id!a}"
        remedy = "rename it to that if the id is free, or else change the id in the result"
        yield Wrong(Fault.WRONG_ID, "", message, remedy)
    elif filed.twin:
        remedy = "give it the next free id, in its result as well"
        yield Wrong(Fault.DUPLICATE, "", "a job with this id lies in done/ as well", remedy)


def _bad_result(filed: Filed) -> Wrong:
    absent = filed.result_is is Content.ABSENT
    fault = Fault.NO_RESULT if absent else Fault.BAD_RESULT
    message = {
        Content.ABSENT: "there is none",
        Content.OTHER: "this is no plain file",
    }.get(filed.result_is, "this is not the whole result of a job")
    kept = "" if absent else "keep it as result.json.damaged, "
    if filed.spare:
        remedy = f"{kept}take the whole one that was not renamed yet"
    else:
        remedy = f"{kept}file the job as failed, with a result that says what is not known"
    return Wrong(fault, "result.json", message, remedy)


def _job_file(filed: Filed) -> Iterator[Wrong]:
    if filed.job_is is Content.OTHER:
        yield _aside("job.yaml", "job.yaml.damaged")
    elif filed.text_size is not None and filed.job_is is Content.ABSENT:
        message = "there is none, and the claim has its text"
        yield Wrong(Fault.JOB_FILE, "job.yaml", message, "write it anew")
    elif filed.text_size is not None and filed.job_size != filed.text_size:
        message = f"it has {filed.job_size} bytes; by the claim it had {filed.text_size}"
        kept = "" if filed.job_size == 0 else "keep it as job.yaml.damaged, "
        yield Wrong(Fault.JOB_FILE, "job.yaml", message, f"{kept}write it anew")


def _aside(name: str, kept: str) -> Wrong:
    return Wrong(Fault.WRONG_KIND, name, "this is no plain file", f"rename it to {kept}")


_OURS = re.compile(r"\..+\.new|\.progress|\.step\.\d+\.log|\.outputs\.\d+|\.cancel|status\.json")


def is_leftover(name: str) -> bool:
    """Whether it is a name, in a filed job, of what we need only while a job runs."""
    return _OURS.fullmatch(name) is not None


WILL = {
    Finding.FINISHED: "it has ended; the daemon files it when it starts",
    Finding.REFUSED: "the daemon refuses it when it starts",
    Finding.UNSTARTED: "nothing of it has run; the daemon starts it",
    Finding.WAITING: "it waits for its next attempt",
    Finding.INTERRUPTED: "it was interrupted; the daemon files it, or tries again, when it starts",
    Finding.UNCLAIMED: "its claim never happened; the daemon removes this when it starts",
    Finding.RETURNING: "the daemon puts it back into incoming/ when it starts",
}


def with_id(result: bytes, job_id: str) -> bytes:
    """A result, as it is but for the id: of a newer runnerd's, too, every field is kept."""
    return records.pretty({**json.loads(result), "id": job_id})
