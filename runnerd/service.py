"""service: what systemd wants to hear (sd_notify(3)), where there is a systemd to hear it."""

from __future__ import annotations

import os
from collections.abc import Callable

import sdnotify

STATUS_EVERY_S = 1.0


class Service:
    """Silent without NOTIFY_SOCKET. `beat_s`: how often the watchdog wants a sign of life, or None.

    The loop itself gives the sign, so a loop that is stuck is restarted.
    """

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier() if "NOTIFY_SOCKET" in os.environ else None
        if self._notifier is not None:
            # Rather lose a notice than wait for a reader who does not read.
            self._notifier.socket.setblocking(False)  # noqa: FBT003
        usec = os.environ.get("WATCHDOG_USEC", "") if self._notifier else ""
        self.beat_s = int(usec) / 2e6 if usec.isdigit() and int(usec) > 0 else None
        self._next_beat = self._next_status = 0.0
        self._status = ""
        self.status_due: float | None = None  # when the status is looked at again (monotonic)

    def ready(self) -> None:
        self._say("READY=1")

    def reloading(self, now: float) -> None:
        self._say(f"RELOADING=1\nMONOTONIC_USEC={int(now * 1e6)}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def tick(self, now: float, look: Callable[[], str]) -> None:
        """Give the sign of life when it is due, and the status when it has changed."""
        if self._notifier is None:
            return
        if self.beat_s is not None and now >= self._next_beat:
            self._say("WATCHDOG=1")
            self._next_beat = now + self.beat_s
        if now < self._next_status:
            return
        self.status_due = None
        status = look()
        if status != self._status:
            self._say(f"STATUS={status}")
            self._status = status
            self.status_due = self._next_status = now + STATUS_EVERY_S

    def _say(self, text: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(text)
