"""The order of the queue beside a model of the rules, and when to look again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runnerd.schedule import DEFAULT_QUEUE, Occupancy, Queue, Queued, scan_due

NAMES = st.sampled_from("abcdefgh")
SLOTS = {DEFAULT_QUEUE: 2, "mail": 1}
JOBS = st.builds(
    Queued,
    name=NAMES,
    id=st.just(""),
    dropped_at_ns=st.integers(0, 5),
    inode=st.integers(1, 9),
    queue=st.sampled_from([DEFAULT_QUEUE, DEFAULT_QUEUE, DEFAULT_QUEUE, "mail", "gone"]),
    priority=st.integers(-1, 1),
    group=st.sampled_from([None, None, "x"]),
    group_limit=st.integers(1, 2),
    not_before=st.sampled_from([0.0, 0.0, 0.0, 5.0]),
    delayed=st.booleans(),
    expires_at=st.sampled_from([None, None, None, 7.0]),
    needs=st.sampled_from([(), (), (), ("a",), ("b", "c")]),
)


@dataclass
class Model:
    """The rules, as they are written, with a look at everything for each question."""

    waiting: dict[str, Queued] = field(default_factory=dict)
    running: dict[str, Queued] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def may_start(self, job: Queued, now: float) -> bool:
        return job.not_before <= now and self.done.issuperset(job.needs)

    def next(self, now: float) -> Queued | None:
        ready = sorted((j for j in self.waiting.values() if self.may_start(j, now)), key=by_key)
        seen = set()
        for job in ready:
            if job.lane in seen:
                continue
            seen.add(job.lane)
            in_queue = sum(each.queue == job.queue for each in self.running.values())
            in_group = sum(each.group == job.group for each in self.running.values())
            full = job.group is not None and in_group >= job.group_limit
            if in_queue < SLOTS.get(job.queue, 0) and not full:
                return job
        return None


def by_key(job: Queued) -> tuple[int, int, str]:
    """The highest priority, then the first that was dropped, then by name."""
    return -job.priority, job.dropped_at_ns, job.name


class Rules(RuleBasedStateMachine):
    """Whatever happens in whatever order, the queue says what the model says."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.taken, self.model = Queue(), Occupancy(), Model()
        self.now = 0.0

    @rule(job=JOBS)
    def add(self, job: Queued) -> None:
        job = replace(job, id=job.name, needs=tuple(n for n in job.needs if n != job.name))
        job = replace(job, delayed=job.delayed and job.not_before > 0)
        if job.name in self.model.running:
            return
        self.model.waiting[job.name] = job
        self.queue.add(job, open_needs=[n for n in job.needs if n not in self.model.done])

    @rule(name=NAMES)
    def discard(self, name: str) -> None:
        self.model.waiting.pop(name, None)
        self.queue.discard(name)

    @rule(by=st.sampled_from([1.0, 4.0]))
    def pass_time(self, by: float) -> None:
        self.now += by
        over = {n for n, j in self.model.waiting.items() if (j.expires_at or 1e9) <= self.now}
        assert {job.name for job in self.queue.expired(self.now)} == over
        for name in over:
            del self.model.waiting[name]

    @precondition(lambda self: self.now >= 3)
    @rule(by=st.sampled_from([-3.0, 3.0]))
    def set_the_clock(self, by: float) -> None:
        self.now += by
        self.queue.shift(by)
        for name, job in self.model.waiting.items():
            self.model.waiting[name] = replace(
                job,
                not_before=job.not_before + by * job.delayed,
                expires_at=None if job.expires_at is None else job.expires_at + by,
            )

    @rule()
    def start(self) -> None:
        expected = self.model.next(self.now)
        found = self.queue.next(self.now, SLOTS, self.taken)
        assert found == expected
        if found is not None:
            self.taken.take(found.id, found.lane)
            self.model.running[found.id] = self.model.waiting.pop(found.name)

    @precondition(lambda self: self.model.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.running)))
        del self.model.running[name]
        group = self.taken.free(name)
        if group is not None:
            self.queue.room_in(group)
        self.model.done.add(name)
        self.queue.done(name)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queue) == len(self.model.waiting)
        assert len(self.taken) == len(self.model.running)
        assert self.queue.files() == set(self.model.waiting)
        due = self.queue.next_change()
        times = [j.expires_at for j in self.model.waiting.values() if j.expires_at is not None]
        assert due is None or due <= min(times, default=due)


TestRules = Rules.TestCase
TestRules.settings = settings(deadline=None, max_examples=300, stateful_step_count=50)


def a_job(job_id: str, *needs: str) -> Queued:
    return Queued(name=f"{job_id}.yaml", id=job_id, dropped_at_ns=1, inode=1, needs=needs)


def test_a_circle_of_needs_is_seen_when_it_is_closed() -> None:
    queue = Queue()
    for job in (a_job("a", "b"), a_job("b", "x", "c"), a_job("c", "d")):
        assert queue.circle(job) is None
        queue.add(job, open_needs=job.needs)
    assert queue.circle(a_job("d", "y", "a")) == ["d", "a", "b", "c", "d"]
    assert queue.circle(a_job("d", "y")) is None
    assert queue.circle(a_job("e", "e")) == ["e", "e"]


def test_who_waits_for_a_job_is_known() -> None:
    queue = Queue()
    queue.add(a_job("b", "a"), open_needs=["a"])
    queue.add(a_job("c", "a"), open_needs=["a"])
    assert [job.id for job in queue.in_need_of("a")] == ["b", "c"]
    queue.done("a")
    assert queue.in_need_of("a") == []
    found = queue.find("b")
    assert found is not None
    assert found.name == "b.yaml"


def test_a_long_scan_is_not_repeated_at_once() -> None:
    due = scan_due(woken=True, now=10.0, last=9.9, cost_s=0.1, rescan_s=60)
    assert due == pytest.approx(10.4)
    assert scan_due(woken=True, now=10.0, last=9.0, cost_s=0.001, rescan_s=60) == 10.0
    assert scan_due(woken=False, now=10.0, last=9.0, cost_s=0.001, rescan_s=60) == 69.0


def test_a_full_group_lets_the_next_one_go_when_one_ends() -> None:
    queue, taken = Queue(), Occupancy()
    for name in ("a", "b", "c"):
        queue.add(Queued(name=name, id=name, dropped_at_ns=1, inode=1, group="g"))
    for name in ("a", "b", "c"):
        job = queue.next(0.0, SLOTS, taken)
        assert job is not None
        assert job.id == name
        taken.take(job.id, job.lane)
        assert queue.next(0.0, SLOTS, taken) is None
        assert taken.free(name) == "g"
        queue.room_in("g")
    assert len(queue) == 0
