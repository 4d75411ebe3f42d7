"""pruner: has a runner remove the filed jobs that are not to be kept, in the background.

The daemon itself removes nothing: that may take as long as a disk likes. It knows when there may be
something to do: at its start, if something is bounded or was begun; when a job has become too old;
and, where number or size are bounded, some time after jobs were filed. Otherwise it does nothing.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable

from . import events, messages
from .errand import Errand
from .layout import PRUNING
from .settings import Retention
from .spool import Spool, exists

REST_S = 60.0  # at least, between two prunings
SHARE = 20  # as many times as long as the last one took
LONGEST_S = 86400.0  # somebody may set the clock


class Pruner:
    """At most one pruning at a time. Times are monotonic.

    `due`: when there may be something to do; None: not as far as is known.
    """

    def __init__(
        self,
        spool: Spool,
        spawn: Callable[[], socket.socket],
        selector: selectors.BaseSelector,
        retention: Retention,
    ) -> None:
        self._errand = Errand(spawn, selector, messages.Pruned, self._hear, self._end)
        self._retention, self._bounds = retention, [*retention.bounded.values()]
        self._began = self._rested = 0.0
        self._failed: str | None = None
        begun = exists(PRUNING, at=spool.root_fd)
        self.due: float | None = 0.0 if self._bounds or begun else None

    @property
    def busy(self) -> bool:
        """Whether a pruning goes on, or should."""
        return self._errand.goes_on or (self.due is not None and self.due <= time.monotonic())

    def change(self, retention: Retention, now: float) -> None:
        """The configuration was read again."""
        if retention != self._retention:
            self._retention, self._bounds = retention, [*retention.bounded.values()]
            self.due = now

    def filed(self, now: float) -> None:
        """Some jobs were filed."""
        for keep in self._bounds:
            over_at = now if keep.age_s is None else now + min(keep.age_s, LONGEST_S)
            if keep.count is not None or keep.size is not None:
                over_at = now
            self._be_due(max(over_at, self._rested))

    def look(self, now: float) -> None:
        """Begin if it is time."""
        if self.due is None or now < self.due or self._errand.goes_on:
            return
        self.due, self._began = None, now
        self._errand.send(messages.Prune(retention=self._retention))

    def close(self) -> None:
        """Let the runner that prunes go: it ends at once, and the next one goes on."""
        self._errand.close()

    def _end(self, why: str | None) -> None:
        if why is not None:
            self._fail(why)

    def _hear(self, answer: messages.Pruned) -> None:
        now = time.monotonic()
        self._rested = now + max(REST_S, SHARE * (now - self._began))
        if answer.jobs:
            events.log(events.Pruned(jobs=answer.jobs))
        if answer.why is not None:
            self._fail(answer.why)
        else:
            self._failed = None
        if answer.next_at is not None:
            in_s = min(answer.next_at - time.time(), LONGEST_S)
            self._be_due(max(now + in_s, self._rested))

    def _be_due(self, at: float) -> None:
        self.due = at if self.due is None else min(self.due, at)

    def _fail(self, why: str) -> None:
        if self._failed != why:
            events.log(events.PruneFailed(why=why))
        self._failed = why
        self._rested = max(self._rested, time.monotonic() + REST_S)
        self._be_due(self._rested)
