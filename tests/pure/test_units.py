"""Durations and times, also at their edges: what cannot be written exactly, what is too long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.001, "0.001s"),
        (0.1, "0.1s"),
        (1, "1s"),
        (90, "90s"),
        (60, "1m"),
        (3600, "1h"),
        (86400, "1d"),
    ],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert units.in_words(seconds) == text


@given(
    st.integers(0, 10**9 - 1), st.integers(0, 999), st.sampled_from(["", "ms", "s", "m", "h", "d"])
)
@settings(deadline=None)
def test_every_duration_with_three_decimals_is_read(whole: int, part: int, unit: str) -> None:
    factor = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert units.duration(f"{whole}.{part:03}{unit}") == pytest.approx(
        (whole + part / 1000) * factor
    )


@given(st.text(max_size=12))
@settings(deadline=None)
def test_any_text_is_a_duration_or_a_sentence(text: str) -> None:
    try:
        units.duration(text)
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    assert not said or "is no duration; write 90, 90s" in said


@pytest.mark.parametrize("text", ["9" * 10, "1.", ".5", "1.2345", "1S", "1s ", "1\n", "0x1", "1_0"])
def test_a_duration_has_one_spelling(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        units.duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5m", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("5ms", 0.005),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "1 m", "m", "1w", "1e3", "inf", "٣", "1m30s", " 1"])
def test_what_is_no_duration_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        units.duration(text)


@given(st.integers(1, 10**8))
def test_durations_are_written_as_they_are_read(seconds: int) -> None:
    assert units.duration(units.in_words(seconds)) == seconds


@given(st.integers(0, 4 * 10**12))
def test_times_keep_their_milliseconds(ms: int) -> None:
    text = units.rfc3339(ms / 1000)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert abs(units.epoch(text) - ms / 1000) < 0.0011
