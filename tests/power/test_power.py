"""A small sample of power cuts: the code as it is holds, and the harness sees when it is broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent
PATIENCE_S = 120

pytestmark = [pytest.mark.heavy, pytest.mark.root]


def cut(*options: str) -> tuple[int, str]:
    """Run the harness: its status, and what it printed."""
    done = subprocess.run(
        [sys.executable, str(HARNESS), *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_nothing_is_lost_or_done_twice_when_the_power_goes(fs: str) -> None:
    status, printed = cut("--fs", fs, "--states", "80", "--again", "1")
    assert status == 0, printed


@pytest.mark.parametrize(
    ("mutant", "states"),
    [
        *(("no-claim-sync", 40), ("late-claim-sync", 40), ("no-result-sync", 40)),
        *(("rename-before-result", 40), ("no-log-sync", 40)),
    ],
)
def test_a_guarantee_that_is_broken_is_seen(tmp_path: Path, mutant: str, states: int) -> None:
    status, printed = cut("--states", str(states), "--mutant", mutant, "--keep", str(tmp_path))
    assert status == 1, printed
    assert "promises broken" in printed, printed
