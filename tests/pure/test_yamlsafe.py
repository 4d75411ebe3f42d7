"""The reader of YAML: one language, whatever the bytes; and the two parsers agree."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
import strictyaml
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runnerd import yamlsafe
from runnerd.complaints import complain
from runnerd.errors import Invalid
from runnerd.model import Problem
from runnerd.yamlsafe import MAX_BYTES, MAX_DEPTH, Document, Entry, Node, plain, read

TEXT = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"
    )
)
# YAML bounds a key, as it is written, to 1024 characters.
KEY = TEXT.filter(lambda text: bool(text) and len(json.dumps(text)) <= 1000)
TREE = st.recursive(
    TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=12,
)
ESCAPES = [
    *("\\n", "\\0", "\\/", "\\N", "\\L", "\\x41", "\\u00e9", "\\U0001F600", "\\q", "\\u", "\\\n"),
    *("\\ud83d\\ude00", "\\ud800", "\\UFFFFFFFF", "\\U00110000"),
]
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
            *ESCAPES,
            *("%YAML 9.9", "%TAG ! x", "\x85", "\u2028", "\ufeff", "\r", "\xa0", "[x:]"),
        ]
    ),
    max_size=24,
).map("".join)

SCALAR = st.sampled_from(
    [
        *("a", "x y", "null", "~", "yes", "1.50", "0x1F", "1_000", "2026-01-01", "12:30:45"),
        *("a#b", "a:b", "http://x/y", "-x", "?x", "::", "''", '""', "'it''s'", '"a\\n\\"b"'),
        *("x:", "<<", "=", "'\n\n  a'", '"a\\\n   b"', "a\n   b", "é", "😀", "a\xa0#b", "a\tb"),
    ]
) | st.sampled_from(ESCAPES).map('"{}"'.format)
BLOCK = st.builds(
    "{}{}{}\n{}".format,
    st.sampled_from("|>"),
    st.sampled_from(["", "-", "+"]),
    st.sampled_from(["", "4", " # c"]),
    st.lists(
        st.sampled_from(["", "    a", "     b", "    ", "  ", "    #x", "    \tc"]), max_size=5
    ).map("\n".join),
)
FLOW = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.builds("{}: {}".format, SCALAR, inner), max_size=3).map(
            lambda pairs: f"{{{' , '.join(pairs)}}}"
        )
    ),
    max_leaves=6,
)
LINES = st.lists(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "", "", "# c\n", "\n", "  \n"]),
        st.sampled_from(
            ["a: ", "b : ", "'c': ", '"d":\t', "é: ", "? e\n: ", "f:\n- ", "g:\n  h: "]
        ),
        FLOW | BLOCK,
        st.sampled_from(["\n", "\n", " # c\n", "  \n", "\n\n"]),
    ),
    min_size=1,
    max_size=4,
).map("".join)
STYLED = st.builds(
    "{}{}{}".format, st.sampled_from(["", "", "---\n"]), LINES, st.sampled_from(["", "", "...\n"])
)
# The parser that a fixture sets is the same for all examples of one test.
SHARED = [HealthCheck.function_scoped_fixture]


def value(document: Document) -> Any:
    return {key: plain(entry.value) for key, entry in document.top.items()}


def judged(text: str) -> Any:
    """What strictyaml makes of a text; None if it does not like it, in whatever way."""
    try:
        return strictyaml.dirty_load(text, allow_flow_style=True).data
    except Exception:  # noqa: BLE001  # it has no end of them
        return None


def refused(data: bytes) -> Problem:
    with pytest.raises(Invalid) as caught:
        read(data)
    (problem,) = caught.value.problems
    return problem


@pytest.fixture(params=["C", "Python"])
def _either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML with libyaml, and as it is where it was built without."""
    if request.param == "Python":
        monkeypatch.setattr(yamlsafe, "_LOADER", yaml.BaseLoader)


@pytest.mark.usefixtures("_either_parser")
@given(st.binary(max_size=200) | YAMLISH.map(str.encode))
@settings(deadline=None, max_examples=400, suppress_health_check=SHARED)
def test_any_bytes_are_a_document_or_invalid(data: bytes) -> None:
    try:
        read(data)
    except Invalid as invalid:
        text = complain(invalid.problems, "f")
        assert text.startswith("f")
        assert text.isprintable() or "\n" in text


@pytest.mark.usefixtures("_either_parser")
@given(STYLED | YAMLISH)
@settings(deadline=None, max_examples=700, suppress_health_check=SHARED)
def test_what_both_parsers_accept_has_the_same_value(text: str) -> None:
    try:
        document = read(text.encode())
    except Invalid:
        return
    other = judged(text)
    assert other is None or other == value(document)


