"""Ways to damage a spool, each with a sentence that says what was done.

They work on a copy of the spool that `test_fsck` has a daemon make: jobs `good`, `other` and
`steps` are done, `bad` and `refused` have failed, `waits` waits for its next attempt, `cut` was
interrupted and no daemon has seen it since.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """`fault`: the word by which fsck knows it, None if it has to be no fault; `place`: its path.

    `refused`: the daemon does not start on that, and says why.
    """

    sentence: str
    do: Callable[[Path], None]
    fault: str | None
    place: str
    refused: bool = False
    root_only: bool = False


def edit(file: Path, **fields: object) -> None:
    """Change fields of a JSON file, or of the first line of a claim."""
    first, newline, rest = file.read_bytes().partition(b"\n" if file.name == ".claim" else b"\0")
    data = json.dumps({**json.loads(first), **fields}).encode()
    file.write_bytes(data + newline + rest)


def odd_job(root: Path, name: str = "odd") -> Path:
    """A directory in running/ of a job that was about to start, with no claim."""
    directory = root / "running" / name
    (directory / "work").mkdir(parents=True)
    (directory / "job.yaml").write_text("run: echo odd")
    return directory


def copy(root: Path, source: str, target: str) -> Path:
    shutil.copytree(root / source, root / target, symlinks=True)
    return root / target


# --- running/ -----------------------------------------------------------------------------------


def file_in_running(root: Path) -> None:
    (root / "running/odd").write_text("what is this")


def link_in_running(root: Path) -> None:
    (root / "running/odd").symlink_to("../done/good")


def fifo_in_running(root: Path) -> None:
    os.mkfifo(root / "running/odd")


def socket_in_running(root: Path) -> None:
    os.mknod(root / "running/odd", stat.S_IFSOCK | 0o600)


def ugly_name_in_running(root: Path) -> None:
    directory = root / "running" / os.fsdecode(b"a\nb \xff")
    directory.mkdir()
    (directory / "data").write_text("kept")


def content_without_claim(root: Path) -> None:
    (odd_job(root) / "data").write_text("kept")


def claim_is_directory(root: Path) -> None:
    (odd_job(root) / ".claim").mkdir()


def only_a_directory_as_claim(root: Path) -> None:
    (root / "running/odd/.claim").mkdir(parents=True)


def claim_is_deep(root: Path) -> None:
    (odd_job(root) / ".claim").write_text('{"id": ' + "[" * 100_000)


def claim_is_huge(root: Path) -> None:
    (odd_job(root) / ".claim").write_bytes(b"\n" * (1 << 24) + b"x")


def claim_was_never_a_number(root: Path) -> None:
    edit(root / "running/waits/.claim", submitted_at=float("nan"))


def claim_of_the_year_a_million(root: Path) -> None:
    edit(root / "running/cut/.claim", submitted_at=1e15)


def claim_of_nobody(root: Path) -> None:
    edit(root / "running/cut/.claim", submitter={"uid": -5, "user": "nobody"})


def claim_without_steps(root: Path) -> None:
    edit(root / "running/waits/.claim", spec={"steps": []})


def filed_job_is_back(root: Path) -> None:
    copy(root, "done/good", "running/good")


def filed_job_would_run_again(root: Path) -> None:
    (copy(root, "done/good", "running/good") / "result.json").unlink()


def waiting_job_was_filed(root: Path) -> None:
    copy(root, "failed/bad", "failed/waits")
    edit(root / "failed/waits/result.json", id="waits")


def result_is_directory_in_running(root: Path) -> None:
    (root / "running/cut/result.json").mkdir()


def result_is_torn_in_running(root: Path) -> None:
    half = (root / "done/good/result.json").read_bytes()[:200]
    (root / "running/waits/result.json").write_bytes(half)


def log_is_directory(root: Path) -> None:
    (root / "running/waits/output.log").mkdir()


def cancel_is_fifo(root: Path) -> None:
    os.mkfifo(root / "running/waits/.cancel")


def work_is_link(root: Path) -> None:
    shutil.rmtree(root / "running/waits/work")
    (root / "running/waits/work").symlink_to("/")


# --- done/ and failed/ --------------------------------------------------------------------------


def file_in_done(root: Path) -> None:
    (root / "done/odd").write_text("what is this")


def link_in_done(root: Path) -> None:
    (root / "done/odd").symlink_to("good")


def fifo_in_failed(root: Path) -> None:
    os.mkfifo(root / "failed/odd")


def file_with_an_ugly_name_in_failed(root: Path) -> None:
    (root / "failed" / os.fsdecode(b"a\nb \xff")).write_text("kept")


def no_result(root: Path) -> None:
    (root / "done/good/result.json").unlink()


def empty_directory(root: Path) -> None:
    (root / "done/odd").mkdir()


def empty_result(root: Path) -> None:
    (root / "done/good/result.json").write_bytes(b"")


def torn_result(root: Path) -> None:
    file = root / "failed/bad/result.json"
    file.write_bytes(file.read_bytes()[:300])


def zeros_for_a_result(root: Path) -> None:
    (root / "done/steps/result.json").write_bytes(bytes(4096))


def torn_answer(root: Path) -> None:
    (root / "failed/refused/result.json").write_bytes(b'{"schema": 1')


def other_json(root: Path) -> None:
    (root / "done/good/result.json").write_text('{"hello": "world"}')


def result_with_nan(root: Path) -> None:
    edit(root / "done/good/result.json", duration_s=float("nan"))


def result_of_a_running_job(root: Path) -> None:
    edit(root / "done/good/result.json", state="running")


def huge_result(root: Path) -> None:
    with (root / "done/good/result.json").open("ab") as file:
        file.truncate(20 << 20)


def deep_result(root: Path) -> None:
    (root / "done/good/result.json").write_text("[" * 100_000)


def result_is_link(root: Path) -> None:
    (root / "done/good/result.json").unlink()
    (root / "done/good/result.json").symlink_to("../other/result.json")


def result_is_fifo(root: Path) -> None:
    (root / "done/good/result.json").unlink()
    os.mkfifo(root / "done/good/result.json")


def result_is_directory(root: Path) -> None:
    (root / "failed/bad/result.json").unlink()
    (root / "failed/bad/result.json").mkdir()


def result_not_renamed(root: Path) -> None:
    (root / "done/good/result.json").rename(root / "done/good/.result.json.new")


def nothing_is_left(root: Path) -> None:
    (root / "done/good/.claim").unlink()
    (root / "done/good/result.json").write_bytes(b"{")


def failed_in_done(root: Path) -> None:
    (root / "failed/bad").rename(root / "done/bad")


def done_in_failed(root: Path) -> None:
    (root / "done/good").rename(root / "failed/good")


def copy_in_failed(root: Path) -> None:
    copy(root, "done/good", "failed/good")


def two_with_one_id(root: Path) -> None:
    copy(root, "done/good", "failed/good")
    edit(root / "failed/good/result.json", state="failed", reason="exit")


def renamed(root: Path) -> None:
    (root / "done/good").rename(root / "done/better")


def copied(root: Path) -> None:
    copy(root, "done/good", "done/better")


def renamed_to_no_id(root: Path) -> None:
    (root / "done/good").rename(root / "done/.good (1)")


def id_that_leads_away(root: Path) -> None:
    edit(root / "done/good/result.json", id="../../etc")


def filed_claim_is_directory(root: Path) -> None:
    (root / "done/good/.claim").unlink()
    (root / "done/good/.claim").mkdir()


def filed_claim_is_lost(root: Path) -> None:
    (root / "done/good/.claim").unlink()


def filed_claim_is_torn(root: Path) -> None:
    file = root / "failed/bad/.claim"
    file.write_bytes(file.read_bytes()[:50])


def no_job_file(root: Path) -> None:
    (root / "done/good/job.yaml").unlink()


def empty_job_file(root: Path) -> None:
    (root / "failed/bad/job.yaml").write_bytes(b"")


def longer_job_file(root: Path) -> None:
    with (root / "failed/bad/job.yaml").open("a") as file:
        file.write("# and more\n")


def job_file_is_link(root: Path) -> None:
    (root / "done/good/job.yaml").unlink()
    (root / "done/good/job.yaml").symlink_to("/etc/passwd")


def leftovers(root: Path) -> None:
    job = root / "done/good"
    for name in (".status.json.new", ".result.json.new", ".step.0.log", ".outputs.12", ".cancel"):
        (job / name).write_text("x")
    (job / "status.json").write_text("{}")
    os.mkfifo(job / ".progress")


def open_job(root: Path) -> None:
    (root / "done/good").chmod(0o777)


def shut_job(root: Path) -> None:
    (root / "failed/bad").chmod(0)


def shut_job_in_running(root: Path) -> None:
    (root / "running/cut").chmod(0)


def foreign_job(root: Path) -> None:
    os.chown(root / "done/good", 65534, 65534)


# --- the root, and the spool's own directories --------------------------------------------------


def paused_is_directory(root: Path) -> None:
    (root / ".paused").mkdir()


def paused_is_link(root: Path) -> None:
    (root / ".paused").symlink_to("/nowhere")


def lock_is_fifo(root: Path) -> None:
    os.mkfifo(root / ".lock")


def lock_is_directory(root: Path) -> None:
    (root / ".lock").mkdir()


def pause_not_renamed(root: Path) -> None:
    (root / ".paused.new").write_text("")


def directory_not_renamed(root: Path) -> None:
    (root / ".done.new").mkdir()


def no_outbox(root: Path) -> None:
    (root / "outbox").rmdir()


def no_done(root: Path) -> None:
    (root / "done").rename(root / "done.bak")


def running_is_file(root: Path) -> None:
    (root / "running").rename(root / "running.bak")
    (root / "running").write_text("")


def done_is_link(root: Path) -> None:
    (root / "done").rename(root / "elsewhere")
    (root / "done").symlink_to("elsewhere")


def open_done(root: Path) -> None:
    (root / "done").chmod(0o777)


def open_root(root: Path) -> None:
    root.chmod(0o777)


def open_incoming(root: Path) -> None:
    (root / "incoming").chmod(0o1777)


def incoming_without_sticky_bit(root: Path) -> None:
    (root / "incoming").chmod(0o730)


def foreign_failed(root: Path) -> None:
    os.chown(root / "failed", 65534, 65534)


DAMAGES = [
    Damage("a file in running/", file_in_running, "strange", "running/odd"),
    Damage("a link in running/", link_in_running, "strange", "running/odd"),
    Damage("a FIFO in running/", fifo_in_running, "strange", "running/odd"),
    Damage("a socket in running/", socket_in_running, "strange", "running/odd"),
    Damage(
        "a name in running/ that is no UTF-8",
        ugly_name_in_running,
        "strange",
        "running/a\nb \udcff",
    ),
    Damage("content and no claim", content_without_claim, "strange", "running/odd"),
    Damage("a claim that is a directory", claim_is_directory, "strange", "running/odd"),
    Damage("only a directory as a claim", only_a_directory_as_claim, "strange", "running/odd"),
    Damage("a claim nested too deeply", claim_is_deep, "strange", "running/odd"),
    Damage("a claim of 16 MiB of nothing", claim_is_huge, "strange", "running/odd"),
    Damage("a claim with NaN", claim_was_never_a_number, "strange", "running/waits"),
    Damage("a claim of a far time", claim_of_the_year_a_million, "strange", "running/cut"),
    Damage("a claim of user -5", claim_of_nobody, "strange", "running/cut"),
    Damage("a claim without steps", claim_without_steps, "strange", "running/waits"),
    Damage("a filed job is back in running/", filed_job_is_back, "duplicate", "running/good"),
    Damage("a filed job would run again", filed_job_would_run_again, "duplicate", "running/good"),
    Damage("a waiting job was filed", waiting_job_was_filed, "duplicate", "running/waits"),
    Damage(
        "a result in running/ is a directory",
        result_is_directory_in_running,
        "strange",
        "running/cut",
    ),
    Damage("a result in running/ is torn", result_is_torn_in_running, "strange", "running/waits"),
    Damage("a log is a directory", log_is_directory, "wrong-kind", "running/waits/output.log"),
    Damage("a cancel is a FIFO", cancel_is_fifo, "wrong-kind", "running/waits/.cancel"),
    Damage("a work directory is a link", work_is_link, "wrong-kind", "running/waits/work"),
    Damage("a file in done/", file_in_done, "wrong-kind", "done/odd"),
    Damage("a link in done/", link_in_done, "wrong-kind", "done/odd"),
    Damage("a FIFO in failed/", fifo_in_failed, "wrong-kind", "failed/odd"),
    Damage(
        "a file in failed/ with a name that is no UTF-8",
        file_with_an_ugly_name_in_failed,
        "wrong-kind",
        "failed/a\nb \udcff",
    ),
    Damage("a result is missing", no_result, "no-result", "done/good/result.json"),
    Damage("an empty directory in done/", empty_directory, "no-result", "done/odd/result.json"),
    Damage("a result is empty", empty_result, "bad-result", "done/good/result.json"),
    Damage("a result is torn", torn_result, "bad-result", "failed/bad/result.json"),
    Damage("a result is full of zeros", zeros_for_a_result, "bad-result", "done/steps/result.json"),
    Damage(
        "the answer to a bad file is torn", torn_answer, "bad-result", "failed/refused/result.json"
    ),
    Damage("a result is some other JSON", other_json, "bad-result", "done/good/result.json"),
    Damage("a result has NaN", result_with_nan, "bad-result", "done/good/result.json"),
    Damage("a result says running", result_of_a_running_job, "bad-result", "done/good/result.json"),
    Damage("a result of 20 MiB", huge_result, "bad-result", "done/good/result.json"),
    Damage("a result nested too deeply", deep_result, "bad-result", "done/good/result.json"),
    Damage("a result is a link to another", result_is_link, "bad-result", "done/good/result.json"),
    Damage("a result is a FIFO", result_is_fifo, "bad-result", "done/good/result.json"),
    Damage("a result is a directory", result_is_directory, "bad-result", "failed/bad/result.json"),
    Damage("a result was not renamed", result_not_renamed, "no-result", "done/good/result.json"),
    Damage("result and claim are lost", nothing_is_left, "bad-result", "done/good/result.json"),
    Damage("a failed job in done/", failed_in_done, "misplaced", "done/bad"),
    Damage("a done job in failed/", done_in_failed, "misplaced", "failed/good"),
    Damage("a copy of a done job in failed/", copy_in_failed, "misplaced", "failed/good"),
    Damage("two jobs with one id", two_with_one_id, "duplicate", "failed/good"),
    Damage("a filed job was renamed", renamed, "wrong-id", "done/better"),
    Damage("a filed job was copied", copied, "wrong-id", "done/better"),
    Damage("a filed job has a name that is no id", renamed_to_no_id, "wrong-id", "done/.good (1)"),
    Damage("an id leads out of the spool", id_that_leads_away, "wrong-id", "done/good"),
    Damage(
        "the claim of a filed job is a directory",
        filed_claim_is_directory,
        "wrong-kind",
        "done/good/.claim",
    ),
    Damage("the claim of a filed job is lost", filed_claim_is_lost, None, "done/good/.claim"),
    Damage("the claim of a filed job is torn", filed_claim_is_torn, None, "failed/bad/.claim"),
    Damage("a job file is missing", no_job_file, "job-file", "done/good/job.yaml"),
    Damage("a job file is empty", empty_job_file, "job-file", "failed/bad/job.yaml"),
    Damage("a job file is too long", longer_job_file, "job-file", "failed/bad/job.yaml"),
    Damage("a job file is a link", job_file_is_link, "wrong-kind", "done/good/job.yaml"),
    Damage("leftovers in a filed job", leftovers, "leftover", "done/good/.outputs.12"),
    Damage("a filed job that others may write to", open_job, "mode", "done/good"),
    Damage("a filed job with no rights at all", shut_job, "mode", "failed/bad"),
    Damage("a filed job of somebody else", foreign_job, "owner", "done/good", root_only=True),
    Damage(".paused is a directory", paused_is_directory, "wrong-kind", ".paused"),
    Damage(".paused is a link", paused_is_link, "wrong-kind", ".paused"),
    Damage(".lock is a FIFO", lock_is_fifo, "wrong-kind", ".lock"),
    Damage(".lock is a directory", lock_is_directory, "wrong-kind", ".lock"),
    Damage("a pause was not renamed", pause_not_renamed, "leftover", ".paused.new"),
    Damage("a directory was not renamed", directory_not_renamed, "leftover", ".done.new"),
    Damage("outbox/ is missing", no_outbox, "missing", "outbox"),
    Damage("done/ has another name", no_done, "missing", "done"),
    Damage("running/ is a file", running_is_file, "wrong-kind", "running", refused=True),
    Damage("done/ is a link", done_is_link, "wrong-kind", "done", refused=True),
    Damage("done/ is open to all", open_done, "mode", "done", refused=True),
    Damage("the spool is open to all", open_root, "mode", ".", refused=True),
    Damage("incoming/ is open to all", open_incoming, "mode", "incoming", refused=True),
    Damage(
        "incoming/ has no sticky bit", incoming_without_sticky_bit, "mode", "incoming", refused=True
    ),
    Damage(
        "failed/ is somebody else's",
        foreign_failed,
        "owner",
        "failed",
        refused=True,
        root_only=True,
    ),
]
