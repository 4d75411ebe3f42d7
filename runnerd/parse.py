"""parse: bytes -> JobSpec, the only place where one is made. Pure.

What no field can tell by itself is told here: which fields exclude or need each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from . import workflow
from .catalogue import Catalogue
from .errors import Invalid
from .faults import Faults, nearest
from .fields import BESIDE_USES, JOB
from .model import Callback, JobSpec, Step, Use
from .yamlsafe import Document, Entry, Node, cut, read

_STEP = ("executor", "run", "command", "env")
_OF_STEPS = ("executor", "env")  # what a job says for all of its steps, beside options
_USUAL, _DOCKER = "shell", "docker"
_WORK = ("run", "command", "uses", "steps")


def parse(data: bytes, *, executors: Catalogue, as_json: bool = False) -> JobSpec:
    """Read a job file. Raises Invalid with all that is wrong with it.

    A job that uses a template has one step, which says so; see `templates.fill_in`.
    """
    return make_spec(read(data, as_json=as_json), executors)


def make_spec(document: Document, executors: Catalogue) -> JobSpec:
    """The job that a document describes. Raises Invalid."""
    faults = Faults(document)
    values = executors.job.values(document.top, faults)
    _check(document.top, values, faults, executors)
    if faults:
        raise Invalid(faults.problems())
    return _spec(values, executors)


def read_callback(document: Document) -> Callback | None:
    """Whom a file wants to have told, if that can be read, whatever else is wrong with it."""
    declared = JOB.field("callback")
    if declared is None or "callback" not in document.top:
        return None
    faults = Faults(document)
    callback: Callback | None = declared.kind.read(document.top["callback"].value, faults)
    return None if faults else callback


def _check(
    top: Mapping[str, Entry], values: dict[str, Any], faults: Faults, executors: Catalogue
) -> None:
    _check_work(top, faults)
    _check_executor(top, values, faults, executors, hints=True)
    if "uses" in top:
        for name, entry in top.items():
            if name not in BESIDE_USES | {"uses", "with", *_WORK} and executors.job.field(name):
                message = f"`{name}` cannot stand beside `uses`: the template decides it"
                faults.add(message, entry, code="with-uses")
    elif "with" in top:
        faults.add("`with` needs a template: there is no `uses`", top["with"], code="with")
    if "not_before" in top and "delay" in top:
        later = _later(top, "not_before", "delay")
        faults.add("either `not_before` or `delay`, not both", later, code="together")
    if isinstance(values.get("steps"), tuple):
        _check_steps(top["steps"].value, values["steps"], faults, executors)
    if "uses" not in top:
        _check_options(top, values, faults, executors)
    if "env" in top and "secrets" in top:
        env, secrets = _mapping(top["env"]), _mapping(top["secrets"])
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


def _check_executor(
    top: Mapping[str, Entry],
    values: dict[str, Any],
    faults: Faults,
    executors: Catalogue,
    *,
    hints: bool,
) -> None:
    """The executor that a job or a step names is there."""
    name = values.get("executor")
    if name is None or name in executors:
        return
    if name in executors.broken:
        message = f"the executor {cut(name)} is disabled here: {executors.broken[name]}"
    else:
        names = sorted(executors.options)
        hint = nearest(name, names) or f"there are {', '.join(names)}"
        message = f"there is no executor {cut(name)!r} here" + (f"; {hint}" if hints else "")
    faults.add(message, top["executor"].value, code="executor")


def _check_options(
    top: Mapping[str, Entry], values: dict[str, Any], faults: Faults, executors: Catalogue
) -> None:
    """Options are of an executor that runs something here, and those that must be are there."""
    usual = values.get("executor", _USUAL)
    parts = [(top, usual, top["executor"].value if "executor" in top else None)]
    inside = faults
    if "steps" in top:
        inside = faults.below("steps")
        nodes, steps = top["steps"].value.value, values.get("steps")
        if not isinstance(nodes, tuple) or not isinstance(steps, tuple):
            return
        parts = [
            (each.value, step.get("executor", usual), each)
            for each, step in zip(nodes, steps, strict=False)
            if step is not None and isinstance(each.value, dict)
        ]
        _check_unused(top, {name for _, name, _ in parts}, faults, executors)
    for own, name, at in parts:
        _check_unused(own, {name}, inside, executors)
        if name and name not in {*own, *top} and executors.needs_options(name):
            message = f"the executor {name} needs options, like {name}: {executors.example(name)}"
            inside.add(message, at, code="missing")
    limits = _mapping(top.get("limits"))
    if "nice" in limits and any(name == _DOCKER for _, name, _ in parts):
        message = "`nice` cannot be set for a container; `cpu` can"
        faults.add(message, limits["nice"], code="limits")


def _check_unused(
    top: Mapping[str, Entry], used: Collection[str | None], faults: Faults, executors: Catalogue
) -> None:
    for name, entry in top.items():
        if name not in used and executors.options.get(name) is not None:
            message = f"`{name}` is of use to the executor {name} only: `executor: {name}`"
            faults.add(message, entry, code="options")


def _check_steps(node: Node, steps: tuple[Any, ...], faults: Faults, executors: Catalogue) -> None:
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
        _check_executor(each.value, step, inside, executors, hints=False)
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
    found = workflow.circle([Step(needs=step.get("needs"), id=step.get("id")) for step in steps])
    if found is not None:
        message = "the steps need each other in a circle"
        inside.add(message, nodes[found], code="step")


def _later(top: Mapping[str, Entry], *names: str) -> Entry:
    return max((top[name] for name in names), key=lambda entry: (entry.line, entry.column))


def _mapping(entry: Entry | None) -> Mapping[str, Entry]:
    return entry.value.value if entry and isinstance(entry.value.value, dict) else {}


def _spec(values: dict[str, Any], executors: Catalogue) -> JobSpec:
    values = dict(values)
    names = [*_OF_STEPS, *executors.options]
    if "steps" in values:
        common = {name: values.pop(name) for name in names if name in values}
        steps = [_step(step, common, executors) for step in values.pop("steps")]
        return JobSpec(steps=tuple(steps), listed=True, **values)
    step = {name: values.pop(name) for name in (*_STEP, *executors.options) if name in values}
    submitted = values.pop("with_", {})
    if "uses" in values:
        step["uses"] = Use(template=values.pop("uses"), values=submitted)
    return JobSpec(steps=(_step(step, {}, executors),), **values)


def _step(values: Mapping[str, Any], common: Mapping[str, Any], executors: Catalogue) -> Step:
    """A step of what it says itself and of what its job says for all."""
    own = {**common, **values, "env": {**common.get("env", {}), **values.get("env", {})}}
    name = own.setdefault("executor", _USUAL)
    options = own.get(name) if name in executors else None
    plain = {key: value for key, value in own.items() if key not in executors.options}
    return Step(**plain, options=options, secrets=executors.secrets(name, options))
