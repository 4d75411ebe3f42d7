"""events: every line of the log, declared once: its level, its sentence, its fields.

Where they go and in what form, `journal` says. An event has a `MESSAGE_ID`, by which the journal
finds it, and its explanation in systemd/runnerd.catalog.

Guarantee: a value that came from outside cannot forge a line, or tell a terminal what to do:
           control characters, and those that change the direction of text, are escaped.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, dataclass_transform

from .model import Reason, State
from .outcome import Result

NOTICE = 25  # worth a look, and no fault of runnerd or the machine
MOST_LINES, LONGEST_LINE = 10, 200

_logger = logging.getLogger("runnerd")
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# What the journal calls them: journalctl JOB_ID=...
FIELDS = {
    "id": "JOB_ID",
    "state": "JOB_STATE",
    "reason": "JOB_REASON",
    "user": "JOB_USER",
    "exit_code": "EXIT_STATUS",
}


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Event:
    """Something worth a line. Subclasses declare the fields that their sentence uses.

    They are like dataclasses, but share their methods: they are many, and each process has them.
    """

    level: ClassVar[int] = logging.INFO
    message_id: ClassVar[str]
    sentence: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls.names = tuple(cls.__annotations__)
        cls.defaults = {name: getattr(cls, name) for name in cls.names if hasattr(cls, name)}

    def __init__(self, **values: Any) -> None:
        self.values: dict[str, Any] = {**self.defaults, **values}  # the fields by name
        self.__dict__.update(values)
        if self.values.keys() != set(self.names):
            wrong = ", ".join(sorted(self.values.keys() ^ self.names))
            raise TypeError(f"{type(self).__name__} lacks, or does not have, {wrong}")

    def words(self) -> str:
        """The sentence, with its fields."""
        return self.sentence.format_map(self.values)

    def __str__(self) -> str:
        return harmless(self.words())

    @property
    def below(self) -> tuple[str, ...]:
        """Further lines, for where an event may have more than one."""
        return ()

    def named(self) -> Mapping[str, str]:
        """The fields by which the journal finds it."""
        return {
            FIELDS[name]: harmless(value)
            for name, value in self.values.items()
            if name in FIELDS and value is not None
        }


class DaemonStarted(Event):
    message_id = "378fe5e55cb647f3b52ba18a0d60616f"
    sentence = "runnerd {version} serves {spool} with {slots} slots"
    version: str
    spool: str
    slots: int


class DaemonStopped(Event):
    message_id = "184cd3395db043d1967898631d2aaf7c"
    sentence = "stopped; jobs that run go on: {running}"
    running: int


class JobStarted(Event):
    message_id = "57242b43d1df45d084319016629343c5"
    sentence = "{id}: started as {user}, pid {pid}"
    id: str
    user: str
    pid: int | None
    state: State = State.RUNNING


class JobDone(Event):
    message_id = "a053b5c1778e4506aa2076701fe2bf7c"
    sentence = "{id}: {state}, {message}{took}"
    id: str
    state: State
    user: str | None
    exit_code: int | None
    message: str
    took: str


class JobFailed(Event):
    message_id = "9ca83a2bd7904ea99e25f9f9810af5d7"
    level = NOTICE
    sentence = "{id}: {state} ({reason}), {message}{took}"
    id: str
    state: State
    reason: Reason | None
    user: str | None
    exit_code: int | None
    message: str
    took: str
    output: tuple[str, ...]

    @property
    def below(self) -> tuple[str, ...]:
        return self.output


class JobPostponed(Event):
    message_id = "07245a72ba1f404c9db923b990161889"
    level = logging.WARNING
    sentence = "{id}: attempt {number} failed, {message}; the next one in {delay_s:.1f} s"
    id: str
    number: int
    message: str
    delay_s: float
    state: State = State.RUNNING


class RequestDone(Event):
    message_id = "833b1520e5c14be9bffbadd91e0bf799"
    sentence = "{request}: done for {by}"
    request: str
    by: str


class RequestDenied(Event):
    message_id = "5bd5b26e8f0a49d98653ad59bdce3e77"
    level = logging.WARNING
    sentence = "{request}: not done for {by}, {why}"
    request: str
    by: str
    why: str


class Limits(Event):
    message_id = "ba957f588d8940e1add677ada3fe5851"
    sentence = "limits: {how}"
    how: str


class JobRefused(Event):
    message_id = "73ac253f95f0474a863ce8cc67087fbe"
    level = logging.WARNING
    sentence = "{id}: refused as {reason}, {file}: {message}"
    id: str
    reason: Reason
    file: str
    message: str
    user: str
    state: State = State.FAILED


class FileStuck(Event):
    message_id = "e8f2a1d43458452e8e6e49d3e979671e"
    level = logging.WARNING
    sentence = "{file}: cannot be read, or moved out of incoming/: {why}"
    file: str
    why: str


class JobFound(Event):
    message_id = "c8152b134a904b7d91f0336c6e68c05b"
    sentence = "{id}: found in running/, with no runner of ours: {finding}"
    id: str
    finding: str


class JobStuck(Event):
    message_id = "3ab015470c9a40b1ac81c8deac47a7ed"
    level = logging.ERROR
    sentence = "{id}: in running/, cannot be looked at or moved, will go on trying: {why}"
    id: str
    why: str


class JobSetAside(Event):
    message_id = "0a98f42f6edc40e5893c8e90e98eac49"
    level = logging.WARNING
    sentence = "{name}: not understood, moved from running/ to failed/{id}"
    name: str
    id: str
    state: State = State.FAILED


class RunnerLost(Event):
    message_id = "ef61e5f7e5ff466b8b27e6e50b5297b2"
    level = logging.ERROR
    sentence = "the runner of slot {slot} ended unexpectedly; its job: {job}"
    slot: int
    id: str | None

    def words(self) -> str:
        return self.sentence.format(slot=self.slot, job=self.id or "none")


class RunnerWaits(Event):
    message_id = "31aaf87fdd3547dfbee913032839afa3"
    level = logging.ERROR
    sentence = "a runner cannot be started, will go on trying: {why}"
    why: str


class JobReturned(Event):
    message_id = "72a73c19d1dc4a90acb310729e050146"
    level = logging.WARNING
    sentence = "{id}: not started, will be tried again: {why}"
    id: str
    why: str


class Swept(Event):
    message_id = "8a6ee998069148449e280b1075593eb1"
    sentence = "containers of jobs that do not run any more: {removed} removed, none is left"
    removed: int


class SweepFailed(Event):
    message_id = "88acb5a86e5a4654b903503cf9cab88d"
    level = logging.ERROR
    sentence = "containers of ended jobs may be left, will go on trying to remove them: {why}"
    why: str


class Pruned(Event):
    message_id = "d5f87647f6bc48f897b20617f33b7775"
    sentence = "filed jobs removed, as `retention` says: {jobs}"
    jobs: int


class PruneFailed(Event):
    message_id = "fdea4bddb6d24f9a98e9871d7cb9c716"
    level = logging.WARNING
    sentence = "not all that `retention` says could be removed, will try again: {why}"
    why: str


class StatusNotWritten(Event):
    message_id = "f82e5e1c412b468e822e81445dfdf2ef"
    level = logging.WARNING
    sentence = "{id}: status.json could not be written: {why}"
    id: str
    why: str


class NewsWait(Event):
    message_id = "73876d7eb5f140e8b05ba72ab3eee984"
    level = logging.WARNING
    sentence = "{id}: what is to be told of it cannot be written yet: {why}"
    id: str
    why: str


class NotDelivered(Event):
    message_id = "e94ee8cbd6b64408bdc3eaae03563aba"
    level = logging.WARNING
    sentence = "{id}: {news} could not be told to {url}, will go on trying: {why}"
    id: str
    news: str
    url: str
    why: str


class DeadLetter(Event):
    message_id = "3deca727ce9a4bedabb79ce0b550e546"
    level = logging.ERROR
    sentence = "{id}: {news} is given up, it was for {url}; `runnerctl callbacks retry {id}`: {why}"
    id: str
    news: str
    url: str
    why: str


class EntryDamaged(Event):
    message_id = "061b9561e93c4447a08b276c3d76f7c2"
    level = logging.ERROR
    sentence = "outbox/{name} is damaged, and was renamed to {name}.damaged: {why}"
    name: str
    why: str


class OutboxTroubled(Event):
    message_id = "8250e63ef2e14b6d8ce04677d298145f"
    level = logging.ERROR
    sentence = "callbacks cannot be told now, will go on trying: {why}"
    why: str


class CourierLost(Event):
    message_id = "394c10a8c39a4e02adf6790f1a98e7c7"
    level = logging.ERROR
    sentence = "the courier ended unexpectedly; the next one starts in {pause_s:.1f} s"
    pause_s: float

    def __str__(self) -> str:
        return self.sentence.format(pause_s=self.pause_s)


class ChannelDisabled(Event):
    message_id = "5a9a5ba1fac1439282e336db1d2306fc"
    level = logging.ERROR
    sentence = "the channel plugin {name} is disabled: {why}"
    name: str
    why: str


class MetricsNotWritten(Event):
    message_id = "6e6b03993a1449c0855f9f7726da912d"
    level = logging.WARNING
    sentence = "the file of metrics cannot be written, will go on trying: {why}"
    why: str


class DirectoryLost(Event):
    message_id = "6036e457bb6b4036bfaaf3379a5575f3"
    level = logging.WARNING
    sentence = "{id}: the job removed its own directory; what it printed and made is gone"
    id: str


class FilingWaits(Event):
    message_id = "fa4796be9ccb48cbaf3fe2f34d017f16"
    level = logging.ERROR
    sentence = "{id}: ended, but its result cannot be written yet, will go on trying: {why}"
    id: str
    why: str


class Degraded(Event):
    message_id = "880f43107dc848b7a66be65bb83ec1c3"
    level = logging.ERROR
    sentence = "no new jobs are taken, will go on trying: {why}"
    why: str


class Recovered(Event):
    message_id = "85906639c50f47dbb770bcd75c714f1f"
    sentence = "new jobs are taken again"


class ClockSet(Event):
    message_id = "089d7e44ab0646d0adf7a857c84832f3"
    level = logging.WARNING
    sentence = "the clock was set by {by_s:+.0f} s; spans of time that jobs wait for stay as long"
    by_s: float


class NotWatching(Event):
    message_id = "ddcbdeddf3064ae88de3398b6f65569f"
    level = logging.WARNING
    sentence = "file-system events are not to be had, looking every {rescan_s} s instead: {why}"
    rescan_s: float
    why: str


class Reloaded(Event):
    message_id = "e1e91b24326d46138488d5135fc8f4d7"
    sentence = "configuration reloaded: {slots} slots, {templates} templates"
    slots: int
    templates: int


class TemplateBroken(Event):
    message_id = "22d8028355f94c99b55e861e68e530db"
    level = logging.ERROR
    sentence = "a template cannot be used: {why}"
    why: str


class ExecutorDisabled(Event):
    message_id = "3c576ff9f43c4e6ab022e9778d43a737"
    level = logging.ERROR
    sentence = "the executor {name} is disabled: {why}"
    name: str
    why: str


class ReloadRefused(Event):
    message_id = "6059d96fdbb74720af099fecce8b764b"
    level = logging.ERROR
    sentence = "configuration not reloaded, the old one stays: {why}"
    why: str


class Crashed(Event):
    message_id = "6afc27ec5fb04bd2a183ab6687b23509"
    level = logging.ERROR
    sentence = "a fault of runnerd's own: {error}"
    error: str
    trace: tuple[str, ...]

    @property
    def below(self) -> tuple[str, ...]:
        return self.trace


def job_ended(result: Result, output: bytes = b"") -> JobDone | JobFailed:
    """The event of a job that was filed; of one that failed with the last lines of its output."""
    took = "" if result.duration_s is None else f" after {result.duration_s:g} s"
    if result.state is State.DONE:
        return JobDone(
            id=result.id,
            state=result.state,
            user=result.user,
            exit_code=result.exit_code,
            message=result.message,
            took=took,
        )
    return JobFailed(
        id=result.id,
        state=result.state,
        reason=result.reason,
        user=result.user,
        exit_code=result.exit_code,
        message=result.message,
        took=took,
        output=last_lines(output),
    )


def last_lines(output: bytes) -> tuple[str, ...]:
    """The last lines of what a job printed, bounded and harmless.

    Of a line that was written over, like a progress bar, the last state.
    """
    text = output.decode("utf-8", "backslashreplace").rstrip()
    lines = text.split("\n")[-MOST_LINES:] if text else []
    shown = (harmless(each.rstrip("\r").rpartition("\r")[2]) for each in lines)
    return tuple(
        each if len(each) <= LONGEST_LINE else f"{each[:LONGEST_LINE]}..." for each in shown
    )


def to_logging(event: Event) -> None:
    """As any library does, for programs with a log of their own."""
    _logger.log(event.level, "%s", event)


write: Callable[[Event], None] = to_logging  # or what `journal` puts here, for our own programs


def log(event: Event) -> None:
    """Write the event's line."""
    write(event)


def log_crash(error: BaseException) -> None:
    """Write the traceback of a fault of our own."""
    parts = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    log(Crashed(error=parts[-1], trace=tuple(map(harmless, parts))))


def harmless(value: object) -> str:
    """A value as one line that a terminal only shows."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))
