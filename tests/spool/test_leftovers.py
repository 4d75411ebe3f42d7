"""What lies in running/ when a daemon starts: every row is settled, and nothing stops the rest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from invariant import filed_in
from spoolbox import SETUP, SpoolBox, until

from runnerd import filing
from runnerd.admit import judge
from runnerd.conclude import conclude
from runnerd.jobdir import Claimed
from runnerd.model import Reason, Refusal, State
from runnerd.outcome import Ended, Exited
from runnerd.runner import origin
from runnerd.spool import Spool

JOB = "run: echo x >> ../../../ran\n"


def claim(spool: Spool, name: str, text: str = JOB) -> Claimed:
    """What a daemon has done to a dropped file when it dies before it hands the job over."""
    (spool.root / "incoming" / name).write_text(text)
    with judge(spool, name, SETUP, now=time.time()) as judged:
        claimed = spool.claim(judged)
    assert claimed is not None
    return claimed


def lay(box: SpoolBox, *, started: bool = False, boot_id: str | None = None) -> None:
    """A job that somebody claimed, and perhaps started, before dying."""
    with contextlib.closing(Spool.open(box.root)) as spool:
        spool.boot_id = boot_id or spool.boot_id
        claimed = claim(spool, "job.yaml")
        if started:
            spool.mark_started(claimed, now=time.time())
        claimed.close()


def runs(box: SpoolBox) -> int:
    """How often the job ran."""
    ran = box.root / "ran"
    return len(ran.read_text().split()) if ran.exists() else 0


def is_settled(box: SpoolBox) -> bool:
    return not os.listdir(box.path("running")) + os.listdir(box.path("incoming"))


# --- rows of the table --------------------------------------------------------------------------


@pytest.mark.parametrize("files", [{}, {".claim": b""}, {".claim": b'{"id": "jo'}])
def test_a_file_whose_claim_never_happened_runs_once(
    box: SpoolBox, files: dict[str, bytes]
) -> None:
    Spool.open(box.root).close()
    box.path("incoming", "job.yaml").write_text(JOB)
    box.path("running", "job").mkdir()
    for name, content in files.items():
        box.path("running", "job", name).write_bytes(content)
    box.start()
    assert box.result("job").state is State.DONE
    until(lambda: is_settled(box), "something is left")
    assert runs(box) == 1
    assert not os.listdir(box.path("failed"))


def test_a_job_claimed_and_not_started_is_started(box: SpoolBox) -> None:
    lay(box)
    box.start()
    assert box.result("job").state is State.DONE
    assert runs(box) == 1


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
    lay(box, started=started, boot_id=boot_id)
    box.start()
    result = box.result("job")
    assert (result.state, result.reason, result.exit_code) == (
        State.FAILED,
        Reason.INTERRUPTED,
        None,
    )
    assert part in result.message
    assert runs(box) == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_result_that_was_not_moved_is_filed_as_it_is(box: SpoolBox, code: int) -> None:
    with contextlib.closing(Spool.open(box.root)) as spool:
        claimed = claim(spool, "job.yaml")
        spool.mark_started(claimed, now=time.time())
        ended = Ended(outcome=Exited(code), started_at=1.0, finished_at=2.0, duration_s=1.0)
        result = conclude(claimed.claim, ended, origin())
        filing.file(spool, claimed, result)
        filed = box.path("failed" if code else "done", "job")
        filed.rename(box.path("running", "job"))
        claimed.close()
    box.start()
    assert box.result("job") == result
    assert filed.is_dir()
    assert is_settled(box)
    assert runs(box) == 0


def test_a_refusal_that_was_not_filed_is_filed(box: SpoolBox) -> None:
    with contextlib.closing(Spool.open(box.root)) as spool:
        claimed = claim(spool, "job.yaml", "run: a\ntimout: 5\n")
        assert isinstance(claimed.claim.refusal, Refusal)
        claimed.close()
    box.start()
    result = box.result("job")
    assert result.reason is Reason.INVALID
    assert result.error is not None
    assert (result.error.code, result.error.line) == ("unknown-field", 2)
    assert box.output("job").startswith("job.yaml:2:1: unknown field `timout`")


def test_a_job_that_was_being_put_back_is_put_back_and_runs(box: SpoolBox) -> None:
    Spool.open(box.root).close()
    box.path("running", "job").mkdir()
    box.path("running", "job", "job.yaml").write_text(JOB)
    box.start()
    assert box.result("job").state is State.DONE
    assert runs(box) == 1


# --- what is in no row --------------------------------------------------------------------------


def lay_claim_as_directory(running: Path) -> None:
    (running / "odd" / ".claim").mkdir(parents=True)
    (running / "odd" / "job.yaml").write_text(JOB)


def lay_claim_as_link(running: Path) -> None:
    (running / "odd").mkdir()
    (running / "odd" / "job.yaml").write_text(JOB)
    (running / "odd" / ".claim").symlink_to("/etc/passwd")


def lay_claim_as_fifo(running: Path) -> None:
    (running / "odd").mkdir()
    (running / "odd" / "job.yaml").write_text(JOB)
    os.mkfifo(running / "odd" / ".claim")


def lay_zeros_for_a_claim(running: Path) -> None:
    (running / "odd").mkdir()
    (running / "odd" / "job.yaml").write_text(JOB)
    (running / "odd" / ".claim").write_bytes(bytes(4096))


def lay_nonsense_for_a_claim(running: Path) -> None:
    (running / "odd").mkdir()
    (running / "odd" / "job.yaml").write_text(JOB)
    (running / "odd" / ".claim").write_text("{nonsense")


def lay_a_deep_claim(running: Path) -> None:
    (running / "odd").mkdir()
    (running / "odd" / "job.yaml").write_text(JOB)
    (running / "odd" / ".claim").write_text("[" * 100_000)


def lay_the_claim_of_another_job(running: Path) -> None:
    filed = running.parent / "done" / "first"
    (running / "odd").mkdir()
    shutil.copy(filed / "job.yaml", running / "odd" / "job.yaml")
    first_line = (filed / ".claim").read_bytes().split(b"\n")[0]
    (running / "odd" / ".claim").write_bytes(first_line + b"\n")


def lay_a_copy_of_a_filed_job(running: Path) -> None:
    shutil.copytree(running.parent / "done" / "first", running / "odd")


def lay_a_result_that_is_no_end(running: Path) -> None:
    shutil.copytree(running.parent / "done" / "first", running / "odd")
    file = running / "odd" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "id": "odd", "state": "running"}))


def lay_a_stranger(running: Path) -> None:
    (running / "odd").mkdir()
    (running / "odd" / "data").write_text("kept")


def lay_a_file(running: Path) -> None:
    (running / "odd").write_text("what is this")


def lay_a_link(running: Path) -> None:
    (running / "odd").symlink_to("/etc")


@pytest.mark.parametrize(
    "lay_rubbish",
    [
        lay_claim_as_directory,
        lay_claim_as_link,
        lay_claim_as_fifo,
        lay_the_claim_of_another_job,
        lay_a_copy_of_a_filed_job,
        lay_a_result_that_is_no_end,
        lay_a_stranger,
        lay_a_file,
        lay_a_link,
    ],
)
def test_what_nobody_understands_is_set_aside(
    box: SpoolBox, lay_rubbish: Callable[[Path], None]
) -> None:
    box.start()
    box.run("first", JOB)
    box.stop()
    lay_rubbish(box.path("running"))
    box.launch()
    assert box.run("good", "run: echo x", within_s=5).state is State.DONE
    until(lambda: not os.listdir(box.path("running")), "it is still in running/", within_s=3)
    assert any(os.path.lexists(box.path(place, "odd")) for place in ("failed", "done"))
    assert runs(box) == 1, "rubbish was run"
    # Rubbish is no trouble of the machine: it must not make the daemon pause.
    assert "no new jobs are taken" not in box.log.read_text()


@pytest.mark.parametrize(
    "lay_torn", [lay_zeros_for_a_claim, lay_nonsense_for_a_claim, lay_a_deep_claim]
)
def test_a_job_with_a_torn_claim_has_not_run_and_runs(
    box: SpoolBox, lay_torn: Callable[[Path], None]
) -> None:
    """A power cut may leave that: before a job starts, its claim is on disk."""
    Spool.open(box.root).close()
    lay_torn(box.path("running"))
    box.start()
    assert box.result("odd").state is State.DONE
    assert is_settled(box)
    assert runs(box) == 1


def test_what_is_set_aside_keeps_its_content_and_gets_an_answer(box: SpoolBox) -> None:
    lay(box)
    lay_a_stranger(box.path("running"))
    (box.path("running") / "link").symlink_to("/etc")
    (box.path("running") / "empty").mkdir()
    box.start()
    assert box.result("job").state is State.DONE
    until(lambda: not os.listdir(box.path("running")), "running/ is not empty")
    assert sorted(os.listdir(box.path("failed"))) == ["link", "odd"]
    assert box.path("failed", "odd", "data").read_text() == "kept"
    assert box.path("failed", "link", "found").readlink() == Path("/etc")
    result = box.api.job("odd").result
    assert result is not None
    assert "could not be understood" in result.message


@pytest.mark.root
def test_what_cannot_be_moved_out_of_running_keeps_no_other_job_waiting(box: SpoolBox) -> None:
    """A mount: no rename moves it. That is no trouble of the machine's, as a full disk is."""
    Spool.open(box.root).close()
    box.path("running", "odd").mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "mode=700", "x", box.path("running", "odd")], check=True
    )
    try:
        box.path("running", "odd", "data").write_text("kept")
        box.start()
        assert box.run("good", "run: echo x", within_s=5).state is State.DONE
        assert box.run("better", "run: echo x", within_s=5).state is State.DONE
        box.stop()
        assert box.log.read_text().count("odd: in running/, cannot be looked at or moved") == 1
        assert "no new jobs are taken" not in box.log.read_text()
    finally:
        subprocess.run(["umount", box.path("running", "odd")], check=True)


