"""What a job costs, in calls: of the kernel, and of Python. Unlike times, they do not depend on the
load.

Each bound is what it costs now and a little more. Who needs more raises it, and says why.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from spoolbox import SpoolBox, until

FEW, MANY = 5, 25
CALL = re.compile(r"(\d+) +(\w+)\((.*)")
CHANGES = {
    *("mkdir", "mkdirat", "mknodat", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("rmdir", "link", "linkat", "symlinkat", "fchown", "fchownat", "fchmod", "fsetxattr"),
    *("ftruncate", "fallocate"),
}
SYNCS = {"fsync", "fdatasync", "sync", "syncfs"}
FORKS = {"fork", "vfork", "clone", "clone3"}
BOUNDS = {"calls": 116, "changes": 9, "syncs": 3, "vforks": 1, "forks": 0}
PYTHON = {"daemon": 600, "runner": 800}  # 530 and 600, and 150 for a status where all is slow
COUNTED = Path(__file__).parents[1] / "support" / "counted.py"


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
def test_a_job_costs_so_many_calls(box: SpoolBox) -> None:
    few, many = costs_of(box, FEW), costs_of(box, MANY)
    each = {what: (many[what] - few[what]) / (MANY - FEW) for what in BOUNDS}
    dear = {what: cost for what, cost in each.items() if cost > BOUNDS[what]}
    assert not dear, f"a job costs {each}"


def test_a_job_costs_so_much_of_python(box: SpoolBox) -> None:
    few, many = python_of(box, FEW), python_of(box, MANY)
    each = {who: (many[who] - few[who]) / (MANY - FEW) for who in PYTHON}
    dear = {who: cost for who, cost in each.items() if cost > PYTHON[who]}
    assert not dear, f"a job costs {each}"


def run(box: SpoolBox, jobs: int, program: list[str]) -> None:
    """Have a daemon and its runner find so many jobs, run them and end."""
    box.configure(slots=1)
    incoming = box.root / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    incoming.chmod(0o700)
    for number in range(jobs):
        (incoming / f"j{jobs}-{number}.yaml").write_text("command: ['true']\n")
    options = ["--spool", str(box.root), "--config", str(box.config_file), "--once"]
    subprocess.run([*program, *options], check=True, capture_output=True)
    assert len(list(box.root.glob(f"done/j{jobs}-*"))) == jobs


def python_of(box: SpoolBox, jobs: int) -> Counter[str]:
    """The functions that the daemon and its runner have called."""
    counts = box.scratch / f"counts-{jobs}"
    counts.mkdir()
    run(box, jobs, [sys.executable, str(COUNTED), str(counts)])
    files = [counts / who for who in PYTHON]
    until(lambda: all(each.exists() for each in files), "the runner has not ended")
    return Counter({each.name: int(each.read_text()) for each in files})


def costs_of(box: SpoolBox, jobs: int) -> Counter[str]:
    """The calls of the kernel, in both of them."""
    trace = box.scratch / f"trace-{jobs}"
    strace = ["strace", "-f", "-qq", "-o", str(trace), "-s", "64"]
    run(box, jobs, [*strace, sys.executable, "-m", "runnerd"])
    counts: Counter[str] = Counter()
    for call, arguments in calls_in(trace):
        counts["calls"] += 1
        counts["syncs"] += call in SYNCS
        counts["changes"] += call in CHANGES or (call == "openat" and "O_CREAT" in arguments)
        if call in FORKS:
            counts["vforks" if call == "vfork" or "CLONE_VFORK" in arguments else "forks"] += 1
    return counts


def calls_in(trace: Path) -> Iterator[tuple[str, str]]:
    """All but those of jobs: of processes that were forked and then started a program.

    The status is a view that only a job which runs for a while gets.
    """
    found = [match.groups() for match in map(CALL.match, trace.read_text().splitlines()) if match]
    daemon = found[0][0]
    jobs = {pid for pid, call, _ in found if call == "execve" and pid != daemon}
    for pid, call, arguments in found:
        if pid not in jobs and "status.json" not in arguments:
            yield call, arguments
