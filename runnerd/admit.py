"""admit: judge one dropped file: open it once, read it, parse it, ask the policy.

The verdict is about the bytes that were read here, and these bytes are what runs and what is filed:
nothing of the file is read a second time.

Trust: the file's name, type, owner, mode and content come from a hostile user.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from . import bundle, filing, ids, openat, policy, templates, yamlsafe
from .accounts import account_named, account_of, groups_of
from .complaints import complain
from .conclude import Origin, conclude_refused
from .config import unknown_channel
from .configfile import Setup
from .errors import Denied, Invalid
from .jobdir import Claimed
from .model import Account, Callback, Inputs, JobSpec, Problem, Reason, Refusal
from .outcome import Result
from .parse import make_spec, read_callback
from .policy import Who
from .spool import SETTLE_S, Judged, Spool
from .yamlsafe import Document

Look = Callable[[str, bytes, Setup, Who], tuple[JobSpec | Refusal, Callback | None]]

_MOST_KEPT, _LONGEST_KEPT = 1000, 4096  # some 3 KB each


class Accepted:
    """Verdicts on files that wait, so that the same bytes are not judged again at their turn.

    Of the first ones that come: these have their turn first. What is judged again is forgotten.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, Who, Setup, JobSpec]] = {}

    def judge_text(
        self, name: str, data: bytes, setup: Setup, who: Who
    ) -> tuple[JobSpec | Refusal, Callback | None]:
        """As the function of that name."""
        match self._kept.pop(name, None):
            case (before, whose, under, spec) if before == data and under is setup and whose == who:
                return spec, spec.callback
        verdict, callback = judge_text(name, data, setup, who)
        short = len(self._kept) < _MOST_KEPT and len(data) <= _LONGEST_KEPT
        if short and isinstance(verdict, JobSpec):
            self._kept[name] = data, who, setup, verdict
        return verdict, callback

    def forget(self, name: str) -> None:
        """It is gone."""
        self._kept.pop(name, None)


def judge(
    spool: Spool, name: str, setup: Setup, *, now: float, accepted: Accepted | None = None
) -> Judged:
    """The verdict on incoming/NAME, a file or a bundle.

    Raises openat.Busy while somebody writes it, FileNotFoundError if it is gone, and OSError for
    the machine's troubles.
    """
    if not ids.is_job_file(name):
        return _judge_bundle(spool, name, setup, now=now)
    look = None if accepted is None else accepted.judge_text
    try:
        return _judge_file(spool, name, name, setup, at=spool.incoming_fd, now=now, look=look)
    except openat.Unfit as unfit:
        return _unread(name, name, unfit, unfit.status, setup)


def _judge_bundle(spool: Spool, name: str, setup: Setup, *, now: float) -> Judged:
    """The verdict on a directory: its job file's, if the inputs beside that can be had."""
    file = f"{name}/{ids.JOB_FILES[0]}"
    try:
        fd = bundle.open_bundle(name, at=spool.incoming_fd)
    except openat.Unfit as unfit:
        return _unread(name, file, unfit, unfit.status, setup)
    status = os.fstat(fd)
    try:
        if bundle.others_may_write(status, account_of(status.st_uid)):
            raise _unsafe("directory", status)
        inner = bundle.job_file(fd)
        file = f"{name}/{inner}"
        found = _judge_file(spool, inner, file, setup, at=fd, now=now, owner=status.st_uid)
        judged = replace(found, name=name, status=status)
        if isinstance(judged.verdict, JobSpec):
            return _with_inputs(judged, judged.verdict, fd, setup, now=now)
    except openat.Unfit as unfit:
        return _unread(name, file, unfit, status, setup)
    finally:
        os.close(fd)
    return judged


def _unread(
    name: str, file: str, unfit: openat.Unfit, status: os.stat_result, setup: Setup
) -> Judged:
    """The answer to what was not read; `status` says whose it is."""
    refusal = _refusal(Reason.INVALID, unfit.code, unfit.message)
    who = who_is(status.st_uid, account_of(status.st_uid))
    default = setup.config.callbacks.default
    return Judged(name, file, status, who.submitter, refusal, callback=default)


