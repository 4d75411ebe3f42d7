"""schedule: the order of the queue, and which job is next. Pure: no clock, no directory.

The rules: a job may start once its time has come, the jobs that it needs are done, its queue has a
slot, and its concurrency group has room. Of those that may, the one with the highest priority is
next, then the one that was dropped first, then by name. Jobs of one queue and group keep that order
among themselves: where the first has to wait for its group, so have those behind it.

All of it mirrors the spool. Forgetting it costs nothing but a scan. Each change costs O(log n).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from .frozen import frozen
from .model import Claim

DEFAULT_QUEUE = "default"

Key = tuple[int, int, str]
Lane = tuple[str, str | None]
"""A queue and a group, or no group."""


def lane_of(claim: Claim | None) -> Lane:
    """The queue and the group of a job."""
    spec = claim.spec if claim is not None else None
    if spec is None:
        return DEFAULT_QUEUE, None
    group = spec.concurrency.group if spec.concurrency is not None else None
    return spec.queue or DEFAULT_QUEUE, group


@frozen(kw_only=True)
class Queued:
    """A job that waits, and what its turn depends on. Times are seconds since the epoch.

    `inode` is that of its file in incoming/; a job that waits for its next attempt has none.
    `delayed`: `not_before` is no date, but the end of a span of time, as `expires_at` always is.
    """

    name: str
    id: str
    dropped_at_ns: int
    inode: int | None = None
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    group: str | None = None
    group_limit: int = 1
    not_before: float = 0.0
    delayed: bool = False
    expires_at: float | None = None
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return -self.priority, self.dropped_at_ns, self.name

    @property
    def lane(self) -> Lane:
        return self.queue, self.group


@frozen
class Backlog:
    """What waits in a queue: how many jobs, and since when the first that its rules let start."""

    jobs: int = 0
    ready_since: float | None = None


@dataclass(slots=True)
class Occupancy:
    """Which jobs hold a slot, of which queue and group."""

    _jobs: dict[str, Lane] = field(default_factory=dict)
    _queues: Counter[str] = field(default_factory=Counter)
    _groups: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def take(self, job_id: str, lane: Lane) -> None:
        self.free(job_id)
        self._jobs[job_id] = lane
        self._count(lane, 1)

    def free(self, job_id: str) -> str | None:
        """Give the slot back; the group that now has room, if it was in one."""
        lane = self._jobs.pop(job_id, None)
        if lane is None:
            return None
        self._count(lane, -1)
        return lane[1]

    def in_queue(self, queue: str) -> int:
        return self._queues[queue]

    def in_group(self, group: str) -> int:
        return self._groups[group]

    def _count(self, lane: Lane, by: int) -> None:
        self._queues[lane[0]] += by
        if lane[1] is not None:
            self._groups[lane[1]] += by
            if not self._groups[lane[1]]:
                del self._groups[lane[1]]


class Queue:
    """All that waits. A job is in one lane, or not ready: its time or what it needs is open."""

    def __init__(self) -> None:
        self._live: dict[str, Queued] = {}
        self._names: dict[str, str] = {}  # id -> name
        self._serial = itertools.count()  # what is equal comes up in turn
        self._timed: list[tuple[float, int, Queued]] = []
        self._expiring: list[tuple[float, int, Queued]] = []
        self._open: dict[str, set[str]] = {}  # name -> ids that it needs
        self._needed_by: defaultdict[str, set[str]] = defaultdict(set)  # id -> names
        self._lanes: defaultdict[Lane, list[tuple[Key, int, Queued]]] = defaultdict(list)
        self._heads: defaultdict[str, list[tuple[Key, int, Lane]]] = defaultdict(list)  # by queue
        self._parked: defaultdict[str, set[Lane]] = defaultdict(set)  # by full group

    def __len__(self) -> int:
        return len(self._live)

    def inode(self, name: str) -> int | None:
        """Which file of this name is in the queue."""
        found = self._live.get(name)
        return None if found is None else found.inode

    def files(self) -> set[str]:
        """The names of those that are files in incoming/."""
        return {name for name, queued in self._live.items() if queued.inode is not None}

    def find(self, job_id: str) -> Queued | None:
        """The job that waits under this id."""
        return self._live.get(self._names.get(job_id, ""))

    # --- in and out -----------------------------------------------------------------------------

    def add(self, queued: Queued, *, open_needs: Collection[str] = ()) -> None:
        """Put a job in the queue, in place of one with the same name.

        `open_needs`: the jobs that it needs and that have not ended.
        """
        self.discard(queued.name)
        self._live[queued.name] = queued
        self._names[queued.id] = queued.name
        if queued.expires_at is not None:
            heapq.heappush(self._expiring, (queued.expires_at, next(self._serial), queued))
        if open_needs:
            self._open[queued.name] = set(open_needs)
            for each in open_needs:
                self._needed_by[each].add(queued.name)
        else:
            self._time(queued)

    def discard(self, name: str) -> None:
        """Forget a job; its places in heaps go when they come up, but the first of a lane lives."""
        queued = self._live.pop(name, None)
        if queued is None:
            return
        self._names.pop(queued.id, None)
        for each in self._open.pop(name, ()):
            self._needed_by[each].discard(name)
            if not self._needed_by[each]:
                del self._needed_by[each]
        lane = self._lanes.get(queued.lane)
        if lane and lane[0][2] is queued:
            self._show_head(queued.lane)  # it may have been put aside for this one

    def shift(self, by_s: float) -> None:
        """The clock was set by so much: by it, a span of time ends as much later, no date does."""
        for queued in [each for each in self._live.values() if each.not_before or each.expires_at]:
            moved = replace(
                queued,
                not_before=queued.not_before + by_s * queued.delayed,
                expires_at=None if queued.expires_at is None else queued.expires_at + by_s,
            )
            self.add(moved, open_needs=tuple(self._open.get(queued.name, ())))

    def circle(self, queued: Queued) -> list[str] | None:
        """The circle of ids that this job's needs would close, or None.

        Only a job that others wait for can close one, so long chains cost nothing.
        """
        if queued.id in queued.needs:
            return [queued.id, queued.id]
        if queued.id not in self._needed_by:
            return None
        trail = [(queued.id, iter(queued.needs))]
        seen: set[str] = set()
        while trail:
            need = next(trail[-1][1], None)
            if need is None:
                trail.pop()
            elif need == queued.id:
                return [*(each for each, _ in trail), need]
            elif need not in seen:
                seen.add(need)
                found = self.find(need)
                trail.append((need, iter(found.needs if found else ())))
        return None

    def done(self, job_id: str) -> None:
        """A job is done: those that needed it go on."""
        for name in self._needed_by.pop(job_id, ()):
            needs = self._open[name]
            needs.discard(job_id)
            if not needs:
                del self._open[name]
                self._time(self._live[name])

    def in_need_of(self, job_id: str) -> list[Queued]:
        """The jobs that wait for this one."""
        return [self._live[name] for name in sorted(self._needed_by.get(job_id, ()))]

    def expired(self, now: float) -> Iterator[Queued]:
        """Take out those whose time to start is over."""
        while self._expiring and self._expiring[0][0] <= now:
            queued = heapq.heappop(self._expiring)[2]
            if self._is_live(queued):
                self.discard(queued.name)
                yield queued

    def next_change(self) -> float | None:
        """When a job becomes ready or expires by itself."""
        for heap in (self._timed, self._expiring):
            while heap and not self._is_live(heap[0][2]):
                heapq.heappop(heap)
        return min((heap[0][0] for heap in (self._timed, self._expiring) if heap), default=None)

    def backlog(self, now: float) -> dict[str, Backlog]:
        """What waits, by queue. What is ready lacks but a slot, or room in its group. O(n)."""
        jobs: Counter[str] = Counter()
        ready_since: dict[str, float] = {}
        for name, queued in self._live.items():
            jobs[queued.queue] += 1
            if name not in self._open and queued.not_before <= now:
                since = max(queued.dropped_at_ns / 1e9, queued.not_before)
                if since < ready_since.get(queued.queue, math.inf):
                    ready_since[queued.queue] = since
        return {queue: Backlog(count, ready_since.get(queue)) for queue, count in jobs.items()}

    # --- which is next --------------------------------------------------------------------------

    def next(self, now: float, slots: Mapping[str, int], taken: Occupancy) -> Queued | None:
        """Take out the job that is to start now. `slots`: how many each queue has."""
        while self._timed and self._timed[0][0] <= now:
            queued = heapq.heappop(self._timed)[2]
            if self._is_live(queued):
                self._line_up(queued)
        heads = [
            head
            for queue, most in slots.items()
            if taken.in_queue(queue) < most and (head := self._head(queue, taken)) is not None
        ]
        if not heads:
            return None
        best = min(heads, key=lambda queued: queued.key)
        lane = best.lane
        heapq.heappop(self._heads[best.queue])
        heapq.heappop(self._lanes[lane])
        self.discard(best.name)
        self._show_head(lane)
        return best

    def room_in(self, group: str) -> None:
        """A job of this group has ended: look at those again that waited for it."""
        for lane in self._parked.pop(group, ()):
            self._show_head(lane)

    def _time(self, queued: Queued) -> None:
        if queued.not_before > 0:
            heapq.heappush(self._timed, (queued.not_before, next(self._serial), queued))
        else:
            self._line_up(queued)

    def _line_up(self, queued: Queued) -> None:
        lane = queued.lane
        entries = self._lanes[lane]
        heapq.heappush(entries, (queued.key, next(self._serial), queued))
        if entries[0][2] is queued:
            self._show_head(lane)

    def _show_head(self, lane: Lane) -> None:
        """Let the first of a lane compete with those of the others."""
        entries = self._lanes[lane]
        while entries and not self._is_live(entries[0][2]):
            heapq.heappop(entries)
        if entries:
            heapq.heappush(self._heads[lane[0]], (entries[0][0], next(self._serial), lane))
        else:
            del self._lanes[lane]

    def _is_live(self, queued: Queued) -> bool:
        return self._live.get(queued.name) is queued

    def _head(self, queue: str, taken: Occupancy) -> Queued | None:
        """The first of a queue that may start; lanes of full groups are put aside."""
        heads = self._heads[queue]
        while heads:
            key, _, lane = heads[0]
            entries = self._lanes.get(lane)
            if not entries or entries[0][0] != key:
                heapq.heappop(heads)  # shown before one came in front of it
                continue
            first = entries[0][2]
            if not self._is_live(first):
                heapq.heappop(heads)
                self._show_head(lane)
                continue
            if first.group is not None and taken.in_group(first.group) >= first.group_limit:
                heapq.heappop(heads)
                self._parked[first.group].add(lane)
                continue
            return first
        return None


def scan_due(*, woken: bool, now: float, last: float, cost_s: float, rescan_s: float) -> float:
    """When to scan incoming/ next (monotonic seconds).

    After a wake-up, at once; but a scan that took long, over a long queue, is not repeated before
    five times as long has passed, so that a backlog never eats more than a fifth of the time.
    """
    return max(now if woken else last + rescan_s, last + 5 * cost_s)
