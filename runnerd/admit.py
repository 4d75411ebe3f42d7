"""admit: judge one dropped file: open it once, read it, parse it, ask the policy.

The verdict is about the bytes that were read here, and these bytes are what runs and what is filed:
nothing of the file is read a second time.

Trust: the file's name, type, owner and content come from a hostile user.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Literal

from . import ids, openat, policy, yamlsafe
from .accounts import account_of
from .complaints import complain
from .conclude import Origin, conclude_refused
from .errors import Invalid
from .model import Account, JobSpec, Problem, Reason, Refusal, Result, Submitter
from .parse import parse
from .spool import Judged, Spool


def judge(spool: Spool, name: str, *, executors: Collection[str], now: float) -> Judged:
    """The verdict on incoming/NAME.

    Raises openat.Busy while somebody writes it, FileNotFoundError if it is gone, and OSError for
    the machine's troubles.
    """
    try:
        dropped = spool.open_dropped(name, now=now)
    except openat.Unfit as unfit:
        refusal = _refusal(Reason.INVALID, unfit.code, str(unfit))
        account = account_of(unfit.status.st_uid)
        return Judged(name, unfit.status, _submitter(unfit.status, account), refusal)
    try:
        data = dropped.read(yamlsafe.MAX_BYTES)
    except BaseException:
        dropped.release()
        raise
    account = account_of(dropped.status.st_uid)
    submitter = _submitter(dropped.status, account)
    verdict = policy.authorise(
        submitter, account, own_uid=os.geteuid(), drop_gid=spool.drop_gid
    ) or judge_text(name, data, executors=executors)
    text = data.decode("utf-8", "surrogateescape") if len(data) <= yamlsafe.MAX_BYTES else None
    return Judged(name, dropped.status, submitter, verdict, account, text, dropped)


def judge_text(name: str, data: bytes, *, executors: Collection[str]) -> JobSpec | Refusal:
    """The verdict on a job file's name and content."""
    if not ids.wanted_id(name)[1]:
        message = f"the file name {name!a} gives no job id: {ids.RULE}"
        return _refusal(Reason.INVALID, "name", message)
    try:
        return parse(data, executors=executors)
    except Invalid as invalid:
        return Refusal(reason=Reason.INVALID, problems=invalid.problems)


def refuse(spool: Spool, judged: Judged, origin: Origin, *, now: float) -> Result | None:
    """File a refused file with its answer, in result.json and output.log; None if it is gone."""
    assert isinstance(judged.verdict, Refusal)
    claimed = spool.claim(judged)
    if claimed is None:
        return None
    try:
        result = conclude_refused(claimed.claim, judged.verdict, now, origin)
        spool.write_log(claimed, complain(judged.verdict.problems, judged.name))
        spool.file(claimed, result)
    finally:
        claimed.close()
    return result


def _submitter(status: os.stat_result, account: Account | None) -> Submitter:
    return Submitter(uid=status.st_uid, user=account.name if account else str(status.st_uid))


def _refusal(reason: Literal[Reason.INVALID], code: str, message: str) -> Refusal:
    return Refusal(reason=reason, problems=(Problem(code=code, message=message),))
