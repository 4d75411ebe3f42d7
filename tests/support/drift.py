"""What a daemon, its nursery and its runners hold: memory, descriptors, threads, and its growth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

RSS_GROWTH = 0.05
RSS_GROWTH_BYTES = 2 << 20
"""What memory may grow after the warm-up: the larger of both. The allocator keeps some back."""


@dataclass(frozen=True)
class Held:
    """What one process holds."""

    what: str
    fds: int
    threads: int
    rss: int
    pss: int


def held(daemon_pid: int) -> dict[int, Held]:
    """Of a daemon and all that descends from it, while no job runs; by process id."""
    daemon = psutil.Process(daemon_pid)
    found = {}
    for process in (daemon, *daemon.children(recursive=True)):
        memory = process.memory_full_info()
        what = "daemon" if process.pid == daemon_pid else process.name().removeprefix("runnerd-")
        found[process.pid] = Held(
            what, process.num_fds(), process.num_threads(), memory.rss, memory.pss
        )
    return found


def drift(before: Mapping[int, Held], after: Mapping[int, Held]) -> list[str]:
    """What has grown more than it may: descriptors and threads not at all, memory a little.

    Processes are the same in number; one that is new is held to what the others had.
    """
    wrong = []
    if len(before) != len(after):
        wrong.append(f"{len(before)} processes became {len(after)}")
    first = {each.what: each for each in before.values()}
    for pid, now in after.items():
        then = before.get(pid, first.get(now.what, now))
        if (now.fds, now.threads) != (then.fds, then.threads):
            wrong.append(
                f"{now.what} {pid}: descriptors {then.fds} -> {now.fds}, "
                f"threads {then.threads} -> {now.threads}"
            )
        most = then.rss + max(RSS_GROWTH_BYTES, int(then.rss * RSS_GROWTH))
        if pid in before and now.rss > most:
            wrong.append(f"{now.what} {pid}: RSS {then.rss >> 10} KiB -> {now.rss >> 10} KiB")
    return wrong


def line(found: Mapping[int, Held]) -> str:
    """For the table."""
    parts = []
    for what in ("daemon", "nursery", "runner"):
        some = [each for each in found.values() if each.what == what]
        fds = "/".join(str(each) for each in sorted({each.fds for each in some}))
        rss = max((each.rss for each in some), default=0) / 2**20
        parts.append(f"{what}: {len(some)}, {fds} fds, RSS {rss:.1f} MiB")
    total = sum(each.pss for each in found.values()) / 2**20
    return "; ".join([*parts, f"PSS in all {total:.1f} MiB"])
