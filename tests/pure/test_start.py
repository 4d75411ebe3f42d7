"""What the daemon holds in memory from its start on, and with it each runner."""

from __future__ import annotations

import subprocess
import sys

# For jobs with artifacts, callbacks, containers; for metrics, mistakes and what is pruned.
RARE = (
    *("hashlib", "_hashlib", "hmac", "email.utils", "difflib", "ssl", "requests", "docker"),
    *(
        "prometheus_client",
        "psutil",
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
