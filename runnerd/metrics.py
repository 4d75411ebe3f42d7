"""metrics: figures for Prometheus, in a file that node_exporter's textfile collector reads.

Counters begin with the daemon, as Prometheus expects. A job is counted by the daemon that learns of
its end: by its runner, or by looking at what an earlier daemon has left in running/. One that was
filed while no daemon lived is counted by none.

Errors: a file that cannot be written is one line of the log, and is tried again in its time.
"""

from __future__ import annotations

import itertools
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import events
from .disk import Disk
from .frozen import frozen
from .messages import Finished
from .model import Reason, State
from .schedule import Backlog
from .settings import MetricsFile

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
MOST = 10_000  # callbacks that are counted: a dead endpoint may have any number
_SHARE = 20  # a file that takes long is written more rarely: this many times as long apart
_MODE = 0o644
_ENDS = ((State.DONE, None), *((State.FAILED, each) for each in Reason))


@frozen(kw_only=True)
class Figures:
    """What is so now. `slots`, `busy` and `backlog` by queue; times are seconds since the epoch.

    `callbacks`: how many wait; `dead_letters`: how many were given up.
    """

    slots: Mapping[str, int]
    busy: Mapping[str, int]
    backlog: Mapping[str, Backlog]
    running: int
    now: float
    scanned_at: float
    paused: bool
    degraded: bool
    callbacks: int
    dead_letters: int


@dataclass(slots=True)
class _Spans:
    """How many spans of time were at most so long, for a histogram."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        bounds = (*(f"{float(each)}" for each in BUCKETS_S), "+Inf")
        return list(zip(bounds, itertools.accumulate(self.counts), strict=True))


class Metrics:
    """The figures of one daemon. `due`: when the file is to be written next (monotonic)."""

    def __init__(self, settings: MetricsFile, version: str) -> None:
        self._settings = settings
        self.version = version
        self.started_at = time.time()
        self.ended: Counter[tuple[State, Reason | None]] = Counter()
        self.durations, self.waits = _Spans(), _Spans()
        self._failed: str | None = None
        self.due: float | None = None if settings.file is None else 0.0

    def count(self, ended: Finished) -> None:
        """A job was filed."""
        self.ended[ended.state, ended.reason] += 1
        if ended.duration_s is not None:
            self.durations.add(ended.duration_s)
        if ended.waited_s is not None:
            self.waits.add(ended.waited_s)

    def change(self, settings: MetricsFile, now: float) -> None:
        """The configuration was read again."""
        if settings != self._settings:
            self._settings = settings
            self.due = None if settings.file is None else now

    def tick(self, now: float, look: Callable[[], Figures]) -> None:
        """Write the file if it is time."""
        if self.due is not None and now >= self.due:
            self.write(look)
            took_s = time.monotonic() - now
            self.due = now + max(self._settings.every_s, _SHARE * took_s)

    def write(self, look: Callable[[], Figures]) -> None:
        """Write the file now, if there is to be one."""
        if self._settings.file is None:
            return
        try:
            _replace(Path(self._settings.file), self._text(look()))
        except (OSError, ImportError) as error:
            if self._failed != str(error):
                events.log(events.MetricsNotWritten(why=str(error)))
            self._failed = str(error)
        else:
            self._failed = None

    def _text(self, figures: Figures) -> bytes:
        # Only here: 3 MB and some 30 ms, for those who want it.
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

        registry = CollectorRegistry()  # of our own: with nothing of Python or of this process
        registry.register(_Told(self, figures))
        return generate_latest(registry)


@dataclass(frozen=True, slots=True, eq=False)  # a registry wants to hash it
class _Told:
    """A collector, as prometheus_client has it."""

    metrics: Metrics
    figures: Figures

    def collect(self) -> Iterator[Metric]:
        """All families."""
        from prometheus_client import core  # noqa: PLC0415  # as above

        metrics, told = self.metrics, self.figures

        def gauge(name: str, words: str, value: float) -> Metric:
            return core.GaugeMetricFamily(f"runnerd_{name}", words, value=value)

        def by_queue(name: str, words: str, values: Mapping[str, float]) -> Metric:
            family = core.GaugeMetricFamily(f"runnerd_{name}", words, labels=["queue"])
            for queue in sorted({*told.slots, *told.backlog}):
                family.add_metric([queue], values.get(queue, 0))
            return family

        def spans(name: str, words: str, of: _Spans) -> Metric:
            return core.HistogramMetricFamily(
                f"runnerd_{name}_seconds", words, buckets=of.buckets(), sum_value=of.sum_s
            )

        ended = core.CounterMetricFamily(
            "runnerd_jobs_finished",
            "Jobs that were filed, by state and reason, since the daemon started.",
            labels=["state", "reason"],
        )
        for state, reason in _ENDS:
            ended.add_metric([state, reason or ""], metrics.ended[state, reason])
        yield ended
        yield spans("job_duration", "How long the last attempts of jobs took.", metrics.durations)
        yield spans("job_wait", "Time from the drop of a job to its first start.", metrics.waits)
        yield gauge("jobs_running", "Jobs that hold a slot.", told.running)
        yield by_queue("slots", "Slots of a queue.", told.slots)
        yield by_queue("slots_busy", "Slots of a queue that jobs hold.", told.busy)
        waiting = {queue: each.jobs for queue, each in told.backlog.items()}
        yield by_queue("queue_jobs", "Jobs that wait in a queue, for whatever reason.", waiting)
        ages = {
            queue: max(0.0, told.now - each.ready_since)
            for queue, each in told.backlog.items()
            if each.ready_since is not None
        }
        words = "How long the first job waits that only lacks a slot, or room in its group."
        yield by_queue("queue_oldest_age_seconds", words, ages)
        counted = f"; counted up to {MOST}."
        yield gauge("callbacks_waiting", f"Events not delivered yet{counted}", told.callbacks)
        yield gauge("callbacks_dead", f"Events that were given up{counted}", told.dead_letters)
        words = "When incoming/ was looked at last."
        yield gauge("last_scan_timestamp_seconds", words, told.scanned_at)
        yield gauge("paused", "Whether somebody has asked to start no jobs.", told.paused)
        words = "Whether trouble of the machine keeps jobs from being taken."
        yield gauge("degraded", words, told.degraded)
        yield gauge("start_time_seconds", "When the daemon started.", metrics.started_at)
        build = core.InfoMetricFamily("runnerd_build", "The version of the daemon.")
        build.add_metric([], {"version": metrics.version})
        yield build


def count(found: Iterator[object]) -> int:
    """How many there are, up to `MOST`."""
    return sum(1 for _ in itertools.islice(found, MOST))


def _replace(path: Path, text: bytes) -> None:
    """Put a whole file there: readers see the old one or the new one, and no `*.prom` beside it."""
    at = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        Disk().write(path.name, text, _MODE, at=at, durable=False)
    finally:
        os.close(at)
