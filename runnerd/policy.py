"""policy: who may do what. Pure.

As of now there is one policy, the safe one: members of the spool's group may submit free shell
jobs, and a job runs as the user who dropped it. Only root can become another user, so a daemon that
is not root runs its own user's jobs.
"""

from __future__ import annotations

from .model import Account, Problem, Reason, Refusal, Submitter


def authorise(
    submitter: Submitter, account: Account | None, *, own_uid: int, drop_gid: int | None
) -> Refusal | None:
    """None if this submitter's free jobs may run, or the denial, which names the missing rule.

    `drop_gid`: the group that may drop files, if there is one.
    """
    if submitter.uid == own_uid:
        return None
    who = f"{submitter.user} (uid {submitter.uid})"
    if own_uid != 0:
        return _denial(f"jobs of {who} cannot be run: this runnerd is not root (uid {own_uid})")
    if account is None:
        return _denial(f"the owner of the file, uid {submitter.uid}, has no account here")
    if drop_gid is None:
        return _denial(f"jobs of {who} are not run: no group may drop files in this spool")
    if drop_gid not in account.groups:
        return _denial(f"{who} is not a member of the group that may drop files (gid {drop_gid})")
    return None


def _denial(message: str) -> Refusal:
    return Refusal(reason=Reason.DENIED, problems=(Problem(code="submitter", message=message),))
