"""daemon: the loop. Wait, look, judge, claim, hand over; nothing in it waits for a job.

Events only wake it and looking tells the truth, so a lost event costs time and nothing else. All it
knows is a cache of the directories.

Errors: a submitter's fault becomes a filed result. The machine's (OSError) stops claiming, with
        one line, and claiming goes on by itself. Our own fault ends the process; jobs go on, and
        the next daemon sorts out what it finds.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from . import control, events, messages
from .accounts import account_of
from .conclude import Origin
from .configfile import Setup
from .control import Request, Verb
from .controlbox import ControlBox
from .errors import RunnerdError
from .intake import Intake, failed_need
from .jobdir import Claimed
from .model import Claim, JobId, Reason, State
from .nursery import Nursery
from .recovery import Finding
from .salvage import Salvaged, salvage
from .schedule import DEFAULT_QUEUE, Lane, Occupancy, Queue, Queued, scan_due
from .service import Service
from .slots import Slot, Slots
from .spool import Spool
from .trouble import PAUSE_S, Trouble
from .watch import Watch

STARTS_LOST = 3  # runners that one job may take down before it starts
_NOT_YOURS = "only the job's submitter and root may ask for that"
SETTLE_FOR_S = 0.05  # between two looks at runners and signals


class Daemon:
    """One spool's daemon. `reload` reads the configuration again."""

    def __init__(  # its parts, each once
        self,
        setup: Setup,
        spool: Spool,
        nursery: Nursery,
        origin: Origin,
        reload: Callable[[], Setup],
    ) -> None:
        self._setup = setup
        self._spool = spool
        self._nursery = nursery
        self._origin = origin
        self._reload = reload
        self._service = Service()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch = Watch(self._wake_fd)
        self._selector = selectors.DefaultSelector()
        sizes = setup.config.queue_sizes
        self._slots = Slots(sum(sizes.values()), nursery.spawn, self._selector, self._hear)

        self._trouble = Trouble()
        self._queue = Queue()
        self._control = ControlBox(spool)
        self._taken = Occupancy()
        self._ready: deque[Claimed] = deque()  # claimed before and not started: first in line
        self._adopted: set[str] = set()  # jobs of runners that an earlier daemon left
        self._ended: deque[str] = deque()  # jobs whose end others may wait for
        self._intake = Intake(spool, setup, self._queue, self._ended, self._trouble, origin)
        self._starts_lost: Counter[JobId] = Counter()

        self._signals, self._signalled = socket.socketpair()
        self._stopping = self._reloading = False
        self._paused = self._control.is_paused
        self._next_adopted = 0.0

    # --- the loop -------------------------------------------------------------------------------

    def run(self, *, once: bool = False) -> None:
        """Serve until SIGTERM or SIGINT; with `once`, until nothing is left that can start."""
        self._listen()
        for name in self._spool.unfinished():
            self._salvage(name)
        events.log(
            events.DaemonStarted(
                version=self._origin.version,
                spool=str(self._spool.root),
                slots=self._slots.limit,
            )
        )
        self._service.ready()
        while not self._stopping:
            now = time.monotonic()
            if self._reloading:
                self._read_config(now)
            if now >= self._next_scan(now):
                self._obey()
                self._scan(now)
            self._intake.judge_some()
            self._look_after_adopted(now)
            self._expire()
            self._settle_some()
            self._dispatch(now)
            self._service.tick(now, self._status)
            idle_until = self._slots.retire(now=now, idle_s=self._setup.config.runner_idle_s)
            if once and self._is_drained():
                break
            self._wait(idle_until)
        self._stop()

    @property
    def _status(self) -> str:
        paused = ", paused" if self._paused else ""
        return f"{len(self._taken)} running, {len(self._queue)} queued{paused}"

    def _listen(self) -> None:
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._take_wake_up)
        self._selector.register(self._nursery.sock, selectors.EVENT_READ, self._lose_nursery)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # openat's leases: fcntl(2)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        # Python calls a handler only between two of its own steps: a signal that comes just before
        # the loop goes to sleep would be heard when it wakes up.
        for end in (self._signals, self._signalled):
            end.setblocking(False)  # noqa: FBT003
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        try:
            self._watch.start(self._boxes)
        except OSError as error:
            why = str(error)
            events.log(events.NotWatching(rescan_s=self._setup.config.rescan_s, why=why))

    @property
    def _boxes(self) -> list[Path]:
        return [self._spool.root / each for each in ("incoming", "control")]

    def _note(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self._stopping = True

    def _wait(self, idle_until: float | None) -> None:
        """Sleep until something happens or is due, and take the news in."""
        now = time.monotonic()
        due = [self._next_scan(now)]
        if idle_until is not None:
            due.append(idle_until)
        if self._adopted:
            due.append(self._next_adopted)
        if self._trouble.present:
            due.append(self._trouble.pause_until)
        if self._service.beat_s is not None:
            due.append(now + self._service.beat_s)
        if self._service.status_due is not None:
            due.append(self._service.status_due)
        change = self._queue.next_change()
        if change is not None and not self._paused and not self._trouble.present:
            due.append(now + max(0.0, change - time.time()))
        busy = self._intake or self._ended
        timeout = 0.0 if busy and not self._trouble.present else max(0.0, min(due) - now)
        for key, _ in self._selector.select(timeout):
            key.data()

    def _next_scan(self, now: float) -> float:
        rescan_s = PAUSE_S / 2 if self._intake.unsettled else self._setup.config.rescan_s
        return scan_due(
            woken=self._intake.woken,
            now=now,
            last=self._intake.scanned_at,
            cost_s=self._intake.scan_cost_s,
            rescan_s=rescan_s,
        )

    def _is_drained(self) -> bool:
        """Whether nothing runs and nothing that waits can start."""
        intake = self._intake
        busy = intake or intake.woken or intake.unsettled or self._ready or self._ended
        return not busy and not self._trouble.present and len(self._taken) == 0

    def _take_wake_up(self) -> None:
        os.eventfd_read(self._wake_fd)
        self._intake.woken = True

    def _take_signals(self) -> None:
        self._signals.recv(4096)  # their handlers have noted what they were

    def _lose_nursery(self) -> None:
        raise RuntimeError("the nursery, the parent of all runners, has died")

    def _read_config(self, now: float) -> None:
        self._reloading = False
        self._service.reloading(now)
        try:
            setup = self._reload()
            if setup.faults:
                raise RunnerdError("\n".join(setup.faults))
        except (RunnerdError, OSError) as error:
            events.log(events.ReloadRefused(why=str(error)))
        else:
            self._setup = self._intake.setup = setup
            self._slots.limit = sum(setup.config.queue_sizes.values())
            reloaded = events.Reloaded(slots=self._slots.limit, templates=len(setup.templates))
            events.log(reloaded)
        self._service.ready()

    def _stop(self) -> None:
        """Leave the runners at work: they file their jobs themselves."""
        self._service.stopping()
        self._watch.stop()
        running = len(self._taken)
        self._slots.close()
        self._nursery.close()
        for claimed in self._ready:
            claimed.close()
        events.log(events.DaemonStopped(running=running))

    def _scan(self, now: float) -> None:
        try:
            if self._spool.follow_incoming():
                self._watch.again(self._boxes)
        except (OSError, RunnerdError) as error:
            self._trouble.tell(error)
        self._intake.scan(now)

    def _expire(self) -> None:
        """Refuse the jobs that did not start in time, for a short while."""
        until = time.monotonic() + SETTLE_FOR_S
        for queued in self._queue.expired(time.time()):
            message = "its time to start was over before its turn came"
            self._intake.turn_away(queued, Reason.EXPIRED, "expires", message)
            if time.monotonic() >= until:
                break

    # --- claim and hand over --------------------------------------------------------------------

    def _dispatch(self, now: float) -> None:
        """Fill the free slots: first what was claimed before, then the queue in its order."""
        if not self._trouble.is_over(now):
            return
        while True:
            if self._ready and self._slots.busy < self._slots.limit:
                self._hand(self._ready.popleft(), now)
            elif (queued := self._next()) is not None:
                self._start(queued, now)
            else:
                break
            if not self._trouble.is_over(now):
                return
        self._trouble.went()

    def _next(self) -> Queued | None:
        if self._paused:
            return None
        return self._queue.next(time.time(), self._setup.config.queue_sizes, self._taken)

    def _start(self, queued: Queued, now: float) -> None:
        """Claim a job whose turn it is; for the next attempt it is claimed already."""
        if queued.inode is None:
            self._salvage(queued.id, retry=True)
            return
        claimed = self._intake.claim(queued)
        if claimed is not None:
            self._taken.take(claimed.id, lane_of(claimed.claim))
            self._hand(claimed, now)
        elif self._trouble.present:
            self._queue.add(queued)

    def _hand(self, claimed: Claimed, now: float) -> None:
        try:
            self._slots.hand(claimed, now=now)
        except OSError as error:
            self._ready.append(claimed)
            self._trouble.tell(error)

    # --- news of jobs ---------------------------------------------------------------------------

    def _hear(self, slot: Slot) -> None:
        """Take in what a runner says. Its end without a word means that it died."""
        try:
            message, _ = messages.receive(slot.sock)
        except (OSError, ValueError):
            message = None
        match message:
            case messages.Finished() if message.id == slot.job:
                self._starts_lost.pop(message.id, None)
                slot.rest(time.monotonic())
                self._free(message.id)
                self._ended.append(message.id)
            case messages.Waiting() if message.id == slot.job:
                slot.rest(time.monotonic())
                self._free(message.id)
                self._salvage(message.id, known=True)
            case messages.Returned() if message.id == slot.job:
                slot.rest(time.monotonic())
                events.log(events.JobReturned(id=message.id, why=message.why))
                self._trouble.tell(OSError(message.why))
                self._salvage(message.id)
            case _:
                lost = slot.job
                self._slots.drop(slot)
                events.log(events.RunnerLost(slot=slot.number, id=lost or "none"))
                if lost is not None:
                    self._starts_lost[lost] += 1
                    self._salvage(lost)

    def _free(self, job_id: str) -> None:
        group = self._taken.free(job_id)
        if group is not None:
            self._queue.room_in(group)

    def _settle_some(self) -> None:
        """Tell the jobs that need one that has ended, for a short while."""
        until = time.monotonic() + SETTLE_FOR_S
        while self._ended and time.monotonic() < until:
            job_id = self._ended.popleft()
            waiting = self._queue.in_need_of(job_id)
            done = self._spool.ended(JobId(job_id)) if waiting else None
            if done:
                self._queue.done(job_id)
            for queued in waiting if done is False else ():
                self._queue.discard(queued.name)
                message = failed_need(job_id)
                self._intake.turn_away(queued, Reason.DEPENDENCY, "needs", message)
                if time.monotonic() >= until:
                    self._ended.appendleft(job_id)  # there may be thousands: go on in a moment
                    break

    def _look_after_adopted(self, now: float) -> None:
        if not self._adopted or now < self._next_adopted:
            return
        for name in list(self._adopted):
            self._adopted.discard(name)
            self._salvage(name, known=True)
        self._next_adopted = now + PAUSE_S

    def _salvage(self, name: str, *, known: bool = False, retry: bool = False) -> None:
        """Settle a directory in running/ that no runner of ours looks after.

        `known`: it was found alive before. `retry`: it is the turn of its next attempt.
        """
        give_up = self._starts_lost[JobId(name)] >= STARTS_LOST
        try:
            found = salvage(self._spool, name, self._origin, give_up=give_up)
        except FileNotFoundError:
            self._free(name)  # its runner has filed it meanwhile
            self._ended.append(name)
            return
        except OSError as error:
            self._trouble.tell(error)
            self._adopted.add(name)  # look again
            return
        self._place(name, found, retry=retry)
        if not (known or retry) or found.finding is not Finding.ALIVE:
            events.log(events.JobFound(id=name, finding=found.finding.name.lower()))

    def _place(self, name: str, found: Salvaged, *, retry: bool) -> None:
        """Keep what is not settled: a live job, one to start, or one that waits."""
        claimed = found.claimed
        if found.finding is Finding.ALIVE:
            self._adopted.add(name)
            self._taken.take(name, lane_of(found.claim))
        elif claimed is not None and (found.retry_at is None or retry):
            self._taken.take(name, lane_of(claimed.claim))
            self._ready.append(claimed)
        elif claimed is not None and found.retry_at is not None:
            self._free(name)
            self._queue.add(waiting_of(claimed.claim, found.retry_at))
            claimed.close()
        else:
            self._free(name)
            self._ended.append(name)

    # --- requests -------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Do what is asked for in control/, if who asks may."""
        try:
            requests = self._control.take_requests()
        except OSError as error:
            self._trouble.tell(error)
            return
        for request in requests:
            account = account_of(request.uid)
            by = account.name if account else f"uid {request.uid}"
            word = f"{request.job_id or 'all jobs'}: {request.verb}"
            try:
                why = self._do(request, by)
            except OSError as error:
                why = str(error)
            if why is None:
                events.log(events.RequestDone(request=word, by=by))
            else:
                events.log(events.RequestDenied(request=word, by=by, why=why))

    def _do(self, request: Request, by: str) -> str | None:
        """Do what is asked for, if who asks may; or why not."""
        if request.moved:
            return "others may have moved a file of root's here; ask by runnerctl"
        job_id = JobId(request.job_id or "")
        match request.verb:
            case Verb.PAUSE | Verb.RESUME:
                if not self._may(request, None):
                    return _NOT_YOURS
                self._paused = request.verb is Verb.PAUSE
                self._control.set_paused(paused=self._paused)
                return None
            case Verb.CANCEL:
                return self._cancel(request, job_id, by)
            case Verb.RETRY:
                submitter = self._control.submitter_of(job_id, State.FAILED, State.DONE)
                if submitter is None:
                    return "no such job has ended"
                if not self._may(request, submitter):
                    return _NOT_YOURS
                new_id = self._control.resubmit(job_id)
                self._intake.woken = True
                return None if new_id else "its file was never read"

    def _cancel(self, request: Request, job_id: JobId, by: str) -> str | None:
        """Cancel a job that runs, or one that waits; several may have asked for the same id."""
        running = self._control.submitter_of(job_id, State.RUNNING)
        queued = self._queue.find(job_id)
        waiting = queued is not None and queued.inode is None
        if running is not None and self._may(request, running):
            self._control.cancel(job_id, by)
            if queued is not None and waiting:
                self._queue.discard(queued.name)
                self._salvage(job_id)
            else:
                self._control.wake_runner(job_id)
            return None
        if queued is not None and not waiting:
            owner = self._control.owner_of(queued.name)
            if owner is not None and self._may(request, owner):
                self._queue.discard(queued.name)
                message = f"the job was cancelled by {by}"
                self._intake.turn_away(queued, Reason.CANCELLED, "control", message)
                return None
        return "no such job waits or runs" if running is None and queued is None else _NOT_YOURS

    def _may(self, request: Request, submitter_uid: int | None) -> bool:
        return control.may(request, submitter_uid=submitter_uid, own_uid=os.geteuid())


def lane_of(claim: Claim | None) -> Lane:
    """The queue and the group of a job."""
    spec = claim.spec if claim is not None else None
    if spec is None:
        return DEFAULT_QUEUE, None
    group = spec.concurrency.group if spec.concurrency is not None else None
    return spec.queue or DEFAULT_QUEUE, group


def waiting_of(claim: Claim, retry_at: float) -> Queued:
    """The place in the queue of a job that waits for its next attempt."""
    spec = claim.spec
    queue, group = lane_of(claim)
    return Queued(
        name=f"/{claim.id}",  # no file of incoming/ has such a name
        id=claim.id,
        dropped_at_ns=int(claim.submitted_at * 1e9),
        queue=queue,
        priority=spec.priority if spec else 0,
        group=group,
        group_limit=spec.concurrency.limit if spec and spec.concurrency else 1,
        not_before=retry_at,
    )
