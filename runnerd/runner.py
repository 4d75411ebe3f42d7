"""runner: run one claimed job at a time, to its end, and file it.

A runner is a process of its own, started from the nursery. It takes Start messages from the daemon,
and when the daemon is gone it finishes its job, files it and leaves. The same `run_job` serves
`runnerctl run`, in the foreground.

Guarantees: the claim is on disk before the job's first instruction; the log is on disk before the
            result, and the result before the job is filed; the daemon hears of it after that.
Errors:     OSError before the start returns the job, untouched; after the end, filing is repeated
            until the disk takes it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import __version__, events, messages, units
from .conclude import Origin, conclude
from .errors import NotStartable
from .executors import Executor, Place, Running
from .model import Claim, Reason, State
from .outcome import Ended, NotStarted, Outcome, Result, Status, Stopped, Usage
from .output import Output
from .processes import adopt_orphans, bury_orphans, end_orphans
from .secretstore import SecretStore
from .spool import Claimed, Spool

RETRY_FILING_S = 1.0
BURY_S = 5.0  # how long a dead process that the job abandoned may stay a zombie


def origin() -> Origin:
    """Who we are, for results."""
    return Origin(host=socket.gethostname(), version=__version__)


@dataclass(frozen=True, slots=True)
class Runner:
    """What stays the same from job to job."""

    spool: Spool
    executors: Mapping[str, Executor]
    secrets: SecretStore
    origin: Origin
    echo_fd: int | None = None
    cancel_fd: int | None = None

    def serve(self, daemon: socket.socket) -> None:
        """Run what the daemon sends, until it closes the connection or dies."""
        adopt_orphans()
        while True:
            message, fds = messages.receive(daemon)
            if not isinstance(message, messages.Start):
                return
            claimed = self.spool.received(message.id, fds[0])
            try:
                answer = self._answer(claimed)
            finally:
                claimed.close()
            try:
                messages.send(daemon, answer)
            except BrokenPipeError:
                return  # the daemon is gone, the job is filed all the same

    def _answer(self, claimed: Claimed) -> messages.Message:
        try:
            prepared = self.prepare(claimed)
        except OSError as error:
            return messages.Returned(id=claimed.id, why=str(error))
        result = self.run(claimed, *prepared)
        return messages.Finished(id=claimed.id, state=result.state, reason=result.reason)

    def prepare(self, claimed: Claimed) -> tuple[Output, int]:
        """All that can fail for want of room, before anything of the job runs."""
        self.spool.secure(claimed)
        with contextlib.ExitStack() as on_error:
            work_fd = self.spool.open_work(claimed)
            on_error.callback(os.close, work_fd)
            log_fd = self.spool.open_log(claimed)
            on_error.callback(os.close, log_fd)
            output = Output(log_fd, echo_fd=self.echo_fd)
            on_error.callback(output.close_pipe)
            self.spool.mark_started(claimed, now=time.time())
            on_error.pop_all()
        return output, work_fd

    def run(self, claimed: Claimed, output: Output, work_fd: int) -> Result:
        """Run a prepared job to its end and file it; its directory is all that is left of it."""
        with output:
            ended = self._attempt(claimed, output, work_fd)
            os.close(work_fd)
        result = conclude(claimed.claim, ended, self.origin)
        result = self._file(claimed, result)
        events.log(
            events.JobFinished(
                id=claimed.id,
                state=result.state,
                reason=result.reason,
                message=result.message,
                duration_s=result.duration_s,
            )
        )
        return result

    def _attempt(self, claimed: Claimed, output: Output, work_fd: int) -> Ended:
        claim, spec = claimed.claim, claimed.claim.spec
        assert spec is not None
        (step,) = spec.steps
        started_at, began = time.time(), time.monotonic()
        usage: Usage | None = None
        outcome: Outcome
        try:
            secrets = self.secrets.values(spec.secrets)
            output.hide(secrets.values())
            place = self._place(claim, work_fd, output, secrets)
            running = self.executors[step.executor].start(step, place)
        except NotStartable as error:
            outcome = NotStarted(str(error))
        else:
            output.close_write_end()
            self._show(claimed, running, place, started_at)
            outcome, usage = supervise(
                running,
                output,
                timeout_s=spec.timeout_s,
                kill_after_s=spec.kill_after_s,
                cancel_fd=self.cancel_fd,
            )
        output.sync(self.spool.disk)
        return Ended(
            outcome=outcome,
            started_at=started_at,
            finished_at=time.time(),
            duration_s=time.monotonic() - began,
            usage=usage,
            truncated=("output",) if output.lost else (),
        )

    def _place(
        self, claim: Claim, work_fd: int, output: Output, secrets: Mapping[str, bytes]
    ) -> Place:
        assert claim.account is not None
        return Place(
            job_id=claim.id,
            directory=str(self.spool.path_of(claim.id)),
            work_fd=work_fd,
            output_fd=output.write_fd,
            account=claim.account,
            submitter=claim.submitter.user,
            secrets=secrets,
        )

    def _show(self, claimed: Claimed, running: Running, place: Place, started_at: float) -> None:
        events.log(events.JobStarted(id=claimed.id, user=place.account.name, pid=running.pid))
        status = Status(
            id=claimed.id,
            name=claimed.claim.spec.name if claimed.claim.spec else None,
            state=State.RUNNING,
            pid=running.pid,
            attempt=1,
            started_at=units.rfc3339(started_at),
        )
        try:
            self.spool.show_status(claimed, status)
        except OSError as error:
            events.log(events.StatusNotWritten(id=claimed.id, why=str(error)))

    def _file(self, claimed: Claimed, result: Result) -> Result:
        """File the job. A result that was earned is kept until there is room for it."""
        said = False
        while True:
            try:
                self.spool.file(claimed, result)
            except FileNotFoundError:
                events.log(events.DirectoryLost(id=claimed.id))
                self.spool.rebuild(claimed)
                result = replace(result, truncated=("output", "work"))
            except OSError as error:
                if not said:
                    events.log(events.FilingWaits(id=claimed.id, why=str(error)))
                said = True
                time.sleep(RETRY_FILING_S)
            else:
                return result


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


def supervise(
    running: Running,
    output: Output,
    *,
    timeout_s: float | None,
    kill_after_s: float,
    cancel_fd: int | None = None,
) -> tuple[Outcome, Usage | None]:
    """Pump the output until the main process has ended; end it when its time is over.

    It is ended as well once `cancel_fd` becomes readable.

    With the main process all that it left behind is ended, and what the pipe holds then is taken.
    """
    poll = select.poll()
    poll.register(running.fileno(), select.POLLIN)
    poll.register(output.read_fd, select.POLLIN)
    if cancel_fd is not None:
        poll.register(cancel_fd, select.POLLIN)
    stopped: Stopped | None = None
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left_s = BURY_S if deadline is None else min(BURY_S, deadline - time.monotonic())
        ready = {fd for fd, _ in poll.poll(max(0.0, left_s) * 1000 + 1)}
        if not ready:
            bury_orphans(spare=running.pid)
        if output.read_fd in ready and not output.pump():
            poll.unregister(output.read_fd)
        if running.fileno() in ready:
            break
        if cancel_fd is not None and cancel_fd in ready:
            poll.unregister(cancel_fd)
            if stopped is None:
                stopped = Stopped(Reason.CANCELLED, "the job was cancelled")
                deadline = _terminate(running, kill_after_s)
        elif deadline is not None and time.monotonic() >= deadline:
            if stopped is None:
                words = units.in_words(timeout_s or 0)
                stopped = Stopped(Reason.TIMEOUT, f"the job ran longer than its timeout of {words}")
                deadline = _terminate(running, kill_after_s)
            else:
                running.signal(signal.SIGKILL)
                deadline = None
    outcome, usage = running.conclude()
    end_orphans()
    output.drain()
    return stopped or outcome, usage


def _terminate(running: Running, kill_after_s: float) -> float:
    """Ask all of the job to end; when to stop asking (monotonic)."""
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGCONT)  # a stopped process gets its SIGTERM only when it goes on
    return time.monotonic() + kill_after_s
