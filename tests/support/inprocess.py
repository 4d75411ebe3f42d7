"""A job's whole life in one process, what the daemon and a runner do with it; or a death within."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dying import Died, DyingDisk
from invariant import is_locked
from spoolbox import SECRETS, SETUP, until

from runnerd import records
from runnerd.admit import judge, refuse
from runnerd.executors import installed
from runnerd.jobdir import Claimed
from runnerd.model import Refusal
from runnerd.outcome import Result
from runnerd.runner import Runner, origin
from runnerd.salvage import salvage
from runnerd.spool import Spool


def claim(spool: Spool, name: str) -> Claimed:
    with judge(spool, name, SETUP, now=time.time()) as judged:
        claimed = spool.claim(judged)
    assert claimed is not None
    return claimed


def live(spool: Spool, name: str) -> None:
    """What the daemon and a runner do with one file, in one process."""
    now = time.time()
    with judge(spool, name, SETUP, now=now) as judged:
        if isinstance(judged.verdict, Refusal):
            refuse(spool, judged, origin(), now=now)
            return
        claimed = spool.claim(judged)
    assert claimed is not None
    try:
        run(spool, claimed)
    finally:
        claimed.close()


def run(spool: Spool, claimed: Claimed) -> None:
    runner = Runner(spool, installed().within(Path("/nonexistent")), SECRETS, origin())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)  # noqa: FBT003
        runner.run(claimed, runner.prepare(claimed), ours)


def die(
    root: Path,
    at: int,
    step: Callable[[Spool], None],
    kind: Callable[[int], DyingDisk] = DyingDisk,
) -> bool:
    """Take a step in a process of its own that dies before the at-th change; whether it died."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            step(Spool.open(root, disk=kind(at)))
            status = 0
        except Died:
            status = 7
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 7)
    # A job's process that was forked just before holds a copy of the lock until its exec.
    for claim_file in (root / "running").glob("*/.claim"):
        until(partial(is_free, claim_file), f"somebody holds {claim_file}")
    return status == 7


def is_free(claim_file: Path) -> bool:
    try:
        return not is_locked(claim_file)
    except FileNotFoundError:
        return True


def recover(spool: Spool) -> None:
    """A new daemon: settle what is in running/, then run what is in incoming/."""
    for name in spool.unfinished():
        claimed = salvage(spool, name, origin()).claimed
        if claimed is not None:
            run(spool, claimed)
            claimed.close()
    for name in spool.look():
        live(spool, name)


def results(root: Path) -> list[Result]:
    found = [*(root / "done").iterdir(), *(root / "failed").iterdir()]
    return [records.loads(Result, (each / "result.json").read_bytes()) for each in found]
