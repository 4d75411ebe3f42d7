"""fields: the one declaration of every field of a job and of the configuration.

A later field is one more line here and one attribute in `model`. A kind turns a node into a value,
or says what is wrong with it, at its place. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from . import units
from .model import Problem
from .yamlsafe import Document, Entry, Node, cut, describe

MOST_PROBLEMS = 100

Say = Callable[[str, Node | Entry], None]
"""Take down a complaint about a place."""


class Kind(Protocol):
    """What values a field takes."""

    def read(self, node: Node, say: Say) -> Any:
        """The value. What is wrong is said, and then the value is of no use."""

    def describe(self) -> str:
        """In words: `a duration like 90s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field. `default` is what an absent field means, in words, for people."""

    name: str
    kind: Kind
    help: str
    example: str
    default: str | None = None


def check(
    document: Document, fields: tuple[Field, ...]
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The values of the fields that are there, and what is wrong, in the file's order.

    Nobody reads more than the first faults, and a hostile file can have a hundred thousand.
    """
    known = {field.name: field for field in fields}
    values: dict[str, Any] = {}
    problems: list[Problem] = []

    for name, entry in document.top.items():
        if len(problems) >= MOST_PROBLEMS:
            break
        if name not in known:
            problems.append(document.problem("unknown-field", _unknown(name, known), entry))
            continue

        def say(message: str, at: Node | Entry, name: str = name) -> None:
            problems.append(document.problem("bad-value", f"`{name}`: {message}", at))

        values[name] = known[name].kind.read(entry.value, say)
    return values, tuple(problems[:MOST_PROBLEMS])


def _unknown(name: str, known: Mapping[str, Field]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(known))}"
    return f"unknown field `{cut(name)}`: {hint}"


# --- kinds --------------------------------------------------------------------------------------


def _expected(kind: Kind, node: Node) -> str:
    return f"expected {kind.describe()}, found {describe(node)}"


def _no_nul(text: str, node: Node, say: Say) -> None:
    """NUL ends a text for the kernel: it can be in no argument and no variable."""
    if "\0" in text:
        say("a NUL character cannot be passed to a program", node)


@dataclass(frozen=True, slots=True)
class Line:
    """A text in one line, not empty."""

    longest: int = 200

    def describe(self) -> str:
        return f"one line of text, at most {self.longest} characters"

    def read(self, node: Node, say: Say) -> str | None:
        text = node.value
        if not isinstance(text, str) or not text:
            say(_expected(self, node), node)
            return None
        if len(text) > self.longest or any(ord(each) < 0x20 for each in text):
            say(f"expected {self.describe()}", node)
        return text


@dataclass(frozen=True, slots=True)
class Script:
    """A script, or a list of commands, which are its lines."""

    def describe(self) -> str:
        return "a script, or a list of commands"

    def read(self, node: Node, say: Say) -> str | None:
        parts = node.value if isinstance(node.value, tuple) else (node,)
        texts = []
        for part in parts:
            if isinstance(part.value, str) and part.value.strip():
                _no_nul(part.value, part, say)
                texts.append(part.value)
            else:
                say(_expected(self, part), part)
        if not parts:
            say(_expected(self, node), node)
        return "\n".join(texts)


@dataclass(frozen=True, slots=True)
class Arguments:
    """A program and its arguments."""

    def describe(self) -> str:
        return "a list of texts: a program and its arguments"

    def read(self, node: Node, say: Say) -> tuple[str, ...] | None:
        if not isinstance(node.value, tuple) or not node.value:
            say(_expected(self, node), node)
            return None
        found = []
        for part in node.value:
            if isinstance(part.value, str):
                _no_nul(part.value, part, say)
                found.append(part.value)
            else:
                say(_expected(self, part), part)
        if found and not found[0]:
            say("the name of the program is empty", node.value[0])
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Texts:
    """A mapping of names to texts. `rule` says in words what `pattern` asks of a name."""

    pattern: str
    rule: str
    reserved: str | None = None
    longest: int | None = None

    def describe(self) -> str:
        return "a mapping of names to texts"

    def read(self, node: Node, say: Say) -> dict[str, str]:
        if not isinstance(node.value, dict):
            say(_expected(self, node), node)
            return {}
        found = {}
        for name, entry in node.value.items():
            text = entry.value.value
            if not re.fullmatch(self.pattern, name, re.ASCII):
                say(f"{cut(name)!r} cannot be a name here: {self.rule}", entry)
            elif self.reserved is not None and name.startswith(self.reserved):
                say(f"names that start with {self.reserved} are set by runnerd", entry)
            elif not isinstance(text, str):
                say(f"{cut(name)}: expected a text, found {describe(entry.value)}", entry.value)
            elif self.longest is not None and len(text) > self.longest:
                say(f"{cut(name)}: longer than {self.longest} characters", entry.value)
            else:
                _no_nul(text, entry.value, say)
                found[name] = text
        return found


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, from a text like 90s."""

    shortest_s: float
    longest_s: float

    def describe(self) -> str:
        least, most = units.in_words(self.shortest_s), units.in_words(self.longest_s)
        return f"a duration from {least} to {most}, like 90s, 10m, 2h or 1d"

    def read(self, node: Node, say: Say) -> float | None:
        if not isinstance(node.value, str):
            say(_expected(self, node), node)
            return None
        try:
            seconds = units.duration(node.value)
        except ValueError:
            say(f"expected {self.describe()}, found {cut(node.value)!r}", node)
            return None
        if not self.shortest_s <= seconds <= self.longest_s:
            say(f"expected {self.describe()}, found {cut(node.value)}", node)
        return seconds


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number, or a word for one that the program works out (None)."""

    least: int
    most: int
    word: str

    def describe(self) -> str:
        return f"a whole number from {self.least} to {self.most}, or {self.word}"

    def read(self, node: Node, say: Say) -> int | None:
        text = node.value
        if text == self.word:
            return None
        if isinstance(text, str) and re.fullmatch(r"\d{1,9}", text, re.ASCII):
            if self.least <= int(text) <= self.most:
                return int(text)
            say(f"expected {self.describe()}, found {text}", node)
            return None
        found = repr(cut(text)) if isinstance(text, str) else describe(node)
        say(f"expected {self.describe()}, found {found}", node)
        return None


@dataclass(frozen=True, slots=True)
class Matching:
    """A text of a certain form. `rule` says which, in words."""

    pattern: str
    rule: str

    def describe(self) -> str:
        return self.rule

    def read(self, node: Node, say: Say) -> str | None:
        if isinstance(node.value, str) and re.fullmatch(self.pattern, node.value, re.ASCII):
            return node.value
        found = repr(cut(node.value)) if isinstance(node.value, str) else describe(node)
        say(f"expected {self.rule}, found {found}", node)
        return None


# --- the declarations ---------------------------------------------------------------------------

_WORD = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"

JOB: tuple[Field, ...] = (
    Field(
        name="name",
        kind=Line(),
        help="What the job is, for people.",
        example="Invoice 4711",
    ),
    Field(
        name="run",
        kind=Script(),
        help="A script for /bin/sh -e, or for what its #! line names; or a list of commands.",
        example="./render 4711 > invoice.pdf",
    ),
    Field(
        name="command",
        kind=Arguments(),
        help="A program and its arguments; no shell looks at them. Instead of `run`.",
        example="[./render, '4711']",
    ),
    Field(
        name="executor",
        kind=Line(32),
        help="What runs the job.",
        example="shell",
        default="shell",
    ),
    Field(
        name="env",
        kind=Texts(
            pattern=r"[A-Za-z_][A-Za-z0-9_]*",
            rule="letters, digits and _, no digit first",
            reserved="RUNNER_",
        ),
        help="Environment variables, beside a login's and those of runnerd.",
        example="{LANG: de_DE.UTF-8}",
    ),
    Field(
        name="timeout",
        kind=Duration(0.001, 365 * 86400),
        help="How long the job may run. It gets SIGTERM, and SIGKILL ten seconds later.",
        example="10m",
        default="no limit",
    ),
    Field(
        name="labels",
        kind=Texts(pattern=_WORD, rule="1 to 63 letters, digits or . _ / -", longest=1000),
        help="Names and values of yours; they come back in the result.",
        example='{customer: "42"}',
    ),
)

CONFIG: tuple[Field, ...] = (
    Field(
        name="spool",
        kind=Matching(r"/[^\0]*", "an absolute path"),
        help="The spool's directory. Made at start, with all that belongs into it.",
        example="/var/spool/runner",
        default="/var/spool/runner; for another user than root, $XDG_STATE_HOME/runnerd/spool",
    ),
    Field(
        name="slots",
        kind=Count(1, 1024, "auto"),
        help="How many jobs run at once. auto: as many as there are CPUs for the daemon.",
        example="auto",
        default="auto",
    ),
    Field(
        name="group",
        kind=Matching(r"[a-z_][a-z0-9_-]{0,31}", "the name of a group"),
        help="Whose members may drop files. Without such a group, only the daemon's user may.",
        example="runner",
        default="runner",
    ),
    Field(
        name="runner_idle",
        kind=Duration(0.1, 86400),
        help="How long a runner process without a job is kept, ready to start one at once.",
        example="60s",
        default="60s",
    ),
    Field(
        name="rescan",
        kind=Duration(0.1, 3600),
        help="How often incoming/ is looked at when no event asks for it.",
        example="10s",
        default="10s",
    ),
)
