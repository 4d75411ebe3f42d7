"""Jobs that misbehave: what they get instead of what they wanted, and that nobody else notices."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

import pytest
from spoolbox import SpoolBox, until

from runnerd.model import Reason, State

PYTHON = sys.executable
EAT = "x = bytearray(300 << 20)\nimport time\ntime.sleep(60)"
FORK = "import os, time\nfor _ in range(40):\n    os.fork() or time.sleep(60)\ntime.sleep(60)"
BURN = "while True: pass"


def limited(script: str, **limits: object) -> str:
    return json.dumps({"command": [PYTHON, "-c", script], "limits": limits})


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (limited(EAT, memory="100M"), "the job used more memory than its limit of 100M"),
        (
            limited(FORK, processes=20),
            "the job had more processes and threads than its limit of 20",
        ),
        (limited(BURN, cpu_time="1s"), "the job used more CPU time than its limit of 1s"),
    ],
)
def test_a_job_over_its_limit_is_ended_and_the_limit_is_named(
    box: SpoolBox, job: str, message: str
) -> None:
    box.start()
    result = box.run("j", job)
    assert (result.reason, result.message) == (Reason.LIMIT, message)
    assert result.usage is not None
    if "memory" in message:
        assert (result.usage.max_memory_bytes or 0) > 100 << 20
    if "CPU" in message:
        assert result.usage.cpu_user_s > 0.5


def test_a_file_that_grows_too_large_ends_the_job(box: SpoolBox) -> None:
    box.start()
    job = "run: exec head -c 2000000 /dev/zero > big\nlimits: {file_size: 1M}"
    result = box.run("j", job)
    assert (result.reason, result.message) == (
        Reason.LIMIT,
        "the job wrote a file that was larger than its limit of 1M",
    )
    assert box.path("failed", "j", "work", "big").stat().st_size == 1 << 20


def test_the_limits_stand_before_the_first_instruction(box: SpoolBox) -> None:
    box.start()
    script = "ulimit -n; nice; grep -c . /proc/self/status >/dev/null; ionice -p $$"
    limits = {"open_files": 99, "nice": 7, "io": "idle"}
    result = box.run("j", json.dumps({"run": script, "limits": limits}))
    assert result.state is State.DONE
    assert box.output("j").split() == ["99", "7", "idle"]


def test_a_thousand_open_files_are_not_to_be_had(box: SpoolBox) -> None:
    box.start()
    script = "fs = []\ntry:\n    while True: fs.append(open('/dev/null'))\n"
    script += "except OSError as e: print(e.errno, len(fs))"
    result = box.run("j", limited(script, open_files=50))
    assert result.state is State.DONE
    number, count = box.output("j").split()
    assert (number, int(count) < 50) == ("24", True)


def test_what_cannot_be_held_here_is_not_started(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: touch ran\nlimits: {cpu: 50%}")
    if result.reason is Reason.EXECUTOR:  # no cgroups here
        assert "its limit cpu: 50% cannot be held here" in result.message
        assert not box.path("failed", "j", "work", "ran").exists()
    else:
        assert result.state is State.DONE


def test_a_job_that_stops_itself_is_ended_in_time(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: kill -STOP $$\ntimeout: 0.3s\nkill_after: 0.3s")
    assert result.reason is Reason.TIMEOUT


def test_a_child_that_still_writes_does_not_keep_the_job(box: SpoolBox) -> None:
    box.start()
    job = "run: |\n  echo first\n  (trap '' TERM HUP; while :; do echo more; done) &\n"
    result = box.run("j", job)
    assert result.state is State.DONE
    assert result.duration_s is not None
    assert result.duration_s < 10
    assert box.output("j").startswith(("first\n", "more\n"))


def test_a_job_that_closes_its_streams_goes_on(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: echo a; exec 0<&- 1>&- 2>&-; sleep 0.2; touch done")
    assert result.state is State.DONE
    assert box.path("done", "j", "work", "done").exists()
    assert box.output("j") == "a\n"


@pytest.mark.parametrize("text", [r"\033[2J\033[1;1H\a", r"\377\376\200\303\050", r"\000\r\n"])
def test_whatever_a_job_prints_is_kept_byte_for_byte(box: SpoolBox, text: str) -> None:
    box.start()
    box.run("j", f"command: [printf, '{text}']")
    log = box.path("done", "j", "output.log").read_bytes()
    assert log == text.encode().decode("unicode_escape").encode("latin-1")
    assert b"\x1b" not in box.log.read_bytes()


@pytest.mark.heavy
def test_a_gigabyte_of_output_is_kept(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: head -c 1073741824 /dev/zero", within_s=120)
    assert result.state is State.DONE
    assert box.path("done", "j", "output.log").stat().st_size == 1 << 30


@pytest.mark.root
def test_a_job_that_fills_the_disk_loses_output_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    root.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(root), b"tmpfs", 0, b"size=8m,mode=755") != 0:
        pytest.skip("this root may not mount")
    box = SpoolBox(tmp_path)
    try:
        box.start()
        stage = root / "stage"
        stage.write_text("run: head -c 20000000 /dev/zero > big; echo ended with $?; exit 3")
        stage.rename(box.path("incoming", "j.yaml"))
        until(lambda: "cannot be written yet" in box.log.read_text(), "it found room")
        (box.path("running", "j", "work") / "big").unlink()
        result = box.result("j")
        assert result.reason is Reason.EXIT
    finally:
        box.close()
        libc.umount2(os.fsencode(root), 0)
