"""telling: news of a job while it runs: that it has started, and how far it is.

What may fail for want of room is done before the start (`prepare`). What cannot be written while
the job runs is written at its end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from . import events, webhook
from .model import Claim, News
from .outbox import Outbox
from .outcome import Status
from .supervise import Watcher
from .webhook import EntryName

EVERY_S = 5.0


class Telling:
    """One attempt. `told` is called when there is something new for the courier."""

    def __init__(
        self, outbox: Outbox, claim: Claim, attempt: int, told: Callable[[], None]
    ) -> None:
        self._outbox = outbox
        self._claim = claim
        self._attempt = attempt
        self._told = told
        self._start: EntryName | None = None  # not shown yet
        self._has_started = False
        self._last: EntryName | None = None
        self._news: Status | None = None
        self._step = 0
        self._told_at = -EVERY_S  # monotonic

    @property
    def _tells_progress(self) -> bool:
        callback = self._claim.callback
        return callback is not None and News.PROGRESS in callback.events

    def prepare(self, status: Status) -> None:
        """Make ready what tells of the start."""
        entry = self._event(News.STARTED, status)
        if entry is not None:
            self._start = self._outbox.stage(entry, durable=False)

    def started(self) -> None:
        """The first step starts now."""
        self._has_started = True
        self._try(self._show_start)

    def progress(self, status: Status, watcher: Watcher | None) -> None:
        """Tell this, now or in a while; what comes until then takes its place."""
        if not self._tells_progress:
            return
        self._news = status
        wait_s = self._told_at + EVERY_S - time.monotonic()
        if wait_s <= 0:
            self.flush()
        elif watcher is not None:
            watcher.once(wait_s, self.flush)

    def flush(self) -> None:
        """Tell what waits, if the disk takes it."""
        self._try(self._show_progress)

    def end(self) -> None:
        """Tell what is left. Raises OSError where the disk does not take it."""
        if self._start is not None and not self._has_started:
            self._outbox.remove(self._start)  # it could not be started
            self._start = None
        self._show_start()
        self._show_progress()

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            events.log(events.NewsWait(id=self._claim.id, why=str(error)))

    def _show_start(self) -> None:
        if self._start is not None:
            self._outbox.show(self._start)
            self._start = None
            self._told()

    def _show_progress(self) -> None:
        if self._news is None:
            return
        self._show_start()
        self._told_at = time.monotonic()
        entry = self._event(News.PROGRESS, self._news, step=self._step + 1)
        assert entry is not None
        name = self._outbox.put(entry)
        if self._last is not None:
            with contextlib.suppress(OSError):
                self._outbox.remove(self._last)  # if it still waits, this says more
        self._step += 1
        self._news, self._last = None, name
        self._told()

    def _event(self, news: News, status: Status, step: int = 0) -> webhook.Entry | None:
        return webhook.event(
            self._claim,
            news,
            status,
            host=self._outbox.host,
            now=time.time(),
            attempt=self._attempt,
            step=step,
        )
