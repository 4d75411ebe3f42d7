"""trial: a scenario on a spool of its own, with the real programs, a fault, and the recovery.

The programs are forked from this process, which has loaded them already: a trial takes a tenth of a
second. No thread may run here.
"""

from __future__ import annotations

import itertools
import os
import select
import shutil
import signal
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from crashpoints import DEATHS, Act, Fault, Points
from invariant import filed_in, living, news_violations, violations
from scenarios import Scenario

from runnerd.__main__ import EX_CONFIG
from runnerd.__main__ import main as runnerd
from runnerd.layout import PRUNING
from runnerd.spares import is_spare
from runnerd.spool import Spool

PATIENCE_S = 30.0
ROUNDS = 8  # of `runnerd --once`, until a spool is at rest
MOST_CHANGES = 12  # about how many a recovery makes
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a trial: whether the fault came, and what does not hold."""

    fault: Fault | None
    fired: bool
    wrong: tuple[str, ...]
    log: str


class Place:
    """A directory with a spool and what the trials on it leave beside it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.root = scratch / "spool"
        self.effects = scratch / "effects"
        self.trace = scratch / "trace"
        self.fired, self.fired_again = scratch / "fired", scratch / "fired-again"
        self.config = scratch / "runnerd.yaml"
        self.log = scratch / "log"
        self.told = scratch / "told"

    def prepare(self, scenario: Scenario) -> None:
        """A new spool, with what the scenario wants there before it begins."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        self.told = self.scratch / f"told-{next(_numbers)}"  # who lives on writes into his own
        self.config.write_text("slots: 1\n")
        self.effects.touch()
        self.told.touch()
        self.told.chmod(0o666)  # the carrier is nobody
        if scenario.is_new:
            return
        Spool.open(self.root).close()
        if scenario.before:
            self._drop(scenario.before)
            self.once(None)
        with self.config.open("a") as config:
            config.write(scenario.config.replace("{told}", str(self.told)))
        self._drop(scenario.files)
        for name, target in scenario.links.items():
            (self.root / "incoming" / name).symlink_to(target)
        for name in scenario.requests:
            (self.root / "control" / name).touch()

    def _drop(self, files: Mapping[str, str]) -> None:
        staged = self.scratch / "staged"
        for name, text in files.items():
            words = text.replace("{root}", str(self.root)).replace("{effects}", str(self.effects))
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(words)
        for top in dict.fromkeys(name.partition("/")[0] for name in files):
            (staged / top).rename(self.root / "incoming" / top)

    def once(self, before: Callable[[], None] | None) -> int:
        """`runnerd --once`, after a call of `before`; its exit status, negative for a signal."""
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                self._become_daemon(before)
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0
            finally:
                os._exit(status)
        return self._wait(pid)

    def _become_daemon(self, before: Callable[[], None] | None) -> None:
        os.setsid()
        log_fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log_fd, 2)
        sys.stderr = os.fdopen(2, "w")
        if before is not None:
            before()
        runnerd(["--config", str(self.config), "--spool", str(self.root), "--once"])
        sys.exit(0)

    def _wait(self, pid: int) -> int:
        pidfd = os.pidfd_open(pid)
        ended, _, _ = select.select([pidfd], [], [], PATIENCE_S)
        os.close(pidfd)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status if ended else -signal.SIGALRM

    def is_at_rest(self, *, told: bool = True) -> bool:
        """Whether nothing is left to be done, or (`told`) to be told.

        What is to be removed may wait for another day.
        """
        boxes = [self.root / name for name in ("incoming", "running", "control")]
        outbox = self.root / "outbox"
        if told and not (outbox.is_dir() and set(os.listdir(outbox)) <= {"dead"}):
            return False
        staged = self.root.is_dir() and any(
            name.startswith(".") and name != PRUNING and not is_spare(name)
            for name in os.listdir(self.root)
        )
        return not staged and all(box.is_dir() and not os.listdir(box) for box in boxes)

    def end_all(self) -> None:
        """Kill what lives of this spool."""
        for process in living(self.root):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(living(self.root), timeout=PATIENCE_S)


def points_of(scenario: Scenario, place: Place, setup: Callable[[], None]) -> list[str]:
    """The points on the way of a scenario, in the order in which they came, each once."""
    place.prepare(scenario)
    wrong = _run(place, scenario, None, setup).wrong
    if wrong:
        raise SystemExit(f"without a fault: {'; '.join(wrong)}\n{place.log.read_text()}")
    return list(dict.fromkeys(place.trace.read_text().splitlines()))


def try_out(
    scenario: Scenario, place: Place, fault: Fault, setup: Callable[[], None] = lambda: None
) -> Verdict:
    """Let a fault come, recover, and look. `setup` is called in the daemon that meets it."""
    place.prepare(scenario)
    return _run(place, scenario, fault, setup)


def _run(
    place: Place, scenario: Scenario, fault: Fault | None, setup: Callable[[], None]
) -> Verdict:
    def before() -> None:
        setup()
        Points(place.root, place.trace, place.fired, fault).install()

    wrong = []
    act = None if fault is None else fault.act
    status = place.once(before)
    refused = scenario.is_new and status == EX_CONFIG  # says why, and is started again
    if status not in (0, -signal.SIGKILL) and not refused:
        wrong.append(f"the daemon ended with {status}")
    if act not in DEATHS and not refused and not place.is_at_rest(told=False):
        wrong.append("the daemon did not go on by itself")
    if act in (Act.KILL_ALL, Act.KILL_TWICE):
        place.end_all()
    if fault is not None and act is Act.KILL_TWICE:
        number = str(zlib.crc32(fault.point.encode()) % MOST_CHANGES + 1)
        again = Points(place.root, place.trace, place.fired_again, Fault(number, Act.KILL))
        place.once(again.install)
    if scenario.pruned:  # what is being removed is seen whole or not at all
        psutil.wait_procs(living(place.root), timeout=PATIENCE_S)
        wrong += filed_in(place.root)[1]
    wrong += _recover(place, scenario)
    effects = place.effects.read_text().split()
    wrong += violations(
        place.root, scenario.expected, {each: effects.count(each) for each in effects}
    )
    wrong += news_violations(place.root, place.told, scenario.news, effects)
    # What may come of any job when its runner dies, or a call fails that it needs.
    otherwise = "failed interrupted" if act in DEATHS else "failed executor"
    wrong += _outcomes(place, scenario, set() if act is None else {otherwise})
    if "Traceback" in place.log.read_text():
        wrong.append("a traceback in the log")
    place.end_all()
    return Verdict(fault, place.fired.exists(), tuple(dict.fromkeys(wrong)), place.log.read_text())


def _recover(place: Place, scenario: Scenario) -> list[str]:
    """Start the daemon, as often as it takes; what went wrong with it."""
    wrong = []
    for number in range(ROUNDS):
        if place.is_at_rest() and (number > 0 or not scenario.pruned):
            break
        status = place.once(None)
        if status != 0:
            wrong.append(f"the daemon after it ended with {status}")
    psutil.wait_procs(living(place.root), timeout=2)  # runners that are just leaving
    return wrong


def _outcomes(place: Place, scenario: Scenario, otherwise: set[str]) -> list[str]:
    wrong = []
    for each in filed_in(place.root)[0]:
        outcome = f"{each.place} {each.result['reason'] or ''}".strip()
        if outcome not in {scenario.expected.get(each.id, ""), *otherwise}:
            wrong.append(f"{each.id}: {outcome}, expected {scenario.expected.get(each.id)}")
    return wrong
