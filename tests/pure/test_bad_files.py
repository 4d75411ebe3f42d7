"""Bad files, and the exact words that each gets: the table is `data/bad_files.txt`."""

from __future__ import annotations

import pytest
from anyfile import FILES, complaints, insist
from badfiles import Case, cases
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.complaints import complain

PIECES = [line + b"\n" for case in cases() for line in case.data.split(b"\n")]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_a_bad_file_gets_these_words(case: Case) -> None:
    assert complain(complaints(case.file, case.data), case.file) == case.said


def test_the_table_is_read() -> None:
    assert len(cases()) >= 60


@given(
    st.sampled_from(FILES),
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=9), max_size=9).map(b"".join),
)
@settings(deadline=None, max_examples=300)
def test_whatever_is_put_together_of_them_gets_a_decent_answer(file: str, data: bytes) -> None:
    """The same for ten minutes, guided by coverage: tests/fuzz."""
    insist(file, data)
