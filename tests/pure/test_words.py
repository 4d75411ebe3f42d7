"""Ids, units, records, the queue: small decisions, by the thousand."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd import events, ids, records, units
from runnerd.conclude import Origin, conclude, conclude_refused, exit_status, judge
from runnerd.config import read_config
from runnerd.errors import Invalid
from runnerd.fields import CONFIG, JOB
from runnerd.model import (
    Claim,
    Ended,
    Exited,
    JobId,
    JobSpec,
    Lost,
    NotStarted,
    Outcome,
    Problem,
    Reason,
    Refusal,
    Result,
    Signalled,
    State,
    Step,
    Stopped,
    Submitter,
    Usage,
)
from runnerd.parse import parse
from runnerd.schedule import Queue, Queued, scan_due

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


# --- ids ----------------------------------------------------------------------------------------


@given(st.text() | st.from_regex(r"[A-Za-z0-9._@+-]{1,140}\.yaml", fullmatch=True))
@settings(deadline=None)
def test_every_name_gives_an_id_that_is_a_safe_file_name(name: str) -> None:
    job_id, good = ids.wanted_id(name)
    assert ids.is_id(job_id)
    assert job_id not in (".", "..")
    assert "/" not in job_id
    assert not good or name.startswith(job_id)


@given(numbers=st.sets(st.integers(2, 40)), long=st.booleans())
@settings(deadline=None)
def test_the_free_id_is_free_and_near(numbers: set[int], *, long: bool) -> None:
    wanted = JobId("x" * (128 if long else 5))
    taken = {wanted, *(JobId(wanted[: 128 - len(f".{n}")] + f".{n}") for n in numbers)}
    free = ids.free_id(wanted, taken.__contains__)
    assert free not in taken
    assert ids.is_id(free)
    assert int(free.rpartition(".")[2]) <= 2 * (max(numbers, default=1) + 1)


def test_a_free_id_among_many_is_found_in_few_looks() -> None:
    looks = itertools.count()

    def taken(job_id: JobId) -> bool:
        next(looks)
        return job_id == "x" or int(job_id.rpartition(".")[2]) <= 100_000

    assert ids.free_id(JobId("x"), taken) == "x.100001"
    assert next(looks) < 50


# --- units --------------------------------------------------------------------------------------


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


# --- the queue ----------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 20), st.booleans()), max_size=40
    ),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_the_queue_serves_who_came_first(
    moves: list[tuple[str, int, bool]], free_slots: int
) -> None:
    queue, model = Queue(), {}
    for inode, (name, came, there) in enumerate(moves):
        if there:
            model[name] = Queued(dropped_at_ns=came, name=name, inode=inode)
            queue.add(model[name])
        else:
            model.pop(name, None)
            queue.discard(name)
    assert queue.names() == set(model)
    assert {queue.inode(name) for name in model} == {each.inode for each in model.values()}
    assert queue.next(free_slots=0) is None
    served = list(iter(lambda: queue.next(free_slots=free_slots + 1), None))
    assert served == sorted(model.values())
    assert len(queue) == 0


def test_a_long_scan_is_not_repeated_at_once() -> None:
    due = scan_due(woken=True, now=10.0, last=9.9, cost_s=0.1, rescan_s=60)
    assert due == pytest.approx(10.4)
    assert scan_due(woken=True, now=10.0, last=9.0, cost_s=0.001, rescan_s=60) == 10.0
    assert scan_due(woken=False, now=10.0, last=9.0, cost_s=0.001, rescan_s=60) == 69.0


# --- outcomes and results -----------------------------------------------------------------------


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
    spec = JobSpec(step=Step(executor="shell", run="x"), name="n", labels={"a": "b"})
    usage = Usage(
        cpu_user_s=0.1, cpu_system_s=0.2, max_memory_bytes=None, read_bytes=1, write_bytes=2
    )
    ended = Ended(outcome=outcome, started_at=2.0, finished_at=3.0, duration_s=1.0, usage=usage)
    result = conclude(a_claim(spec=spec), ended, ORIGIN)
    assert (result.state is State.DONE) == (reason is None) == (outcome == Exited(0))
    assert result.attempts[0].reason is reason
    assert (exit_status(result) == 0) == (reason is None)
    assert records.loads(Result, records.dumps(result)) == result
    assert records.loads(Result, records.dumps(result, indent=2)) == result


def test_an_unknown_end_has_no_exit_code() -> None:
    ended = Ended(outcome=Lost("gone"), started_at=None, finished_at=3.0, duration_s=None)
    result = conclude(a_claim(spec=JobSpec(step=Step(executor="shell", run="x"))), ended, ORIGIN)
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
        id="j", reason=Reason.INVALID, file="a\nb\x1b[2J", message="x\u2028y\r"
    )
    assert str(event) == "j: refused as invalid, a\\x0ab\\x1b[2J: x\\x2028y\\x0d"


# --- job files and configuration ----------------------------------------------------------------


def test_every_field_has_help_and_a_good_example() -> None:
    for field in JOB:
        assert field.help.endswith(".")
        text = f"{field.name}: {field.example}\n"
        if field.name not in ("run", "command"):
            text += "run: x\n"
        assert parse(text.encode(), executors=["shell"])
    for field in CONFIG:
        assert field.help.endswith(".")
        assert read_config(f"{field.name}: {field.example}\n".encode(), cpus=2)


def test_the_shipped_configuration_names_every_key_with_its_default() -> None:
    from pathlib import Path  # noqa: PLC0415

    text = (Path(__file__).parents[2] / "etc/runnerd.yaml").read_text()
    set_lines = re.findall(r"^# ([a-z_]+: \S+)$", text, re.MULTILINE)
    shipped = read_config("\n".join(set_lines).encode(), cpus=4)
    assert [line.partition(":")[0] for line in set_lines] == [field.name for field in CONFIG]
    assert shipped.spool == "/var/spool/runner"
    default = read_config(b"", cpus=4)
    assert (default.slots, default.group) == (shipped.slots, shipped.group)
    assert (default.runner_idle_s, default.rescan_s) == (shipped.runner_idle_s, shipped.rescan_s)
    assert read_config(text.encode(), cpus=4) == default
    for field in CONFIG:
        assert field.help in text.replace("\n# ", " ")


def test_a_job_file_becomes_what_it_says() -> None:
    data = b"name: N\ncommand: [a, 'b c']\nenv: {A: '1'}\ntimeout: 10m\nlabels: {x/y: z}\n"
    assert parse(data, executors=["shell"]) == JobSpec(
        step=Step(executor="shell", command=("a", "b c"), env={"A": "1"}),
        name="N",
        timeout_s=600,
        labels={"x/y": "z"},
    )


def test_a_file_with_many_faults_is_not_told_all_of_them() -> None:
    with pytest.raises(Invalid) as caught:
        parse("".join(f"a{n}: b\n" for n in range(5000)).encode(), executors=["shell"])
    assert len(caught.value.problems) <= 101
