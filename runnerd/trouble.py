"""trouble: the machine has no room, no descriptors, a bad disk: stop claiming, and try again.

What has failed is kept by the step and the name that it failed for, and is over once that has been
tried again and worked, or there is nothing left to try. So a lasting trouble is one line of the
log, and its end another, whatever else works meanwhile.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection
from typing import Literal

from . import events

PAUSE_S = 1.0
# Of these all files would have the same trouble; anything else is the trouble of one name.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}

Step = Literal["look", "leftovers", "obey", "judge", "claim", "start", "settle", "post"]


class Trouble:
    """Said once when it comes and once when it goes. Times are monotonic."""

    def __init__(self) -> None:
        self._whys: dict[tuple[Step, str], str] = {}
        self._trials: dict[tuple[Step, str], float] = {}  # of some of these
        self._pause_until = 0.0

    def __contains__(self, what: tuple[Step, str | None]) -> bool:
        return what in self._whys

    @property
    def why(self) -> str | None:
        """What is wrong, if something is."""
        return next(iter(self._whys.values())) if self._whys else None

    def names(self, step: Step) -> list[str]:
        """For which names this has failed."""
        return [name for each, name in self._whys if each == step]

    def tell(self, error: Exception, step: Step, name: str = "") -> None:
        """This has failed: wait for a while."""
        if not self._whys:
            events.log(events.Degraded(why=str(error)))
        self._whys[step, name] = str(error)
        self._trials.pop((step, name), None)
        self._pause_until = time.monotonic() + PAUSE_S

    def worked(self, step: Step, name: str = "") -> None:
        """It has worked now, or nobody wants it any more."""
        if (step, name) not in self._whys:
            return
        self._trials.pop((step, name), None)
        del self._whys[step, name]
        if not self._whys:
            events.log(events.Recovered())

    def tried(self, step: Step, name: str, now: float) -> None:
        """It has been tried again; it has worked if nothing else is told for a while."""
        if (step, name) in self._whys:
            self._trials[step, name] = now + PAUSE_S

    def settle(self, now: float) -> None:
        """Count as worked what was tried and has not failed."""
        for what in [each for each, until in self._trials.items() if until <= now]:
            self.worked(*what)

    def forget_files(self, found: Collection[str]) -> None:
        """Of files that are no more, nothing is left to try."""
        for step, name in list(self._whys):
            if step in ("judge", "claim") and name not in found:
                self.worked(step, name)

    def is_paused(self, now: float) -> bool:
        """Whether nothing is to be tried yet."""
        return now < self._pause_until

    def due(self, now: float) -> float | None:
        """When something is to be tried again, or counted as worked."""
        due = [each for each in (self._pause_until, *self._trials.values()) if each > now]
        return min(due) if due else None


def is_of_the_machine(error: OSError) -> bool:
    return error.errno in _MACHINE
