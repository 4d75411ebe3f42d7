"""Figures for Prometheus: what a real daemon writes, read by Prometheus' own parser."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from spoolbox import SpoolBox, until

from runnerd import __version__
from runnerd.messages import Finished
from runnerd.metrics import BUCKETS_S, Figures, Metrics
from runnerd.model import JobId, Reason, State
from runnerd.schedule import Backlog, Queue, Queued
from runnerd.settings import MetricsFile

pytestmark = pytest.mark.slow

Labels = dict[str, str]


def settings(file: Path) -> str:
    return f"{{file: {file}, every: 1s}}"


@pytest.fixture
def file(box: SpoolBox) -> Path:
    directory = box.scratch / "collector"
    directory.mkdir()
    return directory / "runnerd.prom"


class Scrape:
    """All samples of one file."""

    def __init__(self, file: Path) -> None:
        self.text = file.read_text() if file.exists() else ""
        self.samples = [
            sample
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample of this name with these labels; None if there is none."""
        found = [
            each.value
            for each in self.samples
            if each.name == f"runnerd_{name}" and each.labels == labels
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def finished(self) -> dict[str, float]:
        """The counter of ends, without what is 0."""
        return {
            each.labels["reason"] or each.labels["state"]: each.value
            for each in self.samples
            if each.name == "runnerd_jobs_finished_total" and each.value
        }


def until_finished(file: Path, wanted: dict[str, float]) -> Scrape:
    until(lambda: Scrape(file).finished() == wanted, f"not {wanted}: {Scrape(file).finished()}")
    return Scrape(file)


def test_jobs_are_counted_by_how_they_ended(box: SpoolBox, file: Path) -> None:
    box.start(metrics=settings(file))
    before = time.time()
    box.run("good", "run: echo x")
    box.run("again", "run: test $RUNNER_ATTEMPT = 2\nretry: {max: 1, delay: 0}")
    box.run("bad", "run: exit 3")
    box.run("slow", "run: sleep 1000\ntimeout: 0.1s")
    box.run("odd", "ran: x")
    box.run("alone", "run: x\nuser: root\nneeds: [bad]")
    box.drop("late", "run: x\nexpires: 1s\nneeds: [never]")
    box.drop("held", "run: x\nnot_before: 2999-01-01T00:00:00Z")
    box.result("late")
    box.control("held.cancel")
    box.result("held")
    wanted = {
        "done": 2.0,
        **dict.fromkeys(("exit", "timeout", "invalid", "expired", "cancelled"), 1.0),
    }
    alone = box.api.job("alone").result
    assert alone is not None
    wanted[str(alone.reason)] = 1.0
    scrape = until_finished(file, wanted)
    # Those that never started have neither waited nor taken time.
    assert scrape.value("job_duration_seconds_count") == 4
    assert scrape.value("job_wait_seconds_count") == 4
    assert scrape.value("job_duration_seconds_bucket", le="+Inf") == 4
    assert scrape.value("job_duration_seconds_bucket", le="900.0") == 4
    took = scrape.value("job_duration_seconds_sum")
    durations = [box.api.job(each).result for each in ("good", "again", "bad", "slow")]
    assert took == pytest.approx(sum(each.duration_s or 0 for each in durations if each))
    assert scrape.value("jobs_finished_total", state="failed", reason="signal") == 0
    assert scrape.value("build_info", version=__version__) == 1
    assert before - 60 < (scrape.value("start_time_seconds") or 0) <= time.time()
    assert before - 60 < (scrape.value("last_scan_timestamp_seconds") or 0) <= time.time() + 1
    assert (scrape.value("paused"), scrape.value("degraded")) == (0, 0)


def test_queues_and_slots_are_told(box: SpoolBox, file: Path) -> None:
    gate = box.gate()
    box.start(metrics=settings(file), slots=3, queues="{billing: 1}")
    box.drop("runs", f"run: read x < {gate}\nqueue: billing")
    box.started("runs")
    box.drop("next", "run: echo x\nqueue: billing")
    box.drop("later", "run: echo x\nqueue: billing\ndelay: 1d")
    box.drop("needs", "run: echo x\nneeds: [nothing]")
    until(lambda: Scrape(file).value("queue_jobs", queue="billing") == 2, "they are not told")
    until(lambda: Scrape(file).value("queue_jobs", queue="default") == 1, "it is not told")
    scrape = Scrape(file)
    assert scrape.value("slots", queue="default") == 3
    assert scrape.value("slots", queue="billing") == 1
    assert scrape.value("slots_busy", queue="default") == 0
    assert scrape.value("slots_busy", queue="billing") == 1
    assert scrape.value("jobs_running") == 1
    assert scrape.value("queue_oldest_age_seconds", queue="default") == 0  # it waits for another
    until(
        lambda: (Scrape(file).value("queue_oldest_age_seconds", queue="billing") or 0) > 1,
        "what waits for a slot has no age",
    )
    box.control("pause")
    until(lambda: Scrape(file).value("paused") == 1, "the pause is not told")
    box.control("resume")
    gate.open()
    box.result("next")
    until(lambda: Scrape(file).value("queue_jobs", queue="billing") == 1, "it waits still")


def test_a_job_that_outlived_its_daemon_is_counted_by_the_next(box: SpoolBox, file: Path) -> None:
    gates = [box.gate(name) for name in ("first", "second")]
    box.start(metrics=settings(file))
    for gate in gates:
        box.drop(gate.path.name, f"run: read x < {gate}; exit 4")
        box.started(gate.path.name)
    box.kill()
    gates[0].open()
    box.result("first")  # filed while no daemon lives: counted by none
    file.unlink()
    box.start(metrics=settings(file))
    until(lambda: Scrape(file).value("jobs_running") == 1, "it was not taken over")
    gates[1].open()
    assert until_finished(file, {"exit": 1.0}).value("job_duration_seconds_count") == 1


def test_a_job_that_was_interrupted_is_counted(box: SpoolBox, file: Path) -> None:
    gate = box.gate()
    box.start(metrics=settings(file))
    box.drop("held", f"run: read x < {gate}")
    box.started("held")
    (runner,) = box.runners()
    runner.kill()
    until_finished(file, {"interrupted": 1.0})


def test_callbacks_that_wait_and_dead_letters_are_told(box: SpoolBox, file: Path) -> None:
    log = "{log: {command: [/bin/false]}}"
    box.start(metrics=settings(file), callbacks='{url: "command:log"}', channels=log)
    box.run("j", "run: echo x")
    until(lambda: Scrape(file).value("callbacks_waiting") == 1, "it is not told")
    assert Scrape(file).value("callbacks_dead") == 0
    box.stop()
    box.start(metrics=settings(file), callbacks='{url: "command:log", give_up: 1s}', channels=log)
    box.control("j.tell")
    until(lambda: Scrape(file).value("callbacks_dead") == 1, "it is not given up")
    assert Scrape(file).value("callbacks_waiting") == 0


def test_the_file_is_whole_readable_and_alone(box: SpoolBox, file: Path) -> None:
    victim = box.scratch / "victim"
    victim.write_text("precious")
    (file.parent / ".runnerd.prom.new").symlink_to(victim)  # who owns the directory may do that
    box.start(metrics=settings(file))
    box.run("j", "run: echo x")
    until_finished(file, {"done": 1.0})
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert Scrape(file).text.endswith("\n")
    assert "python_" not in Scrape(file).text
    assert "process_" not in Scrape(file).text
    box.stop()
    assert [each.name for each in file.parent.iterdir()] == ["runnerd.prom"]
    assert victim.read_text() == "precious"


def test_a_file_that_cannot_be_written_is_one_line_and_no_end(box: SpoolBox) -> None:
    file = box.scratch / "not-there" / "runnerd.prom"
    box.start(metrics=settings(file))
    for name in ("a", "b"):
        box.run(name, "run: echo x")
    until(lambda: "the file of metrics cannot be written" in box.log.read_text(), "no line")
    file.parent.mkdir()
    until_finished(file, {"done": 2.0})
    assert box.log.read_text().count("the file of metrics") == 1


def test_a_reload_begins_and_ends_it_and_nothing_that_was_counted_is_lost(
    box: SpoolBox, file: Path
) -> None:
    box.start()
    box.run("j", "run: echo x")
    assert not file.exists()
    box.configure(metrics=settings(file))
    box.reload()
    until_finished(file, {"done": 1.0})
    box.configure()
    box.reload()
    file.unlink()
    box.run("k", "run: echo x")
    box.stop()
    assert not file.exists()


def test_what_was_counted_last_is_written_at_the_end(box: SpoolBox, file: Path) -> None:
    box.start(metrics=f"{{file: {file}, every: 1h}}", slots=1)
    until(file.exists, "no file at the start")
    box.run("j", "run: echo x")
    box.run("k", "run: echo x")  # it has the slot after the end of the first was heard of
    box.stop()
    assert Scrape(file).finished().get("done", 0) >= 1


def test_nobody_pays_who_does_not_want_it() -> None:
    program = "import runnerd.__main__, sys; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- without a daemon ---------------------------------------------------------------------------


def look() -> Figures:
    return Figures(
        slots={"default": 1},
        busy={},
        backlog={"gone": Backlog(2, 90.0)},
        running=0,
        now=100.0,
        scanned_at=99.0,
        paused=False,
        degraded=True,
        callbacks=0,
        dead_letters=0,
    )


def ended(duration_s: float | None) -> Finished:
    return Finished(
        id=JobId("x"), state=State.FAILED, reason=Reason.EXIT, waited_s=None, duration_s=duration_s
    )


def test_a_bucket_holds_what_is_as_long_as_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "x.prom"
    metrics = Metrics(MetricsFile(file=str(file)), "1")
    for duration_s in (0.0, 0.01, 0.02, 1e9, None):
        metrics.count(ended(duration_s))
    metrics.tick(time.monotonic(), look)
    scrape = Scrape(file)
    assert scrape.value("job_duration_seconds_bucket", le="0.01") == 2
    assert scrape.value("job_duration_seconds_bucket", le="0.05") == 3
    assert scrape.value("job_duration_seconds_bucket", le=f"{float(BUCKETS_S[-1])}") == 3
    assert scrape.value("job_duration_seconds_bucket", le="+Inf") == 4
    assert scrape.finished() == {"exit": 5.0}
    # A queue that a reload has taken away still has its jobs.
    assert scrape.value("queue_jobs", queue="gone") == 2
    assert scrape.value("queue_oldest_age_seconds", queue="gone") == 10
    assert scrape.value("degraded") == 1


def test_it_is_not_written_before_its_time(tmp_path: Path) -> None:
    file = tmp_path / "x.prom"
    metrics = Metrics(MetricsFile(file=str(file), every_s=60), "1")
    now = time.monotonic()
    metrics.tick(now, look)
    assert metrics.due is not None
    assert metrics.due >= now + 60
    file.unlink()
    metrics.tick(metrics.due - 1, look)
    assert not file.exists()
    metrics.tick(metrics.due, look)
    assert file.exists()
    assert Metrics(MetricsFile(), "1").due is None


def test_what_is_not_ready_has_no_age() -> None:
    queue = Queue()
    for name, not_before in (("a", 0.0), ("b", 50.0), ("c", 200.0)):
        queue.add(Queued(name=name, id=name, dropped_at_ns=int(40e9), not_before=not_before))
    queue.add(Queued(name="d", id="d", dropped_at_ns=int(1e9)), open_needs=["x"])
    queue.add(Queued(name="e", id="e", dropped_at_ns=int(1e9), not_before=99.0, queue="q"))
    queue.add(Queued(name="f", id="f", dropped_at_ns=int(1e9), not_before=101.0, queue="r"))
    assert queue.backlog(100.0) == {
        "default": Backlog(4, 40.0),
        "q": Backlog(1, 99.0),
        "r": Backlog(1, None),
    }


def test_promtool_finds_nothing_to_say(box: SpoolBox, file: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, of Debian's package prometheus, is not here")
    box.start(metrics=settings(file))
    box.run("j", "run: echo x")
    text = until_finished(file, {"done": 1.0}).text
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
