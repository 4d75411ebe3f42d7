"""The manual as `packaging/manual` makes it, and the examples in its sources."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "packaging/man"
EPOCH = "1790000000"


def make(out: Path, **env: str) -> None:
    """Make the manual with this Python; it must have nothing to say."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", ROOT / "packaging/manual", out],
        env={"PATH": path, "SOURCE_DATE_EPOCH": EPOCH, **env},
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def plain(page: str) -> str:
    """The words of a page, without its marks, with one space between them."""
    text = re.sub(r"^\.[A-Z]+ ?", "", page, flags=re.MULTILINE)
    text = re.sub(r"\\f.", "", text)
    for mark, meant in {
        r"\&": "",
        r"\-": "-",
        r"\(aq": "'",
        r"\(ga": "`",
        r"\(ha": "^",
        r"\(ti": "~",
        r"\e": "\\",
    }.items():
        text = text.replace(mark, meant)
    return " ".join(text.split())


@dataclass(frozen=True)
class Example:
    """`kind`: job, config, template, a language, or text."""

    page: str
    number: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}-{self.kind}"


def examples(*kinds: str) -> list[Example]:
    """The examples of these kinds, or all."""
    return [
        Example(source.stem, number, each[1], each[2])
        for source in sorted(SOURCES.glob("*.in"))
        for number, each in enumerate(_EXAMPLE.finditer(source.read_text()))
        if not kinds or each[1] in kinds
    ]


_EXAMPLE = re.compile(r"^\.EX (\S+)\n(.*?)^\.EE$", re.DOTALL | re.MULTILINE)
