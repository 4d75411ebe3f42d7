"""The daemon, its nursery and its runners come and go; jobs do not notice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable

import psutil
import pytest
from spoolbox import PATIENCE_S, SpoolBox, until

from runnerd.model import Reason, State


def start_and_hold(box: SpoolBox, name: str = "held") -> str:
    """A job that runs and waits at a gate; the gate."""
    gate = box.gate(f"gate-{name}")
    box.drop(name, f"run: |\n  echo begun\n  read x < {gate}\n  echo ended\n")
    until(box.path("running", name, "status.json").exists, f"{name} did not start")
    box.gates[name] = gate
    return name


def test_a_job_outlives_its_killed_daemon(box: SpoolBox) -> None:
    box.start()
    start_and_hold(box)
    box.kill()
    box.gates["held"].open()
    assert box.result("held").state is State.DONE
    assert box.output("held") == "begun\nended\n"
    box.start()
    assert box.run("next", "run: echo x").state is State.DONE


def test_jobs_share_their_runners_fifo_and_see_nothing_of_each_other(box: SpoolBox) -> None:
    box.start(slots=1)
    told = "echo 40 half >> $RUNNER_PROGRESS; stat -c %i $RUNNER_PROGRESS"
    first = box.run("first", f"run: {told}")
    gate = box.gate("gate")
    box.drop("second", f"run: |\n  stat -c %i $RUNNER_PROGRESS\n  read x < {gate}\n")
    until(box.path("running", "second", "status.json").exists, "it did not start")
    assert json.loads(box.path("running", "second", "status.json").read_text())["percent"] is None
    assert len(spares(box)) == 1
    gate.open()
    assert (first.state, box.result("second").state) == (State.DONE, State.DONE)
    assert box.output("first") == box.output("second")
    box.stop()
    until(lambda: not spares(box), "what the runner had made is left")


def test_what_killed_runners_leave_goes_with_the_next_daemon(box: SpoolBox) -> None:
    box.start(slots=1)
    start_and_hold(box)
    runners = box.runners()
    box.kill()
    for each in runners:
        each.kill()
    psutil.wait_procs(runners, timeout=PATIENCE_S)
    assert len(spares(box)) == 1
    box.start(slots=1)
    assert box.result("held").reason is Reason.INTERRUPTED
    assert not spares(box)
    assert box.run("next", "run: echo 1 >> $RUNNER_PROGRESS").state is State.DONE


def spares(box: SpoolBox) -> list[str]:
    """The FIFOs that runners lend to their jobs."""
    return [name for name in os.listdir(box.root) if name.startswith(".spare.")]


@pytest.mark.parametrize("end", [SpoolBox.kill, SpoolBox.stop])
def test_a_new_daemon_adopts_what_runs_and_counts_its_slot(
    box: SpoolBox, end: Callable[[SpoolBox], None]
) -> None:
    box.start(slots=1)
    start_and_hold(box)
    end(box)
    box.start(slots=1)
    box.drop("next", "run: test -e ../../../done/held")
    assert box.run("bad", "run: [").reason is Reason.INVALID  # the daemon has seen "next" before
    assert box.path("incoming", "next.yaml").exists()
    box.gates["held"].open()
    assert box.result("next").state is State.DONE
    assert box.output("held") == "begun\nended\n"


def test_a_job_goes_on_to_tell_its_progress_after_a_restart(box: SpoolBox) -> None:
    box.start(slots=1)
    gate = box.gate("gate")
    end = box.gate("end")
    box.drop(
        "held", f"run: |\n  read x < {gate}\n  echo 40 half >> $RUNNER_PROGRESS\n  read x < {end}\n"
    )
    until(box.path("running", "held", "status.json").exists, "it did not start")
    box.stop()
    box.start(slots=1)
    gate.open()
    status = box.path("running", "held", "status.json")
    until(lambda: json.loads(status.read_text())["percent"] == 40, "its progress is lost")
    end.open()
    assert box.result("held").state is State.DONE


def test_a_stopped_daemon_leaves_its_jobs_at_work(box: SpoolBox) -> None:
    box.start()
    start_and_hold(box)
    box.stop()
    box.await_notice("STOPPING=1")
    box.gates["held"].open()
    assert box.result("held").state is State.DONE


def test_a_killed_runner_is_an_interrupted_job_and_nothing_of_it_stays(box: SpoolBox) -> None:
    box.start(slots=1)
    start_and_hold(box)
    (runner,) = box.runners()
    (job,) = runner.children()
    runner.kill()
    result = box.result("held")
    assert (result.state, result.reason, result.exit_code) == (
        State.FAILED,
        Reason.INTERRUPTED,
        None,
    )
    assert "runner was killed" in result.message
    box.says(f"held: failed (interrupted), {result.message}")
    assert not job.is_running() or job.status() == psutil.STATUS_ZOMBIE
    assert box.run("next", "run: echo x").state is State.DONE


def test_what_hides_from_its_environment_ends_with_its_killed_runner(box: SpoolBox) -> None:
    """Found by kinship: a daemon inherits the children of its runners."""
    gate = box.gate("hidden")
    box.start(slots=1)
    box.drop("hider", f"run: |\n  env -i setsid sh -c 'echo $$ > pid; cat {gate}' &\n  wait")
    pid_file = box.path("running", "hider", "work", "pid")
    until(lambda: pid_file.exists() and bool(pid_file.read_text()), "it is not up")
    hidden = psutil.Process(int(pid_file.read_text()))
    (runner,) = box.runners()
    runner.kill()
    assert box.result("hider").reason is Reason.INTERRUPTED
    assert not hidden.is_running()
    assert box.run("next", "run: echo x").state is State.DONE


def test_a_killed_idle_runner_costs_nothing(box: SpoolBox) -> None:
    box.start(slots=1)
    box.run("first", "run: echo x")
    (runner,) = box.runners()
    runner.kill()
    assert box.run("second", "run: echo x").state is State.DONE


def test_daemon_and_runner_killed_together(box: SpoolBox) -> None:
    box.start(slots=1)
    start_and_hold(box)
    (runner,) = box.runners()
    (job,) = runner.children()
    box.kill()
    runner.kill()
    box.start()
    assert box.result("held").reason is Reason.INTERRUPTED
    until(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE, "the job lives")


def test_the_daemon_ends_with_its_nursery_and_jobs_go_on(box: SpoolBox) -> None:
    box.start()
    start_and_hold(box)
    box.nursery().kill()
    assert box.daemon is not None
    assert box.daemon.wait(PATIENCE_S) == 70
    box.says("nursery")
    box.gates["held"].open()
    assert box.result("held").state is State.DONE


def test_two_daemons_do_not_share_a_spool(box: SpoolBox) -> None:
    box.start()
    assert box.daemon is not None
    second = subprocess.run(box.program, capture_output=True, text=True, check=False)
    assert second.returncode == 78
    assert f"is served by another runnerd (pid {box.daemon.pid})" in second.stderr
    assert box.run("j", "run: echo x").state is State.DONE


def test_idle_runners_end_and_come_back(box: SpoolBox) -> None:
    box.start(runner_idle="0.2s")
    box.run("first", "run: echo x")
    until(lambda: not box.runners(), "the idle runner stays")
    assert box.run("second", "run: echo x").state is State.DONE


def test_a_runner_serves_many_jobs(box: SpoolBox) -> None:
    box.start(slots=1)
    box.run("first", "run: echo x")
    (before,) = box.runners()
    box.run("second", "run: echo x")
    assert box.runners() == [before]


def test_once_runs_what_is_there_and_ends(box: SpoolBox) -> None:
    box.start()
    box.stop()
    for number in range(20):
        box.drop(f"j{number}", "run: echo x")
    box.drop("bad", "run: [")
    box.launch("--once")
    assert box.daemon is not None
    assert box.daemon.wait(PATIENCE_S) == 0
    assert len(os.listdir(box.path("done"))) == 20
    assert os.listdir(box.path("failed")) == ["bad"]


def test_systemd_hears_of_start_status_watchdog_and_stop(box: SpoolBox) -> None:
    box.start(watchdog_s=0.2)
    box.await_notice("WATCHDOG=1")
    box.await_notice("WATCHDOG=1")
    start_and_hold(box)
    box.await_notice("STATUS=1 running, 0 queued")
    box.gates["held"].open()
    box.result("held")
    box.stop()
    box.await_notice("STOPPING=1")


def test_a_reload_takes_a_good_configuration_and_refuses_a_bad_one(box: SpoolBox) -> None:
    box.start(slots=1)
    start_and_hold(box)
    box.drop("next", "run: echo x")
    assert box.daemon is not None
    box.configure(slots="many")
    box.daemon.send_signal(signal.SIGHUP)
    until(lambda: "the old one stays" in box.log.read_text(), "no complaint about the bad file")
    box.says("runnerd.yaml:1:8: `slots`: expected a whole number")
    assert box.path("incoming", "next.yaml").exists()
    box.await_notice("RELOADING=1")
    box.await_notice("READY=1")
    box.configure(slots=2)
    box.daemon.send_signal(signal.SIGHUP)
    box.await_notice("RELOADING=1")
    assert box.result("next").state is State.DONE
    box.gates["held"].open()
    assert box.result("held").state is State.DONE


def test_fewer_slots_end_no_job_and_then_the_runners_that_are_too_many(box: SpoolBox) -> None:
    box.start(slots=2)
    start_and_hold(box, "a")
    start_and_hold(box, "b")
    assert len(box.runners()) == 2
    assert box.daemon is not None
    box.configure(slots=1)
    box.reload()
    assert len(box.runners()) == 2
    for name in ("a", "b"):
        box.gates[name].open()
        assert box.result(name).state is State.DONE
    until(lambda: len(box.runners()) == 1, "a runner too many stays")
    assert box.run("next", "run: echo x").state is State.DONE


def test_what_cannot_be_configured_is_refused_at_start(box: SpoolBox) -> None:
    box.configure(slots=0, sluts=3)
    program = [*box.program, "--config", str(box.config_file)]
    for extra in ([], ["--check"]):
        done = subprocess.run([*program, *extra], capture_output=True, text=True, check=False)
        assert done.returncode == 78
        assert "`slots`: expected a whole number from 1 to 1024" in done.stderr
        assert "unknown field `sluts`: did you mean `slots`?" in done.stderr
    box.configure()
    done = subprocess.run([*program, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0


def test_a_job_that_removes_its_own_directory_does_not_keep_its_slot(box: SpoolBox) -> None:
    box.start(slots=1)
    box.drop("gone", 'run: while [ -e "$RUNNER_JOB_DIR" ]; do rm -rf "$RUNNER_JOB_DIR" || :; done')
    assert box.run("next", "run: echo x", within_s=5).state is State.DONE
