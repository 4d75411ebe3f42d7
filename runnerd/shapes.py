"""shapes: kinds that are made of kinds: lists, tables of names, and mappings with declared fields.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, field
from typing import Any

from .faults import Faults
from .frozen import frozen
from .kinds import Kind, Schema, shown, unexpected
from .yamlsafe import Entry, Node, cut


@frozen
class Items:
    """A list of values of one kind."""

    item: Kind
    least: int = 1
    most: int = 1000

    def describe(self) -> str:
        return f"a list of {self.least} to {self.most}: {self.item.describe()}"

    def read(self, node: Node, faults: Faults) -> tuple[Any, ...]:
        if not isinstance(node.value, tuple):
            faults.add(f"expected a list, found {shown(node)}", node)
            return ()
        if not self.least <= len(node.value) <= self.most:
            found = f"found {len(node.value)}"
            faults.add(f"expected a list of {self.least} to {self.most} values, {found}", node)
        return tuple(self.item.read(each, faults) for each in node.value[: self.most])

    def schema(self) -> Schema:
        bounds = {"minItems": self.least, "maxItems": self.most}
        return {"type": "array", "items": self.item.schema(), **bounds}


@frozen
class Table:
    """A mapping of names to values of one kind. `rule` says in words what a name looks like."""

    pattern: str
    rule: str
    value: Kind
    reserved: str | None = None

    def describe(self) -> str:
        return "a mapping of names to values"

    def read(self, node: Node, faults: Faults) -> dict[str, Any]:
        if not isinstance(node.value, dict):
            unexpected(self, node, faults, quote=False)
            return {}
        found = {}
        for name, entry in node.value.items():
            if faults.full:
                break
            if not re.fullmatch(self.pattern, name, re.ASCII):
                faults.add(f"{cut(name)!r} cannot be a name here: {self.rule}", entry)
            elif self.reserved is not None and name.startswith(self.reserved):
                faults.add(f"names that start with {self.reserved} are set by runnerd", entry)
            else:
                found[name] = self.value.read(entry.value, faults.below(name))
        return found

    def schema(self) -> Schema:
        names: Schema = {"pattern": f"^(?:{self.pattern})$"}
        if self.reserved is not None:
            names["not"] = {"pattern": f"^{self.reserved}"}
        value = self.value.schema()
        return {"type": "object", "propertyNames": names, "additionalProperties": value}


@frozen
class Field:
    """One field of a mapping. `default` is what an absent one means, in words, for people.

    `attribute`: its name in the record that is made of the mapping. `filled`: in a template,
    ${NAME} in it becomes the parameter's value. Not `supported`: it is read, and then refused.
    """

    name: str
    kind: Kind
    help: str
    example: str
    _: KW_ONLY
    default: str | None = None
    attribute: str | None = None
    required: bool = False
    filled: bool = False
    supported: bool = True


@frozen
class Record:
    """A mapping with fields that were declared. A lone text may stand for its field `short`."""

    fields: tuple[Field, ...]
    make: Callable[..., Any]
    short: str | None = None
    _known: Mapping[str, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", {each.name: each for each in self.fields})

    def describe(self) -> str:
        short = f"{self._known[self.short].kind.describe()}; or " if self.short else ""
        return f"{short}a mapping of {', '.join(each.name for each in self.fields)}"

    def read(self, node: Node, faults: Faults) -> Any:
        """The record, or None if something is wrong with it."""
        before = len(faults)
        if self.short is not None and isinstance(node.value, str):
            only = self._known[self.short]
            values = {only.attribute or only.name: only.kind.read(node, faults)}
        elif isinstance(node.value, dict):
            values = self.values(node.value, faults)
            self.require(node.value, node, faults)
        else:
            unexpected(self, node, faults)
        return self.make(**values) if len(faults) == before else None

    def field(self, name: str) -> Field | None:
        return self._known.get(name)

    def require(self, top: Mapping[str, Entry], at: Node | None, faults: Faults) -> None:
        """Tell which fields are missing."""
        for each in self.fields:
            if each.required and each.name not in top:
                faults.add(f"the field `{each.name}` is missing", at, code="missing")

    def values(self, top: Mapping[str, Entry], faults: Faults) -> dict[str, Any]:
        """The values of the fields that are there, by the names of their attributes."""
        values = {}
        for name, entry in top.items():
            if faults.full:
                break
            known = self._known.get(name)
            if known is None:
                faults.unknown(name, self._known, entry)
                continue
            inside = faults.below(name)
            value = known.kind.read(entry.value, inside)
            values[known.attribute or name] = value
            if not known.supported:
                inside.add("not supported yet by this runnerd", entry, code="unsupported")
        return values

    def schema(self) -> Schema:
        accepted = [each for each in self.fields if each.supported]
        found: Schema = {
            "type": "object",
            "properties": {each.name: described(each) for each in accepted},
            "additionalProperties": False,
        }
        if required := [each.name for each in accepted if each.required]:
            found["required"] = required
        if self.short is not None:
            return {"anyOf": [self._known[self.short].kind.schema(), found]}
        return found


def record_in(kind: Kind) -> Record | None:
    """The record that values of this kind are, or are made of."""
    while isinstance(kind, Items | Table):
        kind = kind.item if isinstance(kind, Items) else kind.value
    return kind if isinstance(kind, Record) else None


def described(declared: Field) -> Schema:
    """A field's schema, with the words that an editor shows."""
    default = f" Default: {declared.default}." if declared.default else ""
    return {**declared.kind.schema(), "description": declared.help + default}
