"""conclude: how a job ended -> its result. Pure; the one place that words an outcome."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import assert_never

from .frozen import frozen
from .model import Claim, JobId, JobSpec, Reason, Refusal, State, Step
from .outcome import (
    Attempt,
    Broken,
    Ended,
    Exited,
    Failed,
    Lost,
    NotStarted,
    Outcome,
    Postponed,
    Result,
    Signalled,
    Status,
    StepFailed,
    StepResult,
    StepState,
    Stopped,
)
from .schedule import DEFAULT_QUEUE
from .units import rfc3339

LOG = "output.log"
STRANGE = "this was found in running/ and could not be understood; it was set aside as it is"


@frozen(kw_only=True)
class Origin:
    """Where a result is made: the same for all jobs of one process."""

    host: str
    version: str


def attempt_of(ended: Ended, *, number: int, log: str) -> Attempt:
    """One try, as a line of the result."""
    reason, message = judge(ended.outcome)
    last = ended.outcome.outcome if isinstance(ended.outcome, StepFailed) else ended.outcome
    return Attempt(
        number=number,
        started_at=None if ended.started_at is None else rfc3339(ended.started_at),
        finished_at=rfc3339(ended.finished_at),
        duration_s=None if ended.duration_s is None else round(ended.duration_s, 3),
        reason=reason,
        message=message,
        exit_code=last.code if isinstance(last, Exited) else None,
        signal=signal_word(last.signal) if isinstance(last, Signalled) else None,
        log=log,
    )


def conclude(
    claim: Claim, ended: Ended, origin: Origin, *, before: tuple[Attempt, ...] = ()
) -> Result:
    """The result of a job that was started, or was to be. `before`: the attempts that failed."""
    last = attempt_of(ended, number=len(before) + 1, log=LOG)
    first = before[0] if before else last
    spec = claim.spec
    return Result(
        id=claim.id,
        file=claim.file,
        name=spec.name if spec else None,
        state=State.DONE if last.reason is None else State.FAILED,
        reason=last.reason,
        message=last.message,
        exit_code=last.exit_code,
        signal=last.signal,
        submitter=claim.submitter.user,
        user=claim.account.name if claim.account else None,
        host=origin.host,
        executor=_executor(spec) if spec else None,
        submitted_at=rfc3339(claim.submitted_at),
        started_at=first.started_at,
        finished_at=last.finished_at,
        duration_s=last.duration_s,
        attempts=(*before, last),
        steps=ended.steps,
        outputs=ended.outputs,
        usage=ended.usage,
        artifacts=ended.artifacts,
        truncated=ended.truncated,
        labels=spec.labels if spec else {},
        template=spec.template if spec else None,
        parameters=spec.parameters if spec else (),
        env=_variables(spec) if spec else (),
        secrets=_secrets(spec) if spec else (),
        runnerd=origin.version,
    )


def _executor(spec: JobSpec) -> str:
    return spec.steps[0].executor


def _variables(spec: JobSpec) -> tuple[str, ...]:
    """The names of the variables that the job was given."""
    return tuple(sorted({name for step in spec.steps for name in step.env} | spec.secrets.keys()))


def _secrets(spec: JobSpec) -> tuple[str, ...]:
    """The names of the secrets that it was given."""
    options = (name for step in spec.steps for name in step.secrets)
    return tuple(sorted({*spec.secrets.values(), *options}))


def conclude_refused(claim: Claim, refusal: Refusal, now: float, origin: Origin) -> Result:
    """The result of a file that never was a job."""
    first, *others = refusal.problems
    more = f" (and {len(others)} more)" if others else ""
    spec = claim.spec  # of a job that could have run
    return Result(
        id=claim.id,
        file=claim.file,
        name=spec.name if spec else None,
        state=State.FAILED,
        reason=refusal.reason,
        message=_placed(first.message, first.line, first.column) + more,
        exit_code=None,
        signal=None,
        submitter=claim.submitter.user,
        user=None,
        host=origin.host,
        executor=None,
        submitted_at=rfc3339(claim.submitted_at),
        started_at=None,
        finished_at=rfc3339(now),
        duration_s=None,
        labels=spec.labels if spec else {},
        template=spec.template if spec else None,
        error=first,
        errors=refusal.problems,
        runnerd=origin.version,
    )


def conclude_strange(name: str, now: float, origin: Origin, message: str = STRANGE) -> Result:
    """The result of what nobody can explain."""
    stamp = rfc3339(now)
    return Result(
        id=JobId(name),
        file=name,
        name=None,
        state=State.FAILED,
        reason=Reason.INTERRUPTED,
        message=message,
        exit_code=None,
        signal=None,
        submitter="",
        user=None,
        host=origin.host,
        executor=None,
        submitted_at=stamp,
        started_at=None,
        finished_at=stamp,
        duration_s=None,
        runnerd=origin.version,
    )


def first_status(claim: Claim, *, attempt: int, started_at: float) -> Status:
    """What is known of an attempt when it starts."""
    spec = claim.spec
    assert spec is not None
    return Status(
        id=claim.id,
        name=spec.name,
        state=State.RUNNING,
        pid=None,
        attempt=attempt,
        started_at=rfc3339(started_at),
        queue=spec.queue or DEFAULT_QUEUE,
        group=spec.concurrency.group if spec.concurrency else None,
        steps=len(spec.steps),
    )


def waiting_status(claim: Claim, postponed: Postponed) -> Status:
    """What is known of a job that waits for its next attempt."""
    attempt = postponed.attempt
    status = first_status(claim, attempt=attempt.number, started_at=0.0)
    started_at = attempt.started_at or attempt.finished_at
    return replace(status, started_at=started_at, retry_at=rfc3339(postponed.retry_at))


def step_result(
    step_id: str,
    step: Step,
    state: StepState,
    *,
    outcome: Outcome | None = None,
    who: str = "",
    times: tuple[float, float, float] | None = None,
    log: tuple[int, int] | None = None,
    outputs: Mapping[str, str] = MappingProxyType({}),
) -> StepResult:
    """One step in the result. `times`: its start, its end, and how long it took."""
    reason, message = judge(outcome, who) if outcome is not None else (None, "it was passed over")
    return StepResult(
        id=step_id,
        name=step.name,
        executor=step.executor,
        state=state,
        reason=reason,
        message=message,
        exit_code=outcome.code if isinstance(outcome, Exited) else None,
        signal=signal_word(outcome.signal) if isinstance(outcome, Signalled) else None,
        started_at=rfc3339(times[0]) if times else None,
        finished_at=rfc3339(times[1]) if times else None,
        duration_s=round(times[2], 3) if times else None,
        log_start=log[0] if log else None,
        log_end=log[1] if log else None,
        outputs=outputs,
    )


def judge(outcome: Outcome, who: str = "the job") -> tuple[Reason | None, str]:
    """The reason (None: success) and the sentence of an outcome."""
    match outcome:
        case Exited(0):
            return None, f"{who} succeeded"
        case Exited(code):
            return Reason.EXIT, f"{who} exited with status {code}"
        case Signalled(number):
            return (
                Reason.SIGNAL,
                f"{who} was ended by signal {signal_word(number)}, not by runnerd",
            )
        case Stopped(reason, detail):
            return reason, detail
        case NotStarted(detail, reason):
            return reason, f"{who} could not be started: {detail}"
        case Broken(detail, reason):
            return reason, f"{who} succeeded, but {detail}"
        case Failed(detail):
            return Reason.EXECUTOR, f"the executor of {who} failed: {detail}"
        case StepFailed(step, inner):
            return judge(inner, f"the step {step}")
        case Lost(detail):
            return Reason.INTERRUPTED, detail
        case _:
            assert_never(outcome)


def signal_word(number: int) -> str:
    """SIGTERM, or the number where it has no name (real-time signals)."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def exit_status(result: Result) -> int:
    """The exit status that a shell gives for a job: its own, 128 + signal, 124 after a timeout.

    1 when a required artifact is missing, 130 when it was cancelled, 125 when it could not run.
    """
    if result.exit_code is not None:
        return result.exit_code
    if result.signal is not None:
        named = result.signal in signal.Signals.__members__
        return 128 + int(signal.Signals[result.signal] if named else result.signal)
    if result.reason is Reason.TIMEOUT:
        return 124
    if result.reason is Reason.ARTIFACT:
        return 1
    return 130 if result.reason is Reason.CANCELLED else 125


def _placed(message: str, line: int | None, column: int | None) -> str:
    if line is None:
        return message
    return f"line {line}, column {column}: {message}"
