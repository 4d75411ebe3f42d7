"""bench: how fast runnerd is, beside what people use instead, in the same run.

    "$(sh packaging/venv test bench)/python" tests/bench [--part NAME]... [--small]

Look at the ratios: they say the same on another machine. Each module tells how its part measures.
The peers are Debian's nq, parallel, redis-server, task-spooler, and what the extra `bench` brings.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from tests.bench import features, latency, output, standing, throughput  # noqa: E402
from tests.bench.measure import disk_us  # noqa: E402

PARTS = {
    "throughput": throughput.show,
    "latency": latency.show,
    "features": features.show,
    "output": output.show,
    "containers": output.show_containers,
    "memory": standing.show_memory,
    "start": standing.show_start,
    "backlog": standing.show_backlog,
}
SMALL = {
    "jobs": [200],
    "slots": [2],
    "rounds": 1,
    "probes": 5,
    "containers": 3,
    "each": 20,
    "queued": [2000],
    "filed": 2000,
}


def main() -> None:
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with an end to what it has started
    python = sys.version.partition(" ")[0]
    print(f"{os.cpu_count()} CPUs, Python {python}, medians of {options.rounds} rounds")
    made, synced = disk_us(options.dir)
    print(f"the disk: {made:.0f} us for a new directory, {synced:.0f} us for a synced file")
    for part in options.part or PARTS:
        PARTS[part](options)
        sys.stdout.flush()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add = parser.add_argument
    add("--part", action="append", choices=PARTS, help="only this one; may be repeated")
    add("--small", action="store_true", help="whether it runs, in a minute")
    add("--jobs", type=int, nargs="+", default=[1000, 10_000])
    add("--slots", type=int, nargs="+", default=[1, 2, 4, 8])
    add("--rounds", type=int, default=3)
    add("--most-of-peers", type=int, default=1000, help="larger bursts for runnerd and xargs alone")
    add("--probes", type=int, default=50, help="samples of latency")
    add("--each", type=int, default=300, help="jobs with each feature, in each round")
    add("--containers", type=int, default=10, help="docker jobs")
    add("--queued", type=int, nargs="+", default=[10_000, 100_000], help="jobs that wait")
    add("--filed", type=int, default=100_000, help="jobs that are done, at a start")
    add("--dir", help="where spools are made; default: the temporary directory")
    options = parser.parse_args()
    if options.small:
        vars(options).update(SMALL)
    return options


if __name__ == "__main__":
    main()