@given(st.dictionaries(KEY, TREE, min_size=1, max_size=4))
@settings(deadline=None, max_examples=300)
def test_json_is_read_as_it_was_meant(tree: dict[str, Any]) -> None:
    for indent, ascii_only in itertools.product((None, 2, "\t"), (False, True)):
        text = json.dumps(tree, ensure_ascii=ascii_only, indent=indent)
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


@pytest.mark.parametrize(
    ("data", "code", "line", "column", "message"),
    [
        (b"", "empty", None, None, "the file is empty"),
        (b"# c\n---\n", "empty", None, None, "the file is empty"),
        (b"- a", "not-a-mapping", 1, 1, "the file is a list"),
        (b"a:b", "not-a-mapping", 1, 1, "the file is a text"),
        (b"a: b\n---\nc: d", "several-documents", 2, 1, "a file holds one document only"),
        (b"a: 1\nb: {c: 2, c: 3}", "duplicate-key", 2, 11, "`c` stands here a second time"),
        (b"a: 1\n'a': 2", "duplicate-key", 2, 1, "`a` stands here a second time"),
        (b"a: !!int 3", "tag", 1, 4, "the tag !!int is not allowed"),
        (b"a: &b c", "anchor", 1, 4, "the anchor &b is not allowed"),
        (b"a: *b", "alias", 1, 4, "the alias *b is not allowed"),
        (b"<<: {a: b}", "special", 1, 1, "a bare << means something else"),
        (b"%YAML 1.1\n---\na: b", "directive", 1, 1, "a % directive is not allowed"),
        (b"? [a]\n: b", "key", 1, 3, "a key must be a text; this is a list"),
        (b"'': b", "key", 1, 1, "a key must be a text; this is empty"),
        (b"a: b\n  \x00", "character", 2, 3, "the character U+0000 must not stand"),
        ("ü: \x85".encode(), "character", 1, 4, "the character U+0085 must not stand"),
        (b"\xef\xbb\xbfa: b", "character", 1, 1, "the character U+FEFF must not stand"),
        (b"a: b\n\xc3\xbc: \xff", "encoding", 2, 4, "byte 0xff is not UTF-8"),
        (b"a: \xed\xa0\x80", "encoding", 1, 4, "byte 0xed is not UTF-8"),
        (b"a: b\n c: d", "yaml-syntax", 2, 3, "mapping values are not allowed here"),
        (b"a: [b,,c]", "yaml-syntax", 1, 7, "while parsing a flow node: expected the node"),
        (b'a: "\\UFFFFFFFF"', "yaml-syntax", 1, 7, "an escape here is no whole character"),
        (b'a: "\\ud800"', "yaml-syntax", 1, 7, "an escape here is no whole character"),
        (b'{"a": "\\ude00\\ud83d"}', "yaml-syntax", 1, 10, "an escape here is no whole"),
        (b'{"' + b"k" * 1100 + b'": 1}', "yaml-syntax", 1, 1104, "while parsing a flow mapping"),
        (b"- " * 21, "too-deep", 1, 41, "more than 20 levels"),
    ],
)
def test_a_fault_has_a_code_a_place_and_a_sentence(
    data: bytes, code: str, line: int | None, column: int | None, message: str
) -> None:
    problem = refused(data)
    assert (problem.code, problem.line, problem.column) == (code, line, column)
    assert problem.message.startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        '"\\UFFFFFFFF"',
        "NULL +1 # y: |-3#c\n%YAML 9.9 #NULL\n- \n  \n",
        "\n\n? - : []\n",
        "k0 :\n\n:\n\n\n { k0: ?x #c  \n",
    ],
)
@pytest.mark.usefixtures("_either_parser")
def test_what_the_judge_stumbles_over_is_refused_all_the_same(text: str) -> None:
    assert refused(text.encode()).code == "yaml-syntax"


@pytest.mark.parametrize(
    "text",
    ["a: [" + "a," * 900 + "]", "a: " + "[" * 1900, "? " * 900, "a: &a [" + "x," * 900 + "]"],
)
def test_what_only_libyaml_refuses_does_not_keep_the_daemon(text: str) -> None:
    started = time.process_time()
    refused(f"%FOO\n---\n{text}".encode())
    assert time.process_time() - started < 0.2


def test_the_whole_line_of_a_bad_byte_is_shown() -> None:
    assert refused(b"a: b\nc: \xff and more\nd: e").snippet == "c: \\xff and more"
    assert refused(b"a: b\nc: \x1b and more\nd: e").snippet == "c: \x1b and more"


def test_halves_of_a_character_are_joined_in_json_only() -> None:
    assert value(read(rb'{"\ud83d\ude00": "\\ud83d\\ude00 \\\ud83d\ude00"}')) == {
        "😀": r"\ud83d\ude00 \😀"
    }
    assert value(read(rb"a: \ud83d\ude00")) == {"a": r"\ud83d\ude00"}
    assert refused(rb'a: "\ud83d\ude00"').code == "yaml-syntax"
