"""post: the daemon's side of the courier: one process, started when there is something to tell.

Errors: a courier that dies is started again, after a pause that grows as long as that goes on.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable

from . import events, messages
from .messages import Hurry, Left, Orders, Rested, Wake
from .model import JobId
from .outbox import Outbox

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 60.0
LOSSES = 5  # in a row, after which nobody waits for the courier any more


class Post:
    """The courier of one spool. Times are monotonic."""

    def __init__(
        self,
        outbox: Outbox,
        orders: Orders,
        spawn: Callable[[], socket.socket],
        selector: selectors.BaseSelector,
    ) -> None:
        self._outbox = outbox
        self._orders = orders
        self._spawn = spawn
        self._selector = selector
        self._sock: socket.socket | None = None
        self._woken = True
        self._wakes = self._rested = 0
        self._losses = 0
        self._not_before = 0.0

    def wake(self) -> None:
        """There may be something new in the outbox."""
        self._woken = True

    def tick(self, now: float) -> None:
        """Let the courier look, if there is reason to; start one, if there is none."""
        if not self._woken or now < self._not_before:
            return
        if self._sock is None and not self._outbox.waits():
            self._woken = False
            return
        if self._sock is None:
            self._start(now)
        if self._sock is not None:
            self._woken = False
            self._wakes += 1
            self._say(Wake(number=self._wakes))

    def hurry(self, job_id: JobId) -> None:
        """Somebody wants the events of this job to be tried now."""
        if self._sock is not None:
            self._say(Hurry(id=job_id))
        self.wake()

    def renew(self, orders: Orders) -> None:
        """The configuration is another one: the next courier gets it."""
        if orders != self._orders:
            self._orders = orders
            self.close()
            self.wake()

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing can be told now."""
        if self._losses >= LOSSES:
            return True
        return not self._woken and (self._sock is None or self._rested == self._wakes)

    @property
    def due(self) -> float | None:
        """When `tick` has something to do that it could not do yet."""
        return self._not_before if self._woken else None

    def close(self) -> None:
        """Let the courier go. What it has not delivered, the next one finds."""
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None

    def _start(self, now: float) -> None:
        try:
            sock = self._spawn()
            messages.send(sock, self._orders)
        except OSError:
            self._lose(now)
            return
        sock.setblocking(False)  # noqa: FBT003
        self._sock = sock
        self._selector.register(sock, selectors.EVENT_READ, self._hear)

    def _say(self, message: Wake | Hurry) -> None:
        # If it does not get that far, it has reasons enough to look already.
        with contextlib.suppress(OSError):
            assert self._sock is not None
            messages.send(self._sock, message)

    def _hear(self) -> None:
        assert self._sock is not None
        try:
            message, _ = messages.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            message = None
        match message:
            case Rested(number=number):
                self._rested, self._losses = number, 0
            case Left():
                self.close()  # it had nothing to do
                self._woken = True
            case _:
                self.close()
                self._lose(time.monotonic())

    def _lose(self, now: float) -> None:
        self._woken = True
        self._losses += 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._losses - 1))
        self._not_before = now + pause_s
        events.log(events.CourierLost(pause_s=pause_s))
