"""records: frozen records <-> JSON, for everything that runnerd writes or sends.

One way for claims, results, status files and messages, driven by the annotations of `model`.
Knows str, int, float, bool, None, enums, Literal (of enum members), tuples, string-keyed mappings,
optional values, nested records, and (Any) whatever JSON has.

How a type is written and read is found out once, for a job takes a dozen records along its way.

Errors: `loads` raises ValueError, with a sentence, for anything that is not such a record. Unknown
keys are skipped, so that an older runnerd can read what a newer one wrote.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from operator import attrgetter
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Reader = Callable[[Any], Any]
Writer = Callable[[Any], str]


def plain(value: Any) -> Any:
    """The record as dictionaries, lists, strings and numbers."""
    if value is None or isinstance(value, str | int | float):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return {each.name: plain(getattr(value, each.name)) for each in _fields(type(value))}


def dumps(value: Any) -> bytes:
    """The record as one line of JSON, ASCII only, with a newline at its end."""
    return f"{_FULL[type(value)](value)}\n".encode()


def terse(value: Any) -> bytes:
    """The same without what `loads` would put there anyway, for what only runnerd reads.

    So the default of a field may change only together with its name.
    """
    return f"{_TERSE[type(value)](value)}\n".encode()


def pretty(value: Any) -> bytes:
    """The same for people: a line for each field, and for each record in a list."""
    return f"{_PRETTY[type(value)](value)}\n".encode()


def loads(kind: type[T], data: bytes | str) -> T:
    """Read a record of the given kind, or raise ValueError."""
    text = data.strip() if isinstance(data, str) else data.strip().decode()
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError(f"expected the end, found {text[end : end + 20]!r}")
    return made(kind, value)


def made(kind: type[T], value: Any) -> T:
    """The record of what `plain` gave, or ValueError."""
    record: T = _reader(kind)(value)
    return record


def prepare(*kinds: type) -> None:
    """Find out how these are read and written: before a fork, or else each process has to."""
    for kind in kinds:
        _reader(kind)
        for writers in (_FULL, _TERSE, _PRETTY):
            writers[kind]


def _fields(kind: type) -> tuple[Field[Any], ...]:
    if not is_dataclass(kind):
        raise TypeError(f"{kind.__name__} is no record")
    return fields(kind)


# --- writing ------------------------------------------------------------------------------------

_quoted = json.encoder.encode_basestring_ascii
_LARGEST = sys.float_info.max


def _number(value: float) -> str:
    """As `json` writes it, which has words of its own for what is not finite."""
    return repr(value) if -_LARGEST <= value <= _LARGEST else json.dumps(value)


class _Writers(dict[type, Writer]):
    """How a value of each type is written: on one line, all of it."""

    def __init__(self) -> None:
        super().__init__(
            {
                str: _quoted,
                int: int.__repr__,
                float: _number,
                bool: {True: "true", False: "false"}.__getitem__,
                type(None): {None: "null"}.__getitem__,
            }
        )

    def __missing__(self, kind: type) -> Writer:
        self[kind] = writer = self._writer(kind)
        return writer

    def text(self, value: Any) -> str:
        return self[type(value)](value)

    def _writer(self, kind: type) -> Writer:
        if issubclass(kind, Enum):
            return lambda value: self.text(value._value_)  # `value` takes two calls of Python
        if issubclass(kind, Mapping):
            return lambda value: self._object((f"{_quoted(key)}: ", value[key]) for key in value)
        if issubclass(kind, tuple | list):
            return self._list
        return self._record(kind)

    def _record(self, kind: type) -> Writer:
        heads, values_of = _parts_of(kind)
        return lambda value: self._object(zip(heads, values_of(value), strict=True))

    def _object(self, items: Iterable[tuple[str, Any]]) -> str:
        return f"{{{', '.join([head + self[type(item)](item) for head, item in items])}}}"

    def _list(self, items: Sequence[Any]) -> str:
        return f"[{', '.join([self[type(item)](item) for item in items])}]"


class _Terse(_Writers):
    """A record only so far as it differs from its defaults."""

    def _record(self, kind: type) -> Writer:
        heads, values_of = _parts_of(kind)
        defaults = [_default(each) for each in fields(kind)]

        def write(value: Any) -> str:
            found = zip(heads, values_of(value), defaults, strict=True)
            return self._object(
                [
                    (head, item)
                    for head, item, default in found
                    if default is MISSING or (item is not default and item != default)
                ]
            )

        return write


class _Pretty(_Writers):
    """A line for each item of an object, and for each record in a list of them."""

    def _object(self, items: Iterable[tuple[str, Any]]) -> str:
        lines = [
            f"  {head}{_lines(item) if type(item) in (tuple, list) else _FULL[type(item)](item)}"
            for head, item in items
        ]
        return "{\n" + ",\n".join(lines) + "\n}"


_FULL, _TERSE, _PRETTY = _Writers(), _Terse(), _Pretty()


def _lines(items: Sequence[Any]) -> str:
    if not items:
        return "[]"
    if isinstance(items[0], str | int | float):
        return _FULL.text(items)
    return "[\n    " + ",\n    ".join(map(_FULL.text, items)) + "\n  ]"


def _parts_of(kind: type) -> tuple[list[str], Callable[[Any], tuple[Any, ...]]]:
    """What comes before each field of a record, and what gives all their values."""
    names = [each.name for each in _fields(kind)]
    heads = [f"{_quoted(name)}: " for name in names]
    if len(names) < 2:  # then attrgetter gives no tuple
        return heads, lambda value: tuple([getattr(value, name) for name in names])
    return heads, attrgetter(*names)


def _default(declared: Field[Any]) -> Any:
    """MISSING, which nothing equals, for none."""
    factory = declared.default_factory
    return declared.default if factory is MISSING else factory()


# --- reading ------------------------------------------------------------------------------------

_DECODER = json.JSONDecoder()
_READERS: dict[Any, Reader] = {}


def _reader(kind: Any) -> Reader:
    """How a value of this annotation is read from JSON."""
    if kind not in _READERS:
        _READERS[kind] = _make_reader(kind)
    return _READERS[kind]


def _make_reader(kind: Any) -> Reader:
    if isinstance(kind, NewType):
        return _reader(kind.__supertype__)
    if kind is Any:
        return lambda value: value
    if kind is float:
        return _read_number
    if kind in _WORDS:
        return _read_scalar(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = _reader(_present(kind))
        return lambda value: None if value is None else inner(value)
    if origin is Literal:
        return _reader(type(args[0]))
    if origin is tuple:
        return _read_list(args[0])
    if origin is Mapping:
        return _read_object(args[1])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _read_member(kind)
    return _read_record(kind)


_WORDS = {str: "a string", int: "a whole number", bool: "true or false"}


def _expected(what: str, value: Any) -> ValueError:
    return ValueError(f"expected {what}, found {type(value).__name__}")


def _read_scalar(kind: type) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is kind:  # not a subclass: bool is one of int
            return value
        raise _expected(_WORDS[kind], value)

    return read


def _read_number(value: Any) -> Any:
    """JSON has no bounds, and Python reads NaN and Infinity as well."""
    if type(value) not in (int, float):
        raise _expected("a number", value)
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError("expected a finite number")
    return value


def _read_list(kind: Any) -> Reader:
    item, good = _reader(kind), _good_as_it_is(kind)

    def read(value: Any) -> Any:
        if type(value) is not list:
            raise _expected("a list", value)
        if good.issuperset(map(type, value)):
            return tuple(value)
        return tuple([item(each) for each in value])

    return read


def _read_object(kind: Any) -> Reader:
    item = _reader(kind)

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _expected("an object", value)
        return {key: item(each) for key, each in value.items()}

    return read


def _read_member(kind: type[Enum]) -> Reader:
    members = {each.value: each for each in kind}

    def read(value: Any) -> Any:
        if type(value) is str and value in members:
            return members[value]
        raise ValueError(f"{value!r} is not a valid {kind.__name__}")

    return read


def _read_record(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    readers = {each.name: _reader(_present(hints[each.name])) for each in _fields(kind)}
    good = {name: _good_as_it_is(hints[name]) for name in readers}
    required = {
        each.name
        for each in fields(kind)
        if each.default is MISSING and each.default_factory is MISSING
    }

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _expected("an object", value)
        if not required <= value.keys():
            missing = sorted(required - value.keys())
            raise ValueError(f"{kind.__name__} lacks {', '.join(missing)}")
        try:
            values = {
                name: each if type(each) in good[name] else readers[name](each)
                for name, each in value.items()
                if name in readers
            }
        except ValueError as error:
            raise ValueError(f"{kind.__name__}: {error}") from None
        return kind(**values)

    return read


def _present(kind: Any) -> Any:
    """The annotation without its None, which `_good_as_it_is` knows."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    present = [each for each in get_args(kind) if each is not type(None)]
    if len(present) != 1:
        raise TypeError("a record's field is one kind of thing, or None")
    return present[0]


def _good_as_it_is(kind: Any) -> frozenset[type]:
    """The types of those values that need no reader: most are texts, whole numbers, or None."""
    if isinstance(kind, NewType):
        return _good_as_it_is(kind.__supertype__)
    if get_origin(kind) in (Union, types.UnionType):
        return frozenset().union(*map(_good_as_it_is, get_args(kind)))
    return frozenset({kind} & {str, int, bool, type(None)})
