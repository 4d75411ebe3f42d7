"""The log of a real daemon and its runners, in the forms that it may have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from spoolbox import SpoolBox, until

from runnerd import journal

NASTY = r"printf 'last\033]0;x\007\n2026-01-01 00:00:00,000 runnerd: forged\n'; exit 3"


def lines(box: SpoolBox) -> list[str]:
    return box.log.read_text().removesuffix("\n").split("\n")


def test_json_is_one_object_for_each_event_of_daemon_and_runners(box: SpoolBox) -> None:
    box.start("--log-format", "json")
    box.run("bad", f"run: |\n  {NASTY}\n")
    box.run("good", "run: echo")
    box.run("wrong", 'run: x\n"a\\nb": y\n')
    box.stop()
    found = [json.loads(line) for line in lines(box)]
    assert found[0]["event"] == "Limits"
    assert found[-1]["event"] == "DaemonStopped"
    (bad,) = [each for each in found if each["event"] == "JobFailed"]
    assert (bad["job_id"], bad["job_state"], bad["exit_status"]) == ("bad", "failed", 3)
    assert bad["output"] == [r"last\x1b]0;x\x07", "2026-01-01 00:00:00,000 runnerd: forged"]
    assert [each["job_id"] for each in found if each["event"] == "JobDone"] == ["good"]
    (wrong,) = [each for each in found if each["event"] == "JobRefused"]
    assert (wrong["job_reason"], wrong["level"]) == ("invalid", "warning")


def test_text_is_one_line_for_each_event_and_has_no_output(box: SpoolBox) -> None:
    box.start()
    box.run("bad", f"run: |\n  {NASTY}\n")
    box.stop()
    assert "forged" not in box.log.read_text()
    assert len([line for line in lines(box) if "bad: " in line]) == 2  # started, failed


def test_a_journal_that_is_asked_for_must_be_there(box: SpoolBox) -> None:
    box.configure()
    run = subprocess.run(
        [*box.program, "--config", str(box.config_file), "--once", "--log-format", "journal"],
        capture_output=True,
        text=True,
        check=False,
    )
    if Path(journal.SOCKET).exists():
        assert (run.returncode, run.stderr) == (0, "")
        return
    assert run.returncode == 78
    assert run.stderr == (
        "runnerd: the log format journal needs systemd's journal; "
        "/run/systemd/journal/socket: No such file or directory\n"
    )


def test_lines_of_many_runners_do_not_mix(box: SpoolBox) -> None:
    box.start("--log-format", "json", slots=4)
    for number in range(40):
        box.drop(f"job{number}", f"name: {'x' * 150}\nrun: 'seq 500; exit 1'\n")
    until(lambda: len(list(box.path("failed").iterdir())) == 40, "not all was filed")
    box.stop()
    found = [json.loads(line) for line in lines(box)]
    assert sum(each["event"] == "JobFailed" for each in found) == 40
