"""parse: bytes -> JobSpec, the only place where one is made. Pure.

What no field can tell by itself is told here: which fields exclude or need each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from . import workflow
from .errors import Invalid
from .faults import Faults, nearest
from .fields import BESIDE_USES, JOB
from .model import JobSpec, Step, Use
from .yamlsafe import Document, Entry, Node, cut, read

_STEP = ("executor", "run", "command", "env", "docker")
_OF_STEPS = ("executor", "env", "docker")  # what a job says for all of its steps
_WORK = ("run", "command", "uses", "steps")


def parse(data: bytes, *, executors: Collection[str], as_json: bool = False) -> JobSpec:
    """Read a job file. Raises Invalid with all that is wrong with it.

    A job that uses a template has one step, which says so; see `templates.fill_in`.
    """
    return make_spec(read(data, as_json=as_json), executors)


def make_spec(document: Document, executors: Collection[str]) -> JobSpec:
    """The job that a document describes. Raises Invalid."""
    faults = Faults(document)
    values = JOB.values(document.top, faults)
    _check(document.top, values, faults, executors)
    if faults:
        raise Invalid(faults.problems())
    return _spec(values)


def _check(
    top: Mapping[str, Entry], values: dict[str, Any], faults: Faults, executors: Collection[str]
) -> None:
    _check_work(top, faults)
    name = values.get("executor")
    if name is not None and name not in executors:
        hint = nearest(name, executors) or f"there are {', '.join(sorted(executors))}"
        message = f"there is no executor {cut(name)!r} here; {hint}"
        faults.add(message, top["executor"].value, code="executor")
    if "uses" in top:
        for name, entry in top.items():
            if name not in BESIDE_USES | {"uses", "with", *_WORK} and JOB.field(name):
                message = f"`{name}` cannot stand beside `uses`: the template decides it"
                faults.add(message, entry, code="with-uses")
    elif "with" in top:
        faults.add("`with` needs a template: there is no `uses`", top["with"], code="with")
    if "not_before" in top and "delay" in top:
        later = _later(top, "not_before", "delay")
        faults.add("either `not_before` or `delay`, not both", later, code="together")
    if isinstance(values.get("steps"), tuple):
        _check_steps(top["steps"].value, values["steps"], faults, executors)
    env, secrets = (_mapping(top.get(name)) for name in ("env", "secrets"))
    for name in env.keys() & secrets.keys():
        faults.add(f"`{name}` is set in `env` and in `secrets`", secrets[name], code="together")


def _check_work(top: Mapping[str, Entry], faults: Faults) -> None:
    """Exactly one field says what to run."""
    there = [name for name in _WORK if name in top]
    if not there:
        message = "the job has nothing to run: it needs a field `run`, `command`, `steps` or `uses`"
        faults.add(message, None, code="nothing-to-run")
    elif len(there) > 1:
        listed = " and ".join(f"`{name}`" for name in there)
        message = f"only one field can say what to run, and here are {listed}"
        faults.add(message, _later(top, *there), code="together")


def _check_steps(
    node: Node, steps: tuple[Any, ...], faults: Faults, executors: Collection[str]
) -> None:
    """What no step can tell by itself."""
    inside = faults.below("steps")
    nodes = node.value if isinstance(node.value, tuple) else ()
    numbers: dict[str, int] = {}
    for index, (each, step) in enumerate(zip(nodes, steps, strict=False)):
        if step is None or not isinstance(each.value, dict):
            continue  # its faults were told already
        there = [name for name in ("run", "command") if name in each.value]
        if len(there) != 1:
            inside.add("a step has either `run` or `command`", each, code="together")
        name = step.get("executor")
        if name is not None and name not in executors:
            message = f"there is no executor {cut(name)!r} here"
            inside.add(message, each.value["executor"].value, code="executor")
        step_id = step.get("id")
        if step_id in numbers:
            inside.add(f"there are two steps {step_id}", each.value["id"].value, code="step")
        elif step_id is not None:
            numbers[step_id] = index
    _check_needs(nodes, steps, numbers, inside)


def _check_needs(
    nodes: tuple[Node, ...], steps: tuple[Any, ...], numbers: dict[str, int], inside: Faults
) -> None:
    """Steps that are needed exist, and none needs itself on whatever way."""
    before = len(inside)
    for each, step in zip(nodes, steps, strict=False):
        for need in (step or {}).get("needs", ()):
            if need is not None and need not in numbers:
                assert isinstance(each.value, dict)
                hint = nearest(need, numbers)
                message = f"there is no step {cut(need)}" + (f"; {hint}" if hint else "")
                inside.add(message, each.value["needs"].value, code="step")
    if len(inside) > before or any(step is None for step in steps):
        return
    found = workflow.circle([Step(**_step_values(step)) for step in steps])
    if found is not None:
        message = "the steps need each other in a circle"
        inside.add(message, nodes[found], code="step")


def _step_values(step: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name not in ("uses", "with_")}


def _later(top: Mapping[str, Entry], *names: str) -> Entry:
    return max((top[name] for name in names), key=lambda entry: (entry.line, entry.column))


def _mapping(entry: Entry | None) -> Mapping[str, Entry]:
    return entry.value.value if entry and isinstance(entry.value.value, dict) else {}


def _spec(values: dict[str, Any]) -> JobSpec:
    values = dict(values)
    if "steps" in values:
        common = {name: values.pop(name) for name in _OF_STEPS if name in values}
        steps = []
        for step in values.pop("steps"):
            env = {**common.get("env", {}), **step.get("env", {})}
            steps.append(Step(**{**common, **step, "env": env}))
        return JobSpec(steps=tuple(steps), listed=True, **values)
    step = {name: values.pop(name) for name in _STEP if name in values}
    submitted = values.pop("with_", {})
    if "uses" in values:
        step["uses"] = Use(template=values.pop("uses"), values=submitted)
    return JobSpec(steps=(Step(**step),), **values)
