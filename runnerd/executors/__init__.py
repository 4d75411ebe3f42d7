"""executors: the interface between a runner and whatever really runs a step, and those there are.

An executor starts a thing and says how to wait for it and how to end it. Output, time limits and
results are the runner's business and the same for all. There are three kinds:

    built in          the shell, ssh
    Python plugins    classes behind the entry point group `runnerd.executors` (plugins)
    programs          executables in any language, in a directory of their own (program)

A Python plugin is a class with this interface, made without arguments; it may subclass `Executor`.
`about` says what it is, `options` declares what job files say under its name; `step.options` is
what a job said, as JSON has it. It is loaded once, in the process that all runners are forked from,
so it must not start threads or open anything then. `process` starts programs as the job's user.
etc/executors/README.md tells how to write one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Protocol

from runnerd.catalogue import Catalogue
from runnerd.errors import NotStartable
from runnerd.frozen import frozen
from runnerd.model import Account, JobId, Limits, Step
from runnerd.outcome import Outcome, Usage
from runnerd.shapes import Record

from .description import Description


@frozen(kw_only=True)
class Place:
    """Where and as whom a step runs. Both descriptors stay the runner's; it gets copies.

    `secrets`: values of environment variables that must show nowhere else; `named_secrets`: those
    that the step's options name. `handed_on`: values from earlier steps; a step's own variables go
    before them. `variables`: what runnerd sets. `enter`: to be called in the new process before it
    gives up any right and starts anything; who cannot do that holds the `limits`, which the whole
    job was given, by other means, and is not `fenced`. `keep` puts a file of the step into the
    job's directory, where only we may write, and tells its path. `owe` notes that something is left
    which only the executor's `sweep` can remove.
    """

    job_id: JobId
    spool: str
    directory: str
    attempt: int
    step: int
    work_fd: int
    output_fd: int
    account: Account
    keep: Callable[[str, bytes], str]
    owe: Callable[[], None]
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    named_secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    handed_on: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    limits: Limits | None = None
    enter: Callable[[], None] | None = None


class Running(Protocol):
    """A step that was started."""

    @property
    def pid(self) -> int | None:
        """Its main process, if it has one on this machine."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the main process has ended."""

    def apart_s(self) -> float:
        """For how long it was, or is, only made ready, which no time limit of the job counts."""

    def signal(self, number: int) -> None:
        """Send a signal to all of it. Harmless when it has ended."""

    def conclude(self) -> tuple[Outcome, Usage | None]:
        """End what is left of it and say how it ended. Once, after `fileno` became readable."""


class Executor(Protocol):
    """A way to run a step. `options`: what a job file may say under its name; None is nothing.

    `about`: a sentence for people.
    `fenced`: what it starts stands behind the job's fences (`Place.enter`), and they count it.
    """

    options: Record | None = None
    about: str | None = None
    fenced: bool = True

    def start(self, step: Step, place: Place) -> Running:
        """Start the step; do not wait. Raises errors.NotStartable with a sentence for people."""

    def sweep(self, spool: str, lives: Callable[[str], bool]) -> int:  # noqa: ARG002
        """Remove what it has left, outside of our processes, of jobs that do not live any more.

        How much that was. Raises errors.NotStartable if it cannot be done now.
        """
        return 0


@frozen
class Executors:
    """Those in Python, loaded once. The programs in a directory are looked at when it is asked."""

    loaded: Mapping[str, Executor]
    broken: Mapping[str, str] = field(default_factory=dict)

    def catalogue(self, directory: Path) -> Catalogue:
        """What job files may name. Runs each program of the directory, for a short while."""
        from .program import describe_all  # noqa: PLC0415  # who implements it depends on us

        described, broken = describe_all(directory, taken=self.loaded)
        known: dict[str, Executor | Description] = {**self.loaded, **described}
        return Catalogue(
            {name: each.options for name, each in known.items()},
            {**broken, **self.broken},
            {name: each.about for name, each in known.items() if each.about},
        )

    def within(self, directory: Path) -> Mapping[str, Executor]:
        """To start steps with: these, and the programs of a directory."""
        return _Startable(self, directory)


@frozen
class _Startable(Mapping[str, Executor]):
    """Those in Python; by its name a program is found as well, also one that was put there later.

    Raises errors.NotStartable for what cannot be used.
    """

    executors: Executors
    directory: Path

    def __getitem__(self, name: str) -> Executor:
        if name in self.executors.loaded:
            return self.executors.loaded[name]
        if name in self.executors.broken:
            why = self.executors.broken[name]
            raise NotStartable(f"the executor {name} is disabled here: {why}")
        from .program import Program  # noqa: PLC0415  # as above

        return Program(self.directory, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.executors.loaded)

    def __len__(self) -> int:
        return len(self.executors.loaded)


def built_in() -> dict[str, Executor]:
    """Those that are part of runnerd."""
    from .docker import Docker  # noqa: PLC0415  # as above
    from .shell import Shell  # noqa: PLC0415
    from .ssh import Ssh  # noqa: PLC0415

    return {"shell": Shell(), "docker": Docker(), "ssh": Ssh()}


def installed() -> Executors:
    """The executors of this installation."""
    from . import plugins  # noqa: PLC0415  # as above

    return Executors(*plugins.load(built_in()))
