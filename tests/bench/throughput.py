"""throughput: jobs in a second and their CPU time, beside xargs -P and what people use instead.

N files with the job `sh -c true` are renamed into incoming/ of an idle daemon, until the last one
lies in done/; every claim and result is synced. The others run the same command as often. And
"its calls alone" is the limit: what such a job asks of the disk and the kernel, and no more.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from functools import partial

from tests.bench import floor
from tests.bench.measure import median, serving, spent_s
from tests.bench.peers import PEERS, XARGS


def show(options: argparse.Namespace) -> None:
    """Each round measures all of them, one after the other."""
    missing = {each.name: each.missing() for each in PEERS if each.missing()}
    for jobs in options.jobs:
        for slots in options.slots:
            rates, cpu_ms = measured(jobs, slots, options)
            base = median(rates[XARGS.name])
            head = f"{jobs} jobs, {slots} slots"
            print(f"\n{head:32} {'jobs/s':>8} {'of xargs':>9} {'CPU ms/job':>11}")
            for name, found in sorted(rates.items(), key=lambda item: -median(item[1])):
                cpu = f"{median(cpu_ms[name]):11.2f}" if cpu_ms[name] else ""
                print(f"  {name:30} {median(found):8.0f} {median(found) / base:9.2f} {cpu}")
    for name, needs in missing.items():
        print(f"  {name:30} not measured, it lacks {', '.join(needs)}")


def measured(
    jobs: int, slots: int, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """By name: jobs in a second, and milliseconds of CPU for each."""
    rates: dict[str, list[float]] = defaultdict(list)
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    peers = [each for each in PEERS if not each.missing()]
    for _ in range(options.rounds):
        for name, rate in (
            (XARGS.name, XARGS.rate),
            ("its calls alone", partial(floor.rate, directory=options.dir)),
        ):
            before = spent_s(os.times())
            rates[name].append(rate(jobs, slots))
            cpu_ms[name].append((spent_s(os.times()) - before) / jobs * 1000)
        with serving(slots, options.dir) as served:
            served.burst_s(served.stage("warm", 2 * slots))
            files, spent = served.stage("j", jobs), served.cpu_s()
            rates["runnerd"].append(jobs / served.burst_s(files))
            cpu_ms["runnerd"].append((served.cpu_s() - spent) / jobs * 1000)
        for peer in peers if jobs <= options.most_of_peers else ():
            rates[peer.name].append(peer.rate(jobs, slots))
    return rates, cpu_ms
