"""The table of bad files, tests/pure/data/bad_files.txt.

A case is a line of ==== with a title, a file, a line of ----, and what is said. After the title
may stand the file's name (job.yaml if none), which also says what it is, and `escaped`: the file's
bytes are then written as in Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parents[1] / "pure/data/bad_files.txt"


@dataclass(frozen=True)
class Case:
    title: str
    file: str
    data: bytes
    said: str


def cases() -> list[Case]:
    found = []
    for part in re.split(r"^==== ", TABLE.read_text(), flags=re.MULTILINE)[1:]:
        head, _, rest = part.partition("\n")
        title, *options = head.split(" | ")
        text, _, said = rest.partition("----\n")
        names = [each for each in options if each != "escaped"]
        data = text.encode()
        if "escaped" in options:
            data = text.encode().decode("unicode_escape").encode("latin-1")
        found.append(Case(title, (names or ["job.yaml"])[0], data, said))
    return found
