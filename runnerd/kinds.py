"""kinds: what values a field may take, and how a node of a file becomes one.

A kind reads a node, says what is wrong with it at its place, says in words what it takes, and gives
its JSON Schema. Editors see YAML's own types where we see texts, so a schema takes numbers too.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from . import units
from .faults import Faults, nearest
from .frozen import frozen
from .yamlsafe import Node, cut, describe

# execve(2) takes no argument or variable of more than 128 KiB, the name of a variable included.
LONGEST_ARGUMENT = 120 * 1024
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Schema = dict[str, Any]
SCALAR = ["string", "number", "boolean"]


class Kind(Protocol):
    """What values a field takes."""

    def read(self, node: Node, faults: Faults) -> Any:
        """The value. What is wrong is said, and then the value is of no use."""

    def describe(self) -> str:
        """In words: `a duration like 90s`."""

    def schema(self) -> Schema:
        """The same as JSON Schema."""


def shown(node: Node) -> str:
    """A node in an error: the text, or what it is."""
    return repr(cut(node.value)) if isinstance(node.value, str) and node.value else describe(node)


def unexpected(kind: Kind, node: Node, faults: Faults, *, quote: bool = True) -> None:
    found = shown(node) if quote else describe(node)
    faults.add(f"expected {kind.describe()}, found {found}", node)


def _passable(text: str, node: Node, faults: Faults) -> None:
    """Whether the kernel can pass it to a program. NUL ends a text there."""
    if "\0" in text:
        faults.add("a NUL character cannot be passed to a program", node)
    elif len(text) > LONGEST_ARGUMENT // 4 and len(text.encode()) > LONGEST_ARGUMENT:
        most = LONGEST_ARGUMENT // 1024
        faults.add(f"longer than {most} KiB, which cannot be passed to a program", node)


# --- texts --------------------------------------------------------------------------------------


@frozen
class Line:
    """A text in one line, not empty."""

    longest: int = 200

    def describe(self) -> str:
        return f"one line of text, at most {self.longest} characters"

    def read(self, node: Node, faults: Faults) -> str | None:
        text = node.value
        if not isinstance(text, str) or not text:
            unexpected(self, node, faults)
            return None
        if len(text) > self.longest or CONTROL.search(text):
            faults.add(f"expected {self.describe()}", node)
        return text

    def schema(self) -> Schema:
        return {"type": SCALAR, "minLength": 1, "maxLength": self.longest}


@frozen
class Text:
    """Any text that can be passed to a program."""

    longest: int | None = None

    def describe(self) -> str:
        return "a text" + (f", at most {self.longest} characters" if self.longest else "")

    def read(self, node: Node, faults: Faults) -> str | None:
        if not isinstance(node.value, str):
            unexpected(self, node, faults)
            return None
        if self.longest is not None and len(node.value) > self.longest:
            faults.add(f"longer than {self.longest} characters", node)
        else:
            _passable(node.value, node, faults)
        return node.value

    def schema(self) -> Schema:
        most = {} if self.longest is None else {"maxLength": self.longest}
        return {"type": [*SCALAR, "null"], **most}


@frozen
class Script:
    """A script, or a list of commands, which are its lines."""

    def describe(self) -> str:
        return "a script, or a list of commands"

    def read(self, node: Node, faults: Faults) -> str | None:
        parts = node.value if isinstance(node.value, tuple) else (node,)
        texts = []
        for part in parts:
            if isinstance(part.value, str) and part.value.strip():
                if "\0" in part.value:
                    faults.add("a NUL character cannot be passed to a program", part)
                texts.append(part.value)
            else:
                unexpected(self, part, faults, quote=False)
        if not parts:
            unexpected(self, node, faults)
        return "\n".join(texts)

    def schema(self) -> Schema:
        one = {"type": SCALAR, "pattern": r"\S"}
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


@frozen
class Arguments:
    """A program and its arguments."""

    def describe(self) -> str:
        return "a list of texts: a program and its arguments"

    def read(self, node: Node, faults: Faults) -> tuple[str, ...] | None:
        if not isinstance(node.value, tuple) or not node.value:
            unexpected(self, node, faults, quote=False)
            return None
        found = []
        for part in node.value:
            if faults.full:
                break
            if isinstance(part.value, str):
                _passable(part.value, part, faults)
                found.append(part.value)
            else:
                unexpected(self, part, faults)
        if found and not found[0]:
            faults.add("the name of the program is empty", node.value[0])
        return tuple(found)

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": [*SCALAR, "null"]}, "minItems": 1}


@frozen
class Matching:
    """A text of a certain form. `rule` says which, in words."""

    pattern: str
    rule: str
    longest: int | None = None

    def describe(self) -> str:
        return self.rule

    def read(self, node: Node, faults: Faults) -> str | None:
        text = node.value
        fits = isinstance(text, str) and (self.longest is None or len(text) <= self.longest)
        if fits and re.fullmatch(self.pattern, text, re.ASCII):  # type: ignore[arg-type]
            return text  # type: ignore[return-value]  # a str, as `fits` says
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        pattern = f"^(?:{self.pattern})$"
        most = {} if self.longest is None else {"maxLength": self.longest}
        numbers = re.fullmatch(self.pattern, "0") is not None
        return {"type": SCALAR if numbers else "string", "pattern": pattern, **most}


@frozen
class Choice:
    """One of a few words."""

    words: type[StrEnum]
    only: tuple[StrEnum, ...] = ()

    def _words(self) -> list[str]:
        return [each.value for each in self.only or self.words]

    def describe(self) -> str:
        *first, last = self._words()
        return f"{', '.join(first)} or {last}" if first else last

    def read(self, node: Node, faults: Faults) -> StrEnum | None:
        if isinstance(node.value, str):
            if node.value in self._words():
                return self.words(node.value)
            hint = nearest(node.value, self._words())
            if hint:
                faults.add(f"expected {self.describe()}, found {shown(node)}: {hint}", node)
                return None
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        return {"enum": self._words()}


@frozen
class Boolean:
    """true or false."""

    def describe(self) -> str:
        return "true or false"

    def read(self, node: Node, faults: Faults) -> bool:
        if node.value not in ("true", "false"):
            unexpected(self, node, faults)
        return node.value == "true"

    def schema(self) -> Schema:
        return {"enum": [True, False, "true", "false"]}


# --- numbers, with and without a unit -----------------------------------------------------------


@frozen
class Count:
    """A whole number, or a word for one that the program works out (None)."""

    least: int
    most: int
    word: str | None = None

    def describe(self) -> str:
        word = f", or {self.word}" if self.word else ""
        return f"a whole number from {self.least} to {self.most}{word}"

    def read(self, node: Node, faults: Faults) -> int | None:
        text = node.value
        if self.word is not None and text == self.word:
            return None
        if isinstance(text, str) and re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
            if self.least <= int(text) <= self.most:
                return int(text)
            faults.add(f"expected {self.describe()}, found {text}", node)
            return None
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        number = {"type": "integer", "minimum": self.least, "maximum": self.most}
        as_text = {"type": "string", "pattern": r"^-?[0-9]{1,9}$"}
        word = [] if self.word is None else [{"const": self.word}]
        return {"anyOf": [number, as_text, *word]}


@frozen
class Measure:
    """A number with a unit, as `units` reads it: from a text to a number in the base unit."""

    parse: Callable[[str], float]
    words: Callable[[float], str]
    least: float
    most: float
    what: str
    like: str
    pattern: str

    def describe(self) -> str:
        least, most = self.words(self.least), self.words(self.most)
        return f"{self.what} from {least} to {most}, like {self.like}"

    def read(self, node: Node, faults: Faults) -> float | None:
        if isinstance(node.value, str):
            try:
                number = self.parse(node.value)
            except ValueError:
                pass
            else:
                if self.least <= number <= self.most:
                    return number
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        return {"type": ["string", "number"], "pattern": f"^(?:{self.pattern})$"}


def duration(least_s: float, most_s: float) -> Measure:
    """Seconds, from a text like 90s."""
    like, pattern = "90s, 10m, 2h or 1d", units.DURATION
    return Measure(units.duration, units.in_words, least_s, most_s, "a duration", like, pattern)


def size(least: int, most: int) -> Measure:
    """Bytes, from a text like 512M."""
    like = "512K, 100M or 2G"
    return Measure(units.size, units.size_in_words, least, most, "a size", like, units.SIZE)


def share(least: float, most: float) -> Measure:
    """Parts of one CPU, from a text like 150%."""
    return Measure(
        units.share, units.share_in_words, least, most, "a percentage", "50% or 150%", units.SHARE
    )


def factor(least: float, most: float) -> Measure:
    """A plain number."""
    return Measure(units.number, "{:g}".format, least, most, "a number", "1.5", units.NUMBER)


@frozen
class Moment:
    """A point in time, as RFC 3339 writes it; a time without a zone is ambiguous."""

    def describe(self) -> str:
        return "a time with its zone, like 2026-12-01T03:00:00Z or 2026-12-01T04:00:00+01:00"

    def read(self, node: Node, faults: Faults) -> float | None:
        if isinstance(node.value, str):
            try:
                return units.moment(node.value)
            except ValueError:
                pass
        unexpected(self, node, faults)
        return None

    def schema(self) -> Schema:
        return {"type": "string", "format": "date-time", "pattern": f"^(?:{units.MOMENT})$"}