def _with_inputs(judged: Judged, spec: JobSpec, fd: int, setup: Setup, *, now: float) -> Judged:
    """The job with its input files, or the refusal of them. Raises as `judge`."""
    try:
        most, uid = setup.config.inputs, judged.submitter.uid
        inputs = bundle.survey(fd, uid, most, settle_s=SETTLE_S, now=now)
    except openat.Unfit as unfit:
        refusal = _refusal(Reason.INVALID, unfit.code, unfit.message)
        return replace(judged, verdict=refusal)
    except BaseException:
        judged.release()
        raise
    return replace(judged, verdict=_takes_inputs(spec, inputs, setup), inputs=inputs)


def _takes_inputs(spec: JobSpec, inputs: Inputs, setup: Setup) -> JobSpec | Refusal:
    """Refuse files that a template does not expect: its job may trust what lies around it."""
    template = setup.templates.get(spec.template) if spec.template is not None else None
    if template is None or template.inputs or not inputs.files:
        return spec
    message = f"the template {template.name} takes no input files"
    return _refusal(Reason.DENIED, "inputs", message)


def _judge_file(
    spool: Spool,
    name: str,
    file: str,
    setup: Setup,
    *,
    at: int,
    now: float,
    owner: int | None = None,
    look: Look | None = None,
) -> Judged:
    """The verdict on a job file in a directory. Raises openat.Unfit as well.

    `owner`: who will see what is in it, so nobody else's file is read.
    """
    dropped = openat.open_dropped(name, at=at, settle_s=SETTLE_S, now=now)
    try:
        if owner not in (None, dropped.status.st_uid):
            message = f"the job file belongs to uid {dropped.status.st_uid}, its directory does not"
            raise openat.Unfit("bundle", message, dropped.status, keep=True)
        return _judge_open(dropped, file, setup, shared=spool.is_shared, look=look or judge_text)
    except BaseException:
        dropped.release()
        raise


def _judge_open(
    dropped: openat.Dropped, file: str, setup: Setup, *, shared: bool, look: Look
) -> Judged:
    data = dropped.read(yamlsafe.MAX_BYTES)
    uid = dropped.status.st_uid
    account = account_of(uid)
    who = who_is(uid, account)
    distrusted = _distrust(dropped, account, shared=shared) or _unable(who, account)
    verdict: JobSpec | Refusal
    if distrusted is None:
        verdict, callback = look(file, data, setup, who)
    else:
        verdict, callback = distrusted, None
    text = data.decode("utf-8", "surrogateescape") if len(data) <= yamlsafe.MAX_BYTES else None
    judged = Judged(
        dropped.name,
        file,
        dropped.status,
        who.submitter,
        verdict,
        account,
        text,
        dropped,
        callback or setup.config.callbacks.default,
    )
    asked = verdict.user if isinstance(verdict, JobSpec) else None
    return judged if asked is None else _as_asked(judged, asked)


def judge_text(
    name: str, data: bytes, setup: Setup, who: Who
) -> tuple[JobSpec | Refusal, Callback | None]:
    """The verdict on a job file's name and content, dropped by somebody, and whom to tell.

    Of a file that is refused, its callback is told as well, if it can be read and is allowed.
    """
    if not ids.wanted_id(name)[1]:
        message = f"the file name {name!a} gives no job id: {ids.RULE}"
        return _refusal(Reason.INVALID, "name", message), None
    try:
        document = yamlsafe.read(data, as_json=name.endswith(".json"))
    except Invalid as invalid:
        return Refusal(reason=Reason.INVALID, problems=invalid.problems), None
    try:
        spec = _admitted(document, setup, who)
        if spec.user is not None and account_named(spec.user) is None:
            problem = Problem(code="user", message=f"`user`: there is no user {spec.user} here")
            raise Invalid((_placed(problem, document),))
        unknown = spec.callback and unknown_channel(spec.callback.url, setup.config.targets)
        if unknown is not None:
            problem = Problem(code="callback", message=f"`callback`: {unknown}")
            raise Invalid((_placed(problem, document),))
    except Denied as denied:
        problems = tuple(_placed(each, document) for each in denied.problems)
        refusal = Refusal(reason=Reason.DENIED, problems=problems)
    except Invalid as invalid:
        refusal = Refusal(reason=Reason.INVALID, problems=invalid.problems)
    else:
        return spec, spec.callback
    callback = read_callback(document)
    config = setup.config
    if callback is not None and (
        unknown_channel(callback.url, config.targets) is not None
        or not policy.may_call_back(callback, who, config.rules)
    ):
        callback = None
    return refusal, callback


