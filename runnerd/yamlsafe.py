"""yamlsafe: bytes -> Document, the YAML of job files and of the configuration.

The language is StrictYAML's: every scalar is a text; no tags, anchors, aliases, merges or duplicate
keys; one document, a mapping at its top. Flow style is allowed, so JSON is YAML here.

PyYAML's C parser decides (the fast lane), event by event, so that depth and size are bounded before
anything is built. Where it finds the syntax broken, strictyaml (the judge) words the error if it
finds the same. What both accept has the same value in both: constructs that YAML 1.1 and 1.2 read
differently are refused by name. One thing is read as JSON has it and as neither parser does: a
character beyond U+FFFF that a JSON file spells as two escapes. Pure.

Trust: the bytes come from a hostile user. Whatever they are, `read` ends in time that grows with
their number, with a Document or with Invalid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import yaml

from .errors import Invalid
from .frozen import frozen
from .model import Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MOST_JUDGED = 2048
MOST_BRACKETS = 100
WIDEST_SNIPPET = 160
LONGEST_QUOTE = 60

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
# YAML 1.2, 5.1, without byte order marks and what only YAML 1.1 takes for line breaks (NEL, ...).
_ODD = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# What JSON writers make of one character beyond U+FFFF: two halves, of which YAML knows none.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_PAIR = re.compile(r"\\(?:u([dD][89abAB]..)\\u([dD][c-fC-F]..)|.)")
# `[x:]`: a mapping for PyYAML's parser in Python, the text `x:` for the others.
_GLUED = re.compile(r":[,\[\]{}]")
_HALVES = "an escape here is no whole character; write the character itself, or as \\U0001F600"
_SURROGATE = re.compile("[\ud800-\udfff]")


@frozen
class Node:
    """A value and where it stands. Lines and columns count from 1."""

    value: str | tuple[Node, ...] | dict[str, Entry]
    line: int
    column: int


@frozen
class Entry:
    """What stands under a key, and where the key stands."""

    value: Node
    line: int
    column: int


@frozen
class Document:
    """A file that could be read. `top` maps the names of its fields."""

    top: dict[str, Entry]
    lines: tuple[str, ...]

    def problem(self, code: str, message: str, at: Node | Entry | None = None) -> Problem:
        """Something that is wrong at a place, with the line to show."""
        if at is None:
            return Problem(code=code, message=message)
        return _problem(self.lines, code, message, at.line, at.column)


def read(data: bytes, *, as_json: bool = False) -> Document:
    """Read one file, which is JSON if its name says so. Raises Invalid, whatever the bytes are."""
    text = _text(data)
    if as_json:
        text = _checked_json(text)
    _check_characters(text)
    if _HALF.search(text):
        text = _whole_characters(text)
    lines = tuple(text.split("\n"))
    try:
        root = _Builder(text, lines, as_json=as_json).document()
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The last two: PyYAML's parser in Python, at escapes beyond Unicode.
        raise Invalid((_judge(text, lines, error),)) from None
    if root is None:
        raise Invalid((Problem(code="empty", message="the file is empty"),))
    if not isinstance(root.value, dict):
        message = f"the file is {describe(root)}; it must be a mapping, lines of `field: value`"
        raise Invalid((_problem(lines, "not-a-mapping", message, root.line, root.column),))
    return Document(root.value, lines)


def plain(node: Node) -> Any:
    """The value as texts, lists and dictionaries."""
    if isinstance(node.value, dict):
        return {key: plain(entry.value) for key, entry in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(each) for each in node.value]
    return node.value


def describe(node: Node) -> str:
    """What kind of value this is, in words."""
    if isinstance(node.value, dict):
        return "a mapping" if node.value else "an empty mapping"
    if isinstance(node.value, tuple):
        return "a list" if node.value else "an empty list"
    return "a text" if node.value else "empty"


def cut(text: str, longest: int = LONGEST_QUOTE) -> str:
    """A piece of a hostile file, short enough for a sentence."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _text(data: bytes) -> str:
    """The bytes as the text of a YAML stream, with one kind of line end."""
    if len(data) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 1024} KiB"
        raise Invalid((Problem(code="too-big", message=message),))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8").replace("\r\n", "\n")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8: {error.reason}"
        rest = data[error.start :].decode("utf-8", "backslashreplace")
        raise Invalid((_problem_after(before, rest, "encoding", message),)) from None
    return text.replace("\r\n", "\n")


