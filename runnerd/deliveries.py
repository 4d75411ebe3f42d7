"""deliveries: which event is to be tried next. Pure; knows names and times, no content.

Guarantees: the events of a job go one after the other; a failing one waits, and all after it. An
            endpoint that does not answer is asked by one try at a time, ever more rarely, and what
            waits for it delays nobody else. An event is looked at only after a whole look at the
            outbox that began when it was there: an earlier one of its job would have been seen.
Memory:     of each endpoint a window of jobs is known; the others stay on the disk until there is
            room (`wants_more`).

Times are monotonic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from .model import JobId
from .webhook import Answer, EntryName

WINDOW = 256  # jobs of one endpoint that are known at once
SIDE_BY_SIDE = 8  # tries at one endpoint
MOST = 64  # tries in all
MOST_UNSURE = 48  # of these, at endpoints that have not answered well last time
FIRST_S, LONGEST_S = 0.5, 3600.0
# Slower than by twos: one that is up half of the time is met at a bad moment again and again, and
# with twos it would now and then be left alone for minutes.
GROWTH = 1.5
STREAK = 4  # failures in a row after which all of an endpoint waits


@dataclass(slots=True)
class _Job:
    """The events of one job that wait, in their order, each with the look that found it."""

    events: dict[int, tuple[EntryName, int]] = field(default_factory=dict)
    failures: int = 0
    not_before: float = 0.0
    in_flight: bool = False
    sent_at: float = 0.0


@dataclass(slots=True)
class _Endpoint:
    jobs: dict[JobId, _Job] = field(default_factory=dict)
    width: int = 1
    failures: int = 0
    failed_at: float = 0.0
    not_before: float = 0.0
    in_flight: int = 0
    more: bool = False


class Deliveries:
    """All that waits. `chance` gives numbers from 0 to 1, for jitter."""

    def __init__(self, chance: Callable[[], float], window: int = WINDOW) -> None:
        self._chance = chance
        self._window = window
        self._endpoints: dict[str, _Endpoint] = {}
        self._looks = 0
        self._unsure = False  # whether something was seen that only the next look makes sure of
        self.in_flight = 0

    def __len__(self) -> int:
        return sum(len(each.jobs) for each in self._endpoints.values())

    # --- what is there --------------------------------------------------------------------------

    def look(self, names: Iterable[EntryName]) -> None:
        """Take in one whole look at the outbox."""
        self._looks += 1
        self._unsure = False
        for endpoint in self._endpoints.values():
            endpoint.more = False
        for name in names:
            self._add(name)

    def _add(self, name: EntryName) -> None:
        endpoint = self._endpoints.setdefault(name.key, _Endpoint())
        job = endpoint.jobs.get(name.job)
        if job is None:
            if len(endpoint.jobs) >= self._window:
                endpoint.more = True
                return
            job = endpoint.jobs[name.job] = _Job()
        if name.number not in job.events:
            job.events[name.number] = name, self._looks
            self._unsure = True

    @property
    def wants_look(self) -> bool:
        """Whether another look would bring something to do."""
        more = any(
            each.more and len(each.jobs) <= self._window // 2 for each in self._endpoints.values()
        )
        return self._unsure or more

    # --- what to do -----------------------------------------------------------------------------

    def next(self, now: float) -> EntryName | None:
        """An event to try now; it is in flight until it is `answered` or `dropped`."""
        if self.in_flight >= MOST:
            return None
        unsure = sum(each.in_flight for each in self._endpoints.values() if each.failures)
        for key, endpoint in self._endpoints.items():
            if endpoint.not_before > now or endpoint.in_flight >= endpoint.width:
                continue
            if endpoint.failures and unsure >= MOST_UNSURE:
                continue
            name = self._first_of(endpoint, now)
            if name is not None:
                job = endpoint.jobs[name.job]
                job.in_flight, job.sent_at = True, now
                endpoint.in_flight += 1
                self.in_flight += 1
                self._endpoints[key] = self._endpoints.pop(key)  # the others first, next time
                return name
        return None

    def _first_of(self, endpoint: _Endpoint, now: float) -> EntryName | None:
        for job_id, job in endpoint.jobs.items():
            if job.in_flight or job.not_before > now:
                continue
            name, look = job.events[min(job.events)]
            if look < self._looks:
                endpoint.jobs[job_id] = endpoint.jobs.pop(job_id)
                return name
        return None

    def due(self) -> float | None:
        """When `next` may have something that it has not now, if nothing happens before."""
        return min(self._dues(), default=None)

    def _dues(self) -> Iterator[float]:
        for endpoint in self._endpoints.values():
            if endpoint.in_flight < endpoint.width and len(endpoint.jobs) > endpoint.in_flight:
                jobs = (each.not_before for each in endpoint.jobs.values() if not each.in_flight)
                yield max(endpoint.not_before, min(jobs))

    # --- what came of it ------------------------------------------------------------------------

    def answered(self, name: EntryName, answer: Answer, now: float) -> float | None:
        """Take in an answer; how long (s) the event waits now, or None if it is done with."""
        endpoint, job = self._landed(name)
        if answer.delivered or answer.gone:
            if job.sent_at >= endpoint.failed_at:  # what was sent before that proves nothing
                if endpoint.not_before:  # it was down, and is not any more
                    for each in endpoint.jobs.values():
                        each.failures, each.not_before = 0, 0.0
                endpoint.failures, endpoint.not_before = 0, 0.0
                endpoint.width = min(SIDE_BY_SIDE, endpoint.width * 2)
            job.failures = 0
            self._forget(name, endpoint, job)
            return None
        job.failures += 1
        wait_s = max(self._pause(job.failures), answer.wait_s or 0.0)
        job.not_before = now + wait_s
        if job.sent_at >= endpoint.failed_at:  # those sent together fail together, once
            endpoint.failures += 1
            endpoint.failed_at = now
        endpoint.width = 1
        over = endpoint.failures if answer.down else endpoint.failures - STREAK
        if over > 0:
            pause_s = max(self._pause(over), (answer.wait_s or 0.0) if answer.down else 0.0)
            endpoint.not_before = max(endpoint.not_before, now + pause_s)
            wait_s = max(wait_s, endpoint.not_before - now)
        return wait_s

    def _pause(self, failures: int) -> float:
        longest = min(LONGEST_S, FIRST_S * GROWTH ** min(failures - 1, 50))
        return longest * (0.5 + 0.5 * self._chance())

    def failures(self, name: EntryName) -> int:
        """How often its endpoint has failed in a row."""
        return self._endpoints[name.key].failures

    def buried(self, name: EntryName, answer: Answer, now: float) -> None:
        """It has become a dead letter, by this answer."""
        self.answered(name, answer, now)
        endpoint = self._endpoints.get(name.key)
        job = endpoint.jobs.get(name.job) if endpoint is not None else None
        if endpoint is not None and job is not None and name.number in job.events:
            self._forget(name, endpoint, job)

    def dropped(self, name: EntryName) -> None:
        """It is not there any more, or has become a dead letter."""
        endpoint, job = self._landed(name)
        self._forget(name, endpoint, job)

    def hurry(self, job_id: JobId) -> None:
        """Somebody wants the events of this job to be tried now."""
        for endpoint in self._endpoints.values():
            if job_id in endpoint.jobs:
                endpoint.not_before = endpoint.jobs[job_id].not_before = 0.0

    def _landed(self, name: EntryName) -> tuple[_Endpoint, _Job]:
        endpoint = self._endpoints[name.key]
        job = endpoint.jobs[name.job]
        job.in_flight = False
        endpoint.in_flight -= 1
        self.in_flight -= 1
        return endpoint, job

    def _forget(self, name: EntryName, endpoint: _Endpoint, job: _Job) -> None:
        del job.events[name.number]
        if not job.events:
            del endpoint.jobs[name.job]
        if not endpoint.jobs and not endpoint.more:
            # How wide it was is forgotten as well: a healthy one is wide again at once.
            del self._endpoints[name.key]
