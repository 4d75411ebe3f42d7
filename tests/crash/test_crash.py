"""The harness that kills and fails the programs at each of their calls is right, and it sees."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SUPPORT = HERE.parent / "support"
# The kernel's names of the calls, and which of ours makes them.
CALLS = {
    "mkdirat": "mkdir",
    "mkdir": "mkdir",
    "mknodat": "mkfifo",
    "openat": "open",
    "write": "write",
    "renameat": "rename",
    "rename": "rename",
    "renameat2": "renameat2",
    "unlinkat": "unlink",
    "unlink": "unlink",
    "rmdir": "rmdir",
    "fsync": "fsync",
    "fdatasync": "fdatasync",
    "fchmod": "fchmod",
    "fchown": "fchown",
    "fsetxattr": "setxattr",
    "splice": "splice",
    "ftruncate": "ftruncate",
    "linkat": "link",
    "symlinkat": "symlink",
    "fallocate": "fallocate",
    "pwrite64": "pwrite",
    "writev": "writev",
    "copy_file_range": "copy_file_range",
    "sendfile": "sendfile",
}
TRACED = """
import sys
from pathlib import Path
from crashpoints import Points
from scenarios import SCENARIOS
from trial import Place

place = Place(Path(sys.argv[1]))
place.prepare(SCENARIOS[sys.argv[2]])
print(place.once(Points(place.root, place.trace, place.fired, None).install))
"""


def crash(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "scenario", ["new spool", "job", "steps", "submit anew", "symbolic link", "prune", "told"]
)
def test_the_points_are_all_the_changes_that_the_kernel_sees(tmp_path: Path, scenario: str) -> None:
    trace, place = tmp_path / "strace", tmp_path / "place"
    run = subprocess.run(
        [
            *("strace", "-f", "-y", "--decode-pids=comm", "-qq", "-s", "0", "-o", str(trace)),
            *("-e", f"trace=?{',?'.join(CALLS)}", sys.executable, "-c", TRACED),
            *(str(place), scenario),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{SUPPORT}:{HERE.parents[1]}", "PATH": "/usr/bin:/bin"},
    )
    assert run.stdout == "0\n", (place / "log").read_text()
    met = [line.split()[1] for line in (place / "trace").read_text().splitlines()]
    assert Counter(met) - Counter(spawn=99) == seen_by_kernel(trace, place / "spool")


def seen_by_kernel(trace: Path, root: Path) -> Counter[str]:
    """The changes below the spool by our processes, from the first point on: not of a job's."""
    found: Counter[str] = Counter()
    begun = False
    for line in trace.read_text().splitlines():
        parts = re.match(r"\d+<(?P<comm>[^>]*)> (?P<call>\w+)\((?P<args>.*)", line)
        if parts is None:  # the second half of a call that another one interrupted
            continue
        call, args = parts["call"], parts["args"]
        begun = begun or f"{root.parent}/trace>" in args
        ours = parts["comm"].startswith(("python", "runnerd"))
        if not begun or not ours or f"{root}" not in args:
            continue
        if call == "openat" and not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", args):
            continue
        name = CALLS[call]
        found["rmdir" if name == "unlink" and "AT_REMOVEDIR" in args else name] += 1
    return found


@pytest.mark.heavy
def test_a_sample_of_all_points_holds() -> None:
    run = crash("--sample", "150")
    assert run.returncode == 0, run.stdout
    assert "150 runs" in run.stdout


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("mutant", "scenario"),
    [
        ("mark-late", "job"),
        ("rename-before-result", "job"),
        ("tell-after-filing", "told"),
        ("prune-in-place", "prune"),
    ],
)
def test_a_broken_order_is_seen(mutant: str, scenario: str) -> None:
    run = crash("--mutant", mutant, "--scenario", scenario, "--act", "kill")
    assert run.returncode == 1
    assert f"FAIL {scenario}: kill" in run.stdout
