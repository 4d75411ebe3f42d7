"""records: frozen records <-> JSON, for everything that runnerd writes or sends.

One way for claims, results, status files and messages, driven by the annotations of `model`.
Knows str, int, float, bool, None, enums, Literal (of enum members), tuples, string-keyed mappings,
optional values, nested records, and (Any) whatever JSON has.

Errors: `loads` raises ValueError, with a sentence, for anything that is not such a record. Unknown
keys are skipped, so that an older runnerd can read what a newer one wrote.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_NAMES: dict[type, tuple[str, ...]] = {}
# MISSING, which nothing equals, for no default; None for what is no record.
_DEFAULTS: dict[type, tuple[tuple[str, Any], ...] | None] = {}


def plain(value: Any) -> Any:
    """The record as dictionaries, lists, strings and numbers."""
    if value is None or isinstance(value, str | int | float):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return {name: plain(getattr(value, name)) for name in _names(type(value))}


def dumps(value: Any) -> bytes:
    """The record as one line of JSON, ASCII only, with a newline at its end."""
    return _encode(value).encode() + b"\n"


def terse(value: Any) -> bytes:
    """The same without what `loads` would put there anyway, for what only runnerd reads.

    So the default of a field may change only together with its name.
    """
    return _encode_tersely(value).encode() + b"\n"


def pretty(value: Any) -> bytes:
    """The same for people: a line for each field, and for each record in a list."""
    items = [f"  {_quoted(key)}: {_text(item)}" for key, item in _opened(value).items()]
    lines = ",\n".join(items)
    return f"{{\n{lines}\n}}\n".encode()


def loads(kind: type[T], data: bytes | str) -> T:
    """Read a record of the given kind, or raise ValueError."""
    return made(kind, json.loads(data if isinstance(data, str) else data.decode()))


def made(kind: type[T], value: Any) -> T:
    """The record of what `plain` gave, or ValueError."""
    record: T = _reader(kind)(value)
    return record


def prepare(*kinds: type) -> None:
    """Find out how these are read and written: before a fork, or else each process has to."""
    for kind in kinds:
        _reader(kind)
        _defaults(kind)
        _names(kind)


def _names(kind: type) -> tuple[str, ...]:
    if kind not in _NAMES:
        if not is_dataclass(kind):
            raise TypeError(f"{kind.__name__} is no record")
        _NAMES[kind] = tuple(each.name for each in fields(kind))
    return _NAMES[kind]


def _defaults(kind: type) -> tuple[tuple[str, Any], ...] | None:
    if kind not in _DEFAULTS:
        _DEFAULTS[kind] = tuple(map(_default, fields(kind))) if is_dataclass(kind) else None
    return _DEFAULTS[kind]


def _default(declared: Field[Any]) -> tuple[str, Any]:
    made = declared.default_factory
    return declared.name, declared.default if made is MISSING else made()


def _opened(value: Any) -> Any:
    """What the encoder does not know, one step further."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Enum):
        return value.value
    return {name: getattr(value, name) for name in _names(type(value))}


def _opened_tersely(value: Any) -> Any:
    defaults = _defaults(type(value))
    if defaults is None:
        return _opened(value)
    return {
        name: item
        for name, default in defaults
        if (item := getattr(value, name)) is not default and item != default
    }


_encode = json.JSONEncoder(default=_opened).encode
_encode_tersely = json.JSONEncoder(default=_opened_tersely).encode
_quoted = json.encoder.encode_basestring_ascii


def _text(value: Any) -> str:
    """Not by `json`'s own indent: that is not done in C, and gives each number a line."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, tuple | list):
        return _list(value)
    if type(value) in (int, float):
        return repr(value)
    return "{}" if value == {} else _encode(value)


def _list(values: Sequence[Any]) -> str:
    if not values:
        return "[]"
    if isinstance(values[0], str | int | float):
        return _encode(values)
    items = ",\n    ".join(map(_encode, values))
    return f"[\n    {items}\n  ]"


def _expect(kind: type, word: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is kind:  # not a subclass: bool is one of int
            return value
        raise ValueError(f"expected {word}, found {type(value).__name__}")

    return read


def _finite(value: Any) -> Any:
    """JSON has no bounds, and Python reads NaN and Infinity as well."""
    if type(value) not in (int, float):
        raise ValueError(f"expected a number, found {type(value).__name__}")
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError("expected a finite number")
    return value


_LARGEST = sys.float_info.max
_READERS: dict[Any, Callable[[Any], Any]] = {
    str: _expect(str, "a string"),
    int: _expect(int, "a whole number"),
    float: _finite,
    bool: _expect(bool, "true or false"),
    Any: lambda value: value,
}


def _reader(kind: Any) -> Callable[[Any], Any]:
    """How a value of this annotation is read from JSON."""
    if kind not in _READERS:
        _READERS[kind] = _make_reader(kind)
    return _READERS[kind]


def _make_reader(kind: Any) -> Callable[[Any], Any]:
    if isinstance(kind, NewType):
        return _reader(kind.__supertype__)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_optional(args)
    if origin is Literal:
        return _reader(type(args[0]))
    if origin is tuple:
        item = _reader(args[0])
        as_list = _expect(list, "a list")
        return lambda value: tuple(item(each) for each in as_list(value))
    if origin is Mapping:
        inner = _reader(args[1])
        as_dict = _expect(dict, "an object")
        return lambda value: {key: inner(each) for key, each in as_dict(value).items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    return _read_record(kind)


def _read_optional(args: tuple[Any, ...]) -> Callable[[Any], Any]:
    present = [each for each in args if each is not type(None)]
    if len(present) != 1:
        raise TypeError("a record's field is one kind of thing, or None")
    inner = _reader(present[0])
    return lambda value: None if value is None else inner(value)


def _read_record(kind: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    readers = {each.name: _reader(hints[each.name]) for each in fields(kind)}
    good = {each.name: _good_as_it_is(hints[each.name]) for each in fields(kind)}
    required = {
        each.name
        for each in fields(kind)
        if each.default is MISSING and each.default_factory is MISSING
    }
    as_dict = _expect(dict, "an object")

    def read(value: Any) -> Any:
        found = as_dict(value)
        if not required <= found.keys():
            missing = sorted(required - found.keys())
            raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}")
        try:
            values = {
                name: each if type(each) in good[name] else readers[name](each)
                for name, each in found.items()
                if name in readers
            }
        except ValueError as error:
            raise ValueError(f"{kind.__name__}: {error}") from None
        return kind(**values)

    return read


def _good_as_it_is(kind: Any) -> frozenset[type]:
    """The types of those values that need no reader: most are texts, whole numbers, or None."""
    if isinstance(kind, NewType):
        return _good_as_it_is(kind.__supertype__)
    if get_origin(kind) in (Union, types.UnionType):
        return frozenset().union(*map(_good_as_it_is, get_args(kind)))
    return frozenset({kind} & {str, int, bool, type(None)})
