"""Workflows: steps in order and side by side, what they hand on, and how they end."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from spoolbox import Reports, SpoolBox, until

from runnerd.model import Reason, State
from runnerd.outcome import StepState


def states(result: object) -> dict[str, str]:
    return {step.id: step.state.value for step in result.steps}  # type: ignore[attr-defined]


def test_steps_run_in_order_and_each_has_its_part_of_the_log(box: SpoolBox) -> None:
    box.start()
    job = """
env: {WHO: world}
steps:
  - {id: one, name: The first, run: echo hello $WHO}
  - {command: [printf, 'a%sb\\n', '-'], env: {WHO: nobody}}
  - {id: three, run: 'echo $WHO', env: {WHO: three}}
"""
    result = box.run("j", job)
    assert (result.state, result.message, result.exit_code) == (State.DONE, "the job succeeded", 0)
    log = box.path("done", "j", "output.log").read_bytes()
    assert log == b"==> step one: The first\nhello world\n==> step 2\na-b\n==> step three\nthree\n"
    parts = [log[step.log_start : step.log_end] for step in result.steps]
    assert parts == [b"hello world\n", b"a-b\n", b"three\n"]


def test_a_failed_step_fails_the_job_and_those_behind_it_are_passed_over(box: SpoolBox) -> None:
    box.start()
    job = """
steps:
  - {id: good, run: echo good}
  - {id: bad, run: exit 7}
  - {id: never, run: echo never}
  - {id: sorry, run: echo sorry, if: failure}
  - {id: always, run: echo always, if: always}
"""
    result = box.run("j", job)
    assert (result.reason, result.exit_code) == (Reason.EXIT, 7)
    assert result.message == "the step bad exited with status 7"
    assert states(result) == {
        "good": "done",
        "bad": "failed",
        "never": "skipped",
        "sorry": "done",
        "always": "done",
    }
    assert "never" not in box.output("j")


def test_a_step_that_may_fail_fails_nothing(box: SpoolBox) -> None:
    box.start()
    job = """
steps:
  - {id: maybe, run: exit 1, continue_on_error: true}
  - {id: after, run: echo after}
  - {id: sorry, run: echo sorry, if: failure}
"""
    result = box.run("j", job)
    assert result.state is State.DONE
    assert states(result) == {"maybe": "failed", "after": "done", "sorry": "skipped"}


def test_steps_that_need_nothing_of_each_other_run_side_by_side(box: SpoolBox) -> None:
    box.start()
    left, right = box.gate("left"), box.gate("right")
    job = {
        "steps": [
            {"id": "left", "needs": [], "run": f"read x < {left}; echo left"},
            {"id": "right", "needs": [], "run": f"echo right; read x < {right}"},
            {"id": "end", "needs": ["left", "right"], "run": "echo end"},
        ]
    }
    box.drop("j", json.dumps(job))
    right.open()
    left.open()  # both stood at their gates at once
    assert box.result("j").state is State.DONE
    log = box.output("j")
    assert log.endswith("==> step end\nend\n")
    assert "==> step left\nleft\n" in log
    assert "==> step right\nright\n" in log


def test_values_are_handed_on(box: SpoolBox) -> None:
    box.start()
    job = """
steps:
  - id: make-it
    run: |
      echo file=out.pdf >> $RUNNER_OUTPUT
      printf 'text<<EOF\\ntwo\\nlines\\nEOF\\n' >> $RUNNER_OUTPUT
  - run: echo "$STEP_MAKE_IT_FILE $STEP_MAKE_IT_TEXT"
  - {run: 'echo own $STEP_MAKE_IT_FILE', env: {STEP_MAKE_IT_FILE: own}}
"""
    result = box.run("j", job)
    assert dict(result.steps[0].outputs) == {"file": "out.pdf", "text": "two\nlines"}
    assert "out.pdf two\nlines\n" in box.output("j")
    assert box.output("j").endswith("own own\n")
    single = box.run("k", "run: echo a=b >> $RUNNER_OUTPUT")
    assert (dict(single.outputs), single.steps) == ({"a": "b"}, ())
    assert not [each for each in box.path("done", "k").iterdir() if each.name.startswith(".o")]


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("echo nonsense", "line 1: expected key=value or key<<END, found 'nonsense'"),
        ("echo 'a<<EOF'", "line 1: the end 'EOF' of this value is missing"),
        ("printf '\\377=x'", "byte 1 is not UTF-8"),
        ("head -c 70000 /dev/zero", "more than 64 KiB"),
        ("printf 'a=\\0'", "cannot be passed on"),
    ],
)
def test_what_is_handed_on_badly_fails_the_step(box: SpoolBox, written: str, part: str) -> None:
    box.start()
    result = box.run("j", json.dumps({"run": f"{written} >> $RUNNER_OUTPUT"}))
    assert result.reason is Reason.EXECUTOR
    assert part in result.message


@pytest.mark.parametrize(
    ("made", "part"),
    [
        ("mkdir $RUNNER_OUTPUT", "no plain file"),
        ("mkfifo $RUNNER_OUTPUT", "no plain file"),
        ("ln -s /etc/passwd $RUNNER_OUTPUT", "symbolic links"),
    ],
)
def test_what_is_no_file_hands_nothing_on(box: SpoolBox, made: str, part: str) -> None:
    box.start()
    result = box.run("j", json.dumps({"run": f"rm -f $RUNNER_OUTPUT; {made}"}))
    assert result.reason is Reason.EXECUTOR
    assert part in result.message
    assert box.run("next", "run: echo a=b >> $RUNNER_OUTPUT").outputs == {"a": "b"}


def test_what_a_failed_attempt_handed_on_is_forgotten(box: SpoolBox) -> None:
    box.start()
    script = "echo tried$RUNNER_ATTEMPT=yes >> $RUNNER_OUTPUT; test $RUNNER_ATTEMPT = 2"
    result = box.run("j", json.dumps({"run": script, "retry": {"max": 1, "delay": "0s"}}))
    assert result.state is State.DONE
    assert dict(result.outputs) == {"tried2": "yes"}


def test_a_secret_that_is_handed_on_shows_as_stars(box: SpoolBox) -> None:
    box.secret("pw", "hunter22")
    box.start()
    steps = [{"id": "a", "run": "echo v=$PW >> $RUNNER_OUTPUT"}, {"run": "echo got $STEP_A_V"}]
    result = box.run("j", json.dumps({"secrets": {"PW": "pw"}, "steps": steps}))
    assert dict(result.steps[0].outputs) == {"v": "***"}
    assert "hunter22" not in box.output("j")


def test_the_timeout_of_a_step_and_of_the_job(box: SpoolBox) -> None:
    box.start()
    job = """
