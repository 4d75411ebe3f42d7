"""slots: the runners, one for each numbered slot, started on demand and ended when idle.

Errors: a runner that is gone is found when it is written to or read from; its slot is free again
        and its job, if it had one, is the caller's to look after.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass

from . import messages
from .jobdir import Claimed
from .model import JobId


@dataclass(slots=True)
class Slot:
    """A runner: idle since a time (monotonic), or busy with a job."""

    number: int
    sock: socket.socket
    idle_since: float
    job: JobId | None = None

    def rest(self, now: float) -> None:
        """Its job is filed, or was given back."""
        self.job, self.idle_since = None, now


class Slots:
    """At most `limit` jobs at once."""

    def __init__(
        self,
        limit: int,
        spawn: Callable[[], socket.socket],
        selector: selectors.BaseSelector,
        on_news: Callable[[Slot], None],
    ) -> None:
        self.limit = limit
        self._spawn = spawn
        self._selector = selector
        self._on_news = on_news
        self._slots: dict[int, Slot] = {}

    @property
    def busy(self) -> int:
        return sum(slot.job is not None for slot in self._slots.values())

    def hand(self, claimed: Claimed, *, now: float) -> None:
        """Give a claimed job to an idle runner, or a new one. Its lock goes with it.

        Raises OSError when no runner can be started; the caller still has the job then.
        """
        while True:
            slot = self._idle() or self._start(now)
            try:
                messages.send(slot.sock, messages.Start(id=claimed.id), claimed.lock_fd)
            except messages.GONE:
                self.drop(slot)  # it died while it was idle
                continue
            slot.job = claimed.id
            claimed.close()
            return

    def drop(self, slot: Slot) -> None:
        """Let a runner go: idle it ends, busy it ends after its job."""
        self._selector.unregister(slot.sock)
        slot.sock.close()
        del self._slots[slot.number]

    def retire(self, *, now: float, idle_s: float) -> float | None:
        """End runners that were idle for so long; when the next will be due."""
        due = []
        for slot in [each for each in self._slots.values() if each.job is None]:
            if now - slot.idle_since >= idle_s or slot.number >= self.limit:
                self.drop(slot)
            else:
                due.append(slot.idle_since + idle_s)
        return min(due, default=None)

    def close(self) -> None:
        """Let all runners go."""
        for slot in list(self._slots.values()):
            self.drop(slot)

    def _idle(self) -> Slot | None:
        """The lowest idle number, so that the others cool down and end."""
        idle = [slot for slot in self._slots.values() if slot.job is None]
        return min(idle, key=lambda slot: slot.number, default=None)

    def _start(self, now: float) -> Slot:
        number = next(each for each in range(len(self._slots) + 1) if each not in self._slots)
        slot = Slot(number, self._spawn(), now)
        self._slots[number] = slot
        self._selector.register(slot.sock, selectors.EVENT_READ, lambda: self._on_news(slot))
        return slot
