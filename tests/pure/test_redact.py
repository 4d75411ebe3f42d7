"""Hiding secrets in a stream: whatever the pieces, no byte of a secret that was found leaves."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.redact import Redactor


def redacted(secrets: list[bytes], *pieces: bytes) -> bytes:
    redactor = Redactor(secrets)
    return b"".join(map(redactor.redact, pieces)) + redactor.rest()


def expected(secrets: list[bytes], text: bytes) -> bytes:
    """The whole text at once, byte by byte: the slow and obvious way."""
    hidden = bytearray(len(text))
    for secret in secrets:
        for at in range(len(text) - len(secret) + 1):
            if text[at : at + len(secret)] == secret:
                hidden[at : at + len(secret)] = b"\1" * len(secret)
    shown = bytes(0 if hide else byte for byte, hide in zip(text, hidden, strict=True))
    return re.sub(rb"\0+", b"***", shown)


SECRET = b"hunter22"


def test_a_secret_is_hidden_at_every_split() -> None:
    text = b"a " + SECRET + b" b " + SECRET + SECRET + b"\n" + SECRET[:-1] + b"."
    whole = b"a *** b ***\n" + SECRET[:-1] + b"."
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            pieces = text[:first], text[first:second], text[second:]
            assert redacted([SECRET], *pieces) == whole


def test_a_secret_is_hidden_when_it_comes_byte_by_byte() -> None:
    text = b"password=" + SECRET + b";"
    assert redacted([SECRET], *(bytes([byte]) for byte in text)) == b"password=***;"


@given(
    st.lists(st.text("ab", min_size=4, max_size=7).map(str.encode), min_size=1, max_size=3),
    st.lists(st.text("abc", max_size=9).map(str.encode), max_size=8),
)
@settings(deadline=None, max_examples=400)
def test_overlapping_secrets_are_hidden_as_if_the_text_had_come_whole(
    secrets: list[bytes], pieces: list[bytes]
) -> None:
    assert redacted(secrets, *pieces) == expected(secrets, b"".join(pieces))


@pytest.mark.parametrize("secret", [b"aaaa", b"abab", b"aaab"])
def test_a_secret_that_repeats_itself_is_one_mark(secret: bytes) -> None:
    redactor = Redactor([secret])
    out = b"".join(redactor.redact(secret[:2]) for _ in range(1000)) + redactor.rest()
    assert out == expected([secret], secret[:2] * 1000)


def test_no_more_is_kept_back_than_may_be_the_start_of_a_secret() -> None:
    redactor = Redactor([SECRET])
    assert redactor.redact(b"working...") == b"working..."
    assert redactor.redact(b"hunt") == b""
    assert redactor.redact(b"ing") == b"hunting"


def test_the_lines_of_a_long_secret_are_secrets() -> None:
    key = b"-----BEGIN-----\nMIIEvQIBADANBg\nkqhkiG\n"
    text = b"".join(b"> " + line + b"\r\n" for line in key.splitlines())
    assert redacted([key], text) == b"> ***\r\n> ***\r\n> kqhkiG\r\n"


def test_without_secrets_nothing_changes() -> None:
    assert redacted([], b"a", b"bc") == b"abc"
