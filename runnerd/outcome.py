"""outcome: how a job ended, as frozen records: what a runner saw, and what the submitter gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .model import JobId, Problem, Reason, State


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
    """`result.json`, field for field. Times are RFC 3339, UTC, with milliseconds.

    Of parameters, variables and secrets it has the names, never a value.
    """

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
    template: str | None = None
    parameters: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
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
