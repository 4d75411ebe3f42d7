"""adopted: jobs in running/ that no runner of ours looks after, and when to look at them again.

The runner of an earlier daemon ends after its job, and says so to nobody: its end is waited for, by
a descriptor. Where that is not to be had, and where something is in the way, time brings the look.
"""

from __future__ import annotations

import os
import selectors


class Adopted:
    """Names in running/, each until it is taken out for a look. Times are monotonic."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._due: dict[str, float] = {}
        self._pidfds: dict[str, int] = {}

    @property
    def next_look(self) -> float | None:
        """When the next of them is due."""
        return min(self._due.values()) if self._due else None

    def add(self, name: str, due: float, pidfd: int | None = None) -> None:
        """Look at it again at that time, or when this process ends; takes the descriptor over."""
        self._forget(name)
        self._due[name] = due
        if pidfd is not None:
            self._pidfds[name] = pidfd
            self._selector.register(pidfd, selectors.EVENT_READ, lambda: self._hurry(name))

    def due(self, now: float) -> list[str]:
        """Take out those that are to be looked at."""
        names = [name for name, due in self._due.items() if due <= now]
        for name in names:
            self._forget(name)
        return names

    def _hurry(self, name: str) -> None:
        self._due[name] = 0.0

    def _forget(self, name: str) -> None:
        self._due.pop(name, None)
        pidfd = self._pidfds.pop(name, None)
        if pidfd is not None:
            self._selector.unregister(pidfd)
            os.close(pidfd)
