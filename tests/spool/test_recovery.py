"""Whatever a crash leaves in running/: each job ends in one place, and runs at most once."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dying import Died, DyingDisk
from spoolbox import Opener, SpoolBox, until

from runnerd import records
from runnerd.admit import judge, refuse
from runnerd.disk import Disk
from runnerd.executors import known
from runnerd.model import Claim, Reason, Refusal, Result, State
from runnerd.recovery import Finding
from runnerd.runner import Runner, origin
from runnerd.salvage import salvage
from runnerd.spool import Claimed, Spool


def put(root: Path, name: str, text: str) -> None:
    (root / "incoming" / name).write_text(text)


def claim(spool: Spool, name: str) -> Claimed:
    with judge(spool, name, executors=["shell"], now=time.time()) as judged:
        claimed = spool.claim(
            judged.name, judged.status, judged.submitter, judged.verdict, judged.text
        )
    assert claimed is not None
    return claimed


def live(spool: Spool, name: str) -> None:
    """What the daemon and a runner do with one file, in one process."""
    now = time.time()
    with judge(spool, name, executors=["shell"], now=now) as judged:
        if isinstance(judged.verdict, Refusal):
            refuse(spool, judged, origin(), now=now)
            return
        claimed = spool.claim(
            judged.name, judged.status, judged.submitter, judged.verdict, judged.text
        )
    assert claimed is not None
    try:
        run(spool, claimed)
    finally:
        claimed.close()


def run(spool: Spool, claimed: Claimed) -> None:
    runner = Runner(spool, known(), origin())
    runner.run(claimed, *runner.prepare(claimed))


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
        _, claimed = salvage(spool, name, origin())
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


def salvage_finding(spool: Spool, name: str) -> Finding:
    from runnerd import recovery  # noqa: PLC0415

    traces, claimed = spool.examine(name)
    if claimed is not None:
        claimed.close()
    return recovery.classify(traces, boot_id=spool.boot_id)


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
    with judge(spool, "job.yaml", executors=["shell"], now=time.time()) as judged:
        put(root, ".new", "run: echo new\n")
        (root / "incoming" / ".new").rename(root / "incoming" / "job.yaml")
        claimed = spool.claim(
            judged.name, judged.status, judged.submitter, judged.verdict, judged.text
        )
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


# --- with a daemon ------------------------------------------------------------------------------


def prepare(box: SpoolBox, *, started: bool, boot_id: str | None = None) -> None:
    """A job that somebody claimed, and perhaps started, before dying."""
    with contextlib.closing(Spool.open(box.root)) as spool:
        _prepare(box, spool, started=started, boot_id=boot_id)


def _prepare(box: SpoolBox, spool: Spool, *, started: bool, boot_id: str | None) -> None:
    if boot_id is not None:
        spool.boot_id = boot_id
    put(box.root, "job.yaml", "run: echo x")
    claimed = claim(spool, "job.yaml")
    if started:
        spool.mark_started(claimed, now=time.time())
    claimed.close()


def test_a_job_claimed_and_not_started_is_started(box: SpoolBox) -> None:
    prepare(box, started=False)
    box.start()
    assert box.result("job").state is State.DONE


@pytest.mark.parametrize(
    ("started", "boot_id", "part"),
    [
        (True, None, "runner was killed"),
        (True, "another", "machine was restarted"),
        (False, "another", "machine was restarted"),
    ],
)
def test_a_job_that_may_have_run_is_interrupted(
    box: SpoolBox, part: str, boot_id: str | None, *, started: bool
) -> None:
    prepare(box, started=started, boot_id=boot_id)
    box.start()
    result = box.result("job")
    assert (result.state, result.reason, result.exit_code) == (
        State.FAILED,
        Reason.INTERRUPTED,
        None,
    )
    assert part in result.message


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


def test_rubbish_in_running_is_set_aside_and_the_rest_goes_on(box: SpoolBox) -> None:
    prepare(box, started=False)
    running = box.path("running")
    (running / "file").write_text("what is this")
    (running / "link").symlink_to("/etc")
    (running / "stranger").mkdir()
    (running / "stranger" / "data").write_text("kept")
    (running / "garbled").mkdir()
    (running / "garbled" / ".claim").write_text("{nonsense")
    (running / "garbled" / "job.yaml").write_text("run: echo no")
    (running / "empty").mkdir()
    box.start()
    assert box.result("job").state is State.DONE
    until(lambda: not os.listdir(running), "running/ is not empty")
    assert sorted(os.listdir(box.path("failed"))) == ["file", "garbled", "link", "stranger"]
    assert box.path("failed", "stranger", "data").read_text() == "kept"
    assert box.path("failed", "link").readlink() == Path("/etc")
    assert box.api.job("stranger").result is not None
