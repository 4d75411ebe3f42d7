"""The reader of YAML: one language, whatever the bytes; and the two parsers agree."""

from __future__ import annotations

import json
from typing import Any

import pytest
import strictyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.complaints import complain
from runnerd.errors import Invalid
from runnerd.yamlsafe import MAX_BYTES, MAX_DEPTH, Document, Entry, Node, plain, read

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff")
)
TREE = st.recursive(
    TEXT,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXT.filter(bool), inner, max_size=4)
    ),
    max_leaves=12,
)
YAMLISH = st.lists(
    st.sampled_from(
        [
            *(
                "a",
                "b: c",
                "key:",
                "- ",
                "  ",
                "\n",
                "\n  ",
                ": ",
                "#x",
                " # y",
                '"',
                "'",
                "|",
                ">",
                "|-",
            ),
            *(
                "{",
                "}",
                "[",
                "]",
                ",",
                "?",
                "!",
                "!!str",
                "&a",
                "*a",
                "<<",
                "%",
                "@",
                "`",
                "---",
                "...",
            ),
            *(
                "\t",
                "null",
                "~",
                "yes",
                "0o7",
                "1_000",
                "1e3",
                "\\n",
                "é",
                "😀",
                "=",
                "-",
                "2026-01-01",
            ),
        ]
    ),
    max_size=24,
).map("".join)


def value(document: Document) -> Any:
    return {key: plain(entry.value) for key, entry in document.top.items()}


def judged(text: str) -> Any:
    """What strictyaml makes of a text; None if it does not like it."""
    try:
        return strictyaml.dirty_load(text, allow_flow_style=True).data
    except (
        strictyaml.YAMLError,
        ValueError,
        IndexError,
        AttributeError,
        AssertionError,
        TypeError,
    ):
        return None


@given(st.binary(max_size=200) | YAMLISH.map(str.encode))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_a_document_or_invalid(data: bytes) -> None:
    try:
        read(data)
    except Invalid as invalid:
        text = complain(invalid.problems, "f")
        assert text.startswith("f")
        assert text.isprintable() or "\n" in text


@given(YAMLISH)
@settings(deadline=None, max_examples=1500)
def test_what_both_parsers_accept_has_the_same_value(text: str) -> None:
    try:
        document = read(text.encode())
    except Invalid:
        return
    other = judged(text)
    assert other is None or other == value(document)


@given(st.dictionaries(TEXT.filter(bool), TREE, min_size=1, max_size=4))
@settings(deadline=None, max_examples=300)
def test_json_is_read_as_it_was_meant(tree: dict[str, Any]) -> None:
    for indent in (None, 2):
        text = json.dumps(tree, ensure_ascii=False, indent=indent)
        assert value(read(text.encode())) == tree


def test_every_scalar_is_a_text() -> None:
    text = "a: 1\nb: yes\nc: null\nd: ~\ne: 2026-01-01\nf: 0x10\ng: 1.50\nh:\ni: ''\n"
    assert value(read(text.encode())) == {
        "a": "1",
        "b": "yes",
        "c": "null",
        "d": "~",
        "e": "2026-01-01",
        "f": "0x10",
        "g": "1.50",
        "h": "",
        "i": "",
    }


def test_places_are_kept() -> None:
    top = read("a: x\nenv:\n  ü: {b: [c, dd]}\n".encode()).top
    assert top["env"] == Entry(
        Node(
            {
                "ü": Entry(
                    Node(
                        {"b": Entry(Node((Node("c", 3, 11), Node("dd", 3, 14)), 3, 10), 3, 7)}, 3, 6
                    ),
                    3,
                    3,
                )
            },
            3,
            3,
        ),
        2,
        1,
    )


def test_windows_line_ends_are_line_ends() -> None:
    assert value(read(b"a: x\r\nb: |\r\n  1\r\n  2\r\n")) == {"a": "x", "b": "1\n2\n"}


def test_the_limits_are_exact() -> None:
    head = b"a: "
    assert read(head + b"x" * (MAX_BYTES - len(head)))
    with pytest.raises(Invalid, match="larger than 256 KiB"):
        read(head + b"x" * (MAX_BYTES - len(head) + 1))
    levels = MAX_DEPTH - 1  # the mapping at the top is one
    assert read(b"a: " + b"[" * levels + b"]" * levels)
    with pytest.raises(Invalid, match="more than 20 levels"):
        read(b"a: " + b"[" * (levels + 1) + b"]" * (levels + 1))


def test_the_judge_words_what_it_also_finds_broken() -> None:
    with pytest.raises(Invalid, match=r"found character '%' that cannot start any token"):
        read(b"a: %b\n")


def test_a_large_broken_file_is_not_given_to_the_slow_judge() -> None:
    with pytest.raises(Invalid, match="found character that cannot start any token"):
        read(b"a: %b\n" + b"#" * 5000)