timeout: {}
steps:
  - {{id: slow, run: sleep 1000, timeout: {}}}
  - {{id: next, run: echo next}}
  - {{id: last, run: echo bye, if: always}}
"""
    own = box.run("own", job.format("1m", "0.2s"))
    assert (own.reason, own.message) == (
        Reason.TIMEOUT,
        "the step slow ran longer than its timeout of 0.2s",
    )
    assert states(own) == {"slow": "failed", "next": "skipped", "last": "done"}
    whole = box.run("whole", job.format("0.3s", "1m"))
    assert whole.message == "the job ran longer than its timeout of 0.3s"
    assert states(whole) == {"slow": "failed", "next": "skipped", "last": "done"}


def test_a_cancelled_workflow_runs_what_runs_always(box: SpoolBox) -> None:
    box.start()
    job = """
steps:
  - {id: a, run: sleep 1000, needs: []}
  - {id: b, run: sleep 1000, needs: []}
  - {id: no, run: echo no}
  - {id: sorry, run: echo sorry, if: failure, needs: [a]}
  - {id: bye, run: echo bye, if: always, needs: [a, b]}
"""
    box.drop("j", job)
    until(lambda: box.log.read_text().count("j: started") == 2, "not both run")
    box.control("j.cancel")
    result = box.result("j")
    assert result.reason is Reason.CANCELLED
    found = states(result)
    assert (found["a"], found["b"], found["bye"]) == ("failed", "failed", "done")
    assert (found["no"], found["sorry"]) == ("skipped", "skipped")
    assert result.steps[0].state is StepState.FAILED


def test_progress_is_shown_while_it_is_made(box: SpoolBox) -> None:
    reports = Reports(box.scratch / "reports")
    gate = box.gate()
    box.start()
    script = f"echo '42 Installing' >> $RUNNER_PROGRESS; echo up > {reports.path}; read x < {gate}"
    box.drop("j", f"run: |\n  {script}\n")
    assert reports.next() == "up"
    job = box.api.job("j")
    until(lambda: job.status is not None and job.status.percent == 42.0, "no progress is shown")
    assert job.status is not None
    assert (job.status.progress, job.status.queue) == ("Installing", "default")
    gate.open()
    assert box.result("j").state is State.DONE
    assert not box.path("done", "j", "status.json").exists()


def test_a_job_that_floods_its_progress_hurts_nobody(box: SpoolBox) -> None:
    box.start()
    job = "run: timeout 1 yes '50 flood' >> $RUNNER_PROGRESS || true; echo ended"
    assert box.run("j", job).state is State.DONE
    assert box.output("j") == "ended\n"


# --- the log and its times ----------------------------------------------------------------------


def test_the_times_of_the_log_are_script_ones(box: SpoolBox, tmp_path: Path) -> None:
    box.start()
    box.run("j", "run: |\n  echo one\n  sleep 0.3\n  printf 'two\\0\\377\\n'\n")
    timing = box.path("done", "j", "output.timing").read_text()
    pieces = [line.split() for line in timing.splitlines()]
    assert [kind for kind, _, _ in pieces] == ["O", "O"]
    assert sum(int(size) for _, _, size in pieces) == len(b"one\ntwo\0\xff\n")
    assert 0.25 < float(pieces[1][1]) < 5
    program = shutil.which("scriptreplay")
    if program is None:
        pytest.skip("there is no scriptreplay here")
    # It takes the first line of a log for a title, which ours does not have.
    log = tmp_path / "log"
    log.write_bytes(b"\n" + box.path("done", "j", "output.log").read_bytes())
    command = [program, "-m", "0.01", "-T", str(box.path("done", "j", "output.timing"))]
    played = subprocess.run([*command, "-O", str(log)], capture_output=True, check=True)
    assert played.stdout.strip() == b"one\ntwo\0\xff"


def test_the_output_is_cut_at_its_cap_and_the_log_says_so(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: yes | head -c 1000000\nlimits: {output: 1000}")
    assert (result.state, result.truncated) == (State.DONE, ("output",))
    log = box.path("done", "j", "output.log").read_bytes()
    assert log == b"y\n" * 500 + b"\n[runnerd: 999000 more bytes of output were cut here]\n"
    exact = box.run("k", "run: yes | head -c 1000\nlimits: {output: 1000}")
    assert exact.truncated == ()
