"""patience: bounds what an engine may take for an answer. For a process with one thread."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

from .engine import EngineTrouble

_AGAIN_S = 0.2


class Patience:
    """Bounds whatever takes place within: the clock interrupts even a read that would hang."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._why = ""
        signal.signal(signal.SIGALRM, self._ring)

    @contextlib.contextmanager
    def limit(self, seconds: float, why: str) -> Iterator[None]:
        """Raises EngineTrouble with `why` when the time is over."""
        self._why, self._until = why, time.monotonic() + seconds
        # Again and again: a first signal may come just before the call that it is to interrupt.
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
        try:
            yield
        finally:
            self._until = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def hurry(self) -> None:
        """What is waited for now may take a moment at most."""
        if self._until is not None:
            self._until = min(self._until, time.monotonic() + 1)
            left_s = max(0.001, self._until - time.monotonic())
            signal.setitimer(signal.ITIMER_REAL, left_s, _AGAIN_S)

    def _ring(self, *_: object) -> None:
        if self._until is not None and time.monotonic() >= self._until:
            raise EngineTrouble(self._why)
