"""clock: the time for the queue. Spans stay as long as they are when somebody sets the clock."""

from __future__ import annotations

import time

STEP_S = 1.0  # less is how a clock is corrected all the time


class Clock:
    """Seconds since the epoch, as of the last `mind` and what has passed since."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - _steady_s()

    def now(self) -> float:
        """A clock that was set just now counts once that was minded."""
        return _steady_s() + self._ahead_s

    def mind(self) -> float:
        """Follow the machine's clock; by how many seconds somebody has set it, or 0."""
        ahead_s = time.time() - _steady_s()
        by_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
        return by_s if abs(by_s) >= STEP_S else 0.0


def _steady_s() -> float:
    """What nobody can set, and what goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
