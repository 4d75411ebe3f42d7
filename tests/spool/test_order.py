"""Which job is next: queues, priorities, groups, times, needs, with a real daemon."""

from __future__ import annotations

import json
import random
import time

import pytest
from spoolbox import Reports, SpoolBox, until

from runnerd.model import Reason, State


@pytest.fixture
def reports(box: SpoolBox) -> Reports:
    return Reports(box.scratch / "reports")


def drop(box: SpoolBox, name: str, reports: Reports, **fields: object) -> None:
    """A job that reports its name."""
    box.drop(name, json.dumps({"run": f"echo {name} > {reports.path}", **fields}))


def hold(box: SpoolBox, **fields: object) -> None:
    """Occupy one slot until the gate `hold` opens."""
    gate = box.gate("hold")
    box.gates["hold"] = gate
    box.drop("hold", json.dumps({"run": f"read x < {gate}", **fields}))
    box.started("hold")


def test_the_highest_priority_goes_first_and_then_the_first(
    box: SpoolBox, reports: Reports
) -> None:
    box.start(slots=1)
    hold(box)
    for name, priority in [("a", 0), ("b", 5), ("c", -5), ("d", 5), ("e", 0)]:
        drop(box, name, reports, priority=priority)
    until(lambda: "5 queued" in box.status(), "they do not wait")
    box.gates["hold"].open()
    assert [reports.next() for _ in range(5)] == ["b", "d", "a", "e", "c"]


def test_a_queue_has_its_own_slots(box: SpoolBox, reports: Reports) -> None:
    box.start(slots=1, queues="{mail: 1}")
    hold(box)
    drop(box, "waits", reports)
    drop(box, "passes", reports, queue="mail")
    assert reports.next() == "passes"
    assert box.result("passes").state is State.DONE
    box.gates["hold"].open()
    assert reports.next() == "waits"


def test_a_group_runs_one_at_a_time_and_others_pass(box: SpoolBox, reports: Reports) -> None:
    box.start(slots=3)
    hold(box, concurrency="customer-1")
    drop(box, "same", reports, concurrency={"group": "customer-1"})
    drop(box, "other", reports, concurrency={"group": "customer-2"})
    drop(box, "free", reports)
    assert {reports.next(), reports.next()} == {"other", "free"}
    assert box.path("incoming", "same.yaml").exists()
    box.gates["hold"].open()
    assert reports.next() == "same"


def test_a_group_counts_what_an_earlier_daemon_started(box: SpoolBox, reports: Reports) -> None:
    box.start(slots=3)
    hold(box, concurrency="g")
    box.kill()
    box.start(slots=3)
    drop(box, "same", reports, concurrency="g")
    drop(box, "free", reports)
    assert reports.next() == "free"
    assert box.path("incoming", "same.yaml").exists()
    box.gates["hold"].open()
    assert reports.next() == "same"


def test_a_job_waits_for_its_time(box: SpoolBox, reports: Reports) -> None:
    box.start()
    dropped_at = time.time()
    drop(box, "later", reports, delay="1s")
    drop(box, "now", reports)
    assert [reports.next(), reports.next()] == ["now", "later"]
    assert time.time() - dropped_at >= 1.0
    at = time.time() + 0.7
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03}Z"
    drop(box, "at", reports, not_before=stamp)
    assert reports.next() == "at"
    assert time.time() >= at - 0.001


def test_a_job_that_did_not_start_in_time_expires(box: SpoolBox) -> None:
    box.start(slots=1)
    hold(box)
    box.drop("late", "name: Late\nrun: echo x\nexpires: 0.3s\nlabels: {a: b}")
    result = box.result("late")
    assert (result.reason, result.name, result.labels) == (Reason.EXPIRED, "Late", {"a": "b"})
    assert result.message == "its time to start was over before its turn came"
    assert result.started_at is None
    box.gates["hold"].open()
    assert box.run("soon", "run: echo x\nexpires: 1h").state is State.DONE


