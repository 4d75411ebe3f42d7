"""complaints: what is wrong with a file, as text for people, in the way of a compiler. Pure.

invoice.yaml:3:1: unknown field `timout`: did you mean `timeout`?
    3 | timout: 5
      | ^
"""

from __future__ import annotations

import re

from .model import Problem

# Beside control characters: line ends, marks that turn the direction of a text or take no room, and
# lone surrogates, which is what a file name that is no UTF-8 holds.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
)


def complain(problems: tuple[Problem, ...], file: str) -> str:
    """All problems of a file, ready to print. Nothing in it can move a terminal's cursor."""
    return "".join(_one(problem, _visible(file)) for problem in problems)


def _one(problem: Problem, file: str) -> str:
    message = _visible(problem.message)
    if problem.line is None or problem.column is None:
        return f"{file}: {message}\n"
    text = f"{file}:{problem.line}:{problem.column}: {message}\n"
    if problem.snippet is None or problem.column > len(problem.snippet) + 1:
        return text
    number = f"{problem.line:5}"
    shown = _visible(problem.snippet.replace("\t", " "))
    before = _visible(problem.snippet[: problem.column - 1].replace("\t", " "))
    return f"{text}{number} | {shown}\n{' ' * len(number)} | {' ' * len(before)}^\n"


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
