"""cancel, retry, pause, resume, drain: asked by files in control/."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from spoolbox import SpoolBox, until

from runnerd.control import Request, Verb, may, read_request
from runnerd.model import Reason, State
from runnerd.spool import Spool

PROGRAM = [sys.executable, "-c", "from runnerd.ctl import main; main(prog_name='runnerctl')"]


def ctl(box: SpoolBox, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "--spool", str(box.root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_running_job_is_cancelled(box: SpoolBox) -> None:
    box.start()
    box.drop("j", "run: |\n  trap 'echo ending; exit 3' TERM\n  echo up\n  sleep 1000 & wait")
    box.started("j")
    until(lambda: "up" in box.path("running", "j", "output.log").read_text(), "it is not up")
    assert ctl(box, "cancel", "j").returncode == 0
    result = box.result("j")
    assert (result.reason, result.exit_code) == (Reason.CANCELLED, None)
    assert result.message.startswith("the job was cancelled by ")
    assert box.output("j") == "up\nending\n"


def test_a_waiting_job_is_cancelled_and_filed(box: SpoolBox) -> None:
    box.start()
    box.drop("j", "name: N\nrun: touch ran\ndelay: 1h")
    until(lambda: "1 queued" in box.status(), "it does not wait")
    box.control("j.cancel")
    result = box.result("j")
    assert (result.reason, result.started_at, result.name) == (Reason.CANCELLED, None, "N")
    until(lambda: "j: cancel: done for" in box.log.read_text(), "nothing was said")


def test_a_job_is_cancelled_that_was_dropped_while_no_daemon_was_there(box: SpoolBox) -> None:
    Spool.open(box.root).close()
    for name in ("a", "b"):
        box.drop(name, "run: touch ../../../ran")
        box.control(f"{name}.cancel")
    box.start()
    for name in ("a", "b"):
        assert box.result(name).reason is Reason.CANCELLED
    assert not box.path("ran").exists()


def test_nobody_keeps_others_from_asking_by_taking_the_name(box: SpoolBox) -> None:
    Spool.open(box.root).close()
    box.path("control", "pause").symlink_to("/etc/passwd")
    os.mkfifo(box.path("control", "resume"))
    box.start()
    until(lambda: not os.listdir(box.path("control")), "the names are still taken")
    ctl(box, "pause")
    until(lambda: "paused" in box.status(), "it is not paused")


def test_a_name_that_is_no_request_keeps_no_staged_retry_back(box: SpoolBox) -> None:
    Spool.open(box.root).close()
    box.path(".j.retry.yaml").write_text("run: echo x")
    box.path("control", "j.retry", "full").mkdir(parents=True)
    box.start()
    assert box.result("j").state is State.DONE


def test_a_retry_that_a_dying_daemon_had_staged_is_submitted_once(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: echo x")
    box.stop()
    staged = box.path(".j.retry.yaml")
    staged.write_text("run: echo x")
    box.control("j.retry")  # as it is when the daemon dies before it has removed the request
    box.start()
    assert box.result("j.2").state is State.DONE
    staged.write_text("run: echo x")  # and after
    box.stop()
    box.start()
    assert box.result("j.3").state is State.DONE
    assert not staged.exists()
    assert sorted(os.listdir(box.path("done"))) == ["j", "j.2", "j.3"]


def test_a_job_of_an_earlier_daemon_is_cancelled(box: SpoolBox) -> None:
    box.start()
    box.drop("j", "run: sleep 1000")
    box.started("j")
    box.kill()
    box.start()
    box.control("j.cancel")
    assert box.result("j").reason is Reason.CANCELLED


def test_a_cancelled_job_is_not_tried_again(box: SpoolBox) -> None:
    box.start()
    box.drop("j", "run: sleep 1000\nretry: {max: 9, delay: 0, on: [exit, signal]}")
    box.started("j")
    box.control("j.cancel")
    result = box.result("j")
    assert (result.reason, len(result.attempts)) == (Reason.CANCELLED, 1)


def test_a_job_that_waits_for_its_next_attempt_is_cancelled(box: SpoolBox) -> None:
    box.start()
    box.drop("j", "run: exit 4\nretry: {max: 9, delay: 1h, max_delay: 1h}")
    until(lambda: "attempt 1 failed" in box.log.read_text(), "no attempt failed")
    until(lambda: "1 queued" in box.status(), "it does not wait")
    box.control("j.cancel")
    result = box.result("j")
    assert result.reason is Reason.CANCELLED
    assert [(each.number, each.exit_code) for each in result.attempts] == [(1, 4)]


def test_nothing_is_cancelled_that_is_not_there(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: echo x")
    for name in ("j.cancel", "nope.cancel"):
        box.control(name)
        until(lambda name=name: not box.path("control", name).exists(), "not taken")  # type: ignore[misc]
    said = "no such job waits or runs"
    until(lambda: box.log.read_text().count(said) == 2, "nothing was said")
    assert "no such job in" in ctl(box, "cancel", "nope").stderr


def test_a_job_is_submitted_once_more(box: SpoolBox) -> None:
    box.start()
    text = "# as it was\nrun: exit 4\nlabels: {a: b}\non_duplicate: reject"
    box.run("j", text)
    assert ctl(box, "retry", "j").returncode == 0
    again = box.result("j.2")
    assert (again.exit_code, again.labels) == (4, {"a": "b"})
    assert box.path("failed", "j.2", "job.yaml").read_text() == text
    assert box.path("failed", "j").exists()


def test_pause_starts_nothing_and_survives_a_restart(box: SpoolBox) -> None:
    box.start()
    ctl(box, "pause")
    until(lambda: "paused" in box.status(), "it is not paused")
    box.drop("j", "run: echo x")
    until(lambda: "1 queued" in box.status(), "it does not wait")
    bad = box.run("bad", "ran: x")
    assert bad.reason is Reason.INVALID
    box.stop()
    box.start()
    until(lambda: "1 queued, paused" in box.status(), "it is not paused")
    shown = json.loads(ctl(box, "show", "j", "--json").stdout)
    assert shown["waits"] == "for `runnerctl resume`: no jobs are started"
    ctl(box, "resume")
    assert box.result("j").state is State.DONE


def test_drain_waits_for_what_runs(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    box.drop("j", f"run: read x < {gate}")
    box.started("j")
    assert ctl(box, "drain", "--timeout", "0.3").returncode == 124
    drain = subprocess.Popen([*PROGRAM, "--spool", str(box.root), "drain"])
    box.drop("next", "run: echo x")
    gate.open()
    assert drain.wait(20) == 0
    assert box.result("j").state is State.DONE
    assert box.path("incoming", "next.yaml").exists()
    ctl(box, "resume")
    assert box.result("next").state is State.DONE


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"needs": ["other"]}, "for the jobs that it needs: other"),
        ({"not_before": "2099-01-01T00:00:00Z"}, "for its time: 2099-01-01T00:00:00.000Z"),
        ({"concurrency": "g"}, "for its concurrency group g, of which 1 may run"),
        ({"queue": "mail"}, "for its turn in the queue mail"),
    ],
)
def test_show_says_why_a_job_waits(box: SpoolBox, spec: dict[str, object], why: str) -> None:
    gate = box.gate()
    box.start(slots=2, queues="{mail: 1}")
    box.drop("hold", f"run: read x < {gate}\nqueue: mail\nconcurrency: g")
    box.started("hold")
    box.drop("j", json.dumps({"run": "echo x", **spec}))
    until(lambda: "1 queued" in box.status(), "it does not wait")
    assert json.loads(ctl(box, "show", "j", "--json").stdout)["waits"] == why
    box.path("incoming", "j.yaml").unlink()
    gate.open()
    assert box.result("hold").state is State.DONE


def test_a_signal_to_a_runner_alone_cancels_nothing(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    box.drop("j", f"run: read x < {gate}")
    box.started("j")
    (runner,) = box.runners()
    runner.send_signal(signal.SIGUSR1)
    gate.open()
    assert box.result("j").state is State.DONE


@pytest.mark.parametrize("name", ["j.cancel", "a.b.retry", "pause", "resume"])
def test_a_request_is_read_from_a_name(name: str) -> None:
    job_id, _, verb = name.rpartition(".")
    assert read_request(name, 5) == Request(Verb(verb), job_id or None, 5)


@pytest.mark.parametrize(
    "name", ["", "cancel", ".cancel", "-x.cancel", "j.pause", "j.kill", "j.cancel.tmp", ".j.cancel"]
)
def test_other_names_ask_for_nothing(name: str) -> None:
    assert read_request(name, 5) is None


def test_who_may_ask() -> None:
    mine, all_jobs = Request(Verb.CANCEL, "j", 1001), Request(Verb.PAUSE, None, 1001)
    assert may(mine, submitter_uid=1001, own_uid=0)
    assert not may(mine, submitter_uid=1002, own_uid=0)
    assert not may(all_jobs, submitter_uid=None, own_uid=0)
    assert may(all_jobs, submitter_uid=None, own_uid=1001)
    assert may(Request(Verb.CANCEL, "j", 0), submitter_uid=1001, own_uid=33)
