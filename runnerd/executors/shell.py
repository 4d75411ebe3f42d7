"""shell: a step as a process of this machine, in its own session and with a clean environment.

`run` is a script for /bin/sh -e, or for the interpreter that its #! line names; `command` is an
argument vector that no shell sees. The script reaches its interpreter as an open file, descriptor
3: on a command line every user of the machine could read it.
"""

from __future__ import annotations

from runnerd.model import Step

from . import Executor, Place, Running
from .process import environment, memfd, start

SCRIPT_FD = 3


class Shell(Executor):
    """The executor of that name."""

    about = "A process of this machine."

    def start(self, step: Step, place: Place) -> Running:
        env = environment(step, place)
        if step.run is None:
            return start(list(step.command or ()), env, place)
        with memfd(step.run.encode(), place) as script_fd:
            return start(interpreter(step.run), env, place, {SCRIPT_FD: script_fd})


def interpreter(script: str, path: str = f"/dev/fd/{SCRIPT_FD}") -> list[str]:
    """The argument vector for a script: what its #! line says, split as the kernel does, or sh."""
    first = script.partition("\n")[0]
    words = first[2:].strip().split(maxsplit=1) if first.startswith("#!") else []
    return [*words, path] if words else ["/bin/sh", "-e", path]
