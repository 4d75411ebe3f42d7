"""workflow: the steps of a job as a graph: which may start, which are passed over. Pure.

A step starts when those that it needs have ended; without `needs`, that is the one before. What
decides whether it runs are all steps that lie before it on some way: `if: success` if none of them
failed, `failure` if one did, `always` in any case. A failure that a step may have
(`continue_on_error`) counts for nobody. Once the job was stopped, only `always` runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .model import Step, When
from .outcome import StepState


def step_id(steps: Sequence[Step], index: int) -> str:
    """What others call a step: its id, or its number."""
    return steps[index].id or str(index + 1)


def is_graph(steps: Sequence[Step]) -> bool:
    """Whether steps may run side by side."""
    return any(step.needs is not None for step in steps)


def needs_of(steps: Sequence[Step], index: int) -> tuple[int, ...]:
    """The steps that must have ended first, by index."""
    needs = steps[index].needs
    if needs is None:
        return (index - 1,) if index else ()
    numbers = {step_id(steps, each): each for each in range(len(steps))}
    return tuple(numbers[need] for need in needs)


def before(steps: Sequence[Step], index: int) -> set[int]:
    """All steps that lie before one on some way."""
    found: set[int] = set()
    todo = [index]
    while todo:
        for each in needs_of(steps, todo.pop()):
            if each not in found:
                found.add(each)
                todo.append(each)
    return found


def circle(steps: Sequence[Step]) -> int | None:
    """A step that needs itself, on whatever way."""
    return next((each for each in range(len(steps)) if each in before(steps, each)), None)


def failed(steps: Sequence[Step], states: Mapping[int, StepState], index: int) -> bool:
    """Whether a step ended in a failure that counts."""
    return states.get(index) is StepState.FAILED and not steps[index].continue_on_error


def to_do(
    steps: Sequence[Step], states: Mapping[int, StepState], active: set[int], *, stopped: bool
) -> Iterator[tuple[int, bool]]:
    """The steps whose turn it is, and whether they run. Ask again when one was passed over."""
    for index, step in enumerate(steps):
        if index in states or index in active:
            continue
        if all(need in states for need in needs_of(steps, index)):
            broken = any(failed(steps, states, each) for each in before(steps, index))
            match step.when:
                case When.ALWAYS:
                    yield index, True
                case When.FAILURE:
                    yield index, broken and not stopped
                case When.SUCCESS:
                    yield index, not broken and not stopped
