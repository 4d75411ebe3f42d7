"""interpret: a script for an interpreter that the job names.

executor: interpret
interpret: {program: awk, flags: [-f], token: backend}
run: |
  BEGIN { print "hello from awk" }
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runnerd import records
from runnerd.errors import NotStartable
from runnerd.executors import Executor, Place, Running
from runnerd.executors.process import environment, memfd, start
from runnerd.kinds import Choice, Line
from runnerd.model import Step
from runnerd.names import SECRET
from runnerd.shapes import Field, Items, Record

SCRIPT_FD = 3


class Language(StrEnum):
    AWK = "awk"
    PERL = "perl"
    SED = "sed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a job says under `interpret`."""

    program: Language
    flags: tuple[str, ...] = ()
    token: str | None = None


class Interpret(Executor):
    """The executor of that name. `options` is the one declaration of what it takes."""

    about = "A script for an interpreter that the job names."
    options = Record(
        (
            Field(
                "program",
                Choice(Language),
                "The interpreter.",
                "perl",
                required=True,
            ),
            Field("flags", Items(Line(), most=20), "Its flags, before the script.", "[-w]"),
            Field(
                "token",
                SECRET,
                "A secret that the script finds as $INTERPRET_TOKEN.",
                "backend",
            ),
        ),
        Options,
    )

    def start(self, step: Step, place: Place) -> Running:
        if step.run is None:
            raise NotStartable("interpret runs scripts: it needs `run`")
        options = records.made(Options, step.options)
        env = environment(step, place)
        if options.token is not None:
            env["INTERPRET_TOKEN"] = place.named_secrets[options.token].decode()
        argv = [options.program, *options.flags, f"/dev/fd/{SCRIPT_FD}"]
        with memfd(step.run.encode(), place) as script_fd:
            return start(argv, env, place, {SCRIPT_FD: script_fd})
