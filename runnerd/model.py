"""model: the nouns of runnerd, as frozen records.

A thing that was checked has another type than a thing that was read: bytes -> Document (yamlsafe)
-> JobSpec (parse) -> Claim (spool) -> Result (conclude). Times are seconds since the epoch, UTC,
as float; durations are seconds; sizes are bytes. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NewType

JobId = NewType("JobId", str)


class State(StrEnum):
    """Where a job is. Each state is the directory that the job lies in."""

    QUEUED = "queued"  # incoming/
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a job failed, in one word."""

    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INVALID = "invalid"
    DENIED = "denied"
    INTERRUPTED = "interrupted"
    EXECUTOR = "executor"


# --- what is to run -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing for an executor to start: a script or an argument vector, never both."""

    executor: str
    run: str | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job file that was parsed and found valid."""

    step: Step
    name: str | None = None
    timeout_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Who dropped the file: its owner."""

    uid: int
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user of this machine, as a job runs as one: `groups` are all of them, by number."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a file. Lines and columns count from 1."""

    code: str
    message: str
    line: int | None = None
    column: int | None = None
    snippet: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The answer to a file that will not run. There is at least one problem."""

    reason: Literal[Reason.INVALID, Reason.DENIED]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the daemon decided about one dropped file: the record that a job directory starts with.

    It lies in the directory as `.claim`, is written before the file is taken, never changed, and
    stays there when the job is filed. Exactly one of `spec`, with the `account` that it runs as,
    and `refusal` is set. `text` is the file as it was judged, with bytes that are no UTF-8 as
    surrogate escapes, or None if it was not read. `boot_id` is the boot of the claim.
    """

    id: JobId
    file: str
    submitter: Submitter
    submitted_at: float
    boot_id: str
    text: str | None = None
    spec: JobSpec | None = None
    account: Account | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartMark:
    """Second line of `.claim`: the job may have begun. Written before its first instruction."""

    boot_id: str
    runner_pid: int
    started_at: float


# --- how it ended -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exited:
    """The main process ended by itself, with this status."""

    code: int


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal that was not ours ended the main process."""

    signal: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """We ended it, for the reason given."""

    reason: Literal[Reason.TIMEOUT, Reason.CANCELLED]
    detail: str


@dataclass(frozen=True, slots=True)
class NotStarted:
    """The executor could not start it."""

    detail: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Nobody saw it end."""

    detail: str


Outcome = Exited | Signalled | Stopped | NotStarted | Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the job's processes used, as far as the kernel told; None is: not known."""

    cpu_user_s: float
    cpu_system_s: float
    max_memory_bytes: int | None
    read_bytes: int
    write_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One finished try at a job: its outcome, its times, its usage (None where nobody measured).

    `truncated` names what of the job is not whole: `output`.
    """

    outcome: Outcome
    started_at: float | None
    finished_at: float
    duration_s: float | None
    usage: Usage | None = None
    truncated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One line of `attempts` in a result."""

    number: int
    started_at: str | None
    finished_at: str
    duration_s: float | None
    reason: Reason | None
    exit_code: int | None
    signal: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`result.json`, field for field. Times are RFC 3339, UTC, with milliseconds."""

    schema: int = 1
    id: JobId
    file: str
    name: str | None
    state: State
    reason: Reason | None
    message: str
    exit_code: int | None
    signal: str | None
    submitter: str
    user: str | None
    host: str
    executor: str | None
    submitted_at: str
    started_at: str | None
    finished_at: str
    duration_s: float | None
    attempts: tuple[Attempt, ...] = ()
    usage: Usage | None = None
    truncated: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    error: Problem | None = None
    errors: tuple[Problem, ...] = ()
    runnerd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`status.json` of a running job: a view for people, replaced whole, never read back by us."""

    id: JobId
    name: str | None
    state: State
    pid: int | None
    attempt: int
    started_at: str
