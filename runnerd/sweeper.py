"""sweeper: has a runner remove what executors have left of jobs that do not live: containers.

The daemon itself never speaks to an engine. It has one swept when a job that may have left
something was interrupted, which is settled only after that, and as long as something is owed
(`debts`). A sweep that fails is repeated; a job does not wait for it for ever.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable

from . import debts, events, messages
from .errand import Errand
from .spool import Spool

LOOK_S = 1.0  # between two looks whether anything is owed, while the daemon is awake
AGAIN_S = 10.0  # after a sweep that failed
PATIENCE_S = 30.0  # how long an interrupted job waits for a sweep


class Sweeper:
    """At most one sweep at a time. Times are monotonic."""

    def __init__(
        self,
        spool: Spool,
        spawn: Callable[[], socket.socket],
        selector: selectors.BaseSelector,
        on_swept: Callable[[str], None],
    ) -> None:
        self._spool = spool
        self._errand = Errand(spawn, selector, messages.Swept, self._hear, self._end)
        self._on_swept = on_swept
        self._waiting: dict[str, float] = {}  # jobs, and until when they wait
        self._served: set[str] = set()  # those that the sweep which goes on now is for as well
        self._outcomes: dict[str, str] = {}
        self._next = 0.0
        self._failed: str | None = None

    def want(self, name: str, now: float) -> None:
        """Sweep for an interrupted job; `on_swept` is called with its name when that is over."""
        with contextlib.suppress(OSError):  # only of use if we die before that
            debts.owe(self._spool)
        self._waiting.setdefault(name, now + PATIENCE_S)
        if self._failed is None:
            self._next = now

    def outcome(self, name: str) -> str | None:
        """How the sweep for a job went, if it is over: "", or why it failed."""
        return self._outcomes.get(name)

    def forget(self, name: str) -> None:
        """The job is settled."""
        self._waiting.pop(name, None)
        self._outcomes.pop(name, None)

    @property
    def due(self) -> float | None:
        """When there is something to do; without it, a look now and then is enough."""
        if self._failed is None and not self._waiting:
            return None
        return min([self._next, *self._waiting.values()])

    def look(self, now: float) -> None:
        """Begin a sweep if one is due, and let nobody wait for too long."""
        if self._waiting:
            over = [name for name, until in self._waiting.items() if until <= now]
            self._settle(over, self._failed or "the sweep for it takes too long")
        if self._errand.goes_on or now < self._next:
            return
        if not self._waiting and not debts.is_owed(self._spool):
            self._next, self._failed = now + LOOK_S, None
            return
        self._next = now + AGAIN_S
        self._served = set(self._waiting)
        self._errand.send(messages.Sweep())

    def close(self) -> None:
        """Let the runner that sweeps go; it finishes."""
        self._errand.close()

    def _hear(self, answer: messages.Swept) -> None:
        if answer.why is not None:
            self._fail(answer.why)
            return
        if answer.removed or self._failed is not None:
            events.log(events.Swept(removed=answer.removed))
        self._failed = None
        self._settle(self._served, "")

    def _end(self, why: str | None) -> None:
        if why is not None:
            self._fail(why)
        if self._failed is None:
            self._next = time.monotonic()  # for those that came when it was under way

    def _fail(self, why: str) -> None:
        if self._failed is None:
            events.log(events.SweepFailed(why=why))
        self._failed = why

    def _settle(self, names: set[str] | list[str], outcome: str) -> None:
        for name in names:
            if self._waiting.pop(name, None) is not None:
                self._outcomes[name] = outcome
                self._on_swept(name)
