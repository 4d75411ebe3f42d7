"""Whatever a crash leaves in running/: each job ends in one place, and runs at most once."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dying import FailingDisk, ForgetfulDisk
from inprocess import claim, die, live, recover, results, run
from spoolbox import SETUP, Opener

from runnerd import filing, traces
from runnerd.admit import judge
from runnerd.conclude import Origin, conclude
from runnerd.controlbox import ControlBox
from runnerd.disk import Disk
from runnerd.jobdir import Claimed
from runnerd.model import (
    Account,
    Claim,
    JobId,
    JobSpec,
    Problem,
    Reason,
    Refusal,
    Retry,
    StartMark,
    State,
    Step,
    Submitter,
)
from runnerd.outcome import Attempt, Ended, Exited, Postponed
from runnerd.recovery import Finding, Traces, classify, is_sound, why_interrupted
from runnerd.remains import examine
from runnerd.runner import origin
from runnerd.running import waiting_of
from runnerd.salvage import salvage
from runnerd.schedule import lane_of
from runnerd.spool import Spool
from runnerd.traces import read_claim


def put(root: Path, name: str, text: str) -> None:
    (root / "incoming" / name).write_text(text)


@pytest.mark.parametrize("dies_again", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_a_job_that_dies_anywhere_ends_once_and_runs_at_most_once(
    tmp_path: Path, open_spool: Opener, *, dies_again: bool
) -> None:
    findings = set()
    for at in itertools.count():
        root, ran = tmp_path / f"spool{at}", tmp_path / f"ran{at}"
        spool = open_spool(root)
        put(root, "job.yaml", f"run: echo x >> {ran}\n")
        died = die(root, at, lambda spool: live(spool, "job.yaml"))
        for name in spool.unfinished():
            findings.add(salvage_finding(spool, name))
        if dies_again:
            again = 0
            while die(root, again, recover):
                again += 3  # so that each recovery gets further than the one before
        recover(spool)
        (result,) = results(root)
        starts = len(ran.read_text().split()) if ran.exists() else 0
        assert starts <= 1, f"died before change {at}: ran {starts} times"
        assert result.state is not State.DONE or starts == 1, f"died before change {at}"
        assert not os.listdir(root / "running")
        assert not os.listdir(root / "incoming")
        where = "done" if result.state is State.DONE else "failed"
        assert (root / where / "job" / "job.yaml").read_text() == f"run: echo x >> {ran}\n"
        if not died:
            assert result.state is State.DONE
            break
    assert at > 15
    assert findings == {
        *(Finding.UNCLAIMED, Finding.UNSTARTED, Finding.INTERRUPTED, Finding.FINISHED),
    }


@pytest.mark.parametrize("on", ["exit, interrupted", pytest.param("exit", marks=pytest.mark.heavy)])
def test_no_attempt_is_made_twice_wherever_its_runner_dies(
    tmp_path: Path, open_spool: Opener, on: str
) -> None:
    """Twice at most, as it asks for; what was interrupted only if it asks for that too."""
    findings = set()
    for at in itertools.count():
        root, ran = tmp_path / f"spool{at}", tmp_path / f"ran{at}"
        spool = open_spool(root)
        retry = f"{{max: 1, delay: 0, on: [{on}]}}"
        put(root, "job.yaml", f"run: echo x >> {ran}; exit 1\nretry: {retry}")
        died = die(root, at, live_to_the_end)
        for name in spool.unfinished():
            findings.add(salvage_finding(spool, name))
        while spool.unfinished() or spool.look():
            recover(spool)
        (result,) = results(root)
        starts = len(ran.read_text().split()) if ran.exists() else 0
        reasons = [each.reason for each in result.attempts]
        assert [each.number for each in result.attempts] == list(range(1, len(reasons) + 1))
        assert starts <= len(reasons) <= 2, f"died before change {at}: ran {starts} times"
        assert reasons.count(Reason.EXIT) <= starts
        if on == "exit" and Reason.INTERRUPTED in reasons:
            assert reasons[-1] is Reason.INTERRUPTED
        logs = {each.log for each in result.attempts}
        assert logs <= {"output.1.log", "output.log"}
        if not died:
            assert reasons == [Reason.EXIT, Reason.EXIT]
            break
    assert at > 25
    assert Finding.WAITING in findings


def test_a_line_that_was_written_twice_is_one_attempt(open_spool: Opener, tmp_path: Path) -> None:
    """Its sync failed the first time, and all of it was done again."""
    spool = open_spool(tmp_path / "spool")
    put(spool.root, "job.yaml", "run: exit 1\nretry: {max: 3, delay: 1h, max_delay: 1h}")
    claimed = claim(spool, "job.yaml")
    run(spool, claimed)
    attempt = Postponed(
        attempt=replace(spool_attempts(claimed)[0], message="again"), retry_at=time.time()
    )
    filing.postpone(spool, claimed, attempt)
    assert [each.message for each in spool_attempts(claimed)] == ["again"]
    claimed.close()


def spool_attempts(claimed: Claimed) -> tuple[Attempt, ...]:
    return read_claim(claimed.lock_fd).attempts


def live_to_the_end(spool: Spool) -> None:
    live(spool, "job.yaml")
    while spool.unfinished():
        recover(spool)


def test_a_cancelled_job_is_filed_wherever_its_runner_dies(
    tmp_path: Path, open_spool: Opener
) -> None:
    for at in itertools.count():
        root, ran = tmp_path / f"spool{at}", tmp_path / f"ran{at}"
        spool = open_spool(root)
        put(root, "job.yaml", f"run: echo x >> {ran}\nretry: {{max: 9, delay: 0}}")
        claim(spool, "job.yaml").close()
        ControlBox(spool).cancel(JobId("job"), "somebody")
        died = die(root, at, recover)
        recover(spool)
        (result,) = results(root)
        assert result.reason is Reason.CANCELLED
        assert not ran.exists()
        assert not os.listdir(root / "running")
        assert not [each for each in os.listdir(root / "failed/job") if each == ".cancel"]
        if not died:
            break
    assert at > 3


def salvage_finding(spool: Spool, name: str) -> Finding:
    traces, claimed = examine(spool, name)
    if claimed is not None:
        claimed.close()
    return classify(traces, boot_id=spool.boot_id)


@pytest.mark.parametrize("content", ["run: [\n", None])
def test_a_refused_file_is_answered_wherever_the_daemon_dies(
    tmp_path: Path, open_spool: Opener, content: str | None
) -> None:
    for at in itertools.count():
        root = tmp_path / f"spool{at}"
        spool = open_spool(root)
        if content is None:
            (root / "incoming" / "job.yaml").symlink_to("/etc/passwd")
        else:
            put(root, "job.yaml", content)
        died = die(root, at, lambda spool: live(spool, "job.yaml"))
        recover(spool)
        (result,) = results(root)
        assert result.reason is Reason.INVALID
        assert not os.listdir(root / "running") + os.listdir(root / "incoming")
        assert not (root / "failed" / "job" / "job.yaml").is_symlink()
        if not died:
            break
    assert at > 10


def test_a_claim_that_is_put_back_survives_a_death_anywhere(
    tmp_path: Path, open_spool: Opener
) -> None:
    for at in itertools.count():
        root, ran = tmp_path / f"spool{at}", tmp_path / f"ran{at}"
        spool = open_spool(root)
        put(root, "job.yaml", f"run: echo x >> {ran}\n")
        claimed = claim(spool, "job.yaml")
        claimed.close()

        def undo(spool: Spool) -> None:
            with spool.open_running("job") as dir_fd:
                spool.put_back("job", "job.yaml", dir_fd)

        died = die(root, at, undo)
        recover(spool)
        (result,) = results(root)
        assert (result.state, ran.read_text()) == (State.DONE, "x\n")
        if not died:
            break


@pytest.mark.parametrize("left", [0, 40])
def test_a_job_whose_claim_a_power_cut_tore_goes_back_and_runs_once(
    tmp_path: Path, open_spool: Opener, left: int
) -> None:
    for at in itertools.count():
        root, ran = tmp_path / f"spool{at}", tmp_path / f"ran{at}"
        spool = open_spool(root)
        put(root, "job.yaml", f"run: echo x >> {ran}\n")
        claim(spool, "job.yaml").close()
        os.truncate(root / "running/job/.claim", left)
        died = die(root, at, recover)
        recover(spool)
        (result,) = results(root)
        starts = len(ran.read_text().split()) if ran.exists() else 0
        assert starts <= 1, f"died before change {at}: ran {starts} times"
        assert result.id == "job"
        assert result.submitter, "it was set aside"
        assert result.state is not State.DONE or starts == 1
        if not died:
            assert result.state is State.DONE
            break
    assert at > 15


@pytest.mark.parametrize(
    "retry", ["[exit, interrupted]", pytest.param("[exit]", marks=pytest.mark.heavy)]
)
def test_no_attempt_is_made_twice_wherever_the_power_goes(
    tmp_path: Path, open_spool: Opener, retry: str
) -> None:
    for at in itertools.count():
        root, ran = tmp_path / f"spool{at}", tmp_path / f"ran{at}"
        spool = open_spool(root)
        job = (
            f"run: echo $RUNNER_ATTEMPT >> {ran}; exit 1\nretry: {{max: 1, delay: 0, on: {retry}}}"
        )
        put(root, "job.yaml", job)
        died = die(root, at, live_to_the_end, ForgetfulDisk)
        spool.boot_id = "another"
        while spool.unfinished() or spool.look():
            recover(spool)
        (result,) = results(root)
        made = ran.read_text().split() if ran.exists() else []
        assert len(made) == len(set(made)), f"died before change {at}: attempts {made}"
        assert result.submitter, f"died before change {at}: set aside"
        if not died:
            break
    assert at > 25


def test_a_refused_file_keeps_its_answer_wherever_the_power_goes(
    tmp_path: Path, open_spool: Opener
) -> None:
    for at in itertools.count():
        root = tmp_path / f"spool{at}"
        spool = open_spool(root)
        put(root, "job.yaml", "run: [\n")
        died = die(root, at, lambda spool: live(spool, "job.yaml"), ForgetfulDisk)
        recover(spool)
        (result,) = results(root)
        assert result.reason is Reason.INVALID, f"died before change {at}"
        assert (root / "failed/job/.claim").read_bytes(), f"died before change {at}"
        if not died:
            break
    assert at > 10


@pytest.mark.parametrize("named", [True, False])
def test_a_power_cut_that_undoes_the_last_renames_changes_no_result(
    tmp_path: Path, open_spool: Opener, *, named: bool
) -> None:
    root, ran = tmp_path / "spool", tmp_path / "ran"
    spool = open_spool(root)
    put(root, "job.yaml", f"run: echo x >> {ran}\nretry: {{max: 1, on: [interrupted]}}\n")
    live(spool, "job.yaml")
    (before,) = results(root)
    (root / "done/job").rename(root / "running/job")
    if not named:
        (root / "running/job/result.json").rename(root / "running/job/.result.json.new")
    spool.boot_id = "another"
    recover(spool)
    assert results(root) == [before]
    assert before.state is State.DONE
    assert ran.read_text() == "x\n"
    assert not list((root / "done/job").glob(".result*"))


@pytest.mark.parametrize("fails_at", range(4))
def test_a_sync_that_fails_once_costs_no_result(
    tmp_path: Path, open_spool: Opener, fails_at: int
) -> None:
    root, ran = tmp_path / "spool", tmp_path / "ran"
    spool = open_spool(root)
    put(root, "job.yaml", f"run: echo x | tee -a {ran}\n")
    spool.disk = FailingDisk(fails_at)
    with contextlib.suppress(OSError):  # before the start: the job is given back
        live(spool, "job.yaml")
    spool.disk = Disk()
    recover(spool)
    (result,) = results(root)
    assert (result.id, result.state) == ("job", State.DONE)
    assert ran.read_text() == "x\n"
    assert not os.listdir(root / "running")


class MarksTooLate(Spool):
    """A wrong order: the mark that the job may have begun comes after the job."""

    def mark_started(self, claimed: Claimed, *, now: float) -> None:
        pass


def test_the_harness_sees_a_wrong_order(tmp_path: Path, open_spool: Opener) -> None:
    most = 0
    for at in itertools.count():
        root, ran = tmp_path / f"spool{at}", tmp_path / f"ran{at}"
        spool = open_spool(root)
        put(root, "job.yaml", f"run: echo x >> {ran}\n")
        died = die(root, at, live_wrongly)
        recover(spool)
        most = max(most, len(ran.read_text().split()))
        if not died:
            break
    assert most == 2


def live_wrongly(spool: Spool) -> None:
    live(MarksTooLate.open(spool.root, disk=spool.disk), "job.yaml")


def test_a_file_replaced_during_the_claim_is_judged_anew(
    tmp_path: Path, open_spool: Opener
) -> None:
    root = tmp_path / "spool"
    spool = open_spool(root)
    put(root, "job.yaml", "run: echo old\n")
    with judge(spool, "job.yaml", SETUP, now=time.time()) as judged:
        put(root, ".new", "run: echo new\n")
        (root / "incoming" / ".new").rename(root / "incoming" / "job.yaml")
        claimed = spool.claim(judged)
    assert claimed is None
    assert (root / "incoming" / "job.yaml").read_text() == "run: echo new\n"
    assert not os.listdir(root / "running")


def test_a_descriptor_kept_from_before_reaches_nothing(tmp_path: Path, open_spool: Opener) -> None:
    root = tmp_path / "spool"
    spool = open_spool(root)
    put(root, "job.yaml", "run: echo judged\n")
    claimed = claim(spool, "job.yaml")
    with (root / "running" / "job" / "job.yaml").open("r+") as kept:
        kept.write("run: echo forged\n")
        kept.flush()
        run(spool, claimed)
        kept.write("run: echo forged again\n")
    claimed.close()
    assert (root / "done" / "job" / "output.log").read_text() == "judged\n"
    assert (root / "done" / "job" / "job.yaml").read_text() == "run: echo judged\n"


def test_a_job_file_that_nobody_holds_stays_the_one_that_was_dropped(
    tmp_path: Path, open_spool: Opener
) -> None:
    root = tmp_path / "spool"
    spool = open_spool(root)
    put(root, "job.yaml", "run: echo x\n")
    dropped = (root / "incoming" / "job.yaml").stat()
    claimed = claim(spool, "job.yaml")
    run(spool, claimed)
    claimed.close()
    assert os.path.samestat((root / "done" / "job" / "job.yaml").stat(), dropped)


def test_a_torn_start_mark_does_not_hide_the_next_one(tmp_path: Path, open_spool: Opener) -> None:
    root = tmp_path / "spool"
    spool = open_spool(root)
    put(root, "job.yaml", "run: echo x")
    claimed = claim(spool, "job.yaml")
    Disk().append(claimed.lock_fd, b'\n{"boot_id": "to')
    spool.mark_started(claimed, now=time.time())
    claimed.close()
    traces, again = examine(spool, "job")
    assert again is not None
    again.close()
    assert isinstance(traces.claim, Claim)
    assert traces.mark is not None


HERE, ELSEWHERE = "this boot", "another boot"
SPEC = JobSpec(steps=(Step(run="echo x"),))
REFUSAL = Refusal(reason=Reason.INVALID, problems=(Problem(code="empty", message="empty"),))
READY = Claim(
    id=JobId("job"),
    file="job.yaml",
    submitter=Submitter(uid=0, user="root"),
    submitted_at=1.0,
    boot_id=HERE,
    spec=SPEC,
)
REFUSED = replace(READY, spec=None, refusal=REFUSAL)
MARK = StartMark(boot_id=HERE, runner_pid=7, started_at=2.0)
ENDED = conclude(
    READY,
    Ended(outcome=Exited(0), started_at=2.0, finished_at=3.0, duration_s=1.0),
    Origin(host="h", version="0"),
)
TAKEN = frozenset({".claim", "job.yaml"})


@pytest.mark.parametrize(
    ("traces", "finding"),
    [
        (Traces(directory=False), Finding.STRANGE),
        (Traces(locked=True, claim=READY, result=ENDED, files=TAKEN), Finding.ALIVE),
        (Traces(claim=READY, mark=MARK, result=ENDED, files=TAKEN), Finding.FINISHED),
        (Traces(claim=REFUSED, result=ENDED, files=TAKEN), Finding.FINISHED),
        (Traces(), Finding.UNCLAIMED),
        (Traces(files=frozenset({".claim"})), Finding.UNCLAIMED),
        (Traces(claim=READY, files=frozenset({".claim"})), Finding.UNCLAIMED),
        (Traces(claim=REFUSED, files=frozenset({".claim", ".cancel"})), Finding.UNCLAIMED),
        (Traces(claim=READY, mark=MARK, files=frozenset({".claim"})), Finding.INTERRUPTED),
        (Traces(files=frozenset({"job.yaml"})), Finding.RETURNING),
        (Traces(claim=READY, files=TAKEN), Finding.UNSTARTED),
        (Traces(claim=replace(READY, boot_id=ELSEWHERE), files=TAKEN), Finding.INTERRUPTED),
        (Traces(claim=READY, mark=MARK, files=TAKEN), Finding.INTERRUPTED),
        (Traces(claim=REFUSED, files=TAKEN), Finding.REFUSED),
        (Traces(claim=replace(REFUSED, boot_id=ELSEWHERE), files=TAKEN), Finding.REFUSED),
        (Traces(files=TAKEN), Finding.RETURNING),
        (Traces(files=TAKEN | {"work"}), Finding.STRANGE),
        (Traces(claim=READY, files=TAKEN, filed=True), Finding.STRANGE),
        (Traces(claim=READY, retry_at=1.0, files=TAKEN, filed=True), Finding.STRANGE),
        (Traces(claim=READY, mark=MARK, files=TAKEN | {"result.json"}), Finding.STRANGE),
        (Traces(files=frozenset({".claim"}), plain=False), Finding.STRANGE),
        (Traces(claim=READY, result=ENDED, files=TAKEN, filed=True), Finding.FINISHED),
        (Traces(files=frozenset({"data"})), Finding.STRANGE),
        (Traces(files=frozenset({"job.yaml", "data"})), Finding.STRANGE),
    ],
)
def test_what_a_directory_in_running_means(traces: Traces, finding: Finding) -> None:
    assert classify(traces, boot_id=HERE) is finding


@pytest.mark.parametrize(
    ("traces", "part"),
    [
        (Traces(claim=READY, mark=MARK), "runner was killed"),
        (Traces(claim=READY, mark=replace(MARK, boot_id=ELSEWHERE)), "machine was restarted"),
        (Traces(claim=replace(READY, boot_id=ELSEWHERE)), "machine was restarted"),
    ],
)
def test_the_sentence_of_an_interrupted_job_says_what_happened(traces: Traces, part: str) -> None:
    assert part in why_interrupted(traces, boot_id=HERE)


def test_memory_is_blamed_only_if_the_kernel_killed_somebody_meanwhile() -> None:
    traces = Traces(claim=READY, mark=replace(MARK, oom_kills=3))
    assert "out of memory" in why_interrupted(traces, boot_id=HERE, oom_kills=4)
    assert "out of memory" not in why_interrupted(traces, boot_id=HERE, oom_kills=3)
    assert "out of memory" not in why_interrupted(traces, boot_id=HERE)
    assert "out of memory" not in why_interrupted(traces, boot_id="another", oom_kills=4)


def test_a_file_that_is_put_back_takes_nobodys_place(open_spool: Opener, tmp_path: Path) -> None:
    """Two were dropped under one name, and the claim met the second: neither may get lost."""
    spool = open_spool(tmp_path / "spool")
    put(spool.root, "job.yaml", "run: echo first")
    claimed = claim(spool, "job.yaml")
    put(spool.root, "job.yaml", "run: echo second")
    put(spool.root, "job.2.yaml", "run: echo third")
    spool.put_back(claimed.id, "job.yaml", claimed.dir_fd)
    claimed.close()
    texts = {each.name: each.read_text() for each in (spool.root / "incoming").iterdir()}
    assert texts == {
        "job.yaml": "run: echo second",
        "job.2.yaml": "run: echo third",
        "job.3.yaml": "run: echo first",
    }
    assert spool.unfinished() == []


def test_a_result_that_is_written_just_before_the_lock_is_free_counts(
    tmp_path: Path, open_spool: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner of an earlier daemon files its job while we look at it."""
    spool = open_spool(tmp_path / "spool")
    put(spool.root, "job.yaml", "run: echo x")
    claimed = claim(spool, "job.yaml")
    open_claim = traces.open_claim

    def meanwhile(dir_fd: int) -> int | None:
        run(spool, claimed)
        claimed.close()
        return open_claim(dir_fd)

    monkeypatch.setattr(traces, "open_claim", meanwhile)
    with pytest.raises(FileNotFoundError):
        salvage(spool, "job", origin())
    (result,) = results(spool.root)
    assert result.state is State.DONE


