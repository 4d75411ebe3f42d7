"""crash: die, or fail, at every call by which the daemon and its runners change a spool.

    python tests/crash [--scenario NAME]... [--sample N] [--seed N] [--mutant NAME]

For each scenario (tests/support/scenarios.py), each point on its way (tests/support/crashpoints.py)
and each act: the process that comes there is killed; all are killed at once; all are, and then the
daemon that recovers; the call fails; the call and all like it fail for a while. Then the daemon is
started again, and what must hold is asked (tests/support/invariant.py). Prints a table, and each
case that fails; exit status 1 if one did. `--only POINT` tries one, and shows its log.
"""

from __future__ import annotations

import argparse
import errno
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from crashpoints import DEATHS, Act, Fault  # noqa: E402  # found by the line above, as are all
from mutants import MUTANTS  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402
from trial import Place, Verdict, points_of, try_out  # noqa: E402

ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EDQUOT)
LASTING_S = 0.3
ACTS = tuple(str(act) for act in Act)


@dataclass(frozen=True, slots=True)
class Case:
    """A fault on the way of a scenario."""

    scenario: str
    fault: Fault


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="runnerd-crash-", dir=options.dir) as scratch:
        Path(scratch).chmod(0o711)  # who tells events is nobody
        began = time.monotonic()
        cases, counts = list_cases(options, Path(scratch))
        verdicts: dict[str, list[Verdict]] = defaultdict(list)
        failing = 0
        # Forked before it has a thread; each worker forks its daemons.
        with multiprocessing.get_context("fork").Pool(options.workers) as pool:
            work = partial(try_case, scratch=Path(scratch), mutant=options.mutant)
            for case, verdict in pool.imap_unordered(work, cases, chunksize=4):
                verdicts[case.scenario].append(verdict)
                if options.only:
                    print(f"{case.scenario}: {case.fault}:\n{verdict.log}")
                if verdict.wrong:
                    failing += 1
                    print(f"FAIL {case.scenario}: {case.fault} at: {case.fault.point}")
                    print(*(f"     {each}" for each in verdict.wrong), sep="\n", flush=True)
    report(counts, verdicts)
    print(f"{len(cases)} runs in {time.monotonic() - began:.0f} s, {failing} failing")
    sys.exit(failing > 0)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all")
    parser.add_argument("--act", action="append", choices=ACTS, help="default: all")
    parser.add_argument("--sample", type=int, help="so many cases in all, drawn; default: each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutant", choices=MUTANTS, help="a broken order, which must be seen")
    parser.add_argument("--only", metavar="POINT", help="this point, as it is printed")
    parser.add_argument("--workers", type=int, default=4 * len(os.sched_getaffinity(0)))
    parser.add_argument("--dir", help="where the spools are made; default: the temporary directory")
    return parser.parse_args()


raw = argparse.RawDescriptionHelpFormatter


def list_cases(options: argparse.Namespace, scratch: Path) -> tuple[list[Case], Counter[str]]:
    """All cases, or a sample; and how many points there are in each scenario."""
    cases: list[Case] = []
    counts: Counter[str] = Counter()
    for name in options.scenario or SCENARIOS:
        points = points_of(SCENARIOS[name], Place(scratch / "first"), setup_of(options.mutant))
        counts[name] = len(points)
        acts = options.act or ACTS
        cases += [
            Case(name, fault)
            for point in points
            if options.only in (None, point)
            for fault in faults_at(point)
            if str(fault.act) in acts
        ]
    if options.sample is not None and options.sample < len(cases):
        print(f"a sample of {options.sample} of {len(cases)} cases, seed {options.seed}")
        numbers = random.Random(options.seed)  # noqa: S311  # the same for the same seed
        cases = numbers.sample(cases, options.sample)
    return cases, counts


def faults_at(point: str) -> Iterator[Fault]:
    for act in DEATHS:
        yield Fault(point, act)
    if point.split()[1] == "spawn":
        return  # what a failing fork does to a job is no matter of the disk
    for number in ERRORS:
        yield Fault(point, Act.FAIL, number)
        yield Fault(point, Act.FAIL_ON, number, LASTING_S)


def try_case(case: Case, *, scratch: Path, mutant: str | None) -> tuple[Case, Verdict]:
    """One trial. A point that is not met by chance, in another order of events, is tried again."""
    place = Place(scratch / str(os.getpid()))
    for _ in range(3):
        verdict = try_out(SCENARIOS[case.scenario], place, case.fault, setup_of(mutant))
        if verdict.fired or verdict.wrong:
            break
    return case, verdict


def setup_of(mutant: str | None) -> Callable[[], None]:
    return (lambda: None) if mutant is None else MUTANTS[mutant]


def report(counts: Counter[str], verdicts: dict[str, list[Verdict]]) -> None:
    print(f"{'scenario':28}{'points':>8}" + "".join(f"{act:>11}" for act in ACTS), end="")
    print(f"{'not met':>10}{'failing':>10}")
    for name, points in counts.items():
        found = verdicts[name]
        by_act = Counter(each.fault.act for each in found if each.fault)
        missed = sum(not each.fired for each in found)
        wrong = sum(bool(each.wrong) for each in found)
        print(f"{name:28}{points:8}" + "".join(f"{by_act[Act(act)]:11}" for act in ACTS), end="")
        print(f"{missed:10}{wrong:10}")


if __name__ == "__main__":
    main()
