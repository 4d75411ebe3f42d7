"""running: the jobs in running/, from their claim until they are filed: who looks after each.

Most are with a runner of ours (slots), which tells how they end. Where it died, where an earlier
daemon started them, and where trouble left half a claim, their directory says what they are
(salvage); then they are filed, wait for a slot or their next attempt, or are left to whoever looks
after them still (adopted).
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections import Counter, deque
from collections.abc import Callable

from . import events, messages, spares
from .adopted import Adopted
from .clock import Clock
from .conclude import Origin
from .frozen import frozen
from .jobdir import Claimed
from .messages import Finished
from .model import JobId
from .nursery import Nursery
from .recovery import Finding
from .remains import filed_result
from .retry import next_attempt_at
from .salvage import Salvaged, salvage
from .schedule import Occupancy, Queue, Queued, lane_of
from .slots import Slot, Slots
from .spool import Spool
from .sweeper import PATIENCE_S, Sweeper
from .trouble import PAUSE_S, Trouble, is_of_the_machine

STARTS_LOST = 3  # runners that one job may take down before it starts


@frozen
class Listeners:
    """Who hears of jobs: `told`, that there may be news in the outbox; `ended`, that others may
    not wait for this one any more; `counted`, how one has ended."""

    told: Callable[[], None]
    ended: Callable[[str], None]
    counted: Callable[[Finished], None]


class Running:
    """The jobs in running/ of one spool. Times are monotonic."""

    def __init__(  # its parts, each once
        self,
        spool: Spool,
        nursery: Nursery,
        origin: Origin,
        selector: selectors.BaseSelector,
        queue: Queue,
        trouble: Trouble,
        clock: Clock,
        tell: Listeners,
        *,
        slots: int,
    ) -> None:
        self._spool = spool
        self._nursery = nursery
        self._origin = origin
        self._queue = queue
        self._trouble = trouble
        self._clock = clock
        self._tell = tell
        self.taken = Occupancy()
        self.slots = Slots(slots, nursery.spawn, selector, self._hear)
        self.ready: deque[Claimed] = deque()  # claimed before and not started: first in line
        self._adopted = Adopted(selector)
        self._sweeper = Sweeper(spool, nursery.spawn, selector, self._look_again)
        self._starts_lost: Counter[JobId] = Counter()
        self._returned: set[str] = set()  # by their runners, before anything of them began
        self._stuck: set[str] = set()  # cannot even be looked at

    def recover(self) -> None:
        """Settle all that an earlier daemon left."""
        spares.clear(self._spool.disk, root_fd=self._spool.root_fd)
        for name in self._spool.unfinished():
            self.salvage(name)
        self.settle_outbox()

    def close(self) -> None:
        """Leave the runners at work: they file their jobs themselves."""
        # Or they would change the spool when nobody serves it any more.
        spares.clear(self._spool.disk, root_fd=self._spool.root_fd)
        self.slots.close()
        self._sweeper.close()
        for claimed in self.ready:
            claimed.close()

    # --- hand over ------------------------------------------------------------------------------

    def start(self, claimed: Claimed, now: float) -> None:
        """A job that was claimed just now."""
        self.taken.take(claimed.id, lane_of(claimed.claim))
        self._hand(claimed, now)

    def start_ready(self, now: float) -> bool:
        """The first of those that were claimed before, if there is one and a slot for it."""
        can = bool(self.ready) and self.slots.busy < self.slots.limit
        if can:
            self._hand(self.ready.popleft(), now)
        return can

    def _hand(self, claimed: Claimed, now: float) -> None:
        try:
            self.slots.hand(claimed, now=now)
        except OSError as error:
            self.ready.append(claimed)
            self._trouble.tell(error, "start", claimed.id)
        else:
            self._returned.discard(claimed.id)
            self._trouble.tried("start", claimed.id, now)

    # --- news -----------------------------------------------------------------------------------

    def _hear(self, slot: Slot) -> None:
        """Take in what a runner says. Its end without a word means that it died."""
        try:
            message, _ = messages.receive(slot.sock)
        except (OSError, ValueError):
            message = None
        match message:
            case Finished() if message.id == slot.job:
                self._starts_lost.pop(message.id, None)
                slot.rest(time.monotonic())
                self._release(message.id)
                self._tell.counted(message)
                self._tell.ended(message.id)
                if message.told:
                    self._tell.told()
            case messages.Waiting() if message.id == slot.job:
                slot.rest(time.monotonic())
                self._release(message.id)
                self.salvage(message.id, known=True)
            case messages.Told():
                self._tell.told()
            case messages.Returned() if message.id == slot.job:
                slot.rest(time.monotonic())
                if ("start", message.id) not in self._trouble:
                    events.log(events.JobReturned(id=message.id, why=message.why))
                self._trouble.tell(OSError(message.why), "start", message.id)
                self._returned.add(message.id)
                self.salvage(message.id)
            case _:
                lost = slot.job
                self.slots.drop(slot)
                events.log(events.RunnerLost(slot=slot.number, id=lost))
                if lost is not None:
                    self._starts_lost[lost] += 1
                    self.salvage(lost)

    def _release(self, job_id: str) -> None:
        """It was started, or will not be."""
        self._returned.discard(job_id)
        self._trouble.worked("start", job_id)
        self._free(job_id)

    def _free(self, job_id: str) -> None:
        group = self.taken.free(job_id)
        if group is not None:
            self._queue.room_in(group)

    # --- what no runner of ours looks after -----------------------------------------------------

    @property
    def due(self) -> tuple[float | None, ...]:
        """When `look` has something to do, as far as that is known."""
        return self._adopted.next_look, self._sweeper.due

    def look(self, now: float) -> None:
        """Look again at those whose time for that has come."""
        for name in self._adopted.due(now):
            self._look_again(name)
        self._sweeper.look(now)

    def _look_again(self, name: str) -> None:
        self.salvage(name, known=True)

    def settle_leftovers(self) -> bool:
        """Look at what trouble has left in running/: claims half made, answers not filed.

        Returns whether it could be looked at.
        """
        if self._trouble.why is None:
            return True
        try:
            left = self._spool.unfinished()
        except OSError as error:
            self._trouble.tell(error, "leftovers")
            return False
        self._trouble.worked("leftovers")
        for name in self._trouble.names("post"):
            self.settle_outbox(JobId(name) if name else None)
        # What was filed, and then could not be synced, is not there any more.
        for name in {*left, *self._trouble.names("settle")}:
            waiting = self._queue.find(name)
            if name not in self.taken and (waiting is None or waiting.inode is not None):
                self.salvage(name)
        return True

    def salvage(self, name: str, *, known: bool = False, retry: bool = False) -> None:
        """Settle a directory that no runner of ours looks after.

        `known`: it was found alive before. `retry`: it is the turn of its next attempt.
        """
        try:
            found = salvage(
                self._spool,
                name,
                self._origin,
                give_up=self._starts_lost[JobId(name)] >= STARTS_LOST,
                returned=name in self._returned,
                spare_pid=self._nursery.pid,
                swept=self._sweeper.outcome(name),
            )
        except OSError as error:
            self._cannot_salvage(name, error)
            return
        self._stuck.discard(name)
        self._trouble.worked("settle", name)
        if not found.unswept:
            self._sweeper.forget(name)
        self._tell.told()
        if found.result is not None:
            self._tell.counted(Finished.of(found.result))
        self._place(name, found, retry=retry)
        if not (known or retry) or found.finding is not Finding.ALIVE:
            events.log(events.JobFound(id=name, finding=found.finding.name.lower()))

    def _cannot_salvage(self, name: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and not self._spool.is_running(name):
            self._trouble.worked("settle", name)
            self.settle_outbox(JobId(name))
            self._release(name)  # its runner has filed it meanwhile
            self._count_filed(name)
            self._tell.ended(name)
            return
        if is_of_the_machine(error):
            self._trouble.tell(error, "settle", name)
        elif name not in self._stuck:
            events.log(events.JobStuck(id=name, why=str(error)))
            self._stuck.add(name)
        self._adopted.add(name, time.monotonic() + 2 * PAUSE_S)  # others may go on meanwhile

    def _count_filed(self, name: str) -> None:
        """Count a job of which no runner has told us how it ended."""
        with contextlib.suppress(OSError):  # a figure is not worth more
            result = filed_result(self._spool, name)
            if result is not None:
                self._tell.counted(Finished.of(result))

    def settle_outbox(self, job_id: JobId | None = None) -> None:
        """Show what tells of jobs that were filed, where their runner did not come to that."""
        try:
            self._spool.outbox.settle(self._spool.is_running, job_id)
        except OSError as error:
            self._trouble.tell(error, "post", job_id or "")
        else:
            self._trouble.worked("post", job_id or "")
        self._tell.told()

    def _place(self, name: str, found: Salvaged, *, retry: bool) -> None:
        """Keep what is not settled: a live job, one to start, or one that waits."""
        claimed = found.claimed
        if found.finding is Finding.ALIVE:
            self._adopted.add(name, time.monotonic() + PAUSE_S, found.pidfd)
            self.taken.take(name, lane_of(found.claim))
        elif found.unswept:
            now = time.monotonic()
            self._adopted.add(name, now + 2 * PATIENCE_S)  # in case that nobody tells us to look
            self.taken.take(name, lane_of(found.claim))
            self._sweeper.want(name, now)
        elif claimed is not None and (found.retry_at is None or retry):
            self.taken.take(name, lane_of(claimed.claim))
            self.ready.append(claimed)
        elif claimed is not None and found.retry_at is not None:
            self._free(name)
            self._queue.add(waiting_of(claimed, found.retry_at, now=self._clock.now()))
            claimed.close()
        else:
            self._release(name)
            self._tell.ended(name)


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
