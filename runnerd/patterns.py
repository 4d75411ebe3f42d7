"""patterns: an administrator's regular expressions, which submitters choose the text for.

Python's matcher goes back over what it tried, and some patterns make it try for years. They have
one thing in common: a repeated group in which something may match in more than one way. Such a
pattern is refused when it is read; possessive repeats (`a++`), which never go back, are fine. Pure.
"""

from __future__ import annotations

import re

from .faults import Faults
from .frozen import frozen
from .kinds import Schema, unexpected
from .yamlsafe import Node

_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?<?[=!]|\(\?[a-zA-Z-]*:|\(\?>|\(\?P<\w+>|[()|]"
    r"|(?:[*+?]|\{\d*,?\d*\})[+?]?|.",
    re.DOTALL,
)
_REPEAT = re.compile(r"(?:[*+?]|\{(\d*)(,?)(\d*)\})([+?]?)")


@frozen
class Regex:
    """A regular expression that ends in good time."""

    def describe(self) -> str:
        return "a regular expression"

    def read(self, node: Node, faults: Faults) -> str | None:
        if not isinstance(node.value, str) or not node.value:
            unexpected(self, node, faults)
            return None
        try:
            compiled(node.value)
        except ValueError as error:
            faults.add(str(error), node)
        return node.value

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


def compiled(text: str) -> re.Pattern[str]:
    """The pattern, for `fullmatch`. Raises ValueError with a sentence."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if _may_run_away(text):
        raise ValueError(
            "a repeated group holds a repeat or a choice, which can take for ever to match; "
            "make the inner repeat possessive, as in ([a-z]++-)*"
        )
    return pattern


def _may_run_away(text: str) -> bool:
    """Whether a group is repeated in which there is more than one way to match."""
    open_groups = [False]  # for each: does it hold a way to choose?
    last_closed = False
    for part in _TOKEN.findall(text):
        repeat = _REPEAT.fullmatch(part) if part[0] in "*+?{" else None
        if part[0] == "(":
            open_groups.append(False)
        elif part == ")":
            last_closed = open_groups.pop()
            open_groups[-1] |= last_closed
            continue
        elif part == "|":
            open_groups[-1] = True
        elif repeat is not None and _varies(repeat):
            if last_closed and part[0] != "?":
                return True
            open_groups[-1] = True
        last_closed = False
    return False


def _varies(repeat: re.Match[str]) -> bool:
    """Whether a repeat may match a different number of times on a second try."""
    if repeat[4] == "+":
        return False
    exact = repeat[0][0] == "{" and not repeat[2]
    return not exact