def who_is(uid: int, account: Account | None, *, own_uid: int | None = None) -> Who:
    """A submitter as rules see one."""
    return Who(
        user=account.name if account else str(uid),
        uid=uid,
        groups=groups_of(account) if account else frozenset(),
        trusted=uid == (os.geteuid() if own_uid is None else own_uid),
    )


def refuse(spool: Spool, judged: Judged, origin: Origin, *, now: float) -> Result | None:
    """File a refused file with its answer, in result.json and output.log; None if it is gone."""
    assert isinstance(judged.verdict, Refusal)
    claimed = spool.claim(judged)
    if claimed is None:
        return None
    try:
        return file_refused(spool, claimed, origin, now=now)
    finally:
        claimed.close()


def file_refused(spool: Spool, claimed: Claimed, origin: Origin, *, now: float) -> Result:
    """File a job that was claimed only to be refused."""
    refusal = claimed.claim.refusal
    assert refusal is not None
    result = conclude_refused(claimed.claim, refusal, now, origin)
    spool.directory_of(claimed).write_log(complain(refusal.problems, claimed.claim.file))
    filing.file(spool, claimed, result)
    return result


def _admitted(document: Document, setup: Setup, who: Who) -> JobSpec:
    """parse -> policy -> template. Raises Invalid or Denied."""
    spec = make_spec(document, setup.executors)
    sizes = setup.config.queue_sizes
    if spec.queue is not None and spec.queue not in sizes:
        known = ", ".join(sorted(sizes))
        message = f"`queue`: there is no queue {spec.queue} here; there are {known}"
        raise Invalid((document.problem("queue", message, document.top["queue"].value),))
    if spec.steps[0].uses is None:
        return policy.authorise(spec, who, setup.config.rules)
    template = templates.find(spec, document, setup.templates)
    spec = policy.authorise(spec, who, setup.config.rules, allow=template.allow)
    return templates.fill_in(spec, document, template, setup.executors)


def _as_asked(judged: Judged, user: str) -> Judged:
    """The accepted job, with the account that it is to run as."""
    account = account_named(user)
    if account is None or os.geteuid() not in (0, account.uid):
        message = f"no job can be run as {user}: this runnerd is not root"
        return replace(judged, verdict=_refusal(Reason.DENIED, "user", message))
    return replace(judged, account=account)


def _distrust(dropped: openat.Dropped, account: Account | None, *, shared: bool) -> Refusal | None:
    """Refuse a file whose owner may not have written it, or may not have dropped it.

    Whoever may write in a directory may move a file of root's from there into a shared incoming/:
    a log, or a copy of something. So root says of its own that they are jobs.
    """
    status = dropped.status
    if bundle.others_may_write(status, account):
        unsafe = _unsafe("job", status)
        return _refusal(Reason.INVALID, unsafe.code, unsafe.message)
    if shared and status.st_uid == os.geteuid() and not openat.is_signed(dropped.fd):
        message = (
            "a file of root's in a directory where others may put files is no proof that root put "
            "it there; drop it by `runnerctl submit`, or first run: "
            f"setfattr -n {openat.SIGN} -v yes FILE"
        )
        return _refusal(Reason.DENIED, "unsigned", message)
    return None


def _unsafe(what: str, status: os.stat_result) -> openat.Unfit:
    mode = stat.S_IMODE(status.st_mode)
    right = "0700" if stat.S_ISDIR(status.st_mode) else "0600"
    message = f"others may write this {what}, it has mode {mode:04o}; drop it with mode {right}"
    return openat.Unfit("unsafe-mode", message, status, keep=True)


def _unable(who: Who, account: Account | None) -> Refusal | None:
    """Refuse whose jobs this daemon cannot run, whatever the policy says."""
    if who.trusted:
        return None
    if os.geteuid() != 0:
        name = account.name if account else "nobody known"
        message = f"jobs of {name} (uid {who.uid}) cannot be run: this runnerd is not root"
    elif account is None:
        message = f"the owner of the file, uid {who.uid}, has no account here"
    else:
        return None
    return _refusal(Reason.DENIED, "submitter", message)


def _placed(problem: Problem, document: Document) -> Problem:
    """A denial where the field that it is about stands."""
    at = document.top.get(problem.code)
    return document.problem(problem.code, problem.message, at) if at is not None else problem


def _refusal(reason: Literal[Reason.INVALID, Reason.DENIED], code: str, message: str) -> Refusal:
    return Refusal(reason=reason, problems=(Problem(code=code, message=message),))
