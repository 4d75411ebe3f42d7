"""Every end has a result, a sentence and an exit status; the log has one line for it."""

from __future__ import annotations

import pytest

from runnerd import events, records
from runnerd.conclude import Origin, conclude, conclude_refused, exit_status, judge
from runnerd.model import Claim, JobId, JobSpec, Problem, Reason, Refusal, State, Step, Submitter
from runnerd.outcome import (
    Ended,
    Exited,
    Lost,
    NotStarted,
    Outcome,
    Result,
    Signalled,
    Stopped,
    Usage,
)

ORIGIN = Origin(host="h", version="0")
OUTCOMES: list[Outcome] = [
    Exited(0),
    Exited(3),
    Signalled(15),
    Signalled(40),
    Stopped(Reason.TIMEOUT, "too long"),
    Stopped(Reason.CANCELLED, "cancelled"),
    NotStarted("no program"),
    Lost("not known"),
]


def a_claim(**more: object) -> Claim:
    fields = {
        "id": JobId("j"),
        "file": "j.yaml",
        "submitter": Submitter(uid=1, user="u"),
        "submitted_at": 1.0,
        "boot_id": "b",
        **more,
    }
    return Claim(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_has_a_reason_a_sentence_and_an_exit_status(outcome: Outcome) -> None:
    reason, sentence = judge(outcome)
    assert sentence
    spec = JobSpec(steps=(Step(run="x"),), name="n", labels={"a": "b"})
    usage = Usage(
        cpu_user_s=0.1, cpu_system_s=0.2, max_memory_bytes=None, read_bytes=1, write_bytes=2
    )
    ended = Ended(outcome=outcome, started_at=2.0, finished_at=3.0, duration_s=1.0, usage=usage)
    result = conclude(a_claim(spec=spec), ended, ORIGIN)
    assert (result.state is State.DONE) == (reason is None) == (outcome == Exited(0))
    assert result.attempts[0].reason is reason
    assert (exit_status(result) == 0) == (reason is None)
    assert records.loads(Result, records.dumps(result)) == result
    assert records.loads(Result, records.pretty(result)) == result


def test_an_unknown_end_has_no_exit_code() -> None:
    ended = Ended(outcome=Lost("gone"), started_at=None, finished_at=3.0, duration_s=None)
    result = conclude(a_claim(spec=JobSpec(steps=(Step(run="x"),))), ended, ORIGIN)
    assert (result.exit_code, result.signal, result.reason) == (None, None, Reason.INTERRUPTED)


def test_a_refusal_tells_the_first_fault_and_counts_the_others() -> None:
    problems = (
        Problem(code="a", message="first", line=2, column=3, snippet="x"),
        Problem(code="b", message="second"),
    )
    refusal = Refusal(reason=Reason.INVALID, problems=problems)
    claim = a_claim(refusal=refusal, text="\udcff")
    result = conclude_refused(claim, refusal, 5.0, ORIGIN)
    assert result.message == "line 2, column 3: first (and 1 more)"
    assert result.errors == problems
    assert records.loads(Claim, records.dumps(claim)) == claim


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"id": 1}', b'{"id": "x", "file": null}', b"nonsense", b"null"]
)
def test_what_is_no_record_is_said(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json's own error is one
        records.loads(Claim, data)


def test_a_record_of_a_newer_runnerd_can_be_read() -> None:
    claim = a_claim()
    data = records.dumps(claim).replace(b'{"id"', b'{"novelty": [1], "id"')
    assert records.loads(Claim, data) == claim


def test_a_log_line_is_one_line() -> None:
    event = events.JobRefused(
        id="j", reason=Reason.INVALID, file="a\nb\x1b[2J", message="x\u2028y\r", user="u"
    )
    assert str(event) == "j: refused as invalid, a\\x0ab\\x1b[2J: x\\x2028y\\x0d"
