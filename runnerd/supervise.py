"""supervise: watch steps that run, side by side or alone, until one has ended.

Pumps their output, ends them when their time is over, takes away the dead that they abandoned, and
listens for whoever cancels the job or tells its progress.

Guarantees: SIGTERM, and `kill_after_s` later SIGKILL, reach all of a step. When the last step that
            runs has ended, no process of the job is left.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from .executors import Running
from .frozen import frozen
from .outcome import Outcome, Stopped, Usage
from .output import Output
from .processes import bury_orphans, end_orphans

BURY_S = 5.0  # how long a dead process that the job abandoned may stay a zombie


@dataclass(slots=True)
class Active:
    """A step that runs. `deadline` (monotonic): when it is ended, or ended for good.

    Until it is being ended, time that it was only made ready in does not count.
    """

    index: int
    running: Running
    output: Output
    kill_after_s: float
    deadline: float | None = None
    stopped: Stopped | None = None
    _why: Stopped | None = None
    _then: Callable[[], None] | None = None

    def end_at(self, deadline: float, why: Stopped, then: Callable[[], None] | None = None) -> None:
        """End it at this time (monotonic), and do something then."""
        self.deadline, self._why, self._then = deadline, why, then

    def stop(self, why: Stopped, now: float) -> None:
        """Ask all of it to end."""
        if self.stopped is not None:
            return
        self.stopped = why
        self.running.signal(signal.SIGTERM)
        self.running.signal(signal.SIGCONT)  # a stopped process gets its SIGTERM only then
        self.deadline = now + self.kill_after_s

    @property
    def due(self) -> float:
        """When its time is over (monotonic), if ever."""
        if self.deadline is None:
            return float("inf")
        return self.deadline if self.stopped else self.deadline + self.running.apart_s()

    def tick(self, now: float) -> None:
        """End it if its time is over."""
        if now < self.due:
            return
        if self.stopped is None and self._why is not None:
            self.stop(self._why, now)
            if self._then is not None:
                self._then()
        else:
            self.running.signal(signal.SIGKILL)
            self.deadline = None


@frozen
class Over:
    """A step that has ended."""

    index: int
    outcome: Outcome
    usage: Usage | None
    apart_s: float = 0.0


class Watcher:
    """The steps of one job that run now."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._steps: dict[int, Active] = {}  # by the descriptor that becomes readable at their end
        self._outputs: dict[int, Output] = {}
        self._listeners: dict[int, Callable[[], None]] = {}
        self._due: dict[Callable[[], None], float] = {}

    def close(self) -> None:
        """Let go of whom it calls: they have it as well, and would wait for the collector."""
        self._listeners.clear()
        self._due.clear()

    @property
    def active(self) -> set[int]:
        return {step.index for step in self._steps.values()}

    def listen(self, fd: int, act: Callable[[], None]) -> None:
        """Call this when the descriptor is readable."""
        self._poll.register(fd, select.POLLIN)
        self._listeners[fd] = act

    def once(self, after_s: float, act: Callable[[], None]) -> None:
        """Call this one time while steps run, unless that is waited for already."""
        self._due.setdefault(act, time.monotonic() + after_s)

    def add(self, step: Active) -> None:
        self._steps[step.running.fileno()] = step
        self._outputs[step.output.read_fd] = step.output
        self._poll.register(step.running.fileno(), select.POLLIN)
        self._poll.register(step.output.read_fd, select.POLLIN)

    def stop(self, why: Stopped) -> None:
        """End all that runs."""
        for step in self._steps.values():
            step.stop(why, time.monotonic())

    def wait(self) -> Over:
        """Until one step has ended."""
        while True:
            ready = [fd for fd, _ in self._poll.poll(self._patience_ms())]
            if not ready:
                bury_orphans(spare={step.running.pid for step in self._steps.values()})
            ended = None
            for fd in ready:
                if fd in self._steps:
                    ended = ended or self._steps[fd]
                elif fd in self._outputs:
                    self._pump(fd)
                else:
                    self._listeners[fd]()
            if ended is not None:
                return self._end(ended)
            now = time.monotonic()
            self._look(now)
            for step in list(self._steps.values()):
                step.tick(now)

    def _pump(self, fd: int) -> None:
        if not self._outputs[fd].pump():
            self._poll.unregister(fd)
            del self._outputs[fd]

    def _patience_ms(self) -> float:
        deadlines = [step.due for step in self._steps.values()]
        deadlines += self._due.values()
        left_s = min(deadlines, default=float("inf")) - time.monotonic()
        return max(0.0, min(BURY_S, left_s)) * 1000 + 1

    def _look(self, now: float) -> None:
        for act in [each for each, due in self._due.items() if due <= now]:
            del self._due[act]
            act()

    def _end(self, step: Active) -> Over:
        del self._steps[step.running.fileno()]
        self._poll.unregister(step.running.fileno())
        apart_s = step.running.apart_s()
        outcome, usage = step.running.conclude()
        if not self._steps:
            end_orphans()
        step.output.drain()
        if self._outputs.pop(step.output.read_fd, None) is not None:
            self._poll.unregister(step.output.read_fd)
        return Over(step.index, step.stopped or outcome, usage, apart_s)