ACCOUNT = Account(uid=0, gid=0, groups=(0,), name="root", home="/", shell="/bin/sh")  # noqa: S604  # starts nothing
SOUND = replace(READY, account=ACCOUNT)
FAR = 10.0**12


@pytest.mark.parametrize(
    "claim",
    [
        READY,  # whom would it run as?
        replace(SOUND, spec=None),
        replace(SOUND, spec=JobSpec(steps=())),
        replace(SOUND, id=JobId("../job")),
        replace(SOUND, file="../job.yaml"),
        replace(SOUND, submitted_at=-1.0),
        replace(SOUND, submitted_at=FAR),
        replace(SOUND, submitter=Submitter(uid=-1, user="root")),
        replace(SOUND, submitter=Submitter(uid=2**32 - 1, user="root")),
        replace(SOUND, account=replace(ACCOUNT, uid=-1)),
        replace(SOUND, account=replace(ACCOUNT, gid=2**40)),
        replace(SOUND, account=replace(ACCOUNT, groups=(0, -1))),
        replace(SOUND, spec=replace(SPEC, retry=Retry(max=3, backoff=1e9))),
        replace(SOUND, spec=replace(SPEC, retry=Retry(max=3, delay_s=-1.0))),
        replace(SOUND, spec=replace(SPEC, retry=Retry(max=3, max_delay_s=FAR))),
        replace(SOUND, refusal=Refusal(reason=Reason.INVALID, problems=())),
    ],
)
def test_a_claim_with_what_nobody_can_reckon_with_is_none(claim: Claim) -> None:
    assert is_sound(SOUND)
    assert is_sound(REFUSED)
    assert not is_sound(claim)


