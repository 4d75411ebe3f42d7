"""The shell executor, seen from inside a job."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

import psutil
import pytest
from spoolbox import SpoolBox, until

from runnerd.model import Reason, State


def test_a_script_stops_at_its_first_failing_command(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: |\n  echo before\n  false\n  echo after\n")
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, Reason.EXIT, 1)
    assert result.message == "the job exited with status 1"
    assert box.output("j") == "before\n"


def test_a_list_of_commands_is_one_script(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run:\n  - cd /\n  - x=1\n  - echo $PWD $x\n")
    assert box.output("j") == "/ 1\n"


def test_no_shell_reads_a_command(box: SpoolBox) -> None:
    box.start()
    box.run("j", "command: [printf, '%s|', '$HOME', '; id', \"a'b\", '*', '', '-x']\n")
    assert box.output("j") == "$HOME|; id|a'b|*||-x|"


def test_the_shebang_line_names_the_interpreter(box: SpoolBox) -> None:
    box.start()
    box.run("j", f"run: |\n  #!{sys.executable} -IS\n  import sys\n  print(sys.flags.isolated)\n")
    assert box.output("j") == "1\n"


def test_the_options_of_the_shebang_line_count(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: |\n  #!/bin/sh -x\n  false\n  echo after\n")
    assert result.state is State.DONE  # no -e of ours
    assert box.output("j") == "+ false\n+ echo after\nafter\n"


def test_the_environment_is_clean(box: SpoolBox) -> None:
    box.start()  # with MY_SECRET in its own environment
    box.run("j", "command: [env, '-0']\nenv: {GREETING: 'two\\nlines', PATH: /usr/bin:/bin}\n")
    lines = box.output("j").split("\0")[:-1]
    found = dict(line.partition("=")[::2] for line in lines)
    assert set(found) == {
        *("PATH", "LANG", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "GREETING"),
        *("RUNNER_JOB_ID", "RUNNER_JOB_DIR", "RUNNER_SUBMITTER"),
        *("RUNNER_ATTEMPT", "RUNNER_OUTPUT", "RUNNER_PROGRESS"),
    }
    assert found["RUNNER_JOB_ID"] == "j"
    assert found["RUNNER_JOB_DIR"] == str(box.path("running", "j"))
    assert found["PATH"] == "/usr/bin:/bin"
    assert found["GREETING"] == "two\\nlines"


def test_a_job_starts_in_its_own_work_directory(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: |\n  pwd\n  echo made > file\n")
    assert box.output("j") == f"{box.path('running', 'j', 'work')}\n"
    assert box.path("done", "j", "work", "file").read_text() == "made\n"


def test_a_job_gets_three_descriptors_and_no_input(box: SpoolBox) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)  # noqa: FBT003  # what a careless parent leaves open
    box.start()
    os.close(read_end)
    os.close(write_end)
    box.run("j", "command: [ls, -l, /proc/self/fd]")
    links = [line.split()[-3:] for line in box.output("j").splitlines() if "->" in line]
    targets = {link[0]: link[2] for link in links}
    assert targets.pop("0") == "/dev/null"
    assert targets.pop("1") == targets.pop("2")
    assert all("/proc/" in target for target in targets.values()), targets


def test_ignored_and_blocked_signals_are_set_back(box: SpoolBox) -> None:
    box.start()
    box.run("j", "command: [grep, -E, '^Sig(Ign|Blk)', /proc/self/status]")
    masks = [int(line.split()[1], 16) for line in box.output("j").splitlines()]
    ours = 2**31 - 1  # what is above is the C library's own and real-time signals
    assert [mask & ours for mask in masks] == [0, 0]


def test_both_streams_keep_their_order(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    assert box.output("j") == "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))


def test_every_byte_of_a_large_output_is_kept(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: head -c 50000000 /dev/urandom | tee copy")
    log = box.path("done", "j", "output.log").read_bytes()
    copy = box.path("done", "j", "work", "copy").read_bytes()
    assert len(log) == 50_000_000
    assert hashlib.sha256(log).digest() == hashlib.sha256(copy).digest()
    assert result.truncated == ()


def test_a_job_may_close_its_output_and_go_on(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: |\n  echo a\n  exec >&- 2>&-\n  sleep 0.1; touch ran\n  exit 4\n")
    assert result.exit_code == 4
    assert box.path("failed", "j", "work", "ran").exists()
    assert box.output("j") == "a\n"


def test_a_background_child_is_ended_with_the_job(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: |\n  sleep 1000 & echo $!\n")
    assert result.state is State.DONE
    assert not psutil.pid_exists(int(box.output("j")))


def test_a_child_that_leaves_its_session_is_ended_with_the_job(box: SpoolBox) -> None:
    box.start()
    stray = box.scratch / "stray"
    script = f"run: |\n  setsid sh -c 'echo $$ > {stray}; exec sleep 1000' &\n"
    result = box.run("j", f"{script}  while [ ! -s {stray} ]; do sleep 0.01; done\n  echo end\n")
    assert result.state is State.DONE
    assert box.output("j") == "end\n"
    assert not psutil.pid_exists(int(stray.read_text()))


@pytest.mark.heavy
def test_what_a_long_job_abandons_is_buried_meanwhile(box: SpoolBox) -> None:
    gate, end = box.gate(), box.gate("end")
    box.start(slots=1)
    abandon = f"for i in 1 2 3 4 5; do sh -c 'read x < {end} &'; done"
    box.drop("j", f"run: |\n  {abandon}\n  read x < {gate}\n")
    until(box.path("running", "j", "status.json").exists, "the job did not start")
    (runner,) = box.runners()
    until(lambda: len(runner.children()) == 6, "the orphans did not come to the runner")

    def all_gone() -> bool:
        with contextlib.suppress(OSError):  # nobody reads any more
            os.close(os.open(end.path, os.O_WRONLY | os.O_NONBLOCK))
        return len(runner.children()) == 1

    until(all_gone, "zombies stay")
    gate.open()
    assert box.result("j").state is State.DONE


def test_a_job_killed_by_a_signal_says_which(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: kill -KILL $$")
    assert (result.reason, result.signal, result.exit_code) == (Reason.SIGNAL, "SIGKILL", None)


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("no-such-program", "is not on the PATH"),
        ("/no/such/program", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
    ],
)
def test_what_cannot_be_started_is_said(box: SpoolBox, command: str, part: str) -> None:
    box.start()
    result = box.run("j", f"command: ['{command}', x]")
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, Reason.EXECUTOR, None)
    assert part in result.message


def test_a_job_over_its_time_is_ended(box: SpoolBox) -> None:
    box.start()
    result = box.run(
        "j", "run: |\n  trap 'echo asked; exit 0' TERM\n  sleep 1000 & wait\ntimeout: 0.2\n"
    )
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, Reason.TIMEOUT, None)
    assert "its timeout of 0.2s" in result.message
    assert box.output("j") == "asked\n"


@pytest.mark.parametrize("timeout", ["24d", "25d", "365d"])
def test_a_job_may_have_all_the_time_that_its_field_allows(box: SpoolBox, timeout: str) -> None:
    box.start()
    result = box.run("j", f"run: echo x\ntimeout: {timeout}")
    assert (result.state, result.reason) == (State.DONE, None)


def test_a_stopped_job_is_ended_too(box: SpoolBox) -> None:
    box.start()
    assert box.run("j", "run: kill -STOP $$\ntimeout: 0.2").reason is Reason.TIMEOUT


@pytest.mark.heavy
def test_a_job_that_ignores_the_request_is_killed(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: |\n  trap '' TERM\n  while :; do sleep 1; done\ntimeout: 0.2\n")
    assert result.reason is Reason.TIMEOUT
    assert result.duration_s is not None
    assert result.duration_s > 9


def test_the_script_is_on_no_command_line(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    box.drop("j", f"run: |\n  password=tr0ub4dor\n  read x < {gate}\n")
    until(box.path("running", "j", "status.json").exists, "the job did not start")
    lines = [Path(f"/proc/{pid}/cmdline") for pid in psutil.pids()]
    seen = b"".join(line.read_bytes() for line in lines if line.exists())
    gate.open()
    assert box.result("j").state is State.DONE
    assert b"/dev/fd/3" in seen
    assert b"tr0ub4dor" not in seen


def test_usage_counts_the_memory_of_a_big_job(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", f"command: [{sys.executable}, -c, 'x = bytearray(200_000_000)']")
    assert result.usage is not None
    assert result.usage.max_memory_bytes is not None
    assert result.usage.max_memory_bytes > 200_000_000
    assert result.usage.cpu_user_s + result.usage.cpu_system_s > 0
