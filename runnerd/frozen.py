"""frozen: the decorator of runnerd's values: dataclasses with slots that nobody changes.

Two are equal if they are of one kind and their fields are equal. mypy holds them frozen, not
Python: what `dataclass` writes for each class to that end, to compare it and to show it, is 6 KB of
code in every process and a millisecond at the start, and there are more than a hundred classes.
Here they share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def frozen(cls: type[T], /) -> type[T]: ...


@overload
def frozen(*, kw_only: bool = ...) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: Any = None, /, *, kw_only: bool = False) -> Any:
    """`@frozen` or `@frozen(kw_only=True)`, which makes callers name the fields."""

    def decorate(cls: Any) -> Any:
        cls.__eq__, cls.__hash__, cls.__repr__ = _equals, _hash, _shown
        made: Any = dataclass(slots=True, kw_only=kw_only, eq=False, repr=False)(cls)
        names = (each.name for each in fields(made) if each.compare)
        made.__compared__ = attrgetter("__class__", *names)  # in C: half a microsecond
        return made

    return decorate if cls is None else decorate(cls)


def _equals(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return self.__compared__(self) == self.__compared__(other)


def _hash(self: Any) -> int:
    return hash(self.__compared__(self))


def _shown(self: Any) -> str:
    shown = [f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr]
    return f"{type(self).__qualname__}({', '.join(shown)})"
