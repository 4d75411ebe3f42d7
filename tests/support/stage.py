"""One spool with a daemon that may be killed at any time, and what must come of what was dropped.

Each attempt of a job writes the job's id as a line into one file, its effects. At a pause, when
all is filed, `verify` compares that with the results, asks `invariant.violations` for the rest, and
removes what was verified.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from invariant import PLACES, cmdline, violations
from spoolbox import SpoolBox

PATIENCE_S = 180.0


class Stage:
    """`must`: ids that have to be filed; `may`: ids that can come of what was tried with others."""

    def __init__(self, scratch: Path, rng: random.Random, slots: int) -> None:
        self.box = SpoolBox(scratch)
        self.rng = rng
        self.effects = scratch / "effects"
        self.effects.touch()
        self.must: set[str] = set()
        self.may: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.slots = slots
        self._start()
        self.box.await_notice("READY=1")

    # --- the daemon -----------------------------------------------------------------------------

    def _start(self) -> None:
        self.box.launch(slots=self.slots, rescan="2s", runner_idle="1h")

    def kill_daemon(self) -> None:
        """kill -9, and at once another one; neither is waited for. So with the next."""
        self.box.kill()
        self.counts["daemons killed"] += 1
        self._start()

    def end_daemon(self) -> None:
        """SIGTERM; it must end well, if it was told after it had begun to listen."""
        daemon = self.box.daemon
        assert daemon is not None
        daemon.send_signal(signal.SIGTERM)
        status = daemon.wait(PATIENCE_S)
        assert status in (0, -signal.SIGTERM), f"the daemon ended with {status}"
        self.box.daemon = None

    def stop_daemon(self) -> None:
        """End it, and start another one."""
        self.end_daemon()
        self.counts["daemons stopped"] += 1
        self._start()

    def reload(self) -> None:
        """SIGHUP; to one that does not listen yet it is the end, so wait for its first line."""
        daemon = self.box.daemon
        assert daemon is not None
        said = self.box.log.stat().st_size
        daemon.send_signal(signal.SIGHUP)
        self.counts["reloads"] += 1
        with contextlib.suppress(TimeoutError):
            await_that(lambda: self.box.log.stat().st_size > said or daemon.poll() is not None, 5)
        if daemon.poll() is not None:
            self._start()

    def runners(self) -> list[psutil.Process]:
        """All runners, those of earlier daemons as well; the oldest first."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "runnerd-runner" and str(self.box.root) in cmdline(process):
                    found.append((process.create_time(), process.pid, process))
        return [each for _, _, each in sorted(found)]

    def kill_runner(self) -> None:
        self._kill_one_of(self.runners())

    def kill_youngest_runner(self) -> None:
        """The others live on, and can be compared with what they were."""
        self._kill_one_of(self.runners()[-1:])

    def _kill_one_of(self, runners: list[psutil.Process]) -> None:
        if runners:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.rng.choice(runners).kill()
                self.counts["runners killed"] += 1

    # --- what is dropped ------------------------------------------------------------------------

    def drop(self, job_id: str, text: str) -> None:
        self.box.drop(job_id, text)
        self.must.add(job_id)
        self.counts["jobs"] += 1

    def work(self) -> str:
        """The line of a script that is a job's work."""
        return f'echo "$RUNNER_JOB_ID" >> {self.effects}'

    # --- at rest --------------------------------------------------------------------------------

    def waiting(self) -> int:
        boxes = ("incoming", "running", "control")
        return sum(len(os.listdir(self.box.path(each))) for each in boxes)

    def drain(self) -> None:
        """Wait until all that was dropped is filed."""
        try:
            await_that(lambda: self.waiting() == 0, PATIENCE_S)
        except TimeoutError:
            left = {
                each: os.listdir(self.box.path(each))[:5]
                for each in ("incoming", "running", "control")
            }
            raise AssertionError(f"this is never done: {left}") from None

    def verify(self) -> list[str]:
        """What does not hold of all that was filed since last time, which is then removed."""
        effects = Counter(self.effects.read_text().split())
        os.truncate(self.effects, 0)
        seen = {name for place in PLACES for name in os.listdir(self.box.path(place))}
        wrong = violations(self.box.root, self.must | (self.may & seen), effects)
        wrong = [each for each in wrong if not self._is_ours(each)]
        wrong += [f"{each}: worked, and is not filed" for each in effects.keys() - seen]
        log = self.box.log.read_text(errors="replace")
        if "Traceback" in log:
            wrong.append(f"a traceback in the log: {log[log.index('Traceback') :][:2000]}")
        self.counts["verified"] += len(seen)
        for place in PLACES:
            for name in os.listdir(self.box.path(place)):
                shutil.rmtree(self.box.path(place, name))
        self.must, self.may = set(), set()
        return wrong

    def _is_ours(self, wrong: str) -> bool:
        """What the check of a spool at rest says of a daemon that is alive."""
        if wrong == ".lock was left":
            return True
        ours = self.runners()
        with contextlib.suppress(psutil.Error, ValueError):
            if self.box.daemon is not None:
                daemon = psutil.Process(self.box.daemon.pid)
                ours += [daemon, *daemon.children()]
        return any(wrong.startswith(f"process {each.pid} is alive") for each in ours)


@contextmanager
def staged(scratch: Path, rng: random.Random, slots: int) -> Iterator[Stage]:
    """A stage whose processes are gone afterwards."""
    stage = Stage(scratch, rng, slots)
    try:
        yield stage
    finally:
        if stage.box.daemon is not None and stage.box.daemon.poll() is None:
            stage.end_daemon()  # it may have been started just now
        stage.box.close()


def await_that(fact: object, within_s: float) -> None:
    assert callable(fact)
    deadline = time.monotonic() + within_s
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
