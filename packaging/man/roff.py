"""roff: texts as man(7) takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_SPECIAL = {
    "\\": r"\e",
    "-": r"\-",
    "'": r"\(aq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
}


def escaped(text: str) -> str:
    """The text as it is, in the middle of a line."""
    return "".join(_SPECIAL.get(each, each) for each in text)


def literal(line: str) -> str:
    """A line of an example. What starts with . or ' is no request: it starts with nothing."""
    made = escaped(line)
    return rf"\&{made}" if line.startswith((".", "'")) else made


def prose(text: str) -> str:
    """A sentence in which `names` are marked so."""
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    made = [bold(part) if index % 2 else escaped(part) for index, part in enumerate(parts)]
    line = "".join(made)
    return rf"\&{line}" if line.startswith((".", "'")) else line


def bold(text: str) -> str:
    return rf"\fB{escaped(text)}\fR"


def italic(text: str) -> str:
    return rf"\fI{escaped(text)}\fR"


def entry(tag: str, *paragraphs: str, below: Iterable[str] = ()) -> Iterator[str]:
    """A tagged paragraph; tag and paragraphs are roff already. `below`: lines that belong to it."""
    yield from (".TP", tag)
    for index, each in enumerate(paragraphs):
        if index:
            yield ".IP"
        yield each
    inner = list(below)
    if inner:
        yield from (".RS", *inner, ".RE")