def test_a_job_waits_for_what_it_needs(box: SpoolBox, reports: Reports) -> None:
    box.start(slots=4)
    drop(box, "last", reports, needs=["first", "second"])
    drop(box, "second", reports, needs=["first"])
    until(lambda: "2 queued" in box.status(), "they do not wait")
    drop(box, "first", reports)
    assert [reports.next() for _ in range(3)] == ["first", "second", "last"]
    drop(box, "again", reports, needs=["first"])
    assert reports.next() == "again"


def test_what_needs_a_failed_job_fails_at_once(box: SpoolBox) -> None:
    box.start()
    box.drop("c", "run: echo x\nneeds: [b]")
    box.drop("b", "run: echo x\nneeds: [a]")
    box.drop("a", "run: exit 1")
    for name, need in (("b", "a"), ("c", "b")):
        result = box.result(name)
        assert (result.reason, result.started_at) == (Reason.DEPENDENCY, None)
        assert result.message == f"the job {need}, which it needs, has failed"
    assert box.run("d", "run: echo x\nneeds: [a]").reason is Reason.DEPENDENCY


def test_jobs_that_need_each_other_are_refused(box: SpoolBox) -> None:
    box.start()
    box.drop("a", "run: echo x\nneeds: [b]")
    until(lambda: "1 queued" in box.status(), "it does not wait")
    result = box.run("b", "run: echo x\nneeds: [a]")
    assert result.reason is Reason.INVALID
    assert result.message == "the jobs need each other: b -> a -> b"
    assert box.result("a").reason is Reason.DEPENDENCY
    assert box.run("c", "run: echo x\nneeds: [c]").reason is Reason.INVALID


def test_the_order_survives_a_restart(box: SpoolBox, reports: Reports) -> None:
    box.start(slots=1)
    hold(box)
    for name, priority in [("a", 0), ("b", 5)]:
        drop(box, name, reports, priority=priority)
    drop(box, "c", reports, needs=["a"])
    box.stop()
    box.start(slots=1)
    until(lambda: "3 queued" in box.status(), "they do not wait")
    box.gates["hold"].open()
    assert [reports.next() for _ in range(3)] == ["b", "a", "c"]


def test_a_queue_that_goes_away_keeps_its_jobs(box: SpoolBox, reports: Reports) -> None:
    box.start(slots=1, queues="{mail: 1}")
    gate = box.gate("mail")
    box.drop("runs", f"run: read x < {gate}\nqueue: mail")
    box.started("runs")
    drop(box, "waits", reports, queue="mail")
    until(lambda: "1 queued" in box.status(), "it does not wait")
    box.configure(slots=1)
    box.reload()
    gate.open()
    assert box.result("runs").state is State.DONE
    assert box.run("new", "run: echo x\nqueue: mail").reason is Reason.INVALID
    box.configure(slots=1, queues="{mail: 1}")
    box.reload()
    assert reports.next() == "waits"


@pytest.mark.heavy
def test_ten_thousand_mixed_jobs_run_in_the_order_of_the_rules(box: SpoolBox) -> None:
    """One slot for each queue, so that the order is the log's."""
    numbers = random.Random(4)  # noqa: S311  # the same every time
    box.start(slots=1, queues="{mail: 1}")
    box.stop()
    jobs = []
    for n in range(10_000):
        queue = numbers.choice(["default", "mail"])
        job = {"queue": queue, "priority": numbers.randrange(-3, 4), "command": ["true"]}
        if n % 3 == 0:
            job["concurrency"] = f"{queue}-{numbers.randrange(20)}"
        box.drop(f"j{n:05}", json.dumps(job))
        jobs.append((job, f"j{n:05}"))
    box.start(slots=1, queues="{mail: 1}")
    until(lambda: not any(box.path("incoming").iterdir()), "not all were taken", within_s=300)
    until(lambda: not any(box.path("running").iterdir()), "not all have ended")
    started = [
        line.split(": ")[1] for line in box.log.read_text().splitlines() if ": started as" in line
    ]
    for queue in ("default", "mail"):
        mine = [(job["priority"], name) for job, name in jobs if job["queue"] == queue]
        mine.sort(key=lambda each: (-int(str(each[0])), each[1]))
        expected = [name for _, name in mine]
        names = set(expected)
        assert [name for name in started if name in names] == expected
