"""standing: what runnerd costs while nothing happens, and with much that waits or lies there.

Memory is the proportional share (PSS) of all processes of ours, with one warm runner. Queued files
are such as wait for a slot: claiming is paused until all of them are judged.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from tests.bench.measure import JOB, PATIENCE_S, Served, await_that, median, serving, started

IDLE_S = 5.0
MEASURED = 1000


def show_memory(options: argparse.Namespace) -> None:
    """Memory and CPU time of a daemon that has nothing to do."""
    with serving(1, options.dir) as served:
        ran_s = served.ran_s()
        time.sleep(IDLE_S)
        idle_ms = (served.ran_s() - ran_s) / IDLE_S * 1000
        rows = [("idle", served.pss_bytes())]
    for count in options.queued:
        with serving(1, options.dir) as served:
            wait_in(served, count)
            rows.append((f"{count} queued", served.pss_bytes()))
    print(f"\n{'standing still':34} {'PSS MB':>8} {'CPU ms/s':>9}")
    for number, (name, size) in enumerate(rows):
        cpu = f"{idle_ms:9.2f}" if number == 0 else ""
        print(f"  {name:32} {size / 1e6:8.1f} {cpu}")


def show_start(options: argparse.Namespace) -> None:
    """From the start of the program until it is ready."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as scratch:
        for name, place, count in (
            ("an empty spool", "done", 0),
            (f"{options.filed} done", "done", options.filed),
            (f"and {options.filed} queued", "incoming", options.filed),
        ):
            fill(Path(scratch) / "spool" / place, count)
            times = []
            for _ in range(options.rounds):
                began = time.monotonic()
                with started(Path(scratch), 1):
                    times.append(time.monotonic() - began)
            rows.append((name, median(times)))
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"\n{'start until ready':34} {'s':>8}")
    for name, took in rows:
        print(f"  {name:32} {took:8.2f}")


def show_backlog(options: argparse.Namespace) -> None:
    """CPU time of a thousand jobs while so many others wait."""
    print(f"\n{'a job among those that wait':34} {'CPU ms':>8} {'of the first':>13}")
    base = 0.0
    for count in (MEASURED, *options.queued):
        with serving(1, options.dir) as served:
            wait_in(served, count + MEASURED)
            before, cpu_s = served.done(), served.cpu_s()
            (served.spool / "control" / "resume").touch()
            await_that(lambda: served.done() >= before + MEASURED)  # noqa: B023  # called here
            each = (served.cpu_s() - cpu_s) / (served.done() - before) * 1000
            (served.spool / "control" / "pause").touch()
        base = base or each
        print(f"  {f'{count} queued':32} {each:8.2f} {each / base:13.2f}")


def wait_in(served: Served, count: int) -> None:
    """Let so many jobs wait, until they are judged."""
    (served.spool / "control" / "pause").touch()
    await_that(lambda: not (served.spool / "control" / "pause").exists())
    served.queue(served.stage("w", count))
    rest(served)


def rest(served: Served) -> None:
    """Wait until the daemon does nothing any more."""
    deadline, last = time.monotonic() + PATIENCE_S, -1.0
    while (spent := served.cpu_s()) > last and time.monotonic() < deadline:
        last = spent
        time.sleep(1)


def fill(directory: Path, count: int) -> None:
    """Jobs that lie there: as directories, or as files that wait for next century."""
    if directory.name == "done":
        directory.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (directory / f"old{number}").mkdir()
        return
    for number in range(count):
        (directory / f"w{number}.yaml").write_text(f"not_before: 2100-01-01T00:00:00Z\n{JOB}")
    os.sync()
