"""retention: which filed jobs are not kept any longer. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from .frozen import frozen
from .model import State
from .settings import Keep


@frozen(kw_only=True)
class Filed:
    """A job in done/ or failed/. `size`: what it takes on the disk, if that was asked for.

    `waits`: callbacks of it are still to be sent.
    """

    id: str
    state: State
    ended_at: float
    size: int | None = None
    waits: bool = False


def overdue(jobs: Iterable[Filed], keep: Keep, now: float) -> list[Filed]:
    """The jobs that are over a bound, the oldest first, those that still wait included.

    The newest ones stay, whatever becomes of older ones. A job that is over the size by itself does
    not take the place of others.
    """
    found = []
    size = 0
    for count, job in enumerate(sorted(jobs, key=_age, reverse=True), start=1):
        own = job.size or 0
        alone = keep.size is not None and own > keep.size
        size += 0 if alone else own
        too_old = keep.age_s is not None and job.ended_at + keep.age_s <= now
        too_many = keep.count is not None and count > keep.count
        if too_old or too_many or alone or (keep.size is not None and size > keep.size):
            found.append(job)
    return found[::-1]


def next_due(jobs: Iterable[Filed], keep: Keep, now: float) -> float | None:
    """When the next of these jobs becomes too old, if any does."""
    if keep.age_s is None:
        return None
    times = (each.ended_at + keep.age_s for each in jobs)
    return min((each for each in times if each > now), default=None)


def _age(job: Filed) -> tuple[float, str]:
    return job.ended_at, job.id
