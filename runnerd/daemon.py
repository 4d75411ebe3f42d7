"""daemon: the loop. Wait, look, judge, claim, hand over; nothing in it waits for a job.

Events only wake it and looking tells the truth, so a lost event costs time and nothing else. All it
knows is a cache of the directories.

Errors: a submitter's fault becomes a filed result. The machine's (OSError) stops claiming, with
        one line, and claiming goes on by itself. Our own fault ends the process; jobs go on, and
        the next daemon sorts out what it finds.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable

from . import events, messages
from .adopted import Adopted
from .conclude import Origin
from .configfile import Setup
from .controller import Controller
from .errors import RunnerdError
from .intake import Intake, failed_need
from .jobdir import Claimed
from .metrics import Figures, Metrics, count
from .model import Claim, JobId, Reason
from .nursery import Nursery
from .outcome import Result
from .post import Post
from .pruner import Pruner
from .recovery import Finding
from .remains import filed_result
from .retry import next_attempt_at
from .salvage import Salvaged, salvage
from .schedule import DEFAULT_QUEUE, Lane, Occupancy, Queue, Queued, scan_due
from .service import Service
from .slots import Slot, Slots
from .spool import Spool
from .sweeper import PATIENCE_S, Sweeper
from .trouble import PAUSE_S, Trouble, is_of_the_machine
from .watch import Watch

STARTS_LOST = 3  # runners that one job may take down before it starts
SETTLE_FOR_S = 0.05  # between two looks at runners and signals
CLOCK_STEP_S = 1.0  # less is how a clock is corrected all the time


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
        self._watch = Watch()
        self._selector = selectors.DefaultSelector()
        sizes = setup.config.queue_sizes
        self._slots = Slots(sum(sizes.values()), nursery.spawn, self._selector, self._hear)

        self._post = Post(spool.outbox, orders_of(setup), nursery.spawn_courier, self._selector)
        self._trouble = Trouble()
        self._queue = Queue()
        self._taken = Occupancy()
        self._ready: deque[Claimed] = deque()  # claimed before and not started: first in line
        self._adopted = Adopted(self._selector)
        self._sweeper = Sweeper(spool, nursery.spawn, self._selector, self._look_again)
        retention = setup.config.retention
        self._pruner = Pruner(spool, nursery.spawn, self._selector, retention)
        self._stuck: set[str] = set()  # in running/, and cannot even be looked at
        self._ended: deque[str] = deque()  # jobs whose end others may wait for
        self._metrics = Metrics(setup.config.metrics, origin.version)
        self._intake = Intake(
            spool, setup, self._queue, self._ended, self._trouble, origin, self._count
        )
        self._controller = Controller(
            spool, self._queue, self._intake, self._trouble, self._salvage, self._post.hurry
        )
        self._starts_lost: Counter[JobId] = Counter()
        self._returned: set[str] = set()  # by their runners, before anything of them began

        self._signals, self._signalled = socket.socketpair()
        self._stopping = self._reloading = False
        self._in_place = True  # the spool, as far as we know
        self._ahead_s = time.time() - steady_s()

    # --- the loop -------------------------------------------------------------------------------

    def run(self, *, once: bool = False) -> None:
        """Serve until SIGTERM or SIGINT; with `once`, until nothing is left that can start."""
        self._listen()
        self._spool.clear_spares()
        for name in self._spool.unfinished():
            self._salvage(name)
        self._settle_outbox()
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
            self._mind_the_clock()
            self._trouble.settle(now)
            if now >= self._next_scan(now):
                self._scan(now)
            self._look_after_adopted(now)
            self._sweeper.look(now)
            self._pruner.look(now)
            if self._may_claim(now):
                self._settle_leftovers()
            if self._may_claim(now):
                self._intake.judge_some()
                self._expire()
                self._settle_some()
                self._dispatch(now)
            self._tend_post(now)
            self._metrics.tick(now, self._figures)
            self._service.tick(now, self._status)
            idle_until = self._slots.retire(now=now, idle_s=self._setup.config.runner_idle_s)
            if once and self._is_drained():
                break
            self._wait(idle_until)
        self._stop()

    @property
    def _status(self) -> str:
        paused = ", paused" if self._controller.paused else ""
        degraded = f", degraded: {self._trouble.why}" if self._trouble.why else ""
        return f"{len(self._taken)} running, {len(self._queue)} queued{paused}{degraded}"

    def _figures(self) -> Figures:
        sizes, now = self._setup.config.queue_sizes, self._time()
        outbox = self._spool.outbox
        return Figures(
            slots=sizes,
            busy={queue: self._taken.in_queue(queue) for queue in sizes},
            backlog=self._queue.backlog(now),
            running=len(self._taken),
            now=now,
            scanned_at=now - (time.monotonic() - self._intake.scanned_at),
            paused=self._controller.paused,
            degraded=self._trouble.why is not None or not self._in_place,
            callbacks=count(outbox.names()),
            dead_letters=count(outbox.dead_names()),
        )

    def _count(self, result: Result) -> None:
        self._metrics.count(messages.Finished.of(result))

    def _listen(self) -> None:
        self._selector.register(self._watch, selectors.EVENT_READ, self._take_wake_up)
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
        self._watch_boxes()

    def _watch_boxes(self) -> None:
        try:
            for each in ("incoming", "control"):
                self._watch.add(self._spool.root / each)
        except OSError as error:
            why = str(error)
            events.log(events.NotWatching(rescan_s=self._setup.config.rescan_s, why=why))

    def _note(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self._stopping = True

    def _wait(self, idle_until: float | None) -> None:
        """Sleep until something happens or is due, and take the news in."""
        now = time.monotonic()
        perhaps = [idle_until, self._adopted.next_look, self._trouble.due(now)]
        perhaps += [self._sweeper.due, self._pruner.due, self._post.due, self._service.status_due]
        perhaps += [self._metrics.due]
        due = [self._next_scan(now), *(each for each in perhaps if each is not None)]
        if self._service.beat_s is not None:
            due.append(now + self._service.beat_s)
        change = self._queue.next_change()
        if change is not None and not self._controller.paused and self._may_claim(now):
            due.append(now + max(0.0, change - self._time()))
        busy = self._intake or self._ended
        timeout = 0.0 if busy and self._may_claim(now) else max(0.0, min(due) - now)
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
        troubled = self._trouble.why is not None or self._trouble.is_paused(time.monotonic())
        other = self._pruner.busy or not self._post.is_at_rest
        return not busy and not troubled and not other and len(self._taken) == 0

    def _may_claim(self, now: float) -> bool:
        """Whether the machine and the spool are such that something may be tried."""
        return self._in_place and not self._trouble.is_paused(now)

    def _take_wake_up(self) -> None:
        self._watch.take()
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
            for name, why in setup.executors.broken.items():
                if self._setup.executors.broken.get(name) != why:
                    events.log(events.ExecutorDisabled(name=name, why=why))
            self._setup = self._intake.setup = setup
            self._pruner.change(setup.config.retention, now)
            self._metrics.change(setup.config.metrics, now)
            self._slots.limit = sum(setup.config.queue_sizes.values())
            self._post.renew(orders_of(setup))
            reloaded = events.Reloaded(slots=self._slots.limit, templates=len(setup.templates))
            events.log(reloaded)
        self._service.ready()

    def _stop(self) -> None:
        """Leave the runners at work: they file their jobs themselves."""
        self._service.stopping()
        self._metrics.write(self._figures)  # what was counted since the last time
        self._watch.stop()
        running = len(self._taken)
        self._spool.clear_spares()  # or the runners change the spool when nobody serves it any more
        self._slots.close()
        self._sweeper.close()
        self._pruner.close()
        self._post.close()
        self._nursery.close()
        for claimed in self._ready:
            claimed.close()
        events.log(events.DaemonStopped(running=running))

    def _mind_the_clock(self) -> None:
        """Let spans of time stay as long as they are when somebody sets the clock."""
        ahead_s = time.time() - steady_s()
        by_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
        if abs(by_s) >= CLOCK_STEP_S:
            events.log(events.ClockSet(by_s=by_s))
            self._queue.shift(by_s)

    def _time(self) -> float:
        """The time for the queue: a clock that was set just now counts once that was minded."""
        return steady_s() + self._ahead_s

    def _scan(self, now: float) -> None:
        try:
            if self._spool.follow():
                self._watch_boxes()
        except (OSError, RunnerdError) as error:
            self._in_place = False
            self._intake.cannot_look(error, now)
            return
        self._in_place = True
        self._post.wake()
        self._intake.scan(now)
        if self._settle_leftovers():  # half a claim is no job that can be cancelled
            self._controller.obey()

    def _expire(self) -> None:
        """Refuse the jobs that did not start in time, for a short while."""
        until = time.monotonic() + SETTLE_FOR_S
        for queued in self._queue.expired(self._time()):
            message = "its time to start was over before its turn came"
            self._intake.turn_away(queued, Reason.EXPIRED, "expires", message)
            if time.monotonic() >= until:
                break

    # --- claim and hand over --------------------------------------------------------------------

    def _dispatch(self, now: float) -> None:
        """Fill the free slots: first what was claimed before, then the queue in its order."""
        while not self._trouble.is_paused(now):
            if self._ready and self._slots.busy < self._slots.limit:
                self._hand(self._ready.popleft(), now)
            elif (queued := self._next()) is not None:
                self._start(queued, now)
            else:
                break

    def _next(self) -> Queued | None:
        if self._controller.paused:
            return None
        return self._queue.next(self._time(), self._setup.config.queue_sizes, self._taken)

    def _start(self, queued: Queued, now: float) -> None:
        """Claim a job whose turn it is; for the next attempt it is claimed already."""
        if queued.inode is None:
            self._salvage(queued.id, retry=True)
            return
        claimed = self._intake.claim(queued)
        if claimed is not None:
            self._taken.take(claimed.id, lane_of(claimed.claim))
            self._hand(claimed, now)
        elif ("judge", queued.name) in self._trouble or ("claim", queued.name) in self._trouble:
            self._queue.add(queued)

    def _hand(self, claimed: Claimed, now: float) -> None:
        try:
            self._slots.hand(claimed, now=now)
        except OSError as error:
            self._ready.append(claimed)
            self._trouble.tell(error, "start", claimed.id)
        else:
            self._returned.discard(claimed.id)
            self._trouble.tried("start", claimed.id, now)

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
                self._release(message.id)
                self._metrics.count(message)
                self._ended.append(message.id)
                if message.told:
                    self._post.wake()
            case messages.Waiting() if message.id == slot.job:
                slot.rest(time.monotonic())
                self._release(message.id)
                self._salvage(message.id, known=True)
            case messages.Told():
                self._post.wake()
            case messages.Returned() if message.id == slot.job:
                slot.rest(time.monotonic())
                if ("start", message.id) not in self._trouble:
                    events.log(events.JobReturned(id=message.id, why=message.why))
                self._trouble.tell(OSError(message.why), "start", message.id)
                self._returned.add(message.id)
                self._salvage(message.id)
            case _:
                lost = slot.job
                self._slots.drop(slot)
                events.log(events.RunnerLost(slot=slot.number, id=lost))
                if lost is not None:
                    self._starts_lost[lost] += 1
                    self._salvage(lost)

    def _release(self, job_id: str) -> None:
        """It was started, or will not be."""
        self._returned.discard(job_id)
        self._trouble.worked("start", job_id)
        self._free(job_id)

    def _free(self, job_id: str) -> None:
        group = self._taken.free(job_id)
        if group is not None:
            self._queue.room_in(group)

    def _settle_some(self) -> None:
        """Tell the jobs that need one that has ended, for a short while."""
        until = time.monotonic() + SETTLE_FOR_S
        if self._ended:
            self._pruner.filed(time.monotonic())
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
        for name in self._adopted.due(now):
            self._salvage(name, known=True)

    def _look_again(self, name: str) -> None:
        self._salvage(name, known=True)

    def _settle_leftovers(self) -> bool:
        """Look at what trouble has left in running/: claims half made, answers not filed.

        Returns whether it could be looked at.
        """
        if self._trouble.why is None:
            return True
        try:
            left = self._spool.unfinished()
        except OSError as error:
            self._trouble.tell(error, "leftovers")
            self._intake.unsettled = True
            return False
        self._trouble.worked("leftovers")
        for name in self._trouble.names("post"):
            self._settle_outbox(JobId(name) if name else None)
        # What was filed, and then could not be synced, is not there any more.
        for name in {*left, *self._trouble.names("settle")}:
            waiting = self._queue.find(name)
            if name not in self._taken and (waiting is None or waiting.inode is not None):
                self._salvage(name)
        return True

    def _salvage(self, name: str, *, known: bool = False, retry: bool = False) -> None:
        """Settle a directory in running/ that no runner of ours looks after.

        `known`: it was found alive before. `retry`: it is the turn of its next attempt.
        """
        give_up = self._starts_lost[JobId(name)] >= STARTS_LOST
        try:
            found = salvage(
                self._spool,
                name,
                self._origin,
                give_up=give_up,
                returned=name in self._returned,
                spare_pid=self._nursery.pid,
                swept=self._sweeper.outcome(name),
            )
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self._spool.is_running(name):
                self._trouble.worked("settle", name)
                self._settle_outbox(JobId(name))
                self._release(name)  # its runner has filed it meanwhile
                self._count_filed(name)
                self._ended.append(name)
                return
            if is_of_the_machine(error):
                self._trouble.tell(error, "settle", name)
            elif name not in self._stuck:
                events.log(events.JobStuck(id=name, why=str(error)))
                self._stuck.add(name)
            self._adopted.add(name, time.monotonic() + 2 * PAUSE_S)  # others may go on meanwhile
            return
        self._stuck.discard(name)
        self._trouble.worked("settle", name)
        if not found.unswept:
            self._sweeper.forget(name)
        self._post.wake()
        if found.result is not None:
            self._count(found.result)
        self._place(name, found, retry=retry)
        if not (known or retry) or found.finding is not Finding.ALIVE:
            events.log(events.JobFound(id=name, finding=found.finding.name.lower()))

    def _count_filed(self, name: str) -> None:
        """Count a job of which no runner has told us how it ended."""
        with contextlib.suppress(OSError):  # a figure is not worth more
            result = filed_result(self._spool, name)
            if result is not None:
                self._count(result)

    def _settle_outbox(self, job_id: JobId | None = None) -> None:
        """Show what tells of jobs that were filed, where their runner did not come to that."""
        try:
            self._spool.outbox.settle(self._spool.is_running, job_id)
        except OSError as error:
            self._trouble.tell(error, "post", job_id or "")
        else:
            self._trouble.worked("post", job_id or "")
        self._post.wake()

    def _tend_post(self, now: float) -> None:
        if self._intake.told:
            self._intake.told = False
            self._post.wake()
        try:
            self._post.tick(now)
        except OSError as error:
            events.log(events.OutboxTroubled(why=str(error)))

    def _place(self, name: str, found: Salvaged, *, retry: bool) -> None:
        """Keep what is not settled: a live job, one to start, or one that waits."""
        claimed = found.claimed
        if found.finding is Finding.ALIVE:
            self._adopted.add(name, time.monotonic() + PAUSE_S, found.pidfd)
            self._taken.take(name, lane_of(found.claim))
        elif found.unswept:
            now = time.monotonic()
            self._adopted.add(name, now + 2 * PATIENCE_S)  # in case that nobody tells us to look
            self._taken.take(name, lane_of(found.claim))
            self._sweeper.want(name, now)
        elif claimed is not None and (found.retry_at is None or retry):
            self._taken.take(name, lane_of(claimed.claim))
            self._ready.append(claimed)
        elif claimed is not None and found.retry_at is not None:
            self._free(name)
            self._queue.add(waiting_of(claimed, found.retry_at, now=self._time()))
            claimed.close()
        else:
            self._release(name)
            self._ended.append(name)


def orders_of(setup: Setup) -> messages.Orders:
    """What the courier has to know of the configuration."""
    config = setup.config
    return messages.Orders(settings=config.callbacks, targets=config.targets)


def steady_s() -> float:
    """A clock that nobody can set, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def lane_of(claim: Claim | None) -> Lane:
    """The queue and the group of a job."""
    spec = claim.spec if claim is not None else None
    if spec is None:
        return DEFAULT_QUEUE, None
    group = spec.concurrency.group if spec.concurrency is not None else None
    return spec.queue or DEFAULT_QUEUE, group


def waiting_of(claimed: Claimed, retry_at: float, *, now: float) -> Queued:
    """The place in the queue of a job that waits for its next attempt."""
    claim, spec = claimed.claim, claimed.claim.spec
    if spec is not None and spec.retry is not None:
        retry_at = next_attempt_at(spec, retry_at, failures=len(claimed.attempts), now=now)
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
        delayed=True,
    )
