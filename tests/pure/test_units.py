"""Durations at their edges: what cannot be written exactly, and what is too long to be meant."""

from __future__ import annotations

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
