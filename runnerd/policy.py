"""policy: who may do what. Pure.

Today's policy is the safest one: a daemon runs the jobs of its own user and of nobody else, because
running as another user is not built yet, and nobody may gain the daemon's rights.
"""

from __future__ import annotations

from .model import Problem, Reason, Refusal, Submitter


def authorise(submitter: Submitter, *, own_uid: int) -> Refusal | None:
    """None if this submitter's free jobs may run, or the denial."""
    if submitter.uid == own_uid:
        return None
    message = (
        f"jobs of {submitter.user} (uid {submitter.uid}) are not run: "
        f"this runnerd runs the jobs of its own user (uid {own_uid}) only"
    )
    return Refusal(reason=Reason.DENIED, problems=(Problem(code="submitter", message=message),))
