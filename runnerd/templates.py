"""templates: jobs that the administrator wrote and submitters may use: what sudo is to commands.

Guarantees: a value that a submitter chose reaches a script as the variable $PARAM_NAME and no other
            way. ${NAME} stands for it only in fields that no shell reads, and what comes of that is
            checked like any job. Nothing else that the submitter says changes what is run. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from . import parameters
from .catalogue import Catalogue
from .config import WHO
from .errors import Invalid
from .faults import Faults, nearest
from .frozen import frozen
from .kinds import Boolean, Line, Schema, unexpected
from .model import JobSpec
from .parameters import PARAMETER
from .parse import make_spec
from .settings import Allow, Parameter
from .shapes import Field, Items, Record, Table
from .yamlsafe import Document, Entry, Node, cut, read

_PLACE = re.compile(r"\$(\$\{)|\$\{([A-Z][A-Z0-9_]*)\}")


@frozen
class _Job:
    """A job in a template. It is read when its parameters are known."""

    executors: Catalogue

    def describe(self) -> str:
        return "a job: a mapping of its fields"

    def read(self, node: Node, faults: Faults) -> Mapping[str, Entry]:
        if isinstance(node.value, dict):
            return node.value
        unexpected(self, node, faults)
        return {}

    def schema(self) -> Schema:
        made = self.executors.job.schema()
        for name in ("uses", "with"):
            del made["properties"][name]
        name_alone, record = made["properties"]["concurrency"]["anyOf"]
        for group in (name_alone, record["properties"]["group"]):
            group["pattern"] += r"|\$\{[A-Z]"  # what the name will be, no editor knows
        return {**made, "oneOf": [{"required": [name]} for name in ("run", "command", "steps")]}


def template_record(executors: Catalogue) -> Record:
    """What may stand in a template's file."""
    return Record(
        (
            Field("description", Line(500), "What it does, for people.", "Create a virtual host"),
            Field(
                "allow", Record(WHO, Allow), "Who may use it.", "{groups: [runner]}", required=True
            ),
            Field(
                "params",
                Table(r"[a-z][a-z0-9_]{0,62}", "small letters, digits and _", PARAMETER),
                "What a submitter has to say. The script finds it as $PARAM_NAME.",
                "{domain: {type: hostname}}",
                attribute="parameters",
            ),
            Field(
                "inputs",
                Boolean(),
                "Whether the submitter may send files, which then lie in work/. Say so only if "
                "nothing that the job runs trusts what is in its working directory.",
                "true",
                default="false",
            ),
            Field(
                "job",
                _Job(executors),
                "The job. In fields that no shell reads, ${NAME} stands for a parameter.",
                "{user: www-data, run: './create \"$PARAM_DOMAIN\"'}",
                required=True,
            ),
        ),
        dict,
    )


@frozen(kw_only=True)
class Template:
    """A template that was found good. `job` is read again with the values of each submission."""

    name: str
    allow: Allow
    job: Document
    description: str | None = None
    parameters: Mapping[str, Parameter]
    inputs: bool = False


def read_template(name: str, data: bytes, *, executors: Catalogue) -> Template:
    """Read a template's file. Raises Invalid, also if its job would be no good job."""
    document = read(data)
    faults = Faults(document)
    record = template_record(executors)
    values: dict[str, Any] = record.values(document.top, faults)
    record.require(document.top, None, faults)
    _check_parameters(values.get("parameters", {}), document, faults)
    if faults:
        raise Invalid(faults.problems())
    top = values.pop("job")
    template = Template(
        name=name,
        allow=values["allow"],
        job=Document(top, document.lines),
        description=values.get("description"),
        parameters=values.get("parameters", {}),
        inputs=values.get("inputs", False),
    )
    _check_job(template, faults, executors)
    if faults:
        raise Invalid(faults.problems())
    return template


def _check_parameters(
    found: Mapping[str, Parameter | None], document: Document, faults: Faults
) -> None:
    for name, parameter in found.items():
        if parameter is None:
            continue  # its fields were told already
        declared = document.top["params"].value.value
        assert isinstance(declared, dict)
        for objection in parameters.objections(parameter):
            faults.below("params").below(name).add(objection, declared[name])


def _check_job(template: Template, faults: Faults, executors: Catalogue) -> None:
    """Try the job with the examples of all parameters."""
    for name in ("uses", "with"):
        if name in template.job.top:
            faults.add("a template cannot use a template", template.job.top[name], code="nested")
            return
    if "secrets" in template.job.top and "user" not in template.job.top:
        message = "a template with `secrets` needs a `user`: the submitter could read them"
        faults.add(message, template.job.top["secrets"], code="secrets")
    values = {name: parameters.example_of(each) for name, each in template.parameters.items()}
    try:
        document = _filled(template, values, executors, faults.below("job"))
        spec = make_spec(document, executors)
    except Invalid as invalid:
        faults.take(invalid.problems)
        return
    named = [step.executor for step in spec.steps if step.secrets]
    if named and spec.user is None:
        message = f"options of {named[0]} name a secret, so the template needs a `user`: "
        message += "the submitter could read it"
        at = template.job.top.get(named[0]) or template.job.top.get("steps")
        faults.add(message, at, code="secrets")


