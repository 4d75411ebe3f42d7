"""outcome: how a job ended, as frozen records: what a runner saw, and what the submitter gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Literal

from .frozen import frozen
from .model import JobId, Problem, Reason, State


class StepState(StrEnum):
    """What became of a step."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@frozen
class Exited:
    """The main process ended by itself, with this status."""

    code: int


@frozen
class Signalled:
    """A signal that was not ours ended the main process."""

    signal: int


@frozen
class Stopped:
    """We ended it, for the reason given."""

    reason: Literal[Reason.TIMEOUT, Reason.CANCELLED, Reason.LIMIT]
    detail: str


@frozen
class NotStarted:
    """It could not be started: by its executor, or because its inputs are not as they were."""

    detail: str
    reason: Literal[Reason.EXECUTOR, Reason.INVALID] = Reason.EXECUTOR


@frozen
class Broken:
    """It ended well, and what it left behind is not what it should be."""

    detail: str
    reason: Literal[Reason.EXECUTOR, Reason.ARTIFACT] = Reason.EXECUTOR


@frozen
class Failed:
    """It was started, and its executor failed: what became of it may not be known."""

    detail: str


@frozen
class StepFailed:
    """A step of the job failed, and so the job."""

    step: str
    outcome: Outcome


@frozen
class Lost:
    """Nobody saw it end."""

    detail: str


Outcome = Exited | Signalled | Stopped | NotStarted | Broken | Failed | StepFailed | Lost


@frozen(kw_only=True)
class Usage:
    """What the job's processes used, as far as the kernel told; None is: not known."""

    cpu_user_s: float
    cpu_system_s: float
    max_memory_bytes: int | None
    read_bytes: int
    write_bytes: int


def sum_of(usages: Sequence[Usage]) -> Usage | None:
    """What several steps used together; None if nobody measured."""
    if len(usages) <= 1:
        return usages[0] if usages else None
    memory = [each.max_memory_bytes for each in usages if each.max_memory_bytes is not None]
    return Usage(
        cpu_user_s=round(sum(each.cpu_user_s for each in usages), 3),
        cpu_system_s=round(sum(each.cpu_system_s for each in usages), 3),
        max_memory_bytes=max(memory, default=None),
        read_bytes=sum(each.read_bytes for each in usages),
        write_bytes=sum(each.write_bytes for each in usages),
    )


@frozen(kw_only=True)
class ArtifactFile:
    """One file below artifacts/. `sha256` is of its content, in hexadecimal."""

    path: str
    size: int
    sha256: str


@frozen(kw_only=True)
class Ended:
    """One finished try at a job: its outcome, its times, its usage (None where nobody measured).

    `truncated` names what of the job is not whole: `output`, `artifacts`.
    """

    outcome: Outcome
    started_at: float | None
    finished_at: float
    duration_s: float | None
    usage: Usage | None = None
    truncated: tuple[str, ...] = ()
    steps: tuple[StepResult, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[ArtifactFile, ...] = ()


@frozen(kw_only=True)
class Attempt:
    """One line of `attempts` in a result."""

    number: int
    started_at: str | None
    finished_at: str
    duration_s: float | None
    reason: Reason | None
    exit_code: int | None
    signal: str | None
    message: str
    log: str


@frozen(kw_only=True)
class Postponed:
    """A line of `.claim`: this attempt failed, and the next one may start at `retry_at`."""

    attempt: Attempt
    retry_at: float


@frozen(kw_only=True)
class StepResult:
    """How one step of a job ended. Its part of the log is given in bytes."""

    id: str
    name: str | None
    executor: str
    state: StepState
    reason: Reason | None
    message: str
    exit_code: int | None
    signal: str | None
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    log_start: int | None
    log_end: int | None
    outputs: Mapping[str, str] = field(default_factory=dict)


@frozen(kw_only=True)
class Result:
    """`result.json`, field for field. Times are RFC 3339, UTC, with milliseconds.

    Times are what the clock said then; `duration_s` was measured. Where the clock was set back
    meanwhile, a job may have finished before it started, and its duration is right all the same.

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
    steps: tuple[StepResult, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    usage: Usage | None = None
    artifacts: tuple[ArtifactFile, ...] = ()
    truncated: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    parameters: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    error: Problem | None = None
    errors: tuple[Problem, ...] = ()
    runnerd: str


@frozen(kw_only=True)
class Status:
    """`status.json` of a running job: a view for people, replaced whole, never read back by us."""

    id: JobId
    name: str | None
    state: State
    pid: int | None
    attempt: int
    started_at: str
    queue: str
    group: str | None = None
    step: str | None = None
    steps_done: int = 0
    steps: int = 1
    percent: float | None = None
    progress: str | None = None
    retry_at: str | None = None
