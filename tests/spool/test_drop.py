"""Every way to drop a file: it runs once, whole, in its turn, or not at all."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest
from spoolbox import Reports, SpoolBox, until

from runnerd import openat
from runnerd.model import State


def test_a_renamed_file_runs_and_lies_in_done(box: SpoolBox) -> None:
    box.start()
    result = box.run("hello", "name: Greeting\nrun: echo hello\nlabels: {customer: '42'}\n")
    assert (result.state, result.exit_code, result.reason) == (State.DONE, 0, None)
    assert (result.name, result.labels) == ("Greeting", {"customer": "42"})
    assert sorted(os.listdir(box.path("done", "hello"))) == [
        ".claim",
        "job.yaml",
        "output.log",
        "output.timing",
        "result.json",
        "work",
    ]
    assert box.output("hello") == "hello\n"
    assert not os.listdir(box.path("incoming")) + os.listdir(box.path("running"))


def test_a_file_dropped_before_the_daemon_starts_runs(box: SpoolBox) -> None:
    box.start()
    box.stop()
    box.drop("early", "run: echo x")
    box.start()
    assert box.result("early").state is State.DONE


def test_cp_and_a_shell_redirection_work(box: SpoolBox) -> None:
    box.start()
    source = box.scratch / "source.yaml"
    source.write_text("run: echo whole")
    subprocess.run(["cp", source, box.path("incoming", "copied.yaml")], check=True)
    subprocess.run(["sh", "-c", f"cat {source} > {box.path('incoming', 'catted.yml')}"], check=True)
    assert box.result("copied").state is State.DONE
    assert box.result("catted").state is State.DONE


def test_a_json_file_is_a_job(box: SpoolBox) -> None:
    box.start()
    assert box.run("j.json".removesuffix(".json"), "run: echo yaml").state is State.DONE
    box.drop("k.json", '{"run": "echo json", "timeout": 5}')
    assert box.result("k").state is State.DONE


def test_a_file_is_not_read_while_somebody_writes_it(box: SpoolBox) -> None:
    box.start()
    slow, ran = box.path("incoming", "slow.yaml"), box.scratch / "ran"
    with slow.open("w") as file:
        file.write(f"run: |\n  echo first\n  echo x >> {ran}\n")
        file.flush()
        assert box.run("other", "run: echo other").state is State.DONE
        assert slow.exists()
        file.write("  echo second\n")
    assert box.result("slow").state is State.DONE
    assert box.output("slow") == "first\nsecond\n"
    assert ran.read_text() == "x\n"


@pytest.mark.parametrize("now", ["", "run: echo", "run: echo first second"])
def test_a_file_that_changed_without_a_lease_is_looked_at_again(tmp_path: Path, now: str) -> None:
    file = tmp_path / "j.yaml"
    file.write_text("run: echo first")
    with file.open("rb") as opened:
        dropped = openat.Dropped(file.name, opened.fileno(), os.fstat(opened.fileno()))
        assert dropped.read(100) == b"run: echo first"
        assert dropped.read(5) == b"run: e"
        file.write_text(now)
        with pytest.raises(openat.Busy):
            dropped.read(100)


@pytest.mark.heavy
def test_cp_from_a_pipe_that_takes_three_seconds(box: SpoolBox) -> None:
    box.start()
    script = "(echo 'run: |'; echo '  echo a'; sleep 3; echo '  echo b') | cp /dev/stdin $0"
    subprocess.run(["sh", "-c", script, box.path("incoming", "slow.yaml")], check=True)
    assert box.result("slow").state is State.DONE
    assert box.output("slow") == "a\nb\n"


def test_link_and_unlink_is_a_way_to_drop(box: SpoolBox) -> None:
    box.start()
    staged = box.scratch / "staged.yaml"
    staged.write_text("run: echo linked")
    os.link(staged, box.path("incoming", "linked.yaml"))
    staged.unlink()
    assert box.result("linked").state is State.DONE


def test_a_thousand_files_at_once_run_exactly_once(box: SpoolBox) -> None:
    count = 1000
    ran = box.scratch / "ran"
    staged = box.scratch / "many"
    staged.mkdir()
    for number in range(count):
        (staged / f"j{number}.yaml").write_text(f"run: echo $RUNNER_JOB_ID >> {ran}\n")
    box.start()
    writers = [
        subprocess.Popen(["sh", "-c", f"{tool} {staged}/j*{digit}.yaml {box.path('incoming')}"])
        for digit in range(10)
        for tool in ["mv" if digit % 2 else "cp"]
    ]
    assert [writer.wait() for writer in writers] == [0] * 10
    until(lambda: len(os.listdir(box.path("done"))) == count, "not all jobs are done")
    assert sorted(ran.read_text().split()) == sorted(f"j{number}" for number in range(count))
    assert not os.listdir(box.path("failed"))
    assert not os.listdir(box.path("incoming"))


def test_removing_a_queued_file_cancels_it(box: SpoolBox) -> None:
    gate, ran = box.gate(), box.scratch / "ran"
    box.start(slots=1)
    box.drop("first", f"run: read x < {gate}")
    until(box.path("running", "first").exists, "the first job was not claimed")
    box.drop("second", f"run: echo second >> {ran}")
    box.drop("third", f"run: echo third >> {ran}")
    box.path("incoming", "second.yaml").unlink()
    gate.open()
    assert box.result("third").state is State.DONE
    assert ran.read_text() == "third\n"
    assert box.api.job("first").state is State.DONE
    assert not box.path("done", "second").exists()
    assert not box.path("failed", "second").exists()


def test_replacing_a_queued_file_runs_the_new_one_only(box: SpoolBox) -> None:
    gate, ran = box.gate(), box.scratch / "ran"
    box.start(slots=1)
    box.drop("first", f"run: read x < {gate}")
    until(box.path("running", "first").exists, "the first job was not claimed")
    box.drop("second", f"run: echo old >> {ran}")
    box.drop("second", f"run: echo new >> {ran}")
    gate.open()
    assert box.result("second").state is State.DONE
    assert ran.read_text() == "new\n"


def test_hidden_and_other_names_are_left_alone(box: SpoolBox) -> None:
    box.start()
    names = [".hidden.yaml", "upload.yaml.part", "notes.txt", "x.yaml.tmp", ".yaml"]
    for name in names:
        box.path("incoming", name).write_text("run: echo no")
    assert box.run("real", "run: echo yes").state is State.DONE
    assert sorted(os.listdir(box.path("incoming"))) == sorted(names)


def test_an_id_that_is_taken_gets_the_next_number(box: SpoolBox) -> None:
    box.start()
    for expected in ("same", "same.2", "same.3"):
        box.drop("same", f"run: echo {expected}")
        assert box.result(expected).file == "same.yaml"
        assert box.output(expected) == f"{expected}\n"


def test_first_come_first_served(box: SpoolBox) -> None:
    gate, ran = box.gate(), box.scratch / "ran"
    box.start(slots=1)
    box.drop("first", f"run: read x < {gate}")
    until(box.path("running", "first").exists, "the first job was not claimed")
    order = ["z", "a", "m", "b", "y"]
    for name in order:
        box.drop(name, f"run: echo {name} >> {ran}")
    gate.open()
    box.result(order[-1])
    assert ran.read_text().split() == order


def test_never_more_jobs_at_once_than_slots(box: SpoolBox) -> None:
    reports = Reports(box.scratch / "reports")
    names = [f"j{number}" for number in range(6)]
    gates = {name: box.gate(f"gate-{name}") for name in names}
    box.start(slots=2)
    for name in names:
        box.drop(name, f"run: |\n  echo {name} > {reports.path}\n  read x < {gates[name]}\n")
    running = [reports.next(), reports.next()]
    for number in range(len(names)):
        assert len(os.listdir(box.path("running"))) <= 2
        job = running.pop(0)
        gates[job].open()
        assert box.result(job).state is State.DONE
        if number < len(names) - 2:
            running.append(reports.next())
    reports.close()


def test_jobs_that_count_each_other_never_count_more_than_slots(box: SpoolBox) -> None:
    tally, slots, count = box.scratch / "tally", 3, 60
    job = f"run: |\n  echo +1 >> {tally}\n  sleep 0.01\n  echo -1 >> {tally}\n"
    box.start(slots=slots)
    for number in range(count):
        box.drop(f"j{number}", job)
    until(lambda: len(os.listdir(box.path("done"))) == count, "not all jobs are done")
    at_once = list(itertools.accumulate(map(int, tally.read_text().split())))
    assert len(at_once) == 2 * count
    assert at_once[-1] == 0
    assert 1 < max(at_once) <= slots


def test_a_drop_box_that_was_replaced_is_found_again(box: SpoolBox) -> None:
    box.start(rescan="0.2s")
    box.path("incoming").rename(box.scratch / "old")
    box.path("incoming").mkdir(mode=0o700)
    assert box.run("j", "run: echo x", within_s=5).state is State.DONE
