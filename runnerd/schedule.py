"""schedule: the order of the queue, and which job is next. Pure: no clock, no directory.

The queue mirrors incoming/. Forgetting it costs nothing but a scan.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Queued:
    """An admitted file in incoming/: what the order depends on. First come, first served."""

    dropped_at_ns: int
    name: str
    inode: int


class Queue:
    """Admitted files in the order in which they are to run. Each change costs O(log n)."""

    def __init__(self) -> None:
        self._heap: list[Queued] = []
        self._live: dict[str, Queued] = {}

    def __len__(self) -> int:
        return len(self._live)

    def inode(self, name: str) -> int | None:
        """Which file of this name is in the queue."""
        found = self._live.get(name)
        return None if found is None else found.inode

    def names(self) -> set[str]:
        return set(self._live)

    def add(self, queued: Queued) -> None:
        """Put a file in the queue, in place of one with the same name."""
        self._live[queued.name] = queued
        heapq.heappush(self._heap, queued)

    def discard(self, name: str) -> None:
        """Forget a file; its place in the heap goes when it comes up."""
        self._live.pop(name, None)

    def next(self, *, free_slots: int) -> Queued | None:
        """Take the job that is to be claimed now, if there is a slot for one."""
        while free_slots > 0 and self._heap:
            queued = heapq.heappop(self._heap)
            if self._live.get(queued.name) is queued:
                del self._live[queued.name]
                return queued
        return None


def scan_due(*, woken: bool, now: float, last: float, cost_s: float, rescan_s: float) -> float:
    """When to scan incoming/ next (monotonic seconds).

    After a wake-up, at once; but a scan that took long, over a long queue, is not repeated before
    five times as long has passed, so that a backlog never eats more than a fifth of the time.
    """
    return max(now if woken else last + rescan_s, last + 5 * cost_s)
