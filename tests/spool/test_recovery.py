"""Whatever a crash leaves in running/: each job ends in one place, and runs at most once."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dying import Died, DyingDisk, FailingDisk
from spoolbox import SECRETS, SETUP, Opener

from runnerd import records
from runnerd.admit import judge, refuse
from runnerd.conclude import Origin, conclude
from runnerd.controlbox import ControlBox
from runnerd.disk import Disk
from runnerd.executors import known
from runnerd.jobdir import Claimed
from runnerd.model import (
    Claim,
    JobId,
    JobSpec,
    Problem,
    Reason,
    Refusal,
    StartMark,
    State,
    Step,
    Submitter,
)
from runnerd.outcome import Attempt, Ended, Exited, Postponed, Result
from runnerd.recovery import Finding, Traces, classify, why_interrupted
from runnerd.runner import Runner, origin
from runnerd.salvage import salvage
from runnerd.spool import Spool
from runnerd.traces import read_claim


def put(root: Path, name: str, text: str) -> None:
    (root / "incoming" / name).write_text(text)


def claim(spool: Spool, name: str) -> Claimed:
    with judge(spool, name, SETUP, now=time.time()) as judged:
        claimed = spool.claim(judged)
    assert claimed is not None
    return claimed


def live(spool: Spool, name: str) -> None:
    """What the daemon and a runner do with one file, in one process."""
    now = time.time()
    with judge(spool, name, SETUP, now=now) as judged:
        if isinstance(judged.verdict, Refusal):
            refuse(spool, judged, origin(), now=now)
            return
        claimed = spool.claim(judged)
    assert claimed is not None
    try:
        run(spool, claimed)
    finally:
        claimed.close()


def run(spool: Spool, claimed: Claimed) -> None:
    runner = Runner(spool, known(), SECRETS, origin())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)  # noqa: FBT003
        runner.run(claimed, runner.prepare(claimed), ours)


def die(root: Path, at: int, step: Callable[[Spool], None]) -> bool:
    """Take a step in a process of its own that dies before the at-th change; whether it died."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            step(Spool.open(root, disk=DyingDisk(at)))
            status = 0
        except Died:
            status = 7
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 7)
    return status == 7


def recover(spool: Spool) -> None:
    """A new daemon: settle what is in running/, then run what is in incoming/."""
    for name in spool.unfinished():
        claimed = salvage(spool, name, origin()).claimed
        if claimed is not None:
            run(spool, claimed)
            claimed.close()
    for name in spool.look():
        live(spool, name)


def results(root: Path) -> list[Result]:
    found = [*(root / "done").iterdir(), *(root / "failed").iterdir()]
    return [records.loads(Result, (each / "result.json").read_bytes()) for each in found]


@pytest.mark.parametrize("dies_again", [False, True])
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


@pytest.mark.parametrize("on", ["exit", "exit, interrupted"])
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
    spool.postpone(claimed, attempt)
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
    traces, claimed = spool.examine(name)
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


@pytest.mark.parametrize("fails_at", range(6))
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


def test_a_torn_start_mark_does_not_hide_the_next_one(tmp_path: Path, open_spool: Opener) -> None:
    root = tmp_path / "spool"
    spool = open_spool(root)
    put(root, "job.yaml", "run: echo x")
    claimed = claim(spool, "job.yaml")
    Disk().append(claimed.lock_fd, b'\n{"boot_id": "to')
    spool.mark_started(claimed, now=time.time())
    claimed.close()
    traces, again = spool.examine("job")
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
        (Traces(files=frozenset({"job.yaml"})), Finding.RETURNING),
        (Traces(claim=READY, files=TAKEN), Finding.UNSTARTED),
        (Traces(claim=replace(READY, boot_id=ELSEWHERE), files=TAKEN), Finding.INTERRUPTED),
        (Traces(claim=READY, mark=MARK, files=TAKEN), Finding.INTERRUPTED),
        (Traces(claim=REFUSED, files=TAKEN), Finding.REFUSED),
        (Traces(claim=replace(REFUSED, boot_id=ELSEWHERE), files=TAKEN), Finding.REFUSED),
        (Traces(files=TAKEN), Finding.STRANGE),
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
