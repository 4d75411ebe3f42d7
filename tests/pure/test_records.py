"""Records come back from JSON as they were, whatever stands in them."""

from __future__ import annotations

import contextlib
import json
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd import records
from runnerd.model import (
    Artifact,
    Claim,
    JobId,
    JobSpec,
    Limits,
    OnDuplicate,
    Problem,
    Reason,
    Refusal,
    Retry,
    StartMark,
    State,
    Step,
    Submitter,
)
from runnerd.outcome import Attempt, Result, Status, Usage

T = TypeVar("T")

# Surrogates too: a text that was no UTF-8 is kept with them.
TEXT = st.text(st.characters(), max_size=8)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63), 2**63)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)

KEY = st.sampled_from(["id", "name", "state", "pid", "submitter"]) | TEXT
TREE = st.recursive(
    st.none() | st.booleans() | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=8,
)


def or_none(inner: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.none() | inner


PROBLEM = st.builds(
    Problem,
    code=TEXT,
    message=TEXT,
    line=or_none(WHOLE),
    column=or_none(WHOLE),
    snippet=or_none(TEXT),
)
STEP = st.builds(
    Step,
    executor=TEXT,
    run=or_none(TEXT),
    command=or_none(st.lists(TEXT, max_size=3).map(tuple)),
    env=TEXTS,
)
SPEC = st.builds(
    JobSpec,
    steps=st.lists(STEP, max_size=2).map(tuple),
    name=or_none(TEXT),
    timeout_s=or_none(FLOAT),
    labels=TEXTS,
    secrets=TEXTS,
    limits=or_none(st.builds(Limits, memory_bytes=or_none(WHOLE), cpu=or_none(FLOAT))),
    retry=or_none(st.builds(Retry, max=WHOLE, on=st.lists(st.sampled_from(Reason)).map(tuple))),
    artifacts=st.lists(st.builds(Artifact, path=TEXT), max_size=2).map(tuple),
    on_duplicate=st.sampled_from(OnDuplicate),
    parameters=st.lists(TEXT, max_size=2).map(tuple),
)
REFUSAL = st.builds(
    Refusal,
    reason=st.sampled_from([Reason.INVALID, Reason.DENIED]),
    problems=st.lists(PROBLEM, max_size=2).map(tuple),
)
CLAIM = st.builds(
    Claim,
    id=TEXT.map(JobId),
    file=TEXT,
    submitter=st.builds(Submitter, uid=WHOLE, user=TEXT),
    submitted_at=FLOAT,
    boot_id=TEXT,
    text=or_none(TEXT),
    spec=or_none(SPEC),
    refusal=or_none(REFUSAL),
)
ATTEMPT = st.builds(
    Attempt,
    number=WHOLE,
    started_at=or_none(TEXT),
    finished_at=TEXT,
    duration_s=or_none(FLOAT),
    reason=or_none(st.sampled_from(Reason)),
    exit_code=or_none(WHOLE),
    signal=or_none(TEXT),
)
USAGE = st.builds(
    Usage,
    cpu_user_s=FLOAT,
    cpu_system_s=FLOAT,
    max_memory_bytes=or_none(WHOLE),
    read_bytes=WHOLE,
    write_bytes=WHOLE,
)
RESULT = st.builds(
    Result,
    id=TEXT.map(JobId),
    file=TEXT,
    name=or_none(TEXT),
    state=st.sampled_from(State),
    reason=or_none(st.sampled_from(Reason)),
    message=TEXT,
    exit_code=or_none(WHOLE),
    signal=or_none(TEXT),
    submitter=TEXT,
    user=or_none(TEXT),
    host=TEXT,
    executor=or_none(TEXT),
    submitted_at=TEXT,
    started_at=or_none(TEXT),
    finished_at=TEXT,
    duration_s=or_none(FLOAT),
    attempts=st.lists(ATTEMPT, max_size=2).map(tuple),
    usage=or_none(USAGE),
    truncated=st.lists(TEXT, max_size=2).map(tuple),
    labels=TEXTS,
    error=or_none(PROBLEM),
    errors=st.lists(PROBLEM, max_size=2).map(tuple),
    runnerd=TEXT,
)


@given(CLAIM)
@settings(deadline=None)
def test_a_claim_comes_back_as_it_was(claim: Claim) -> None:
    assert records.loads(Claim, records.dumps(claim)) == claim
    assert records.loads(Claim, records.terse(claim)) == claim


@given(RESULT)
@settings(deadline=None)
def test_a_result_comes_back_as_it_was(result: Result) -> None:
    assert records.loads(Result, records.dumps(result)) == result
    assert records.loads(Result, records.pretty(result)) == result


@given(CLAIM)
@settings(deadline=None)
def test_a_record_is_one_line_of_ascii(claim: Claim) -> None:
    data = records.dumps(claim)
    assert data.isascii()
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("boot_id", 5),
        ("boot_id", None),
        ("runner_pid", "5"),
        ("runner_pid", 1.5),
        ("runner_pid", True),
        ("started_at", "now"),
        ("started_at", []),
    ],
)
def test_a_value_of_another_type_is_no_record(key: str, value: object) -> None:
    good = {"boot_id": "b", "runner_pid": 5, "started_at": 1.5}
    assert records.loads(StartMark, json.dumps(good))
    with pytest.raises(ValueError, match="StartMark: expected"):
        records.loads(StartMark, json.dumps({**good, key: value}))


@given(TREE)
@settings(deadline=None)
def test_any_json_is_a_record_or_a_value_error(tree: object) -> None:
    for kind in (Status, Claim, Result, StartMark):
        with contextlib.suppress(ValueError):
            assert isinstance(records.loads(kind, json.dumps(tree)), kind)
