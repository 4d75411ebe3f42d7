"""progress: what a running job says of itself, and what we know of it: `status.json`.

A job appends lines like `42 Installing packages` to $RUNNER_PROGRESS. The last one counts; `42%`,
`42.5` and a text alone are fine as well. The file is replaced twice a second at most.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import events, workflow
from .conclude import first_status
from .jobdir import Claimed
from .model import Step
from .outcome import Status
from .spool import Spool
from .supervise import Watcher
from .telling import Telling

EVERY_S = 0.5
FIRST_AFTER_S = 0.02  # many jobs are over before anybody could look
_LINE = re.compile(r"\s*(?:(\d{1,3}(?:\.\d{1,3})?)\s*%?(?=\s|$))?\s*(.*)", re.ASCII | re.DOTALL)
_PIECE = 4096
_LONGEST = 200


def read_line(line: str) -> tuple[float | None, str | None]:
    """The percentage and the text of a line, as far as it has them."""
    found = _LINE.fullmatch(line)
    assert found is not None  # anything is at least a text
    percent = None if found[1] is None else min(100.0, float(found[1]))
    return percent, found[2].strip()[:_LONGEST] or None


class Progress:
    """The status of one running job."""

    def __init__(
        self, spool: Spool, claimed: Claimed, fd: int, started_at: float, telling: Telling
    ) -> None:
        self._spool = spool
        self._claimed = claimed
        self._fd = fd
        self._started_at = started_at
        self._known: dict[str, Any] = {}  # fields of the status, beside those of its first one
        self._telling = telling
        self._rest = b""
        self._shown_at = time.monotonic() + FIRST_AFTER_S - EVERY_S
        self._watcher: Watcher | None = None

    def show_by(self, watcher: Watcher) -> None:
        """What calls us again when there is something left to show."""
        self._watcher = watcher

    def started(self, steps: Sequence[Step], index: int, pid: int | None, done: int) -> None:
        """A step has started."""
        step = workflow.step_id(steps, index) if len(steps) > 1 else None
        self._known |= {"pid": pid, "step": step, "steps_done": done}
        self._show_soon()

    def take(self) -> None:
        """Read what the job has written."""
        try:
            self._take_piece()
        except BlockingIOError:
            return

    def end(self) -> None:
        """Read the last of it."""
        while True:
            try:
                self._take_piece()
            except BlockingIOError:
                return

    def _take_piece(self) -> None:
        *lines, rest = (self._rest + os.read(self._fd, _PIECE)).split(b"\n")
        self._rest = rest[-_PIECE:]
        if lines:
            percent, text = read_line(lines[-1].decode("utf-8", "replace"))
            self._known["progress"] = text
            if percent is not None:
                self._known["percent"] = percent
            self._telling.progress(self._status(), self._watcher)
            self._show_soon()

    def _show_soon(self) -> None:
        wait_s = self._shown_at + EVERY_S - time.monotonic()
        if wait_s <= 0:
            self._show()
        elif self._watcher is not None:
            self._watcher.once(wait_s, self._show)

    def _status(self) -> Status:
        claimed, started_at = self._claimed, self._started_at
        first = first_status(
            claimed.claim, attempt=len(claimed.attempts) + 1, started_at=started_at
        )
        return replace(first, **self._known)

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        try:
            self._spool.directory_of(self._claimed).show_status(self._status())
        except OSError as error:
            events.log(events.StatusNotWritten(id=self._claimed.id, why=str(error)))
