"""trouble: the machine has no room, no descriptors, a bad disk: stop claiming, and try again."""

from __future__ import annotations

import errno
import time

from . import events

PAUSE_S = 1.0
# Of these all files would have the same trouble; anything else is the trouble of one name.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


class Trouble:
    """Said once when it comes and once when it goes. Times are monotonic."""

    def __init__(self) -> None:
        self.present = False
        self.pause_until = 0.0

    def tell(self, error: Exception) -> None:
        """Wait for a while."""
        if not self.present:
            events.log(events.Degraded(why=str(error)))
        self.present = True
        self.pause_until = time.monotonic() + PAUSE_S

    def is_over(self, now: float) -> bool:
        """Whether work may go on; if so, that is tried."""
        return now >= self.pause_until

    def went(self) -> None:
        """What was tried has worked."""
        if self.present:
            self.present = False
            events.log(events.Recovered())


def is_of_the_machine(error: OSError) -> bool:
    return error.errno in _MACHINE
