"""daemon: the loop. Wait, look, judge, claim, hand over; nothing in it waits for a job.

Events only wake it and looking tells the truth, so a lost event costs time and nothing else. All it
knows is a cache of the directories.

Errors: a submitter's fault becomes a filed result. The machine's (OSError) stops claiming, with
        one line, and claiming goes on by itself. Our own fault ends the process; jobs go on, and
        the next daemon sorts out what it finds.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

from . import events, messages
from .clock import Clock
from .conclude import Origin
from .configfile import Setup
from .controller import Controller
from .errors import RunnerdError
from .intake import Intake, failed_need
from .metrics import Figures, Metrics, count
from .model import JobId, Reason
from .nursery import Nursery
from .outcome import Result
from .post import Post
from .pruner import Pruner
from .running import Listeners, Running
from .schedule import Queue, Queued, scan_due
from .service import Service
from .spool import Spool
from .trouble import PAUSE_S, Trouble
from .watch import Watch

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
        self._watch = Watch()
        self._selector = selectors.DefaultSelector()
        self._clock = Clock()
        self._post = Post(spool.outbox, orders_of(setup), nursery.spawn_courier, self._selector)
        self._trouble = Trouble()
        self._queue = Queue()
        retention = setup.config.retention
        self._pruner = Pruner(spool, nursery.spawn, self._selector, retention)
        self._ended: deque[str] = deque()  # jobs whose end others may wait for
        self._metrics = Metrics(setup.config.metrics, origin.version)
        self._running = Running(
            spool,
            nursery,
            origin,
            self._selector,
            self._queue,
            self._trouble,
            self._clock,
            Listeners(self._post.wake, self._ended.append, self._metrics.count),
            slots=sum(setup.config.queue_sizes.values()),
        )
        self._intake = Intake(
            spool, setup, self._queue, self._ended, self._trouble, origin, self._count
        )
        self._controller = Controller(
            spool,
            self._queue,
            self._intake,
            self._trouble,
            self._running.salvage,
            self._post.hurry,
        )
        self._signals, self._signalled = socket.socketpair()
        self._stopping = self._reloading = False
        self._in_place = True  # the spool, as far as we know

    # --- the loop -------------------------------------------------------------------------------

    def run(self, *, once: bool = False) -> None:
        """Serve until SIGTERM or SIGINT; with `once`, until nothing is left that can start."""
        self._listen()
        self._running.recover()
        events.log(
            events.DaemonStarted(
                version=self._origin.version,
                spool=str(self._spool.root),
                slots=self._running.slots.limit,
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
            self._running.look(now)
            self._pruner.look(now)
            if self._may_claim(now):
                self._look_at_leftovers()
            if self._may_claim(now):
                self._intake.judge_some()
                self._expire()
                self._settle_some()
                self._dispatch(now)
                self._intake.let_go()
            self._tend_post(now)
            self._metrics.tick(now, self._figures)
            self._service.tick(now, self._status)
            idle_s = self._setup.config.runner_idle_s
            idle_until = self._running.slots.retire(now=now, idle_s=idle_s)
            if once and self._is_drained():
                break
            self._wait(idle_until)
        self._stop()

    def _status(self) -> str:
        paused = ", paused" if self._controller.paused else ""
        degraded = f", degraded: {self._trouble.why}" if self._trouble.why else ""
        return f"{len(self._running.taken)} running, {len(self._queue)} queued{paused}{degraded}"

    def _figures(self) -> Figures:
        sizes, now = self._setup.config.queue_sizes, self._clock.now()
        outbox = self._spool.outbox
        return Figures(
            slots=sizes,
            busy={queue: self._running.taken.in_queue(queue) for queue in sizes},
            backlog=self._queue.backlog(now),
            running=len(self._running.taken),
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
        perhaps = [idle_until, *self._running.due, self._trouble.due(now), self._pruner.due]
        perhaps += [self._post.due, self._service.status_due, self._metrics.due]
        due = [self._next_scan(now), *(each for each in perhaps if each is not None)]
        if self._service.beat_s is not None:
            due.append(now + self._service.beat_s)
        change = self._queue.next_change()
        if change is not None and not self._controller.paused and self._may_claim(now):
            due.append(now + max(0.0, change - self._clock.now()))
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
        if self._running.taken:
            return False
        intake = self._intake
        busy = intake or intake.woken or intake.unsettled or self._running.ready or self._ended
        troubled = self._trouble.why is not None or self._trouble.is_paused(time.monotonic())
        other = self._pruner.busy or not self._post.is_at_rest
        return not busy and not troubled and not other

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
            slots = self._running.slots.limit = sum(setup.config.queue_sizes.values())
            self._post.renew(orders_of(setup))
            reloaded = events.Reloaded(slots=slots, templates=len(setup.templates))
            events.log(reloaded)
        self._service.ready()

    def _stop(self) -> None:
        """Leave the runners at work: they file their jobs themselves."""
        self._service.stopping()
        self._metrics.write(self._figures)  # what was counted since the last time
        self._watch.stop()
        running = len(self._running.taken)
        self._running.close()
        self._pruner.close()
        self._post.close()
        self._nursery.close()
        events.log(events.DaemonStopped(running=running))

    def _mind_the_clock(self) -> None:
        """Let spans of time stay as long as they are when somebody sets the clock."""
        by_s = self._clock.mind()
        if by_s:
            events.log(events.ClockSet(by_s=by_s))
            self._queue.shift(by_s)

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
        if self._look_at_leftovers():  # half a claim is no job that can be cancelled
            self._controller.obey()

    def _look_at_leftovers(self) -> bool:
        could = self._running.settle_leftovers()
        if not could:
            self._intake.unsettled = True
        return could

    def _expire(self) -> None:
        """Refuse the jobs that did not start in time, for a short while."""
        until = time.monotonic() + SETTLE_FOR_S
        for queued in self._queue.expired(self._clock.now()):
            message = "its time to start was over before its turn came"
            self._intake.turn_away(queued, Reason.EXPIRED, "expires", message)
            if time.monotonic() >= until:
                break

    # --- claim and hand over --------------------------------------------------------------------

    def _dispatch(self, now: float) -> None:
        """Fill the free slots: first what was claimed before, then the queue in its order."""
        wall = self._clock.now()
        while not self._trouble.is_paused(now):
            if self._running.start_ready(now):
                continue
            queued = self._next(wall)
            if queued is None:
                break
            self._start(queued, now)

    def _next(self, wall: float) -> Queued | None:
        if self._controller.paused:
            return None
        return self._queue.next(wall, self._setup.config.queue_sizes, self._running.taken)

    def _start(self, queued: Queued, now: float) -> None:
        """Claim a job whose turn it is; for the next attempt it is claimed already."""
        if queued.inode is None:
            self._running.salvage(queued.id, retry=True)
            return
        claimed = self._intake.claim(queued)
        if claimed is not None:
            self._running.start(claimed, now)
        elif ("judge", queued.name) in self._trouble or ("claim", queued.name) in self._trouble:
            self._queue.add(queued)

    def _settle_some(self) -> None:
        """Tell the jobs that need one that has ended, for a short while."""
        now = time.monotonic()
        until = now + SETTLE_FOR_S
        if self._ended:
            self._pruner.filed(now)
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

    def _tend_post(self, now: float) -> None:
        if self._intake.told:
            self._intake.told = False
            self._post.wake()
        try:
            self._post.tick(now)
        except OSError as error:
            events.log(events.OutboxTroubled(why=str(error)))


def orders_of(setup: Setup) -> messages.Orders:
    """What the courier has to know of the configuration."""
    config = setup.config
    return messages.Orders(settings=config.callbacks, targets=config.targets)
