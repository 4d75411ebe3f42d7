"""executors: the interface between a runner and whatever really runs a step, and the known ones.

An executor starts a thing and says how to wait for it and how to end it. Output, time limits and
results are the runner's business and the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from runnerd.model import Account, JobId, Step
from runnerd.outcome import Outcome, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and as whom a step runs. Both descriptors stay the runner's; it gets copies.

    `secrets`: values of environment variables that must show nowhere else. `handed_on`: values from
    earlier steps; a step's own variables go before them. `variables`: what runnerd sets. `enter`:
    to be called in the new process before it gives up any right and starts anything.
    """

    job_id: JobId
    directory: str
    work_fd: int
    output_fd: int
    account: Account
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    handed_on: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    enter: Callable[[], None] | None = None


class Running(Protocol):
    """A step that was started."""

    @property
    def pid(self) -> int | None:
        """Its main process, if it has one on this machine."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when the main process has ended."""

    def signal(self, number: int) -> None:
        """Send a signal to all of it. Harmless when it has ended."""

    def conclude(self) -> tuple[Outcome, Usage | None]:
        """End what is left of it and say how it ended. Once, after `fileno` became readable."""


class Executor(Protocol):
    """A way to run a step."""

    def start(self, step: Step, place: Place) -> Running:
        """Start the step; do not wait. Raises errors.NotStartable with a sentence for people."""


def known() -> Mapping[str, Executor]:
    """The executors of this installation, by name."""
    from .shell import Shell  # noqa: PLC0415  # the interface must not depend on who implements it

    return MappingProxyType({"shell": Shell()})
