"""admit: judge one dropped file: open it once, read it, parse it, ask the policy.

The verdict is about the bytes that were read here, and these bytes are what runs and what is filed:
nothing of the file is read a second time.

Trust: the file's name, type, owner and content come from a hostile user.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Self

from . import ids, openat, policy, yamlsafe
from .complaints import complain
from .conclude import Origin, conclude_refused
from .errors import Invalid
from .model import JobSpec, Problem, Reason, Refusal, Result, Submitter
from .parse import parse
from .spool import Spool


@dataclass(slots=True)
class Judged:
    """A dropped file and what we think of it. Writers are kept out of it while it is open."""

    name: str
    status: os.stat_result
    submitter: Submitter
    verdict: JobSpec | Refusal
    text: str | None = None
    dropped: openat.Dropped | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.dropped is not None:
            self.dropped.release()


def judge(spool: Spool, name: str, *, executors: Collection[str], now: float) -> Judged:
    """The verdict on incoming/NAME.

    Raises openat.Busy while somebody writes it, FileNotFoundError if it is gone, and OSError for
    the machine's troubles.
    """
    try:
        dropped = spool.open_dropped(name, now=now)
    except openat.Unfit as unfit:
        problem = Problem(code=unfit.code, message=str(unfit))
        refusal = Refusal(reason=Reason.INVALID, problems=(problem,))
        return Judged(name, unfit.status, _submitter(unfit.status), refusal)
    try:
        data = dropped.read(yamlsafe.MAX_BYTES)
    except BaseException:
        dropped.release()
        raise
    submitter = _submitter(dropped.status)
    verdict = judge_text(name, data, submitter, executors=executors)
    text = data.decode("utf-8", "surrogateescape") if len(data) <= yamlsafe.MAX_BYTES else None
    return Judged(name, dropped.status, submitter, verdict, text, dropped)


def judge_text(
    name: str, data: bytes, submitter: Submitter, *, executors: Collection[str]
) -> JobSpec | Refusal:
    """The verdict on a job file's name and content."""
    if not ids.wanted_id(name)[1]:
        message = f"the file name {name!a} gives no job id: {ids.RULE}"
        problem = Problem(code="name", message=message)
        return Refusal(reason=Reason.INVALID, problems=(problem,))
    denial = policy.authorise(submitter, own_uid=os.geteuid())
    if denial is not None:
        return denial
    try:
        return parse(data, executors=executors)
    except Invalid as invalid:
        return Refusal(reason=Reason.INVALID, problems=invalid.problems)


def refuse(spool: Spool, judged: Judged, origin: Origin, *, now: float) -> Result | None:
    """File a refused file with its answer, in result.json and output.log; None if it is gone."""
    assert isinstance(judged.verdict, Refusal)
    claimed = spool.claim(judged.name, judged.status, judged.submitter, judged.verdict, judged.text)
    if claimed is None:
        return None
    try:
        result = conclude_refused(claimed.claim, judged.verdict, now, origin)
        spool.write_log(claimed, complain(judged.verdict.problems, judged.name))
        spool.file(claimed, result)
    finally:
        claimed.close()
    return result


def _submitter(status: os.stat_result) -> Submitter:
    return Submitter(uid=status.st_uid, user=_user(status.st_uid))


@cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