def test_a_job_whose_files_are_no_files_is_set_aside(box: SpoolBox) -> None:
    """The daemon cannot write its result over a directory; it does not try for ever."""
    lay(box, started=True)
    box.path("running", "job", "job.yaml").unlink()
    box.path("running", "job", "job.yaml").mkdir()
    box.path("running", "job", "job.yaml", "data").write_text("kept")
    box.start()
    result = box.result("job")
    assert "could not be understood" in result.message
    assert box.path("failed", "job", "job.yaml", "data").read_text() == "kept"
    assert runs(box) == 0


def test_what_is_set_aside_is_whole_by_its_own_id(box: SpoolBox) -> None:
    box.start()
    box.run("odd", "run: exit 1")
    box.stop()
    box.path("running", "odd").write_text("a file")
    box.path("running", "some thing").mkdir()
    box.path("running", "some thing", "result.json").write_text("{")
    box.start()
    until(lambda: not os.listdir(box.path("running")), "running/ is not empty")
    box.stop()
    filed, wrong = filed_in(box.root)
    assert [each for each in wrong if not each.endswith(".claim is missing")] == []
    assert sorted(each.id for each in filed) == ["odd", "odd.2", "some_thing"]
    assert box.path("failed", "odd.2", "found").read_text() == "a file"
    assert box.path("failed", "some_thing", "result.json.damaged").read_text() == "{"
