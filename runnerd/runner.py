"""runner: run one claimed job at a time, attempt by attempt, and file it.

A runner is a process of its own, started from the nursery. It takes Start messages from the daemon,
and when the daemon is gone it finishes its attempt, files the job or puts it away for its next
attempt, and leaves. The same `run` serves `runnerctl run`, in the foreground.

Guarantees: the claim is on disk before the job's first instruction; the log is on disk before the
            result, and the result before the job is filed; the daemon hears of it after that.
Errors:     OSError before the start returns the job, untouched; after the end, filing is repeated
            until the disk takes it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from . import __version__, cgroup, debts, events, filing, messages, retry, spares, traces, workflow
from .conclude import LOG, Origin, attempt_of, conclude, first_status, judge, waiting_status
from .errors import NotStartable, RunnerdError
from .executors import Executor
from .frozen import frozen
from .job import JobRun, Means, Prepared
from .jobdir import Claimed
from .limits import Fences
from .model import JobId, JobSpec, Reason
from .outcome import Ended, NotStarted, Postponed, Result
from .output import Log, Output
from .processes import adopt_orphans
from .secretstore import SecretStore
from .spool import Spool
from .telling import Telling

RETRY_FILING_S = 1.0
SWEEP_AGAIN_S = 3.0
# Not the last in line: it must not starve while it holds what the daemon waits for, in the kernel.
PRUNE_NICE = 10
PRUNE_WORDS = 500


def origin() -> Origin:
    """Who we are, for results."""
    return Origin(host=socket.gethostname(), version=__version__)


@frozen
class Runner:
    """What stays the same from job to job.

    `asked` says who wants the job to end, beside what the job's directory says.
    """

    spool: Spool
    executors: Mapping[str, Executor]
    secrets: SecretStore
    origin: Origin
    tree: cgroup.Tree | None = None
    echo_fd: int | None = None
    asked: Callable[[], str | None] = lambda: None

    def serve(self, daemon: socket.socket) -> None:
        """Run what the daemon sends, until it closes the connection or dies."""
        adopt_orphans()
        wakes = wakes_by(signal.SIGUSR1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGIO):
            signal.signal(number, lambda *_: None)  # ignored, but not by the programs we start
        spares.forget(self.spool.disk, root_fd=self.spool.root_fd)
        try:
            self._serve(daemon, wakes)
        finally:
            spares.forget(self.spool.disk, root_fd=self.spool.root_fd)

    def _serve(self, daemon: socket.socket, wakes: socket.socket) -> None:
        while True:
            message, fds = messages.receive(daemon)
            if isinstance(message, messages.Sweep):
                self._sweep(daemon)
                return
            if isinstance(message, messages.Prune):
                self._prune(daemon, message)
                return
            if not isinstance(message, messages.Start):
                return
            claimed = self.spool.received(message.id, fds[0])
            try:
                answer = self._answer(claimed, wakes, partial(_tell, daemon, claimed.id))
            finally:
                claimed.close()
            try:
                messages.send(daemon, answer)
            except messages.GONE:
                return  # the daemon is gone, the job is filed all the same

    def _answer(
        self, claimed: Claimed, wakes: socket.socket, told: Callable[[], None]
    ) -> messages.Message:
        try:
            prepared = self.prepare(claimed, told, lends=True)
        except OSError as error:
            return messages.Returned(id=claimed.id, why=str(error))
        ended = self.run(claimed, prepared, wakes)
        if isinstance(ended, Postponed):
            return messages.Waiting(id=claimed.id, retry_at=ended.retry_at)
        return messages.Finished.of(ended, told=claimed.claim.callback is not None)

    def _sweep(self, daemon: socket.socket) -> None:
        """Have all executors remove what they left, and look again: an engine may be at work still
        for somebody who died."""
        why = None
        try:
            with debts.settling(self.spool):
                removed = self._sweep_once()
                with contextlib.suppress(*messages.GONE):
                    messages.send(daemon, messages.Swept(removed=removed))
                time.sleep(SWEEP_AGAIN_S)
                self._sweep_once()
        except (RunnerdError, OSError) as error:
            why = str(error)
        if why is not None:
            with contextlib.suppress(*messages.GONE):
                messages.send(daemon, messages.Swept(removed=0, why=why))

    def _sweep_once(self) -> int:
        lives = partial(debts.lives, self.spool)
        return sum(each.sweep(str(self.spool.root), lives) for each in self.executors.values())

    def _prune(self, daemon: socket.socket, wanted: messages.Prune) -> None:
        """Remove filed jobs, and leave as soon as the daemon does: the next one goes on."""
        from . import prune  # noqa: PLC0415  # for this one runner alone

        os.nice(PRUNE_NICE)
        jobs, why, next_at = 0, None, None
        try:
            report = prune.prune(self.spool, wanted.retention, time.time(), prune.Halves(daemon))
            jobs, next_at = len(report.pruned), report.next_at
            if report.stuck:
                why = report.stuck[0][:PRUNE_WORDS]
        except prune.Interrupted:
            return
        except (RunnerdError, OSError) as error:
            why = str(error)[:PRUNE_WORDS]
        with contextlib.suppress(*messages.GONE):
            messages.send(daemon, messages.Pruned(jobs=jobs, why=why, next_at=next_at))

    def prepare(
        self, claimed: Claimed, told: Callable[[], None] = lambda: None, *, lends: bool = False
    ) -> Prepared:
        """All that can fail for want of room, before anything of the job runs.

        `told` is called when there are news of it in the outbox. `lends`: there may be more jobs.
        """
        spool, spec = self.spool, _spec(claimed)
        spool.secure(claimed)
        place = spool.directory_of(claimed)
        unfit = None
        if claimed.claim.inputs is not None:
            unfit = place.take_inputs(now=time.time())
        fds: list[int] = []
        pipes: list[Output] = []
        try:
            fds.append(work_fd := place.open_work())
            fds.append(log_fd := place.open_log())
            ours = self._is_ours(claimed)
            lent = spool.root_fd if ours and lends else None
            fds.append(progress_fd := place.open_progress(spares_at=lent))
            cap = spec.limits.output_bytes if spec.limits is not None else None
            log = Log(log_fd, place.open_timing, cap=cap, echo_fd=self.echo_fd)
            step_logs: list[Log] = []
            has_logs = spec.listed and workflow.is_graph(spec.steps)
            for each in range(len(spec.steps)):
                if not ours:
                    place.make_outputs(each)
                elif claimed.attempts:
                    place.forget_outputs(each)
                if has_logs:
                    fds.append(step_fd := place.open_step_log(each))
                    step_logs.append(Log(step_fd, None, cap=cap))
                pipes.append(Output(step_logs[each] if has_logs else log))
            now, attempt = time.time(), len(claimed.attempts) + 1
            telling = Telling(spool.outbox, claimed.claim, attempt, told)
            if claimed.claim.callback is not None:
                telling.prepare(first_status(claimed.claim, attempt=attempt, started_at=now))
            spool.mark_started(claimed, now=now)
        except BaseException:
            for pipe in pipes:
                pipe.close()
            for fd in fds:
                os.close(fd)
            raise
        return Prepared(log, work_fd, progress_fd, tuple(pipes), telling, tuple(step_logs), unfit)

    def _is_ours(self, claimed: Claimed) -> bool:
        """Whether all of a job are processes of our own user, which the runner sees to the end."""
        account, steps = claimed.claim.account, _spec(claimed).steps
        here = all(self.executors[step.executor].fenced for step in steps)
        return here and account is not None and account.uid == os.geteuid()

    def run(self, claimed: Claimed, prepared: Prepared, wakes: socket.socket) -> Result | Postponed:
        """Run a prepared job to its end and file it; its directory is all that is left of it."""
        try:
            ended = self._attempt(claimed, prepared, wakes)
        finally:
            prepared.close()
        if claimed.claim.callback is not None:
            with contextlib.suppress(FileNotFoundError):  # of a job whose directory is gone
                self._insist(claimed, prepared.telling.end)
        postponed = self._next_attempt(claimed, ended)
        if postponed is not None:
            return self._put_away(claimed, postponed)
        result = conclude(claimed.claim, ended, self.origin, before=claimed.attempts)
        result = self._file(claimed, result)
        output = b"" if result.reason is None else traces.tail_at(claimed.dir_fd)
        events.log(events.job_ended(result, output))
        return result

    def _attempt(self, claimed: Claimed, prepared: Prepared, wakes: socket.socket) -> Ended:
        spec = _spec(claimed)
        tree = self.tree if spec.limits is not None else None
        if prepared.unfit is not None:
            return _not_started(NotStarted(prepared.unfit, Reason.INVALID))
        try:
            secrets = self.secrets.values(spec.secrets)
            named = {name: name for step in spec.steps for name in step.secrets}
            named_secrets = self.secrets.values(named)
            if any(self.executors[step.executor].fenced for step in spec.steps):
                fences = Fences.around(spec.limits, tree, claimed.id)
            else:
                fences = Fences.elsewhere(spec.limits)
        except NotStartable as error:
            return _not_started(NotStarted(str(error)))
        try:
            for log in (prepared.log, *prepared.step_logs):
                log.hide([*secrets.values(), *named_secrets.values()])
            means = Means(
                spool=self.spool,
                executors=self.executors,
                secrets=secrets,
                named_secrets=named_secrets,
                fences=fences,
                wakes=wakes,
                cancelled=self._cancelled_by,
            )
            return JobRun(claimed, prepared, means).run()
        finally:
            fences.close()

    def _cancelled_by(self, claimed: Claimed) -> str | None:
        return self.spool.directory_of(claimed).cancelled_by() or self.asked()

    def _next_attempt(self, claimed: Claimed, ended: Ended) -> Postponed | None:
        """The attempt as one that is followed by another, if it is."""
        number = len(claimed.attempts) + 1
        reason, _ = judge(ended.outcome)
        delay_s = retry.delay_after(
            _spec(claimed),
            reason,
            failures=number,
            chance=random.random(),  # noqa: S311  # nobody gains by guessing it
        )
        if delay_s is None or self._cancelled_by(claimed) is not None:
            return None
        if not self.spool.is_in_place(claimed):
            return None  # what is not in running/ cannot wait there
        attempt = attempt_of(ended, number=number, log=LOG.replace(".", f".{number}."))
        return Postponed(attempt=attempt, retry_at=time.time() + delay_s)

    def _put_away(self, claimed: Claimed, postponed: Postponed) -> Postponed:
        self._insist(claimed, lambda: filing.postpone(self.spool, claimed, postponed))
        self._show_waiting(claimed, postponed)
        attempt = postponed.attempt
        delay_s = postponed.retry_at - time.time()
        events.log(
            events.JobPostponed(
                id=claimed.id, number=attempt.number, message=attempt.message, delay_s=delay_s
            )
        )
        return postponed

    def _show_waiting(self, claimed: Claimed, postponed: Postponed) -> None:
        status = waiting_status(claimed.claim, postponed)
        with contextlib.suppress(OSError):  # only a view
            self.spool.directory_of(claimed).show_status(status)

    def _file(self, claimed: Claimed, result: Result) -> Result:
        """File the job. A result that was earned is kept until there is room for it."""
        try:
            self._insist(claimed, lambda: filing.file(self.spool, claimed, result))
        except FileNotFoundError:
            events.log(events.DirectoryLost(id=claimed.id))
            self.spool.rebuild(claimed)
            result = replace(result, artifacts=(), truncated=("output", "work"))
            self._insist(claimed, lambda: filing.file(self.spool, claimed, result))
        return result

    def _insist(self, claimed: Claimed, write: Callable[[], object]) -> None:
        """Repeat it until the disk takes it."""
        said = False
        while True:
            try:
                write()
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    if not self.spool.is_in_place(claimed):
                        raise
                    with contextlib.suppress(OSError, RunnerdError):
                        self.spool.follow()  # where it is to be filed was removed
                if not said:
                    events.log(events.FilingWaits(id=claimed.id, why=str(error)))
                said = True
                time.sleep(RETRY_FILING_S)
            else:
                return


def _tell(daemon: socket.socket, job_id: JobId) -> None:
    """Let the daemon know that there are news for the courier; without one, the next finds them."""
    with contextlib.suppress(OSError):
        messages.send(daemon, messages.Told(id=job_id))


def _not_started(why: NotStarted) -> Ended:
    return Ended(outcome=why, started_at=None, finished_at=time.time(), duration_s=None)


def _spec(claimed: Claimed) -> JobSpec:
    assert claimed.claim.spec is not None
    return claimed.claim.spec


def wakes_by(
    *numbers: signal.Signals, act: Callable[[int], None] = lambda _: None
) -> socket.socket:
    """A socket that is readable when one of these signals has come, on which `act` is called.

    A handler of Python's would run only between two of its own steps, and so not before a wait that
    the signal came just ahead of.
    """
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)  # noqa: FBT003
    for number in numbers:
        signal.signal(number, lambda heard, _: act(heard))
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    return ours


def shut_in() -> None:
    """Keep what this process was started with from jobs. Call it before anything is opened.

    Whoever started us may have left descriptors open for us to inherit; a job gets none of them.
    And 0, 1 and 2 must be taken, or a file of ours would become some job's standard stream.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            os.set_inheritable(int(each), int(each) <= 2)
