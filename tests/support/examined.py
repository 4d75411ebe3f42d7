"""What the doctor says of a spool, as a program and in this process at another time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from spoolbox import SpoolBox

from runnerd.configfile import load_setup
from runnerd.ctl.case import Case
from runnerd.ctl.doctor import Line, case_of, examine
from runnerd.ctl.findings import TABLE, Verdict
from runnerd.disk import DIRECTORY
from runnerd.executors import installed

PROGRAM = [sys.executable, "-c", "from runnerd.ctl import main; main(prog_name='runnerctl')"]
# What the machine that the tests run on may lack, whatever the spool is like.
OF_THE_MACHINE = {
    *("no-group", "no-cgroups", "no-controller", "engine-idle", "clock-loose", "journal-volatile"),
    *("inotify-low", "space-low", "inodes-low"),
}


class Report:
    """What `runnerctl doctor --json` says."""

    def __init__(self, box: SpoolBox, *, env: dict[str, str] | None = None) -> None:
        self.done = subprocess.run(
            [*PROGRAM, "--config", str(box.config_file), *spool(box), "doctor", "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(env or {})},
            cwd="/",
        )
        assert self.done.stderr == ""
        self.lines = [Line(**each) for each in json.loads(self.done.stdout)]

    def of(self, check: str) -> list[Line]:
        return [each for each in self.lines if each.check == check]

    def only(self, word: str) -> Line:
        """The finding; nothing else may be wrong, and the exit status must be that of it."""
        found = [each for each in self.lines if each.finding == word]
        assert len(found) == 1, self.lines
        others = {each.finding for each in self.lines if each.verdict in ("wrong", "warning")}
        assert others - OF_THE_MACHINE <= {word}
        assert self.done.returncode == (1 if found[0].verdict == "wrong" else 0)
        assert found[0].verdict == TABLE[word].verdict
        assert found[0].remedy
        return found[0]

    def words(self) -> set[str | None]:
        return {each.finding for each in self.lines}


def spool(box: SpoolBox) -> tuple[str, str]:
    return "--spool", str(box.root)


def case(box: SpoolBox, *, later_s: float = 0.0) -> Case:
    """The same in this process, at another time."""
    return case_of(
        box.config_file,
        box.root,
        lambda: load_setup(box.config_file, installed().catalogue),
        now=time.time() + later_s,
    )


def found_in(examined: Case, *checks: str) -> list[Line]:
    return [each for each in examine(examined, checks) if each.verdict != Verdict.GOOD]


@contextlib.contextmanager
def hung_daemon(box: SpoolBox) -> Iterator[None]:
    """A process, our own, that has the lock of the spool and does nothing for it."""
    fd = os.open(box.path("outbox"), DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)