WEIRD = ["-1", "0", "NaN", "Infinity", "1e308", "1" + "0" * 30, '""', '"x"', "[]", "{}", "null"]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "job", ["run: exit 1\nretry: {max: 3, delay: 1h}", "run: [", "run: echo x"]
)
def test_no_value_in_a_claim_stops_a_daemon(tmp_path: Path, open_spool: Opener, job: str) -> None:
    """Each value is damaged in turn, in the claim of a waiting, a refused and a cut job."""
    spool = open_spool(tmp_path / "spool")
    put(spool.root, "job.yaml", job)
    with judge(spool, "job.yaml", SETUP, now=time.time()) as judged:
        claimed = spool.claim(judged)
    assert claimed is not None
    if "exit" in job:
        run(spool, claimed)
    else:
        spool.mark_started(claimed, now=time.time())
    claimed.close()
    lines = (spool.root / "running/job/.claim").read_bytes().split(b"\n")
    tried = 0
    for number, line in enumerate(lines):
        for path in leaves(json.loads(line)) if line else ():
            for value in WEIRD:
                damaged = [*lines]
                damaged[number] = with_value(json.loads(line), path, value).encode()
                settle_damaged(spool, b"\n".join(damaged))
                tried += 1
    assert tried > 100


def settle_damaged(spool: Spool, claim: bytes) -> None:
    """Settle a job with this claim, as a daemon does, and forget it."""
    name = "job"
    for place in ("running", "done", "failed"):
        shutil.rmtree(spool.root / place / name, ignore_errors=True)
    directory = spool.root / "running" / name
    directory.mkdir()
    (directory / "job.yaml").write_text("run: echo x")
    (directory / ".claim").write_bytes(claim)
    found = salvage(spool, name, origin())
    if found.claimed is not None:
        if found.retry_at is not None:
            waiting_of(found.claimed, found.retry_at, now=time.time())
        lane_of(found.claimed.claim)
        found.claimed.close()


def leaves(value: object) -> Iterator[tuple[str | int, ...]]:
    """Where in a record a value can be damaged."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield (key,)
        yield from ((key, *rest) for rest in leaves(inner))


def with_value(record: Any, path: tuple[str | int, ...], value: str) -> str:
    """The record as JSON with this at that place."""
    at = record
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = "@@"
    return json.dumps(record).replace('"@@"', value)
