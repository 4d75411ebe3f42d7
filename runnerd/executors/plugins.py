"""plugins: executors that other Python packages bring: `entrypoints`, in the group of this name.

Guarantees: nothing that a plugin raises ends a daemon or a runner.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from runnerd import entrypoints
from runnerd.catalogue import Options, unfit
from runnerd.entrypoints import FOREIGN, Unusable, worded
from runnerd.errors import NotStartable
from runnerd.model import Step
from runnerd.outcome import Failed, Outcome, Usage
from runnerd.shapes import Record

from . import Executor, Place, Running

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "runnerd.executors"


def load(built_in: Mapping[str, Executor]) -> tuple[dict[str, Executor], dict[str, str]]:
    """All executors in Python by name, and why others are left out."""
    found, broken = entrypoints.load(GROUP, built_in, partial(_load, built_in=built_in))
    return {**found, **built_in}, broken


def _load(point: EntryPoint, built_in: Mapping[str, Executor]) -> Executor:
    why = unfit(point.name)
    if why is not None:
        raise Unusable(why)
    if point.name in built_in:
        raise Unusable(f"{point.value} has the name of a built-in executor")
    threads = threading.active_count()
    plugin = entrypoints.made(point, _check)
    if threading.active_count() > threads:
        raise Unusable(f"{point.value} starts threads when it is loaded, and runners are forked")
    return _Guarded(
        point.name, plugin, getattr(plugin, "options", None), getattr(plugin, "about", None)
    )


def _check(made: Any) -> None:
    """It has the interface, and its options can be told to people and to editors."""
    if not callable(getattr(made, "start", None)):
        raise Unusable(f"{type(made).__qualname__} is no executor: it has no method `start`")
    if not isinstance(getattr(made, "about", None), str | None):
        raise Unusable("its `about` is no text")
    options = getattr(made, "options", None)
    if options is None:
        return
    if not isinstance(options, Record):
        raise Unusable("its `options` are neither a runnerd.shapes.Record nor None")
    json.dumps(Options.of(options).schema())
    for each in options.fields:
        each.kind.describe()


@dataclass(slots=True)
class _Guarded(Executor):
    """A plugin whose failures stay its own."""

    name: str
    _made: Executor
    options: Record | None = None
    about: str | None = None

    def start(self, step: Step, place: Place) -> Running:
        try:
            running = self._made.start(step, place)
            return _GuardedRunning(self.name, running, running.pid, int(running.fileno()))
        except NotStartable:
            raise
        except FOREIGN as error:
            raise NotStartable(f"the executor {self.name} failed: {worded(error)}") from error


@dataclass(slots=True)
class _GuardedRunning:
    _name: str
    _running: Running
    pid: int | None
    _fd: int

    def fileno(self) -> int:
        return self._fd

    def apart_s(self) -> float:
        return 0.0

    def signal(self, number: int) -> None:
        try:
            self._running.signal(number)
        except FOREIGN:
            if self.pid is not None:
                with contextlib.suppress(OSError):
                    os.kill(self.pid, number)

    def conclude(self) -> tuple[Outcome, Usage | None]:
        try:
            outcome, usage = self._running.conclude()
            if not isinstance(outcome, Outcome) or not isinstance(usage, Usage | None):
                raise TypeError(f"it concludes with {outcome!r}, {usage!r}")
        except FOREIGN as error:
            return Failed(f"the executor {self._name} failed: {worded(error)}"), None
        return outcome, usage