def _check_characters(text: str) -> None:
    odd = _ODD.search(text)
    if odd:
        message = f"the character U+{ord(odd[0]):04X} must not stand in a file like this"
        before, rest = text[: odd.start()], text[odd.start() :]
        raise Invalid((_problem_after(before, rest, "character", message),))


def _checked_json(text: str) -> str:
    """JSON as YAML can read it: characters that only JSON allows in its strings become escapes.

    Refuses what is YAML and no JSON: the file's name promises it, and other programs read it too.
    """
    if not text.strip():
        return text
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        message = f"this is not JSON: {error.msg}"
        problem = _problem_after(text[: error.pos], text[error.pos :], "json-syntax", message)
        raise Invalid((problem,)) from None
    except RecursionError:
        raise Invalid((_too_deep(),)) from None
    return _ODD.sub(lambda odd: f"\\u{ord(odd[0]):04x}", text)


def _too_deep() -> Problem:
    return Problem(code="too-deep", message=f"more than {MAX_DEPTH} levels")


def _whole_characters(text: str) -> str:
    """JSON with each pair of escaped halves as the character that it stands for.

    Only in JSON is every backslash known to be an escape. In what is just YAML, the halves are
    left for the parser to refuse.
    """
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return text
    return _PAIR.sub(_whole_character, text)


def _whole_character(found: re.Match[str]) -> str:
    if found[1] is None:
        return found[0]
    return chr(0x10000 + ((int(found[1], 16) - 0xD800) << 10) + int(found[2], 16) - 0xDC00)


class _Builder:
    """Events -> nodes. Refuses what the language leaves out at the place where it stands."""

    def __init__(self, text: str, lines: tuple[str, ...], *, as_json: bool) -> None:
        self._next: Callable[[], Any] = _LOADER(text).get_event
        self._lines = lines
        self._as_json = as_json

    def document(self) -> Node | None:
        """The one document of a stream; None if there is none."""
        root = None
        while type(event := self._next()) is not yaml.StreamEndEvent:
            if type(event) is yaml.DocumentStartEvent:
                if event.version or event.tags:
                    self._refuse("directive", "a % directive is not allowed", event)
                if root is not None:
                    self._refuse("several-documents", "a file holds one document only", event)
                root = self._node(self._next(), 0)
        bare = root is not None and root.value == "" and not any(map(_has_content, self._lines))
        return None if bare else root

    def _node(self, event: Any, depth: int) -> Node:
        if event.anchor is not None or event.tag is not None:
            self._refuse_extras(event)
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if type(event) is yaml.ScalarEvent:
            self._check_scalar(event)
            return Node(event.value, line, column)
        if depth == MAX_DEPTH:
            self._refuse("too-deep", f"more than {MAX_DEPTH} levels", event)
        if type(event) is yaml.SequenceStartEvent:
            items = []
            while type(item := self._next()) is not yaml.SequenceEndEvent:
                items.append(self._node(item, depth + 1))
            return Node(tuple(items), line, column)
        entries: dict[str, Entry] = {}
        while type(key := self._next()) is not yaml.MappingEndEvent:
            name = self._key(key, entries, depth)
            value = self._node(self._next(), depth + 1)
            entries[name] = Entry(value, key.start_mark.line + 1, key.start_mark.column + 1)
        return Node(entries, line, column)

    def _refuse_extras(self, event: Any) -> NoReturn:
        """What StrictYAML leaves out."""
        if type(event) is yaml.AliasEvent:
            message = f"the alias *{cut(str(event.anchor))} is not allowed; write it out"
            self._refuse("alias", message, event)
        if event.anchor is not None:
            self._refuse("anchor", f"the anchor &{cut(event.anchor)} is not allowed", event)
        tag = cut(event.tag.replace("tag:yaml.org,2002:", "!!"))
        self._refuse("tag", f"the tag {tag} is not allowed; every value is a text", event)

    def _check_scalar(self, event: Any) -> None:
        """Refuse what the parsers take for different things."""
        if self._as_json and not event.style:
            self._plain_json(event)
        if event.value in ("<<", "=") and event.style not in ("'", '"'):
            message = f"a bare {event.value} means something else in YAML; quote it"
            self._refuse("special", message, event)
        if not event.value.isascii() and _SURROGATE.search(event.value):
            self._refuse("yaml-syntax", _HALVES, event)  # PyYAML's parser in Python lets it by

    def _plain_json(self, event: Any) -> None:
        """A word outside quotes. Python's reader of JSON takes some that JSON does not have."""
        if event.value == "null":
            self._refuse("null", "null is no value here; leave the field out", event)
        if event.value in ("NaN", "Infinity", "-Infinity"):
            self._refuse("json-syntax", f"this is not JSON: it has no {event.value}", event)

    def _key(self, event: Any, before: dict[str, Entry], depth: int) -> str:
        node = self._node(event, depth + 1)
        if not isinstance(node.value, str) or not node.value:
            self._refuse("key", f"a key must be a text; this is {describe(node)}", event)
        if not event.style and _GLUED.match(
            self._lines[event.end_mark.line], event.end_mark.column
        ):
            self._refuse("special", "a space is missing after the colon behind this key", event)
        if node.value in before:
            first = before[node.value].line
            message = f"`{cut(node.value)}` stands here a second time; the first is on line {first}"
            self._refuse("duplicate-key", message, event)
        return node.value

    def _refuse(self, code: str, message: str, event: Any) -> NoReturn:
        mark = event.start_mark
        raise Invalid((_problem(self._lines, code, message, mark.line + 1, mark.column + 1),))


