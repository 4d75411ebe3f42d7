"""power: cut the power at every moment of a workload, and see that nothing is lost or done twice.

    python tests/power [--fs ext4|xfs] [--states N] [--again N] [--seed S] [--mutant NAME]
    python tests/power --machines N [--release bookworm|trixie]
    python tests/power --from DIR --only ENTRY:KIND:SEED

The real daemon runs jobs on a real file system, whose disk notes every write and flush. Then states
are made that a power cut may leave: all that was flushed, and of the rest nothing, all, or some. In
each the kernel replays its journal, a daemon recovers, and the spool is held to what was promised
before the cut. Some of these recoveries are recorded as well, and cut again. Where a promise is
broken, the recording and the disk are kept, and any of its states can be had again.

With --machines the daemon runs in a whole emulated machine with a Debian and its kernel, which is
killed while it works, so many times; of each disk that is left, these states are made as well.

Exit status: 0; 1 if a promise was broken; 2 if this machine lacks something.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "machine"))

import debian
import machine
import reboot
from mutants import MUTANTS
from namespaces import enter_own_mounts
from reboot import Site, Verdict
from recorder import KINDS, Recording, load, missing, new_disk, record, save
from workload import AGAIN, CONFIG, Workload, jobs_of, wire_beside
from writelog import Cut, acks_at, counted, cut_of, cuts_between, disks_after

MEMORY = Path("/dev/shm")  # noqa: S108  # where there is one, states are made in memory
DISKS_KEPT = 3
LAST_RANDOMS = 8  # states of the moment at which a machine was killed
SHARE_AGAIN = 20  # of the states, so many times fewer for each recovery that is cut


@dataclass(frozen=True, slots=True)
class Found:
    """One recording, and what came of the cuts."""

    what: str
    recording: Recording
    verdicts: Sequence[tuple[Cut, Verdict]]
    took_s: float

    @property
    def broken(self) -> list[Cut]:
        return [cut for cut, verdict in self.verdicts if verdict.wrong]


def main() -> int:
    options = parse_options()
    lacks = missing(KINDS[options.fs]) + (machine.missing() if options.machines else [])
    if lacks:
        print(f"power: this machine lacks {', '.join(lacks)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    enter_own_mounts()
    memory = MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())
    # The paths are in what was recorded, so they must be the same again.
    place = (options.source / "place").read_text() if options.source else None
    here = Path(place or tempfile.mkdtemp(prefix="runnerd-power-", dir=memory))
    here.mkdir(exist_ok=True)
    try:
        try_ = tried_in_machines if options.machines else tried
        found = list(try_(options, site_at(here, options.fs)))
    finally:
        shutil.rmtree(here)
    report(options.fs, found)
    return 1 if any(each.broken for each in found) else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--fs", choices=KINDS, default="ext4")
    parser.add_argument("--states", type=int, default=400)
    parser.add_argument("--again", type=int, default=3, help="recoveries that are cut as well")
    parser.add_argument("--machines", type=int, default=0, help="cuts of a whole machine's power")
    parser.add_argument("--release", choices=debian.RELEASES, default="bookworm")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutant", choices=MUTANTS, help="a guarantee to break, to see it found")
    parser.add_argument("--keep", type=Path, help="where a recording with broken promises goes")
    parser.add_argument("--from", dest="source", type=Path, help="such a recording, to try again")
    parser.add_argument("--only", type=cut_of, help="ENTRY:KIND:SEED, as it is printed")
    return parser.parse_args()


def tried(options: argparse.Namespace, site: Site) -> Iterator[Found]:
    """The workload and its cuts; then some of the recoveries, and theirs."""
    began = time.monotonic()
    if options.source:
        recording = load(options.source)
        site.config.write_text(CONFIG)
    else:
        workload = Workload(site.acks, options.seed, options.mutant)
        base = new_disk(site.kind, site.acks.parent)
        recording = record(site.kind, site.acks.parent, base, site.acks, workload)
    cuts = chosen(recording, options, options.states)
    yield verified("workload", site, recording, cuts, options, began)
    if options.only or options.mutant or not cuts:
        return
    chance = random.Random(options.seed)  # noqa: S311  # to be had again from the same seed
    again = chance.sample(cuts, min(options.again, len(cuts)))
    for cut, image in disks_after(recording.base, recording.entries, again):
        began = time.monotonic()
        site.acks.write_bytes(acks_before(recording, cut))
        work = reboot.Recovery(site)
        second = record(site.kind, site.acks.parent, image, site.acks, work)
        cuts = chosen(second, options, options.states // SHARE_AGAIN)
        yield verified(f"recovery after {cut}", site, second, cuts, options, began)


def tried_in_machines(options: argparse.Namespace, site: Site) -> Iterator[Found]:
    """Cut the power of whole machines: the states at that moment, and a sample of earlier ones."""
    here = site.acks.parent
    works = machine.Machine(options.release, here, site.acks)
    site.config.write_text(CONFIG)
    for number in range(options.machines):
        began = time.monotonic()
        recording = works.cut(new_disk(site.kind, here), options.seed + number, options.mutant)
        last = len(recording.entries)
        cuts = cuts_between(recording.entries, last, last, randoms=LAST_RANDOMS)
        cuts += chosen(recording, options, options.states // options.machines)
        yield verified(f"machine {number + 1}", site, recording, sorted({*cuts}), options, began)


def verified(
    what: str,
    site: Site,
    recording: Recording,
    cuts: Sequence[Cut],
    options: argparse.Namespace,
    began: float,
) -> Found:
    """Verify the cuts of a recording; keep it if one breaks a promise."""
    found = list(verdicts(site, recording, cuts, options.jobs))
    done = Found(what, recording, found, time.monotonic() - began)
    if done.broken and not options.source:
        keep = options.keep or Path(tempfile.mkdtemp(prefix="runnerd-power-found-"))
        keep = keep / what.replace(" ", "-").replace(":", "-")
        save(recording, keep, site.acks.parent)
        for cut, image in disks_after(
            recording.base, recording.entries, sorted(done.broken)[:DISKS_KEPT]
        ):
            image.save(keep / f"{str(cut).replace(':', '-')}.img")
        print(f"\npromises broken; kept in {keep}; once more:", flush=True)
        print(f"python tests/power --fs {options.fs} --from {keep} --only {done.broken[0]}")
    return done


def site_at(here: Path, fs: str) -> Site:
    """The paths of a workload below a directory."""
    mount, acks = here / "mnt", here / "acks"
    acks.touch()
    mount.mkdir(exist_ok=True)
    if not wire_beside(acks).is_symlink():
        wire_beside(acks).symlink_to(os.devnull)
    jobs = {each.id: each for each in jobs_of(acks, mount / "spool" / "control")}
    jobs[AGAIN] = replace(jobs["plain"], id=AGAIN)
    return Site(KINDS[fs], mount, acks, here / "runnerd.yaml", jobs)


def chosen(recording: Recording, options: argparse.Namespace, states: int) -> list[Cut]:
    if options.only:
        return [options.only]
    cuts = cuts_between(recording.entries, 0, len(recording.entries))
    chance = random.Random(options.seed)  # noqa: S311  # to be had again from the same seed
    return sorted(chance.sample(cuts, min(states, len(cuts))))


def acks_before(recording: Recording, cut: Cut) -> bytes:
    return recording.acks[: acks_at(recording.entries, cut, len(recording.acks))]


def verdicts(
    site: Site, recording: Recording, cuts: Sequence[Cut], jobs: int
) -> Iterator[tuple[Cut, Verdict]]:
    """Verify each state, some at a time."""
    running: dict[int, tuple[Cut, Path]] = {}
    for cut, image in disks_after(recording.base, recording.entries, cuts):
        if len(running) >= jobs:
            yield _one_ended(running)
        path = site.acks.with_name(f"{str(cut).replace(':', '-')}.img")
        image.save(path)
        pid = reboot.start(site, path, acks_before(recording, cut), path.with_suffix(".json"))
        running[pid] = cut, path
    while running:
        yield _one_ended(running)


def _one_ended(running: dict[int, tuple[Cut, Path]]) -> tuple[Cut, Verdict]:
    pid, _ = os.wait()
    cut, image = running.pop(pid)
    verdict = reboot.verdict_of(image.with_suffix(".json"))
    for each in image.parent.glob(f"{image.stem}.*"):
        each.unlink()
    if verdict.wrong:
        print(cut, *verdict.wrong, sep="\n  ", flush=True)
    return cut, verdict


def report(fs: str, found: Sequence[Found]) -> None:
    """One line for each recording."""
    columns = ("entries", "flushes", "acks", "none", "all", "some", "broken", "seconds")
    print(f"\n{fs:31}" + "".join(f"{each:>11}" for each in columns))
    for each in found:
        kinds = counted([cut for cut, _ in each.verdicts])
        flushes = sum(entry.flush for entry in each.recording.entries)
        acks = len(each.recording.acks.splitlines())
        figures = [len(each.recording.entries), flushes, acks, *kinds.values(), len(each.broken)]
        line = "".join(f"{figure:11}" for figure in figures)
        print(f"{each.what:31}{line}{each.took_s:11.1f}")
    all_verdicts = [verdict for each in found for _, verdict in each.verdicts]
    torn = sum(each.torn_copies for each in all_verdicts)
    print(f"filed jobs whose job.yaml is not whole (their .claim is): {torn}")


if __name__ == "__main__":
    sys.exit(main())
