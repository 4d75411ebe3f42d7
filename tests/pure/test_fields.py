"""Kinds of fields, one by one: what they take, and that they say what they would have taken."""

from __future__ import annotations

from typing import Any

import pytest

from runnerd.fields import (
    CONFIG,
    JOB,
    Arguments,
    Count,
    Duration,
    Field,
    Kind,
    Line,
    Matching,
    Script,
    Texts,
    check,
)
from runnerd.yamlsafe import read

NAMES = Texts(pattern=r"[A-Z]+", rule="capitals", reserved="X", longest=3)


def checked(kind: Kind, value: str) -> tuple[Any, list[str]]:
    field = Field(name="f", kind=kind, help="Help.", example="x")
    values, problems = check(read(f"f: {value}\n".encode()), (field,))
    return values.get("f"), [problem.message for problem in problems]


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
        (Duration(1, 60), "1m", 60.0),
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
        *((Duration(1, 60), text) for text in ("", "0.5", "61", "1 m", "[1]", "-1", "1e1")),
        *((Count(1, 9, "auto"), text) for text in ("", "0", "10", "1.0", "+1", "[1]", "9" * 5000)),
        *((Matching("[a-z]+", "small"), text) for text in ("", "A", "[a]", '"a\\n"')),
    ],
)
def test_a_bad_value_is_told_once_with_the_field(kind: Kind, text: str) -> None:
    _, (message,) = checked(kind, text)
    assert message.startswith("`f`: ")
    assert len(message) < 250


@pytest.mark.parametrize("field", [*JOB, *CONFIG], ids=lambda field: field.name)
def test_a_value_of_the_wrong_shape_is_told_what_was_expected(field: Field) -> None:
    _, problems = check(read(f"{field.name}: [[x]]\n".encode()), (field,))
    if isinstance(field.kind, Script | Arguments):
        assert f"expected {field.kind.describe()}, found a list" in problems[0].message
    else:
        assert problems[0].message.startswith(f"`{field.name}`: expected {field.kind.describe()}")


def test_names_of_fields_are_unique() -> None:
    for fields in (JOB, CONFIG):
        assert len({field.name for field in fields}) == len(fields)


def test_every_fault_of_every_field_is_told() -> None:
    values, problems = check(read(b"name: ok\nrun: []\nenvv: {}\ntimeout: x\n"), JOB)
    assert values["name"] == "ok"
    assert [problem.line for problem in problems] == [2, 3, 4]
