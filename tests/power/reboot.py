"""reboot: mount what a power cut has left, in a world of its own, recover, and look.

The kernel stays the same here, so a file stands in for its boot id: after a real cut it is another
one. The world has its own mounts and its own processes; the paths in it are those of the workload.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from namespaces import cover, in_own_world, run
from promises import Job, broken, promises_in, torn_copies
from recorder import FileSystem

from runnerd.__main__ import main as runnerd

ROUNDS = 5
PATIENCE_S = 30.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Site:
    """What is the same for all states: the paths that the workload has seen, and its jobs."""

    kind: FileSystem
    mount: Path
    acks: Path
    config: Path
    jobs: Mapping[str, Job]

    @property
    def spool(self) -> Path:
        return self.mount / "spool"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one state."""

    wrong: tuple[str, ...]
    torn_copies: int = 0
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class Recovery:
    """A recovery as something to be recorded. Its acknowledgements follow those before the cut."""

    site: Site

    def __call__(self, _mount: Path) -> None:
        _, wrong = recover(self.site, self.site.acks)
        if wrong:
            raise RuntimeError(f"{wrong}:\n{self.site.acks.read_text()}")


def start(site: Site, image: Path, acks: bytes, report: Path) -> int:
    """Begin to verify an image, in a process of its own; its pid. It leaves a report."""
    pid = in_own_world()
    if pid:
        return pid
    verdict = Verdict(("the harness failed",))
    try:
        verdict = _verify(site, image, acks)
    except BaseException:  # noqa: BLE001  # told in the report
        verdict = Verdict((traceback.format_exc(),))
    finally:
        report.write_text(json.dumps(dataclasses.asdict(verdict)))
        os._exit(0)


def verdict_of(report: Path) -> Verdict:
    """Read the report of a process that has ended."""
    if not report.exists():
        return Verdict(("the harness left no report",))
    read = json.loads(report.read_text())
    return Verdict(tuple(read["wrong"]), read["torn_copies"], read["rounds"])


def _verify(site: Site, image: Path, acks: bytes) -> Verdict:
    seen = image.with_suffix(".acks")
    seen.write_bytes(acks)
    cover(site.acks, seen)
    try:
        run(
            "mount",
            "-t",
            site.kind.name,
            "-o",
            f"loop,{site.kind.options}",
            str(image),
            str(site.mount),
        )
    except OSError as error:
        return Verdict((f"does not mount: {error}",))
    rounds, wrong = recover(site, seen)
    if not wrong:
        before, after = promises_in(acks), promises_in(seen.read_bytes())
        wrong = broken(site.spool, site.jobs, before, after)
    torn, unknown = torn_copies(site.spool, site.jobs.values())
    wrong += unknown
    if wrong:
        wrong.append(f"what happened:\n{seen.read_text()}")
    run("umount", str(site.mount))
    return Verdict(tuple(wrong), torn, rounds)


def recover(site: Site, log: Path) -> tuple[int, list[str]]:
    """Boot, and run daemons until the spool is at rest: how many it took, and what is wrong."""
    boot_id = log.with_suffix(".boot")
    boot_id.write_text(f"{uuid.uuid4()}\n")
    cover(BOOT_ID, boot_id)
    for number in range(1, ROUNDS + 1):
        status = _run_daemon(site, log)
        if status != 0:
            return number, [f"the recovery ended with status {status}"]
        if not any(_waits(site.spool / each) for each in ("running", "incoming")):
            break
    return number, []


def _waits(directory: Path) -> bool:
    """Whether anything is there but what its submitter was still writing."""
    return any(not name.startswith(".") for name in os.listdir(directory))


def _run_daemon(site: Site, log: Path) -> int:
    """One `runnerd --once`, forked from here: what it imports is loaded already."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            fd = os.open(log, os.O_WRONLY | os.O_APPEND)
            os.dup2(fd, 2)
            options = ["--config", str(site.config), "--spool", str(site.spool), "--once"]
            runnerd(options)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stderr.flush()
            os._exit(status)
    return _wait(pid)


def _wait(daemon: int) -> int:
    """Wait for the daemon, and as the first process of this world for all orphans."""
    status, deadline = 99, time.monotonic() + PATIENCE_S
    while True:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == daemon:
            status = os.waitstatus_to_exitcode(ended)
        if pid == 0:
            if time.monotonic() > deadline:
                return 124
            time.sleep(0.001)
