"""schema: JSON Schemas for editors and for other programs, made from the declarations. Pure.

Of files that people write: from their fields, so a schema knows what the validator knows. Of files
that runnerd writes: from the annotations of the records, and `meanings`. Draft 2020-12.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

from .catalogue import Catalogue
from .config import CONFIG
from .kinds import Schema
from .meanings import FIELDS
from .outcome import Result, Status
from .templates import template_record

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


class About(StrEnum):
    """What there is a schema of."""

    JOB = "job"
    TEMPLATE = "template"
    CONFIG = "config"
    RESULT = "result"
    STATUS = "status"


def schema_of(about: About, executors: Catalogue) -> Schema:
    """The whole schema, ready to be written as JSON. With these executors' options in jobs."""
    title, body = _DOCUMENTS[about](executors)
    return {"$schema": _DRAFT, "title": title, **body}


def _job(executors: Catalogue) -> tuple[str, Schema]:
    ways = [{"required": [name]} for name in ("run", "command", "steps", "uses")]
    return "A job file of runnerd", {**executors.job.schema(), "oneOf": ways}


def _template(executors: Catalogue) -> tuple[str, Schema]:
    return "A template of runnerd", template_record(executors).schema()


def _config(_: Catalogue) -> tuple[str, Schema]:
    # A file of comments only, as it is shipped, is null to YAML.
    return "The configuration of runnerd", {**CONFIG.schema(), "type": ["object", "null"]}


def _result(_: Catalogue) -> tuple[str, Schema]:
    return "result.json of a job of runnerd", _of(Result)


def _status(_: Catalogue) -> tuple[str, Schema]:
    return "status.json of a running job of runnerd", _of(Status)


_DOCUMENTS = {
    About.JOB: _job,
    About.TEMPLATE: _template,
    About.CONFIG: _config,
    About.RESULT: _result,
    About.STATUS: _status,
}


def _of(kind: Any) -> Schema:
    """The schema of a record's annotation, as `records` writes such a value."""
    if isinstance(kind, NewType):
        return _of(kind.__supertype__)
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if each is type(None) else _of(each) for each in args]}
    if origin is Literal:
        return {"enum": [each.value for each in args]}
    if origin is tuple:
        return {"type": "array", "items": _of(args[0])}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _of(args[1])}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"enum": [each.value for each in kind]}
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    words = FIELDS[kind]
    properties = {
        each.name: {**_of(hints[each.name]), "description": words[each.name]}
        for each in fields(kind)
    }
    for each in fields(kind):
        if each.name == "schema" and each.default is not MISSING:
            properties["schema"]["const"] = each.default
    # All fields are written. What a later runnerd adds is not refused.
    return {"type": "object", "properties": properties, "required": list(properties)}
