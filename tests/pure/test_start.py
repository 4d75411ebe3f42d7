"""What the daemon holds in memory from its start on, and with it each runner."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# For jobs with artifacts, callbacks, containers; for metrics, mistakes and what is pruned.
RARE = (
    *("hashlib", "_hashlib", "hmac", "email.utils", "difflib", "ssl", "requests", "docker"),
    *(
        "prometheus_client",
        "strictyaml",
        "click",
        "asyncio",
        "importlib.metadata",
        "rich",
    ),
    *("runnerd.courier", "runnerd.prune", "runnerd.executors.engine", "runnerd.ctl"),
)


def test_what_few_jobs_need_is_loaded_by_those() -> None:
    program = (
        "import sys\nfrom runnerd.__main__ import installed\ninstalled()\n"
        f"print(*sys.modules.keys() & {RARE!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_package_that_names_the_group_is_found(tmp_path: Path, *, packed: bool) -> None:
    path, files = tmp_path / "here", {"METADATA": "Name: x\nVersion: 1\n"}
    files["entry_points.txt"] = "[runnerd.callbacks]\nsome = package.module:Class\n"
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(f"x-1.dist-info/{name}", text)
    else:
        (path / "x-1.dist-info").mkdir(parents=True)
        for name, text in files.items():
            (path / "x-1.dist-info" / name).write_text(text)
    program = (
        "import sys\nfrom runnerd import entrypoints\n"
        "for group in ('runnerd.nothing', 'runnerd.callbacks'):\n"
        "    print(entrypoints.load(group, (), lambda point: point.value))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{path}:{Path(__file__).parents[2]}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["({}, {})", "({'some': 'package.module:Class'}, {})"]
