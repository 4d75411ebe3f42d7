"""description: what a program says of itself: JSON -> the declaration of its options. Pure.

    {"protocol": 1, "description": "Runs PHP code.", "options": {a JSON Schema}}

Of JSON Schema there is what the kinds of this project can hold: an object of named properties, each
a string (pattern, maxLength, enum), an integer (minimum, maximum), a number (minimum, maximum), a
boolean, or an array of one of these (minItems, maxItems); with description, examples and default
for people. A schema that says more would promise what nobody checks, so it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any

from runnerd.faults import Faults
from runnerd.frozen import frozen
from runnerd.kinds import Boolean, Choice, Count, Kind, Matching, Text, factor
from runnerd.patterns import compiled
from runnerd.shapes import Field, Items, Record
from runnerd.yamlsafe import cut, read

PROTOCOL = 1
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_MOST_OPTIONS = 100
_MOST = 999_999_999
_LONGEST = 1000  # characters of a text for people
_FOR_PEOPLE = ("description", "examples", "default", "title")
_OF_OBJECT = ("$schema", "type", "properties", "required", "additionalProperties")


@frozen
class Description:
    """What it says that it is, and its options, if it has any."""

    about: str
    options: Record | None


def read_description(data: bytes) -> Description:
    """Read what a program prints. Raises ValueError with a sentence."""
    try:
        said = json.loads(data)
    except ValueError as error:
        raise ValueError(f"`describe` prints no JSON: {error}") from None
    except RecursionError:
        raise ValueError("`describe` prints no JSON that can be read") from None
    if not isinstance(said, dict):
        raise ValueError("`describe` prints no JSON object")  # noqa: TRY004  # a file's fault
    if said.get("protocol") != PROTOCOL:
        found = cut(json.dumps(said.get("protocol")), 40)
        raise ValueError(f"it speaks the protocol {found}, and this runnerd {PROTOCOL}")
    _only(said, ("protocol", "description", "options"), "the description")
    about = _text(said.get("description"), "the description")
    schema = said.get("options")
    fields = () if schema is None else _fields(_mapping(schema, "options"))
    return Description(about, Record(fields, dict) if fields else None)


def _fields(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    _only(schema, (*_OF_OBJECT, *_FOR_PEOPLE), "options")
    if schema.get("type") != "object":
        raise ValueError('options: the type has to be "object"')
    if schema.get("additionalProperties", False) is not False:
        raise ValueError("options: additionalProperties can only be false")
    properties = _mapping(schema.get("properties", {}), "options.properties")
    required = schema.get("required", [])
    if not isinstance(required, list) or any(each not in properties for each in required):
        raise ValueError("options.required: expected a list of the names of properties")
    if len(properties) > _MOST_OPTIONS:
        raise ValueError(f"options: more than {_MOST_OPTIONS} properties")
    return tuple(
        _field(name, _mapping(each, f"options.{cut(name)}"), required=name in required)
        for name, each in properties.items()
    )


def _field(name: str, schema: Mapping[str, Any], *, required: bool) -> Field:
    where = f"options.{cut(name)}"
    if not _OPTION.fullmatch(name):
        raise ValueError(f"{where}: a name has small letters, digits and _, with a letter first")
    kind = _kind(schema, where)
    words = _text(schema.get("description", f"See the executor's own words on {name}."), where)
    default = None if "default" not in schema else cut(json.dumps(schema["default"]), 100)
    field = Field(name, kind, words, "", required=required, default=default)
    examples = schema.get("examples", [schema["default"]] if "default" in schema else None)
    if examples is None:
        examples = [_some(schema)]
    if not isinstance(examples, list) or not examples:
        raise ValueError(f"{where}.examples: expected a list")
    example = json.dumps(examples[0])
    _try(field, example, where)
    return Field(name, kind, words, example, required=required, default=default)


def _try(field: Field, example: str, where: str) -> None:
    """The first example, or the default, is a good value."""
    document = read(f'{{"{field.name}": {example}}}'.encode(), as_json=True)
    faults = Faults(document)
    field.kind.read(document.top[field.name].value, faults)
    if faults:
        message = faults.problems()[0].message
        raise ValueError(f"{where}: its own example or default is not good: {message}")


def _some(schema: Mapping[str, Any]) -> Any:
    """A value for examples, where the schema gives none."""
    match schema.get("type"):
        case "array":
            return [_some(_mapping(schema.get("items", {}), "items"))] * schema.get("minItems", 1)
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", 1))
        case "boolean":
            return True
        case _:
            return schema["enum"][0] if schema.get("enum") else "text"


def _kind(schema: Mapping[str, Any], where: str) -> Kind:
    kind = schema.get("type", "string" if "enum" in schema else None)
    make = _KINDS.get(kind) if isinstance(kind, str) else None
    if make is None:
        known = ", ".join(_KINDS)
        raise ValueError(f"{where}.type: expected {known}, found {cut(json.dumps(kind), 40)}")
    return make(schema, where)


def _string(schema: Mapping[str, Any], where: str) -> Kind:
    if "enum" in schema:
        _only(schema, ("type", "enum", *_FOR_PEOPLE), where)
        words = schema["enum"]
        good = isinstance(words, list) and words and all(isinstance(each, str) for each in words)
        if not good or len(set(words)) < len(words) or len(words) > _MOST_OPTIONS:
            raise ValueError(f"{where}.enum: expected a list of different texts")
        members = {f"WORD_{n}": word for n, word in enumerate(words)}
        return Choice(StrEnum("Word", members))  # type: ignore[arg-type]  # it makes a class
    _only(schema, ("type", "pattern", "maxLength", *_FOR_PEOPLE), where)
    longest = _whole(schema, "maxLength", None, where)
    if "pattern" not in schema:
        return Text(longest)
    pattern = schema["pattern"]
    if not isinstance(pattern, str) or not re.fullmatch(r"\^.*(?<!\\)\$", pattern, re.DOTALL):
        raise ValueError(f"{where}.pattern: it has to start with ^ and to end with $")
    try:
        compiled(pattern[1:-1])
    except ValueError as error:
        raise ValueError(f"{where}.pattern: {error}") from None
    return Matching(pattern[1:-1], f"a text that matches {cut(pattern, 200)}", longest)


def _integer(schema: Mapping[str, Any], where: str) -> Kind:
    _only(schema, ("type", "minimum", "maximum", *_FOR_PEOPLE), where)
    least = _whole(schema, "minimum", -_MOST, where)
    most = _whole(schema, "maximum", _MOST, where)
    assert least is not None
    assert most is not None
    if not -_MOST <= least <= most <= _MOST:
        raise ValueError(f"{where}: minimum and maximum lie between -{_MOST} and {_MOST}")
    return Count(least, most)


def _number(schema: Mapping[str, Any], where: str) -> Kind:
    _only(schema, ("type", "minimum", "maximum", *_FOR_PEOPLE), where)
    bounds = schema.get("minimum", 0), schema.get("maximum", _MOST)
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in bounds):
        raise ValueError(f"{where}: minimum and maximum are numbers")
    if not 0 <= bounds[0] <= bounds[1] <= _MOST:
        raise ValueError(f"{where}: minimum and maximum of a number lie between 0 and {_MOST}")
    return factor(*bounds)


def _boolean(schema: Mapping[str, Any], where: str) -> Kind:
    _only(schema, ("type", *_FOR_PEOPLE), where)
    return Boolean()


def _array(schema: Mapping[str, Any], where: str) -> Kind:
    _only(schema, ("type", "items", "minItems", "maxItems", *_FOR_PEOPLE), where)
    items = _mapping(schema.get("items"), f"{where}.items")
    if items.get("type") == "array":
        raise ValueError(f"{where}.items: an array of arrays cannot be had")
    least = _whole(schema, "minItems", 0, where)
    most = _whole(schema, "maxItems", 1000, where)
    assert least is not None
    assert most is not None
    if not 0 <= least <= most <= 1000:
        raise ValueError(f"{where}: minItems and maxItems lie between 0 and 1000")
    return Items(_kind(items, f"{where}.items"), least, most)


_KINDS: dict[str, Callable[[Mapping[str, Any], str], Kind]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": _array,
}


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object")  # noqa: TRY004  # a file's fault
    return value


def _only(schema: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for each in schema:
        if each not in known:
            raise ValueError(f"{where}: `{cut(each)}` is not understood by this runnerd")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST:
        raise ValueError(f"{where}: expected a description, a text of 1 to {_LONGEST} characters")
    return value.strip()


def _whole(schema: Mapping[str, Any], name: str, default: int | None, where: str) -> int | None:
    value = schema.get(name, default)
    if value is not default and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{where}.{name}: expected a whole number")
    return value