def find(spec: JobSpec, document: Document, templates: Mapping[str, Template | None]) -> Template:
    """The template that a job uses. One that is None is known and broken. Raises Invalid."""
    assert spec.steps[0].uses is not None
    name = spec.steps[0].uses.template
    found = templates.get(name)
    if found is not None:
        return found
    if name in templates:
        message = f"the template {name} is broken; its administrator has to mend it"
    else:
        hint = nearest(name, templates)
        message = f"there is no template `{cut(name)}` here" + (f"; {hint}" if hint else "")
    faults = Faults(document)
    faults.add(message, document.top["uses"].value, code="template")
    raise Invalid(faults.problems())


def fill_in(spec: JobSpec, document: Document, template: Template, executors: Catalogue) -> JobSpec:
    """The job that the template makes of what was submitted, in `document`. Raises Invalid."""
    use = spec.steps[0].uses
    assert use is not None
    faults = Faults(document)
    values = _values(template, use.values, document, faults)
    if faults:
        raise Invalid(faults.problems())
    try:
        made = make_spec(_filled(template, values, executors), executors)
    except Invalid as invalid:
        for problem in invalid.problems:
            message = f"the template {template.name} makes no good job of this: {problem.message}"
            faults.add(message, document.top.get("with"), code="template")
        raise Invalid(faults.problems()) from None
    return _merged(made, spec, template, values)


def _values(
    template: Template, given: Mapping[str, str], document: Document, faults: Faults
) -> dict[str, str]:
    """The values of all parameters that have one, each as its type wants it."""
    inside = faults.below("with")
    stated = document.top["with"].value.value if "with" in document.top else {}
    assert isinstance(stated, dict)
    found = {}
    for name, text in given.items():
        if faults.full:
            break
        parameter = template.parameters.get(name)
        if parameter is None:
            inside.unknown(name, template.parameters, stated[name], what="parameter")
            continue
        try:
            found[name] = parameters.value_of(parameter, text)
        except ValueError as error:
            inside.below(name).add(str(error), stated[name].value)
    for name, parameter in template.parameters.items():
        if name in given:
            continue
        if parameters.is_required(parameter):
            message = f"the parameter `{name}` of {template.name} is missing: "
            message += parameters.describe(parameter)
            inside.add(message, document.top.get("with", document.top["uses"]), code="missing")
        elif parameter.default is not None:
            found[name] = parameters.value_of(parameter, parameter.default)
    return found


def _merged(made: JobSpec, spec: JobSpec, template: Template, values: dict[str, str]) -> JobSpec:
    """The template's job, with what the submitter may say of it."""
    variables = {f"PARAM_{name.upper()}": value for name, value in values.items()}
    steps = tuple(replace(step, env={**step.env, **variables}) for step in made.steps)
    return replace(
        made,
        steps=steps,
        name=spec.name or made.name,
        labels={**spec.labels, **made.labels},
        on_duplicate=spec.on_duplicate,
        not_before=spec.not_before or made.not_before,
        delay_s=made.delay_s if spec.delay_s is None else spec.delay_s,
        expires_s=made.expires_s if spec.expires_s is None else spec.expires_s,
        needs=(*made.needs, *spec.needs),
        callback=spec.callback or made.callback,
        template=template.name,
        parameters=tuple(sorted(values)),
    )


# --- ${NAME} ------------------------------------------------------------------------------------

Change = Callable[[Node], Node]


def _filled(
    template: Template,
    values: Mapping[str, str],
    executors: Catalogue,
    faults: Faults | None = None,
) -> Document:
    """The template's job with the values in their places. Names of no parameter are told.

    `$${` is how one writes `${`. A parameter without a value is empty.
    """

    def change(node: Node) -> Node:
        def text(found: re.Match[str]) -> str:
            name = (found[2] or "").lower()
            if faults is not None and found[2] and name not in template.parameters:
                faults.add(f"there is no parameter for {cut(found[0])}", node, code="parameter")
            return found[1] or values.get(name, "")

        return replace(node, value=_PLACE.sub(text, str(node.value)))

    return Document(_fill_record(executors.job, template.job.top, change), template.job.lines)


def _fill_record(record: Record, top: Mapping[str, Entry], change: Change) -> dict[str, Entry]:
    found = {}
    for name, entry in top.items():
        known = record.field(name)
        node = entry.value if known is None else _fill(known, entry.value, change)
        found[name] = replace(entry, value=node)
    return found


def _fill(field: Field, node: Node, change: Change) -> Node:
    if field.filled:
        return _fill_all(node, change)
    kind = field.kind
    if isinstance(kind, Items) and isinstance(node.value, tuple):
        inner = replace(field, kind=kind.item)
        return replace(node, value=tuple(_fill(inner, each, change) for each in node.value))
    if isinstance(kind, Record) and isinstance(node.value, dict):
        return replace(node, value=_fill_record(kind, node.value, change))
    if isinstance(kind, Record) and (short := kind.field(kind.short or "")) is not None:
        return _fill(short, node, change)
    return node


def _fill_all(node: Node, change: Change) -> Node:
    """Every text below, but no name of a field."""
    if isinstance(node.value, str):
        return change(node)
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(_fill_all(each, change) for each in node.value))
    entries = {
        name: replace(entry, value=_fill_all(entry.value, change))
        for name, entry in node.value.items()
    }
    return replace(node, value=entries)
