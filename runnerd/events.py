"""events: every line of the log, declared once: its level, its sentence, its fields.

Lines go to standard error, one for each event. Under systemd they start with a priority, as in
sd-daemon(3). A value that came from outside cannot forge a line: control characters are escaped.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from dataclasses import dataclass, fields
from typing import ClassVar

from .model import Reason, State

_logger = logging.getLogger("runnerd")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PRIORITY = {logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something worth a line. Subclasses name the fields that their sentence uses."""

    level: ClassVar[int] = logging.INFO
    sentence: ClassVar[str]

    def __str__(self) -> str:
        named = {each.name: _word(getattr(self, each.name)) for each in fields(self)}
        return self.sentence.format_map(named)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStarted(Event):
    sentence = "runnerd {version} serves {spool} with {slots} slots"
    version: str
    spool: str
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStopped(Event):
    sentence = "stopped; jobs that run go on: {running}"
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(Event):
    sentence = "{id}: started as {user}, pid {pid}"
    id: str
    user: str
    pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished(Event):
    sentence = "{id}: {state}{reason}, {message}{duration_s}"
    id: str
    state: State
    reason: Reason | None
    message: str
    duration_s: float | None

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        took = "" if self.duration_s is None else f" after {self.duration_s:g} s"
        return f"{self.id}: {self.state}{reason}, {_word(self.message)}{took}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPostponed(Event):
    level = logging.WARNING
    sentence = "{id}: attempt {number} failed, {message}; the next one in {delay_s:.1f} s"
    id: str
    number: int
    message: str
    delay_s: float

    def __str__(self) -> str:
        return self.sentence.format(
            id=self.id, number=self.number, message=_word(self.message), delay_s=self.delay_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDone(Event):
    sentence = "{request}: done for {by}"
    request: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDenied(Event):
    level = logging.WARNING
    sentence = "{request}: not done for {by}, {why}"
    request: str
    by: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Event):
    sentence = "limits: {how}"
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRefused(Event):
    level = logging.WARNING
    sentence = "{id}: refused as {reason}, {file}: {message}"
    id: str
    reason: Reason
    file: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStuck(Event):
    level = logging.WARNING
    sentence = "{file}: cannot be read, or moved out of incoming/: {why}"
    file: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFound(Event):
    sentence = "{id}: found in running/ after a restart: {finding}"
    id: str
    finding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSetAside(Event):
    level = logging.WARNING
    sentence = "{name}: not understood, moved from running/ to failed/{target}"
    name: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerLost(Event):
    level = logging.ERROR
    sentence = "the runner of slot {slot} ended unexpectedly; its job: {id}"
    slot: int
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerWaits(Event):
    level = logging.ERROR
    sentence = "a runner cannot be started, will go on trying: {why}"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReturned(Event):
    level = logging.WARNING
    sentence = "{id}: not started, will be tried again: {why}"
    id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusNotWritten(Event):
    level = logging.WARNING
    sentence = "{id}: status.json could not be written: {why}"
    id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryLost(Event):
    level = logging.WARNING
    sentence = "{id}: the job removed its own directory; what it printed and made is gone"
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FilingWaits(Event):
    level = logging.ERROR
    sentence = "{id}: ended, but its result cannot be written yet, will go on trying: {why}"
    id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded(Event):
    level = logging.ERROR
    sentence = "no new jobs are taken, will go on trying: {why}"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(Event):
    sentence = "new jobs are taken again"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotWatching(Event):
    level = logging.WARNING
    sentence = "file-system events are not to be had, looking every {rescan_s} s instead: {why}"
    rescan_s: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded(Event):
    sentence = "configuration reloaded: {slots} slots, {templates} templates"
    slots: int
    templates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateBroken(Event):
    level = logging.ERROR
    sentence = "a template cannot be used: {why}"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadRefused(Event):
    level = logging.ERROR
    sentence = "configuration not reloaded, the old one stays: {why}"
    why: str


class _Lines(logging.Formatter):
    """One line for each record, with a priority where the journal reads it."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s runnerd: %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = _word(super().format(record))
        return _PRIORITY.get(record.levelno, "<5>") + text if self._journal else text


def open_log(level: int = logging.INFO) -> None:
    """Send events, and what libraries log, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    _logger.setLevel(level)


def log(event: Event) -> None:
    """Write the event's line."""
    _logger.log(event.level, "%s", event)


def log_crash(error: BaseException) -> None:
    """Write the traceback of a fault of our own, a line for each of its lines."""
    for part in traceback.format_exception(error):
        for line in part.rstrip("\n").split("\n"):
            _logger.error("%s", line)


def _word(value: object) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))
