"""parse: bytes -> JobSpec, the only place where one is made. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .errors import Invalid
from .fields import JOB, check
from .model import JobSpec, Problem, Step
from .yamlsafe import Document, cut, read


def parse(data: bytes, *, executors: Collection[str]) -> JobSpec:
    """Read a job file. Raises Invalid with all that is wrong with it."""
    document = read(data)
    values, problems = check(document, JOB)
    problems += _together(document, executors)
    if problems:
        raise Invalid(tuple(sorted(problems, key=_place)))
    return _spec(values)


def _together(document: Document, executors: Collection[str]) -> tuple[Problem, ...]:
    """What no field can tell by itself."""
    top, found = document.top, []
    if "run" in top and "command" in top:
        later = max((top["run"], top["command"]), key=lambda entry: (entry.line, entry.column))
        message = "a job has either `run` or `command`, not both"
        found.append(document.problem("run-and-command", message, later))
    if "run" not in top and "command" not in top:
        message = "the job has nothing to run: it needs a field `run` or `command`"
        found.append(document.problem("nothing-to-run", message))
    executor = top.get("executor")
    if executor is not None and isinstance(executor.value.value, str):
        name = executor.value.value
        if name not in executors:
            message = f"there is no executor {cut(name)!r} here; there are {', '.join(executors)}"
            found.append(document.problem("executor", message, executor.value))
    return tuple(found)


def _spec(values: dict[str, Any]) -> JobSpec:
    step = Step(
        executor=values.get("executor", "shell"),
        run=values.get("run"),
        command=values.get("command"),
        env=values.get("env", {}),
    )
    return JobSpec(
        step=step,
        name=values.get("name"),
        timeout_s=values.get("timeout"),
        labels=values.get("labels", {}),
    )


def _place(problem: Problem) -> tuple[int, int]:
    return problem.line or 0, problem.column or 0
