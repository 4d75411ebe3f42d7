"""workload: jobs of every kind through the real daemon, with a note of all that was promised.

The acknowledgements are one file on the host's disk: lines of our own, of the jobs, and of the
daemon's log, in the order in which they were written.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promises import Job, Promises, promises_in

PATIENCE_S = 60.0
MUTANTS = Path(__file__).parents[1] / "support" / "mutants.py"
# A group that nobody has: only our own user drops here, and need not sign what it drops.
CONFIG = "slots: 3\ngroup: nobody-drops-here\n"


def jobs_of(acks: Path, control: Path) -> list[Job]:
    """What is submitted, in this order."""
    wire = wire_beside(acks)

    def work(job_id: str, then: str = "") -> str:
        done = (
            f'for to in {acks} {wire}; do echo "worked $RUNNER_JOB_ID $RUNNER_ATTEMPT" >> $to; done'
        )
        return "\n".join([f"echo printed by {job_id}", done, *([then] if then else [])])

    def job(job_id: str, fields: Mapping[str, object], **expected: object) -> Job:
        text = json.dumps({"name": job_id, **fields})
        return Job(job_id, f"{job_id}.json", text, **expected)  # type: ignore[arg-type]  # as Job

    twice = '[ "$RUNNER_ATTEMPT" -gt 1 ]'
    ask = f": > {control}/.ask; mv {control}/.ask {control}/cancelled.cancel; sleep 20"
    both = {"max": 2, "delay": 0, "on": ["exit", "interrupted"]}
    steps = [
        {"id": "first", "run": "echo key=value >> $RUNNER_OUTPUT"},
        {"id": "second", "run": work("steps")},
    ]
    return [
        job("plain", {"run": work("plain")}),
        job("flaky", {"run": work("flaky", twice), "retry": both}, tries=3, goes_on=True),
        job("steps", {"steps": steps}),
        job("keeps", {"run": work("keeps", "echo content > kept"), "artifacts": ["kept"]}),
        Job("invalid", "invalid.yaml", "run: [\n", reason="invalid"),
        job("exits", {"run": work("exits", twice), "retry": {"max": 2, "delay": 0}}, tries=3),
        job("cancelled", {"run": work("cancelled", ask)}, reason="cancelled"),
        Job("yaml", "yaml.yaml", f"command: [sh, -c, '{work('yaml').replace(chr(10), '; ')}']\n"),
        *(job(f"late-{n}", {"run": work(f"late-{n}")}, safe=n % 2 == 0) for n in range(4)),
    ]


def wire_beside(acks: Path) -> Path:
    """Where what a job did leaves the machine, if it works in one whose power is cut."""
    return acks.with_name("wire")


AGAIN = "plain.2"  # the id of the job `plain` when it is asked for once more


@dataclass(frozen=True, slots=True)
class Workload:
    """`acks`: a file of the host's. `seed`: when the disk syncs by itself."""

    acks: Path
    seed: int
    mutant: str | None = None

    def __call__(self, mount: Path) -> None:
        """Start the daemon, submit everything, wait for all of it, stop the daemon."""
        spool = mount / "spool"
        config = self.acks.with_name("runnerd.yaml")
        config.write_text(CONFIG)
        options = ["--config", str(config), "--spool", str(spool)]
        program = ["-m", "runnerd"] if self.mutant is None else [str(MUTANTS), self.mutant]
        with self.acks.open("ab") as log:
            daemon = subprocess.Popen([sys.executable, *program, *options], stderr=log)
        try:
            self._drive(mount, spool, daemon)
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(PATIENCE_S)
        finally:
            daemon.kill()
            daemon.wait()

    def _drive(self, mount: Path, spool: Path, daemon: subprocess.Popen[bytes]) -> None:
        chance = random.Random(self.seed)  # noqa: S311  # to be had again from the same seed
        with _directory(mount) as mount_fd:

            def await_that(fact: Callable[[Promises], bool]) -> None:
                """Wait, while the disk syncs now and then, as every machine's does."""
                deadline = time.monotonic() + PATIENCE_S
                while not fact(promises_in(self.acks.read_bytes())):
                    if daemon.poll() is not None or time.monotonic() > deadline:
                        raise TimeoutError(f"the workload hangs:\n{self.acks.read_text()}")
                    if chance.random() < 0.3:
                        sync_all(mount_fd)
                    time.sleep(0.004)

            await_that(lambda seen: seen.serving)
            jobs = jobs_of(self.acks, spool / "control")
            early = [each for each in jobs if not each.id.startswith("late")]
            self._submit(spool, early)
            await_that(lambda seen: "plain" in seen.finished)
            (spool / "control" / ".again").touch()
            (spool / "control" / ".again").rename(spool / "control" / "plain.retry")
            self._submit(spool, [each for each in jobs if each not in early])
            await_that(lambda seen: {AGAIN, *(each.id for each in jobs)} <= seen.finished.keys())

    def _submit(self, spool: Path, jobs: Sequence[Job]) -> None:
        """Drop each by rename; say so where it is safe by then."""
        with _directory(spool / "incoming") as incoming:
            for job in jobs:
                hidden = f".{job.file}.tmp"
                with (spool / "incoming" / hidden).open("w") as file:
                    file.write(job.text)
                    file.flush()
                    if job.safe:
                        os.fsync(file.fileno())
                os.rename(hidden, job.file, src_dir_fd=incoming, dst_dir_fd=incoming)
                if job.safe:
                    os.fsync(incoming)
                    with self.acks.open("ab") as acks:
                        acks.write(f"submitted {job.id}\n".encode())


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sync_all(fd: int) -> None:
    """syncfs(2): all of one file system."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), "syncfs")
