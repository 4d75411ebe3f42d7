"""Kinds of fields, one by one: what they take, and that they say what they would have taken."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from runnerd.faults import Faults
from runnerd.kinds import (
    Arguments,
    Boolean,
    Choice,
    Count,
    Kind,
    Line,
    Matching,
    Moment,
    Script,
    Text,
    duration,
    factor,
    share,
    size,
)
from runnerd.model import Mount, OnDuplicate
from runnerd.patterns import Regex, compiled
from runnerd.places import Address, Below, MountText
from runnerd.shapes import Field, Items, Record, Table
from runnerd.yamlsafe import read

NAMES = Table(r"[A-Z]+", "capitals", Text(3), reserved="X")
PAIR = Record((Field("a", Line(), "", ""), Field("b", Count(0, 9), "", "")), dict, short="a")


def checked(kind: Kind, value: str) -> tuple[Any, list[str]]:
    document = read(f"f: {value}\n".encode())
    faults = Faults(document).below("f")
    found = kind.read(document.top["f"].value, faults)
    return found, [problem.message for problem in faults.problems()]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Line(), "Rechnung № 5", "Rechnung № 5"),
        (Line(3), "abc", "abc"),
        (Script(), "[a, b]", "a\nb"),
        (Script(), "|\n  a\n  b", "a\nb\n"),
        (Arguments(), "[ls, '', -l]", ("ls", "", "-l")),
        (NAMES, "{A: b, C: ''}", {"A": "b", "C": ""}),
        (NAMES, "{}", {}),
        (duration(1, 60), "1m", 60.0),
        (size(1, 1 << 40), "1.5K", 1536),
        (size(1, 1 << 40), "2GiB", 2 << 30),
        (share(0.1, 8), "12.5%", 0.125),
        (factor(1, 9), "1.25", 1.25),
        (Moment(), "2026-12-01T03:00:00Z", 1796094000.0),
        (Moment(), "2026-12-01 04:00:00.5+01:00", 1796094000.5),
        (Boolean(), "true", True),
        (Boolean(), '"false"', False),
        (Choice(OnDuplicate), "reject", OnDuplicate.REJECT),
        (Items(Count(0, 9)), "[1, '2']", (1, 2)),
        (PAIR, "{a: x, b: 1}", {"a": "x", "b": 1}),
        (PAIR, "x", {"a": "x"}),
        (Below("work/"), "a/**/*.pdf", "a/**/*.pdf"),
        (Below("work/"), "a..b/...", "a..b/..."),
        (Address(), "https://a.example:8443/x?y=z", "https://a.example:8443/x?y=z"),
        (Address(), "http://[::1]/", "http://[::1]/"),
        (MountText(), "/a:/b", Mount(source="/a", target="/b", read_only=False)),
        (MountText(alone=True), "/a:ro", Mount(source="/a", target="/a", read_only=True)),
        (Regex(), "'[a-z]+(-[a-z]+){3}'", "[a-z]+(-[a-z]+){3}"),
        (Count(1, 9, "auto"), "9", 9),
        (Count(1, 9, "auto"), "auto", None),
        (Matching("[a-z]+", "small letters"), "abc", "abc"),
    ],
)
def test_a_good_value_is_taken(kind: Kind, text: str, value: object) -> None:
    assert checked(kind, text) == (value, [])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((Line(3), text) for text in ("abcd", "[a]", "{a: b}", "''", '"a\\nb"', '"\\0"')),
        *((Script(), text) for text in ("", "' '", "[]", "[a, '']", "{a: b}", '"a\\0"')),
        *((Arguments(), text) for text in ("", "ls", "[]", "['']", "[[a]]", '["a\\0"]')),
        *((NAMES, text) for text in ("", "[A]", "{a: b}", "{XA: b}", "{A: bcde}", "{A: [b]}")),
        *((size(1, 1024), text) for text in ("", "0", "2K", "1k", "1 K", "-1", "1KB", "K", "[1]")),
        *((share(0.1, 8), text) for text in ("", "50", "9%", "900%", "'%'", "-1%", "1e1%")),
        *((factor(1, 9), text) for text in ("", "0", "10", "1,5", "nan", "inf", "1e1")),
        *((Moment(), text) for text in ("", "2026-12-01", "2026-12-01T03:00:00", "now", "0")),
        *((Moment(), text) for text in ("2026-13-01T03:00Z", "2026-12-01T24:00Z", "[a]")),
        *((Boolean(), text) for text in ("", "yes", "1", "True", "[true]")),
        *((Choice(OnDuplicate), text) for text in ("", "Number", "numbr", "[number]")),
        *((Items(Count(0, 9), most=2), text) for text in ("", "1", "[]", "[a]", "{a: b}")),
        (Items(Count(0, 9), most=2), "[1, 2, 3]"),
        *((PAIR, text) for text in ("", "[a]", "{a: ''}", "{c: x}", "{b: 10}")),
        *((Below("work/"), text) for text in ("", "/a", "..", "a/../b", "a/..", '"a\\0"', "[a]")),
        *((Address(), text) for text in ("", "x", "ftp://x/", "https://", "http://u:p@h/", "[a]")),
        *((Address(), text) for text in ("http://h:0/", "http://h:99999/", "http://h/#x")),
        *((Address(), text) for text in ('"http://h/ x"', "http://h\\@i/", "http://ä/", "//h/")),
        *((MountText(), text) for text in ("", "/a", "a:/b", "/a:b", "/a:/b:rx", "/../a:/b")),
        *((MountText(alone=True), text) for text in ("", "a", "/a:/b", "/a/..", "[a]")),
        *((Regex(), text) for text in ("", "(a", "(a+)+", "(a|b)*", "(a?){3,}", "((ab)*c)*")),
        *((duration(1, 60), text) for text in ("", "0.5", "61", "1 m", "[1]", "-1", "1e1")),
        *((Count(1, 9, "auto"), text) for text in ("", "0", "10", "1.0", "+1", "[1]", "9" * 5000)),
        *((Text(3), text) for text in ("abcd", "[a]", "{a: b}", '"\\0"')),
        (Text(), "a" * 130_000),
        (Arguments(), "[" + "a" * 130_000 + "]"),
        *((Matching("[a-z]+", "small"), text) for text in ("", "A", "[a]", '"a\\n"')),
    ],
)
def test_a_bad_value_is_told_once_with_the_field(kind: Kind, text: str) -> None:
    _, (message,) = checked(kind, text)
    assert message.startswith(("`f`: ", "`f.", "unknown field `f."))
    assert len(message) < 250


@pytest.mark.parametrize(
    "pattern",
    [
        "(a++)+",
        "([a-z]++-)*[a-z]+",
        "(a|b)?",
        "[(a+)]+",
        r"\(a+\)+",
        "(?:ab)+",
        "(a{2})+",
    ],
)
def test_a_pattern_that_ends_in_good_time_is_taken(pattern: str) -> None:
    """Of two ways to match a repeated group only one is left, so there is nothing to try again."""
    assert compiled(pattern).pattern == pattern


def test_the_refused_patterns_really_run_away() -> None:
    """What the check is for: each is tried on a text that makes it go back, for a short while."""
    code = "import re, sys; re.fullmatch(sys.argv[1], 'a' * 40 + '!')"
    for pattern in ("(a+)+", "(a|aa)*", "((a)*a)*"):
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run([sys.executable, "-c", code, pattern], check=True, timeout=1)
