"""The soak of tests/soak, small: the same programs with less of everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak"
pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    "options",
    [
        ["--jobs", "300", "--kill"],
        ["--restarts", "10", "--max-gap", "20"],  # other tests beside it delay each start
        ["--minutes", "0.3"],
    ],
)
def test_what_was_dropped_is_filed_once_whatever_dies(options: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SOAK, *options, "--dir", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 violations" in done.stdout
