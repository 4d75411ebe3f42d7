"""job: one attempt at a job: its steps in their order, each started, watched and concluded.

A job with `run` or `command` has one step. The steps of a list write into the log one after the
other, each below a line that names it; where steps may run side by side, each has a log of its own
until it ends, and then its part follows in one piece.

Errors: a step that cannot be started is a failed step. All that can fail for want of room was done
        before (`Runner.prepare`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from . import artifacts, debts, events, workflow
from .artifacts import Collected
from .conclude import step_result
from .errors import NotStartable
from .executors import Executor, Place
from .frozen import frozen
from .handover import LARGEST, read_outputs, variable
from .jobdir import PROGRESS, Claimed, outputs_name
from .limits import Fences
from .model import JobSpec, Reason, Step
from .outcome import (
    Broken,
    Ended,
    Exited,
    NotStarted,
    Outcome,
    StepFailed,
    StepResult,
    StepState,
    Stopped,
    Usage,
    sum_of,
)
from .output import Log, Output
from .progress import Progress
from .redact import hidden
from .spool import Spool
from .supervise import Active, Over, Watcher
from .telling import Telling
from .units import in_words

LAST_STEPS_S = 60.0  # for each `if: always` step of a job that was stopped


@dataclass(slots=True)
class Prepared:
    """What an attempt writes to: its log, and for each step its pipe, its log.

    `telling`: whoever tells the news of it. `unfit`: why its input files cannot be had.
    """

    log: Log
    work_fd: int
    progress_fd: int
    pipes: tuple[Output, ...]
    telling: Telling
    step_logs: tuple[Log, ...] = ()
    unfit: str | None = None

    def close(self) -> None:
        for log in (self.log, *self.step_logs):
            log.close()
        for pipe in self.pipes:
            pipe.close()
        for fd in (self.work_fd, self.progress_fd):
            os.close(fd)


@frozen(kw_only=True)
class Means:
    """What the attempt is made with. `cancelled`: who cancelled it; to be asked when `wakes`.

    `secrets`: by the variables that they are for; `named_secrets`: by their names.
    """

    spool: Spool
    executors: Mapping[str, Executor]
    secrets: Mapping[str, bytes]
    named_secrets: Mapping[str, bytes]
    fences: Fences
    wakes: socket.socket
    cancelled: Callable[[Claimed], str | None]


@dataclass(slots=True)
class _Begun:
    """A step from its start to its result."""

    at: float
    since: float
    output: Output
    log_start: int


@dataclass(slots=True)
class JobRun:
    """One attempt at a claimed and prepared job."""

    claimed: Claimed
    prepared: Prepared
    means: Means
    _watcher: Watcher = field(default_factory=Watcher)
    _states: dict[int, StepState] = field(default_factory=dict)
    _results: dict[int, StepResult] = field(default_factory=dict)  # of a list of steps
    _handed_on: Mapping[str, str] = field(default_factory=dict)  # by the only step
    _outcomes: dict[int, Outcome] = field(default_factory=dict)  # in the order in which they ended
    _usages: list[Usage] = field(default_factory=list)
    _begun: dict[int, _Begun] = field(default_factory=dict)
    _stopped: Stopped | None = None
    _deadline: float | None = None
    _spec: JobSpec = field(init=False)
    _steps: tuple[Step, ...] = field(init=False)
    _listed: bool = field(init=False)  # whether the job was written as a list of steps

    def __post_init__(self) -> None:
        assert self.claimed.claim.spec is not None
        self._spec = self.claimed.claim.spec
        self._steps, self._listed = self._spec.steps, self._spec.listed

    def run(self) -> Ended:
        """All steps, to the end of the last."""
        started_at, since = time.time(), time.monotonic()
        if self._spec.timeout_s is not None:
            self._deadline = since + self._spec.timeout_s
        telling = self.prepared.telling
        progress = Progress(
            self.means.spool, self.claimed, self.prepared.progress_fd, started_at, telling
        )
        self._watch(progress)
        telling.started()
        self._look_for_cancel()
        while len(self._states) < len(self._steps):
            self._start_what_can(progress)
            if self._watcher.active:
                self._conclude(self._watcher.wait())
        progress.end()
        self._watcher.close()
        finished_at, duration_s = time.time(), time.monotonic() - since
        outcome, kept = self._keep_artifacts(self._outcome())
        self.prepared.log.finish()
        self.prepared.log.sync(self.means.spool.disk)
        usage = sum_of(self._usages)
        if usage is not None and any(self._is_fenced(each) for each in self._outcomes):
            usage = self.means.fences.usage(usage)
        return Ended(
            outcome=outcome,
            started_at=started_at,
            finished_at=finished_at,
            duration_s=duration_s,
            usage=usage,
            truncated=(
                *(("output",) if self.prepared.log.truncated else ()),
                *(("artifacts",) if kept.left_out else ()),
            ),
            steps=tuple(self._results[each] for each in sorted(self._results)),
            outputs=self._handed_on,
            artifacts=tuple(kept.files),
        )

    # --- stopping -------------------------------------------------------------------------------

    def _watch(self, progress: Progress) -> None:
        self._watcher.listen(self.means.wakes.fileno(), self._wake_up)
        self._watcher.listen(self.prepared.progress_fd, progress.take)
        self._look_at_limits_soon()
        progress.show_by(self._watcher)

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.means.wakes.recv(4096)
        self._look_for_cancel()

    def _look_for_cancel(self) -> None:
        by = self.means.cancelled(self.claimed)
        if by is not None:
            self._stop(Stopped(Reason.CANCELLED, f"the job was cancelled by {by}"))

    def _look_at_limits(self) -> None:
        why = self.means.fences.look()
        if why is not None:
            self._stop(Stopped(Reason.LIMIT, why))
        self._look_at_limits_soon()

    def _look_at_limits_soon(self) -> None:
        every_s = self.means.fences.look_every_s
        if every_s is not None:
            self._watcher.once(every_s, self._look_at_limits)

    def _stop(self, why: Stopped) -> None:
        if self._stopped is None:
            self._stopped = why
            self._watcher.stop(why)

    def _outcome(self) -> Outcome:
        if self._stopped is not None:
            return self._stopped
        if not self._listed:
            return self._outcomes[0]
        for index, outcome in self._outcomes.items():
            if workflow.failed(self._steps, self._states, index):
                return StepFailed(workflow.step_id(self._steps, index), outcome)
        return Exited(0)

    def _keep_artifacts(self, outcome: Outcome) -> tuple[Outcome, Collected]:
        """Keep what the job wants kept after this outcome, which may change with it."""
        spec, account = self._spec, self.claimed.claim.account
        good = outcome == Exited(0)
        wanted = artifacts.wanted(spec.artifacts, good=good)
        if not wanted or account is None:
            return outcome, Collected()
        place, disk = self.means.spool.directory_of(self.claimed), self.means.spool.disk
        try:
            kept_fd = place.new_artifacts()
            try:
                kept = artifacts.collect(
                    wanted, self.prepared.work_fd, kept_fd, account, spec.limits, disk
                )
            finally:
                os.close(kept_fd)
            place.show_artifacts()
        except OSError as error:
            kept = Collected(missing=[each.path for each in wanted if each.required])
            kept.leave_out("all", error.strerror or str(error))
        for line in kept.told():
            self.prepared.log.write(f"==> artifacts: {line}\n".encode())
        if good and kept.missing:
            names = ", ".join(kept.missing)
            detail = f"there is no artifact {names}, or not all of it could be kept"
            outcome = Broken(detail, Reason.ARTIFACT)
        return outcome, kept

    # --- one step -------------------------------------------------------------------------------

    def _start_what_can(self, progress: Progress) -> None:
        """Start all steps whose turn it is; one that is passed over may be the turn of another."""
        passed_over = True
        while passed_over:
            passed_over = False
            stopped = self._stopped is not None
            for index, runs in workflow.to_do(
                self._steps, dict(self._states), self._watcher.active, stopped=stopped
            ):
                if runs:
                    self._start(index, progress)
                    passed_over |= index in self._states  # it could not be started
                else:
                    self._skip(index)
                    passed_over = True

    def _skip(self, index: int) -> None:
        self._states[index] = StepState.SKIPPED
        if self._listed:
            step = workflow.step_id(self._steps, index), self._steps[index]
            self._results[index] = step_result(*step, StepState.SKIPPED)

    def _start(self, index: int, progress: Progress) -> None:
        step = self._steps[index]
        log = self.prepared.log
        if self.prepared.step_logs:
            log = self.prepared.step_logs[index]
        elif self._listed:
            log.write(self._headline(index))
        began_at = log.size
        output = self.prepared.pipes[index]
        self._begun[index] = _Begun(time.time(), time.monotonic(), output, began_at)
        try:
            running = self.means.executors[step.executor].start(step, self._place(index, output))
        except NotStartable as error:
            self._conclude(Over(index, NotStarted(str(error)), None))
            return
        if not self._is_fenced(index):
            self.means.fences.spare.add(running.pid)
        output.close_write_end()
        active = Active(index, running, output, self._spec.kill_after_s)
        self._limit(active, step)
        self._watcher.add(active)
        progress.started(self._steps, index, running.pid, len(self._states))
        user = self.claimed.claim.account.name if self.claimed.claim.account else ""
        events.log(events.JobStarted(id=self.claimed.id, user=user, pid=running.pid))

    def _limit(self, active: Active, step: Step) -> None:
        """The step's time is over with its own timeout or with the job's, whichever comes first."""
        now = time.monotonic()
        who = self._who(active.index)
        if self._stopped is not None:
            own_s: float | None = step.timeout_s or LAST_STEPS_S
        else:
            own_s = step.timeout_s
            if self._deadline is not None and (own_s is None or now + own_s > self._deadline):
                limit = in_words(self._spec.timeout_s or 0)
                why = Stopped(Reason.TIMEOUT, f"the job ran longer than its timeout of {limit}")
                active.end_at(self._deadline, why, lambda: self._stop(why))
                return
        if own_s is not None:
            words = f"{who} ran longer than its timeout of {in_words(own_s)}"
            active.end_at(now + own_s, Stopped(Reason.TIMEOUT, words))

    def _place(self, index: int, output: Output) -> Place:
        claim = self.claimed.claim
        assert claim.account is not None
        directory = self.means.spool.path_of(claim.id)
        handed_on = {
            variable(result.id, key): value
            for result in self._results.values()
            for key, value in result.outputs.items()
        }
        return Place(
            job_id=claim.id,
            spool=str(self.means.spool.root),
            directory=directory,
            attempt=len(self.claimed.attempts) + 1,
            step=index,
            work_fd=self.prepared.work_fd,
            output_fd=output.write_fd,
            account=claim.account,
            keep=partial(self._keep, index),
            owe=partial(debts.owe, self.means.spool),
            secrets=self.means.secrets,
            named_secrets={
                name: self.means.named_secrets[name] for name in self._steps[index].secrets
            },
            limits=self._spec.limits,
            enter=self.means.fences.enter if self.means.fences.needs_fork else None,
            handed_on=handed_on,
            variables={
                "RUNNER_SUBMITTER": claim.submitter.user,
                "RUNNER_ATTEMPT": str(len(self.claimed.attempts) + 1),
                "RUNNER_OUTPUT": f"{directory}/{outputs_name(index)}",
                "RUNNER_PROGRESS": f"{directory}/{PROGRESS}",
            },
        )

    def _keep(self, index: int, name: str, data: bytes) -> str:
        """Put a file of a step into the job's directory; its path."""
        directory = self.means.spool.directory_of(self.claimed)
        return f"{self.means.spool.path_of(self.claimed.id)}/{directory.keep(name, index, data)}"

    def _is_fenced(self, index: int) -> bool:
        return self.means.executors[self._steps[index].executor].fenced

    def _conclude(self, over: Over) -> None:
        """Make the result of a step that has ended."""
        index, outcome = over.index, over.outcome
        if not self._watcher.active:
            self.means.fences.kill()
        if over.usage is not None:
            self._usages.append(over.usage)
        begun = self._begun.pop(index)
        begun.output.close()
        if self._deadline is not None:
            self._deadline += over.apart_s
        limit = self.means.fences.explain(outcome)
        if limit is not None:
            outcome = Stopped(Reason.LIMIT, limit)
        outputs: Mapping[str, str] = {}
        if outcome == Exited(0):
            try:
                outputs = self._outputs(index)
            except (ValueError, OSError) as error:
                outcome = Broken(f"what it hands on cannot be read: {error}")
        self._states[index] = StepState.DONE if outcome == Exited(0) else StepState.FAILED
        self._outcomes[index] = outcome
        if not self._listed:
            self._handed_on = outputs
            return
        self._results[index] = step_result(
            workflow.step_id(self._steps, index),
            self._steps[index],
            self._states[index],
            outcome=outcome,
            who=self._who(index),
            times=(begun.at, time.time(), time.monotonic() - begun.since),
            log=self._part_of_log(index, begun),
            outputs=outputs,
        )

    def _outputs(self, index: int) -> dict[str, str]:
        directory = self.means.spool.directory_of(self.claimed)
        data = directory.read_outputs(index, LARGEST + 1)
        if not data:
            return {}
        secrets = [*self.means.secrets.values(), *self.means.named_secrets.values()]
        return {key: hidden(value, secrets) for key, value in read_outputs(data).items()}

    def _part_of_log(self, index: int, begun: _Begun) -> tuple[int, int]:
        """Where in the log the step's output is; what it wrote to a log of its own follows now."""
        log = self.prepared.log
        if not self.prepared.step_logs:
            return begun.log_start, log.size
        log.write(self._headline(index))
        start = log.size
        log.append(self.prepared.step_logs[index])
        return start, log.size

    def _who(self, index: int) -> str:
        return f"the step {workflow.step_id(self._steps, index)}" if self._listed else "the job"

    def _headline(self, index: int) -> bytes:
        step, name = workflow.step_id(self._steps, index), self._steps[index].name
        return f"==> step {step}{': ' + name if name else ''}\n".encode()