def _judge(text: str, lines: tuple[str, ...], error: Exception) -> Problem:
    """Word a broken syntax: as the judge does, if it finds the syntax broken as well."""
    if "nesting depth" in str(error):  # libyaml's own limit, which its scanner meets before we do
        return _too_deep()
    found = (_objection(text) if _is_small(text) else None) or error
    problem = getattr(found, "problem", None) or str(found).partition("\n")[0]
    context = getattr(found, "context", None)
    message = f"{context}: {problem}" if context else problem
    if isinstance(found, ValueError | OverflowError) or "invalid Unicode character" in message:
        message = _HALVES
    mark = getattr(found, "problem_mark", None)
    if mark is None:
        return Problem(code="yaml-syntax", message=message)
    line = min(mark.line + 1, len(lines))
    column = mark.column + 1 if line == mark.line + 1 else len(lines[line - 1]) + 1
    return _problem(lines, "yaml-syntax", message, line, column)


def _is_small(text: str) -> bool:
    """Is the judge quick with it? Its scanner takes quadratic time for open brackets."""
    return len(text) <= MOST_JUDGED and text.count("[") + text.count("{") <= MOST_BRACKETS


def _objection(text: str) -> Exception | None:
    """What the judge finds broken, or None.

    Its parser alone is asked. To load and validate, as `strictyaml.dirty_load` does, takes seconds
    for 4 KiB of what only libyaml refuses, and the daemon waits for it.
    """
    from strictyaml import ruamel  # noqa: PLC0415  # slow to load, and for broken files only

    depth = 0
    try:
        for event in ruamel.parse(text, Loader=ruamel.BaseLoader):
            depth += isinstance(event, ruamel.CollectionStartEvent)
            depth -= isinstance(event, ruamel.CollectionEndEvent)
            if depth > MAX_DEPTH:
                return None
    except ruamel.YAMLError as worded:
        return worded  # type: ignore[no-any-return]  # it ships no annotations
    except Exception:  # noqa: BLE001  # it stumbles over hostile text in more ways than can be told
        return None
    return None


def _problem_after(before: str, rest: str, code: str, message: str) -> Problem:
    """A problem between these two texts."""
    above = before.split("\n")
    shown = above[-1] + rest.partition("\n")[0]
    lines = (*above[:-1], shown)
    return _problem(lines, code, message, len(lines), len(above[-1]) + 1)


def _problem(lines: tuple[str, ...], code: str, message: str, line: int, column: int) -> Problem:
    """A problem with its line, of which the start is enough."""
    shown = lines[line - 1][:WIDEST_SNIPPET] if line <= len(lines) else ""
    return Problem(code=code, message=message, line=line, column=column, snippet=shown)


def _has_content(line: str) -> bool:
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith(("#", "---", "..."))
