"""Attempts: how often, when, and what is kept of each."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoolbox import SpoolBox, until

from runnerd.model import JobSpec, Reason, Retry, State, Step
from runnerd.retry import SPREAD, delay_after

COUNT = "echo x >> ../work/tries; n=$(wc -l < tries); echo attempt $n of $RUNNER_ATTEMPT"


def test_a_job_is_tried_until_it_succeeds(box: SpoolBox) -> None:
    box.start()
    job = f"run: |\n  {COUNT}\n  test $n = 3\nretry: {{max: 5, delay: 0.05s, backoff: 1}}\n"
    result = box.run("j", job)
    assert (result.state, result.exit_code) == (State.DONE, 0)
    assert [(each.number, each.exit_code, each.log) for each in result.attempts] == [
        (1, 1, "output.1.log"),
        (2, 1, "output.2.log"),
        (3, 0, "output.log"),
    ]
    assert box.output("j") == "attempt 3 of 3\n"
    for number in (1, 2):
        log = box.path("done", "j", f"output.{number}.log").read_text()
        assert log == f"attempt {number} of {number}\n"


def test_a_job_that_never_succeeds_is_tried_as_often_as_it_says(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: exit 3\nretry: {max: 2, delay: 0.05s}")
    assert (result.reason, len(result.attempts)) == (Reason.EXIT, 3)
    assert box.run("k", "run: kill -9 $$\nretry: {max: 2, delay: 0}").reason is Reason.SIGNAL
    assert len(box.result("k").attempts) == 1  # only exit and timeout, unless it says so


def test_a_waiting_attempt_holds_no_slot_and_survives_a_restart(box: SpoolBox) -> None:
    box.start(slots=1)
    box.drop(
        "j", "run: test -e ../work/flag || { touch flag; exit 1; }\nretry: {max: 1, delay: 2s}"
    )
    until(lambda: "attempt 1 failed" in box.log.read_text(), "no attempt failed")
    assert box.run("other", "run: echo x").state is State.DONE
    status = json.loads(box.path("running", "j", "status.json").read_text())
    assert status["retry_at"] is not None
    box.kill()
    box.start(slots=1)
    assert box.path("running", "j").exists()
    result = box.result("j")
    assert (result.state, len(result.attempts)) == (State.DONE, 2)


def test_an_interrupted_job_is_tried_again_if_it_says_so(box: SpoolBox) -> None:
    box.start()
    job = "run: test -e flag && exit 0; touch flag; sleep 1000\nretry: {max: 1, delay: 0, on: [%s]}"
    for name, on, ends in (
        ("yes", "interrupted", [Reason.INTERRUPTED, None]),
        ("no", "exit", [Reason.INTERRUPTED]),
    ):
        box.drop(name, job % on)
        until(box.path("running", name, "work", "flag").exists, "it does not run")
        runner = next(each for each in box.runners() if each.children())
        runner.kill()
        assert [each.reason for each in box.result(name).attempts] == ends


def test_the_times_of_attempts_are_those_that_were_asked_for(box: SpoolBox) -> None:
    box.start()
    began = time.monotonic()
    box.run("j", "run: exit 1\nretry: {max: 2, delay: 0.4s, backoff: 2}")
    assert time.monotonic() - began >= (0.4 + 0.8) * (1 - SPREAD)


def spec(**more: object) -> JobSpec:
    return JobSpec(steps=(Step(run="x"),), retry=Retry(**{"max": 3, **more}))  # type: ignore[arg-type]


@given(st.integers(1, 100), st.floats(0, 1), st.floats(0, 100), st.floats(1, 10))
def test_delays_grow_to_their_limit_and_no_further(
    failures: int, chance: float, delay_s: float, backoff: float
) -> None:
    job = spec(max=1000, delay_s=delay_s, backoff=backoff, max_delay_s=60.0)
    delay = delay_after(job, Reason.EXIT, failures=failures, chance=chance)
    assert delay is not None
    middle = min(60.0, delay_s * backoff ** (failures - 1))
    assert middle * (1 - SPREAD) - 1e-6 <= delay <= middle * (1 + SPREAD) + 1e-6


@pytest.mark.parametrize("reason", [None, *Reason])
def test_only_what_was_asked_for_is_tried_again(reason: Reason | None) -> None:
    asked = (Reason.LIMIT, Reason.EXECUTOR)
    found = delay_after(spec(on=asked), reason, failures=1, chance=0.5)
    assert (found is not None) == (reason in asked)
    assert delay_after(spec(on=asked), Reason.LIMIT, failures=4, chance=0.5) is None


def test_a_job_that_removes_its_directory_and_fails_is_filed_and_not_lost(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", 'run: rm -rf "$RUNNER_JOB_DIR"; exit 3\nretry: {max: 5, delay: 1h}')
    assert (result.reason, result.exit_code) == (Reason.EXIT, 3)


def test_what_a_job_makes_in_its_directory_does_not_keep_it_from_being_filed(
    box: SpoolBox,
) -> None:
    box.start()
    result = box.run("j", "run: mkdir ../.cache ../status.json.d; touch ../.file")
    assert result.state is State.DONE
    assert not (box.path("done", "j") / ".file").exists()
