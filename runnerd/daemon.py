"""daemon: the loop. Wait, look, judge, claim, hand over; nothing in it waits for a job.

Events only wake it and looking tells the truth, so a lost event costs time and nothing else. All it
knows is a cache of the directories.

Errors: a submitter's fault becomes a filed result. The machine's (OSError) stops claiming, with
        one line, and claiming goes on by itself. Our own fault ends the process; jobs go on, and
        the next daemon sorts out what it finds.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable

from . import events, messages, openat
from .admit import file_refused, judge, refuse
from .conclude import Origin
from .configfile import Setup
from .errors import RunnerdError
from .model import JobId, Refusal
from .nursery import Nursery
from .outcome import Result
from .recovery import Finding
from .salvage import salvage
from .schedule import Queue, Queued, scan_due
from .service import Service
from .slots import Slot, Slots
from .spool import Claimed, Judged, Spool
from .watch import Watch

JUDGE_FOR_S = 0.05  # between two looks at runners and signals
PAUSE_S = 1.0  # between tries when the machine is in trouble, and between looks at adopted jobs
STARTS_LOST = 3  # runners that one job may take down before it starts
# Of these all files would have the same trouble; anything else is the trouble of one name.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


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
        self._slots = Slots(setup.config.slots, nursery.spawn, self._selector, self._hear)

        self._queue = Queue()
        self._unjudged: deque[str] = deque()
        self._ready: deque[Claimed] = deque()  # claimed before and not started: first in line
        self._adopted: set[str] = set()  # jobs of runners that an earlier daemon left
        self._starts_lost: Counter[JobId] = Counter()
        self._stuck: set[str] = set()  # names in incoming/ that we cannot even move
        self._signals, self._signalled = socket.socketpair()

        self._stopping = self._reloading = self._unsettled = False
        self._woken = True
        self._last_scan = self._scan_cost = 0.0
        self._next_adopted = self._paused_until = 0.0
        self._degraded = False

    # --- the loop -------------------------------------------------------------------------------

    def run(self, *, once: bool = False) -> None:
        """Serve until SIGTERM or SIGINT; with `once`, until nothing is left to do."""
        self._listen()
        for name in self._spool.unfinished():
            self._salvage(name)
        events.log(
            events.DaemonStarted(
                version=self._origin.version,
                spool=str(self._spool.root),
                slots=self._setup.config.slots,
            )
        )
        self._service.ready()
        while not self._stopping:
            now = time.monotonic()
            if self._reloading:
                self._read_config(now)
            if now >= self._next_scan(now):
                self._scan(now)
            self._judge_some()
            self._look_after_adopted(now)
            self._dispatch(now)
            self._service.tick(now, f"{self._running} running, {len(self._queue)} queued")
            idle_until = self._slots.retire(now=now, idle_s=self._setup.config.runner_idle_s)
            if once and self._is_drained():
                break
            self._wait(idle_until)
        self._stop()

    @property
    def _running(self) -> int:
        return self._slots.busy + len(self._adopted)

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
            self._watch.start([self._spool.root / "incoming"])
        except OSError as error:
            events.log(events.NotWatching(rescan_s=self._setup.config.rescan_s, why=str(error)))

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
        if self._degraded:
            due.append(self._paused_until)
        if self._service.beat_s is not None:
            due.append(now + self._service.beat_s)
        timeout = 0.0 if self._unjudged and not self._degraded else max(0.0, min(due) - now)
        for key, _ in self._selector.select(timeout):
            key.data()

    def _next_scan(self, now: float) -> float:
        rescan_s = PAUSE_S / 2 if self._unsettled else self._setup.config.rescan_s
        return scan_due(
            woken=self._woken,
            now=now,
            last=self._last_scan,
            cost_s=self._scan_cost,
            rescan_s=rescan_s,
        )

    def _is_drained(self) -> bool:
        waiting = self._queue or self._unjudged or self._ready or self._woken
        return not waiting and self._running == 0

    def _take_wake_up(self) -> None:
        os.eventfd_read(self._wake_fd)
        self._woken = True

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
            self._setup = setup
            self._slots.limit = setup.config.slots
            reloaded = events.Reloaded(slots=setup.config.slots, templates=len(setup.templates))
            events.log(reloaded)
        self._service.ready()

    def _stop(self) -> None:
        """Leave the runners at work: they file their jobs themselves."""
        self._service.stopping()
        self._watch.stop()
        running = self._running
        self._slots.close()
        self._nursery.close()
        for claimed in self._ready:
            claimed.close()
        events.log(events.DaemonStopped(running=running))

    # --- look and judge -------------------------------------------------------------------------

    def _scan(self, now: float) -> None:
        """Compare incoming/ with what we know of it; what is new is judged in order of arrival."""
        stuck = self._stuck if self._woken else set()  # now and then they get another chance
        self._woken = self._unsettled = False
        self._last_scan = now
        try:
            if self._spool.follow_incoming():
                self._watch.again([self._spool.root / "incoming"])
            found = self._spool.look()
        except (OSError, RunnerdError) as error:
            self._unsettled = True
            self._degrade(error)
            return
        for name in self._queue.names() - found.keys():
            self._queue.discard(name)  # its submitter took it away
        self._stuck &= found.keys()
        new = [
            name
            for name, inode in found.items()
            if self._queue.inode(name) != inode and name not in stuck
        ]
        self._unjudged = deque(sorted(new, key=lambda name: (self._spool.dropped_at(name), name)))
        self._last_scan = time.monotonic()
        self._scan_cost = self._last_scan - now

    def _judge_some(self) -> None:
        """Judge files for a short while: a hostile one may cost as much as a thousand others."""
        until = time.monotonic() + JUDGE_FOR_S
        while self._unjudged and time.monotonic() < until:
            name = self._unjudged.popleft()
            judged = self._judge(name)
            if judged is None:
                continue
            with judged:
                status = judged.status
                self._queue.add(
                    Queued(dropped_at_ns=status.st_ctime_ns, name=name, inode=status.st_ino)
                )

    def _judge(self, name: str) -> Judged | None:
        """The file, open and accepted; None if it is gone, still being written, or was refused."""
        now = time.time()
        try:
            judged = judge(self._spool, name, self._setup, now=now)
        except FileNotFoundError:
            return None
        except openat.Busy:
            self._unsettled = True
            return None
        except OSError as error:
            self._cannot(name, error)
            return None
        if not isinstance(judged.verdict, Refusal):
            return judged
        with judged:
            try:
                result = refuse(self._spool, judged, self._origin, now=now)
            except OSError as error:
                self._cannot(name, error)
                return None
        self._tell_refused(result)
        return None

    def _cannot(self, name: str, error: OSError) -> None:
        """Something in incoming/ cannot be read or moved: leave it, or wait for the machine."""
        if error.errno in _MACHINE:
            self._unsettled = True
            self._degrade(error)
        elif name not in self._stuck:
            self._stuck.add(name)  # a mount point, or another user's directory and we are not root
            events.log(events.FileStuck(file=name, why=str(error)))

    def _tell_refused(self, result: Result | None) -> None:
        if result is not None and result.reason is not None:
            events.log(
                events.JobRefused(
                    id=result.id, reason=result.reason, file=result.file, message=result.message
                )
            )

    # --- claim and hand over --------------------------------------------------------------------

    def _dispatch(self, now: float) -> None:
        """Fill the free slots: first what was claimed before, then the queue in its order."""
        if now < self._paused_until:
            return
        while (free := self._slots.limit - self._running) > 0:
            if self._ready:
                claimed: Claimed | None = self._ready.popleft()
            elif (queued := self._queue.next(free_slots=free)) is not None:
                claimed = self._claim(queued)
            else:
                break
            if claimed is not None:
                self._hand(claimed, now)
            if self._degraded and now < self._paused_until:
                return
        if self._degraded:
            self._degraded = False
            events.log(events.Recovered())

    def _claim(self, queued: Queued) -> Claimed | None:
        """Judge the file as it is now, and take it."""
        judged = self._judge(queued.name)
        if judged is None:
            return None
        with judged:
            try:
                claimed = self._spool.claim(judged)
            except OSError as error:
                self._cannot(queued.name, error)
                return None
        if claimed is not None and claimed.claim.refusal is not None:
            self._file_refused(claimed)
            return None
        self._woken = self._woken or claimed is None  # it was replaced or removed: look again
        return claimed

    def _file_refused(self, claimed: Claimed) -> None:
        """Answer a file of which only the claim showed that its id is taken."""
        try:
            self._tell_refused(file_refused(self._spool, claimed, self._origin, now=time.time()))
        except OSError as error:
            self._degrade(error)
            self._adopted.add(claimed.id)  # salvaged as soon as there is room
        finally:
            claimed.close()

    def _hand(self, claimed: Claimed, now: float) -> None:
        try:
            self._slots.hand(claimed, now=now)
        except OSError as error:
            self._ready.append(claimed)
            self._degrade(error)

    def _degrade(self, error: OSError | RunnerdError) -> None:
        """Stop claiming for a while; say so once."""
        if not self._degraded:
            events.log(events.Degraded(why=str(error)))
        self._degraded = True
        self._paused_until = time.monotonic() + PAUSE_S

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
            case messages.Returned() if message.id == slot.job:
                slot.rest(time.monotonic())
                events.log(events.JobReturned(id=message.id, why=message.why))
                self._degrade(OSError(message.why))
                self._salvage(message.id)
            case _:
                lost = slot.job
                self._slots.drop(slot)
                events.log(events.RunnerLost(slot=slot.number, id=lost or "none"))
                if lost is not None:
                    self._starts_lost[lost] += 1
                    self._salvage(lost)

    def _look_after_adopted(self, now: float) -> None:
        if not self._adopted or now < self._next_adopted:
            return
        for name in list(self._adopted):
            self._adopted.discard(name)
            self._salvage(name)
        self._next_adopted = now + PAUSE_S

    def _salvage(self, name: str) -> None:
        """Settle a directory in running/ that no runner of ours looks after."""
        give_up = self._starts_lost[JobId(name)] >= STARTS_LOST
        try:
            finding, claimed = salvage(self._spool, name, self._origin, give_up=give_up)
        except FileNotFoundError:
            return  # its runner has filed it meanwhile
        except OSError as error:
            self._degrade(error)
            self._adopted.add(name)  # look again
            return
        if finding is Finding.ALIVE:
            self._adopted.add(name)
        elif claimed is not None:
            self._ready.append(claimed)
        if finding is not Finding.ALIVE or name not in self._adopted:
            events.log(events.JobFound(id=name, finding=finding.name.lower()))
