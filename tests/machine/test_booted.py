"""runnerd under a systemd that has really booted."""

from __future__ import annotations

import json
import os
import signal

import pytest
from booted import Booted
from served import SPOOL, drop, entries, hold, release, result

from runnerd import events

pytestmark = [pytest.mark.heavy, pytest.mark.root]


def test_a_daemon_that_hangs_is_replaced_by_the_watchdog_and_no_job_notices(
    system: Booted,
) -> None:
    override = system.path("/etc/systemd/system/runnerd.service.d")
    override.mkdir()
    (override / "hurry.conf").write_text("[Service]\nWatchdogSec=2\n")
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "restart", "runnerd")  # returns with READY=1
    hold(system, "held")
    before = system.show("runnerd", "MainPID")
    system.run("kill", f"-{signal.SIGSTOP.name[3:]}", before)
    drop(system, "next", "run: echo next")
    assert result(system, "next")["state"] == "done"
    assert system.show("runnerd", "NRestarts") == "1"
    assert system.show("runnerd", "MainPID") != before
    assert "Watchdog timeout" in system.journal("runnerd")
    assert system.path(f"{SPOOL}/running/held/status.json").exists()
    release(system, "held")
    assert result(system, "held")["state"] == "done"
    held = system.path(f"{SPOOL}/done/held/output.log").read_text()
    assert held == "begun\nended\n"


def test_the_journal_says_why_a_job_failed_and_no_job_forges_an_entry(system: Booted) -> None:
    hold(system, "held", then="exit 4")
    script = r"printf 'evil\033[2J\r\ngood: done\nPRIORITY=0\n' >&2"
    drop(system, "bad", f"run: |\n  {script}\n  exit 3\n")
    assert result(system, "bad")["exit_code"] == 3
    drop(system, "wrong", 'run: x\n"a\\nb": y\n')
    assert result(system, "wrong")["reason"] == "invalid"
    drop(system, "long", f"run: x\nname: {{{'x' * 100_000}: 1}}\n")
    assert result(system, "long")["reason"] == "invalid"

    (ended,) = [each for each in entries(system, "JOB_ID=bad") if each["JOB_STATE"] == "failed"]
    assert ended["JOB_REASON"] == "exit"
    assert ended["JOB_USER"] == "root"
    assert ended["EXIT_STATUS"] == "3"
    assert ended["MESSAGE_ID"] == events.JobFailed.message_id
    assert ended["PRIORITY"] == "5"
    assert ended["SYSLOG_IDENTIFIER"] == "runnerd"
    first, *below = str(ended["MESSAGE"]).split("\n")
    assert first.startswith("bad: failed (exit), ")
    assert below == ["  | evil\\x1b[2J", "  | good: done", "  | PRIORITY=0"]
    assert len(entries(system, "JOB_ID=wrong")) == 1
    assert len(entries(system, "JOB_ID=long")) == 1

    system.run("systemctl", "restart", "runnerd")
    release(system, "held")
    assert result(system, "held")["exit_code"] == 4
    held = [each["JOB_STATE"] for each in entries(system, "JOB_ID=held")]
    assert held == ["running", None, "failed"]  # started, found by the next daemon, ended
    explained = system.run("journalctl", "--no-pager", "-x", "-u", "runnerd", "JOB_ID=bad")
    assert "Subject: Job bad has failed: exit" in explained
    assert "runnerctl retry bad" in explained


def test_the_doctor_hears_of_trouble_by_the_status_of_the_unit(system: Booted) -> None:
    system.run("systemctl", "stop", "runnerd")
    # A tmpfs may keep no signs by which root's own jobs are known where others may drop.
    system.run("groupdel", "runner")
    system.run("mount", "-t", "tmpfs", "-o", "mode=755,size=2m", "none", SPOOL)
    system.run("systemctl", "start", "runnerd")
    drop(system, "good", "run: echo x")
    assert result(system, "good")["state"] == "done"
    (daemon,) = examined(system, "daemon")
    assert (daemon["verdict"], daemon["finding"]) == ("good", None)
    assert {each["check"] for each in examined(system)} >= {"journal", "cgroups", "clock"}
    fill = system.path(f"{SPOOL}/.fill")
    system.path(f"{SPOOL}/incoming/.x").write_text("run: echo x")
    room = os.statvfs(fill.parent)
    fill.write_bytes(bytes(room.f_bfree * room.f_frsize))
    system.path(f"{SPOOL}/incoming/.x").rename(system.path(f"{SPOOL}/incoming/x.yaml"))
    system.await_that(
        lambda: "degraded" in system.show("runnerd", "StatusText"), "its status does not tell"
    )
    words = {each["finding"]: each["message"] for each in examined(system, "daemon", "space")}
    assert "No space left on device" in str(words["degraded"])
    assert "space-gone" in words
    fill.unlink()
    assert result(system, "x")["state"] == "done"
    system.await_that(
        lambda: "degraded" not in system.show("runnerd", "StatusText"), "its status still tells"
    )
    assert {each["verdict"] for each in examined(system, "daemon", "jobs")} == {"good"}
    system.run("systemctl", "stop", "runnerd")
    assert [each["finding"] for each in examined(system, "daemon")] == ["not-served"]


def examined(system: Booted, *checks: str) -> list[dict[str, str | None]]:
    """What the doctor says, whatever its exit status."""
    lines: list[dict[str, str | None]] = json.loads(
        system.run("runnerctl", "doctor", "--json", *checks, check=False)
    )
    return lines
