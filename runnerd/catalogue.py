"""catalogue: which executors there are, and what a job file may say to each of them. Pure.

An executor's options stand under its own name, in a job for all of its steps or in a step. They are
declared as everything else is, by a `Record`; what it makes of them is kept as JSON has it, so that
a job can be read again where its executor is gone.

Errors: a declaration of a plugin's may raise what it wants while it reads: that is a fault of the
        file, at its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from typing import Any

from . import records
from .faults import Faults
from .fields import JOB, STEP
from .frozen import frozen
from .kinds import Schema
from .names import EXECUTOR, SECRET
from .shapes import Field, Items, Record
from .yamlsafe import Node, cut


@frozen
class Options(Record):
    """An executor's record, read as JSON has it."""

    @classmethod
    def of(cls, record: Record) -> Options:
        return cls(record.fields, record.make, record.short)

    def read(self, node: Node, faults: Faults) -> dict[str, Any] | None:
        before = len(faults)
        try:
            value = Record.read(self, node, faults)
            found = None if len(faults) > before else records.plain(value)
            json.dumps(found, allow_nan=False)
            if found is not None and not isinstance(found, dict):
                raise TypeError(f"options are a record, not {type(value).__name__}")
        except Exception as error:  # noqa: BLE001  # code of somebody else's
            faults.add(cut(str(error), 300) or type(error).__name__, node)
            return None
        return found


@frozen
class _Disabled:
    """Options of an executor that cannot be used."""

    why: str

    def describe(self) -> str:
        return f"nothing: the executor is disabled here, {self.why}"

    def read(self, node: Node, faults: Faults) -> None:
        faults.add(f"the executor is disabled here: {self.why}", node, code="executor")

    def schema(self) -> Schema:
        return {"not": {}}


@frozen
class Catalogue:
    """The executors by name, each with its options if it has any.

    `broken`: those that cannot be used, and why. `about`: what they are, in a sentence. `job`: all
    that a job file may say.
    """

    options: Mapping[str, Record | None]
    broken: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    job: Record = field(init=False, repr=False, compare=False)
    step: Record = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = tuple(self._fields())
        step = Record((*STEP.fields, *own), STEP.make)
        common = tuple(
            replace(each, kind=replace(each.kind, item=step))
            if isinstance(each.kind, Items) and each.kind.item == STEP
            else each
            for each in JOB.fields
        )
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "job", Record((*common, *own), JOB.make))

    def __contains__(self, name: object) -> bool:
        return name in self.options

    def needs_options(self, name: str) -> bool:
        """Whether a job cannot be run by it without saying something."""
        record = self.options.get(name)
        return record is not None and any(each.required for each in record.fields)

    def secrets(self, name: str, options: Mapping[str, Any] | None) -> tuple[str, ...]:
        """The names of the secrets that the options speak of."""
        record = self.options.get(name)
        return () if record is None else tuple(dict.fromkeys(_secrets(record, options or {})))

    def example(self, name: str) -> str:
        """Good options of an executor, as YAML."""
        record = self.options[name]
        assert record is not None
        return _example(record)

    def _fields(self) -> Iterator[Field]:
        for name, record in self.options.items():
            if record is not None:
                words = f"Options of the executor {name}."
                yield Field(name, Options.of(record), words, _example(record))
        for name, why in self.broken.items():
            if name not in self.options and unfit(name) is None:
                yield Field(name, _Disabled(why), f"Options of the executor {name}.", "{}")


def unfit(name: str) -> str | None:
    """Why nothing can be an executor of that name, or None."""
    if not re.fullmatch(EXECUTOR.pattern, name, re.ASCII):
        return "its name is not made of small letters, digits, _ and -, with a letter first"
    if any(name in (each.name, each.attribute) for each in (*JOB.fields, *STEP.fields)):
        return f"`{name}` is the name of a field of jobs"
    return None


def _example(record: Record) -> str:
    needed = [each for each in record.fields if each.required] or list(record.fields[:1])
    return "{" + ", ".join(f"{each.name}: {each.example}" for each in needed) + "}"


def _secrets(record: Record, options: Mapping[str, Any]) -> Iterator[str]:
    for each in record.fields:
        value = options.get(each.attribute or each.name)
        if value is None:
            continue
        if each.kind == SECRET:
            yield value
        elif isinstance(each.kind, Items) and each.kind.item == SECRET:
            yield from value
