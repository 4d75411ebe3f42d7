"""latency: from the drop of one job to its first instruction, which notes the time.

Idle, and while another queue of the same daemon is busy. For the others from the start of their
command to the same: that is what who submits has to wait for.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench.measure import JOB, await_that, high, median, serving
from tests.bench.peers import spooler

PROBE = rb"""
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc < 3) return 2;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    char text[40];
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    write(fd, text, sprintf(text, "%lld%09ld", (long long)t.tv_sec, t.tv_nsec));
    return rename(argv[1], argv[2]);
}
"""


def show(options: argparse.Namespace) -> None:
    """Ours and the others' in turn."""
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, contextlib.ExitStack() as running:
        here = Path(scratch)
        here.chmod(0o711)
        probe = probe_in(here)
        ways: dict[str, Callable[[], object]] = {
            "xargs": lambda: subprocess.run(["xargs", *probe], input=b"", check=True)
        }
        if shutil.which("tsp") is not None:
            to = running.enter_context(spooler(here, 1))
            ways["task-spooler"] = partial(_quietly, ["tsp", "-n", *probe], to)
        served = running.enter_context(serving(1, options.dir, queues="{bulk: 1}"))
        ways["runnerd"] = lambda: served.drop(f"p{time.time_ns()}", f"command: {probe}\n")
        for _ in range(options.probes):
            for name, start in ways.items():
                found[f"{name}, idle"].append(started_ms(here, start))
        served.queue(served.stage("b", options.probes * 60, f"queue: bulk\n{JOB}"))
        for _ in range(options.probes):
            found["runnerd, busy"].append(started_ms(here, ways["runnerd"]))
        left = len(list((served.spool / "incoming").iterdir()))
    print(f"\n{'drop to first instruction, ms':34} {'p50':>8} {'p95':>8}")
    for name, times in found.items():
        print(f"  {name:32} {median(times):8.2f} {high(times):8.2f}")
    if not left:
        print("  the busy queue was empty before the last probe: give it fewer --probes")


def started_ms(here: Path, start: Callable[[], object]) -> float:
    """From the call until the probe runs."""
    (here / "time").unlink(missing_ok=True)
    began = time.time_ns()
    start()
    await_that((here / "time").exists, 0.001)
    return (int((here / "time").read_text()) - began) / 1e6


def probe_in(here: Path) -> list[str]:
    """A program that notes the time; in C if there is a compiler, for date(1) takes a while."""
    compiler, new = shutil.which("cc"), str(here / "time.new")
    if compiler is None:
        return ["sh", "-c", f"date +%s%N > {new}; mv {new} {here}/time"]
    subprocess.run([compiler, "-O", "-x", "c", "-o", here / "probe", "-"], input=PROBE, check=True)
    return [str(here / "probe"), new, str(here / "time")]


def _quietly(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
