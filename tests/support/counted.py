"""counted: runnerd as it is, and how many functions each of its processes has called at its end.

    python counted.py DIRECTORY RUNNERD-OPTION...

Leaves a file for each process in the directory: `daemon`, `runner`, of which there may be one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runnerd.__main__ import main
from runnerd.daemon import Daemon
from runnerd.runner import Runner

HERE = Path(sys.argv[1])


def counted(method: Callable[..., None], name: str) -> Callable[..., None]:
    """The method, with a count of the calls that it leads to, in Python and in C."""

    def call(*args: Any, **more: Any) -> None:
        calls = 0

        def count(_: object, event: str, __: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            method(*args, **more)
        finally:
            sys.setprofile(None)
            new = HERE / f".{name}"
            new.write_text(str(calls))
            new.rename(HERE / name)

    return call


Daemon.run = counted(Daemon.run, "daemon")  # type: ignore[method-assign]
Runner.serve = counted(Runner.serve, "runner")  # type: ignore[method-assign]
main(sys.argv[2:])
