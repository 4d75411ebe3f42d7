"""retry: whether a job that failed is tried again, and when. Pure."""

from __future__ import annotations

from .model import JobSpec, Reason, Retry

SPREAD = 0.25
"""Jobs that fail together shall not come back together: a delay varies by so much, both ways."""


def delay_after(
    spec: JobSpec, reason: Reason | None, *, failures: int, chance: float
) -> float | None:
    """Seconds until the next attempt, or None if there is none. `chance`: from 0 to 1.

    `failures` counts the attempts that failed, this one included.
    """
    retry = spec.retry
    if retry is None or reason is None or reason not in retry.on or failures > retry.max:
        return None
    return _delay(retry, failures, chance)


def next_attempt_at(spec: JobSpec, retry_at: float, *, failures: int, now: float) -> float:
    """When the next attempt starts. Seen from now, that is never further off than its delay.

    `retry_at` was written down by a clock that may have been set back since.
    """
    assert spec.retry is not None
    return min(retry_at, now + _delay(spec.retry, failures, 1.0))


def _delay(retry: Retry, failures: int, chance: float) -> float:
    grown = min(retry.delay_s * retry.backoff ** min(failures - 1, 100), retry.max_delay_s)
    return grown * (1 + SPREAD * (2 * chance - 1))
