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
from .model import Retention
from .prune import PRUNING
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
        self._spawn = spawn
        self._selector = selector
        self._retention = retention
        self._sock: socket.socket | None = None
        self._answered = False
        self._began = self._rested = 0.0
        self._failed: str | None = None
        begun = exists(PRUNING, at=spool.root_fd)
        self.due: float | None = 0.0 if retention.bounded or begun else None

    @property
    def busy(self) -> bool:
        """Whether a pruning goes on, or should."""
        return self._sock is not None or (self.due is not None and self.due <= time.monotonic())

    def change(self, retention: Retention, now: float) -> None:
        """The configuration was read again."""
        if retention != self._retention:
            self._retention = retention
            self.due = now

    def filed(self, now: float) -> None:
        """Some jobs were filed."""
        for keep in self._retention.bounded.values():
            over_at = now if keep.age_s is None else now + min(keep.age_s, LONGEST_S)
            if keep.count is not None or keep.size is not None:
                over_at = now
            self._be_due(max(over_at, self._rested))

    def look(self, now: float) -> None:
        """Begin if it is time."""
        if self._sock is not None or self.due is None or now < self.due:
            return
        self.due, self._answered, self._began = None, False, now
        try:
            self._sock = self._spawn()
            messages.send(self._sock, messages.Prune(retention=self._retention))
        except OSError as error:
            self._fail(str(error))
            self.close()
        else:
            self._selector.register(self._sock, selectors.EVENT_READ, self._hear)

    def close(self) -> None:
        """Let the runner that prunes go: it ends at once, and the next one goes on."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _hear(self) -> None:
        assert self._sock is not None
        try:
            message, _ = messages.receive(self._sock)
        except (OSError, ValueError):
            message = None
        if not isinstance(message, messages.Pruned):
            self._selector.unregister(self._sock)
            self.close()
            if not self._answered:
                self._fail("the process that was to do it has died")
            return
        self._answered = True
        now = time.monotonic()
        self._rested = now + max(REST_S, SHARE * (now - self._began))
        if message.jobs:
            events.log(events.Pruned(jobs=message.jobs))
        if message.why is not None:
            self._fail(message.why)
        else:
            self._failed = None
        if message.next_at is not None:
            in_s = min(message.next_at - time.time(), LONGEST_S)
            self._be_due(max(now + in_s, self._rested))

    def _be_due(self, at: float) -> None:
        self.due = at if self.due is None else min(self.due, at)

    def _fail(self, why: str) -> None:
        if self._failed != why:
            events.log(events.PruneFailed(why=why))
        self._failed = why
        self._rested = max(self._rested, time.monotonic() + REST_S)
        self._be_due(self._rested)
