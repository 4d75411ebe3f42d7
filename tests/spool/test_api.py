"""The Python API, beside a real daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from spoolbox import SpoolBox, until

import runnerd
from runnerd.api import NoSuchJob
from runnerd.errors import RunnerdError
from runnerd.model import State


def test_submit_and_wait(box: SpoolBox) -> None:
    box.start()
    job = runnerd.Spool(box.root).submit({"run": "echo hello", "env": {"A": "ü😀"}, "timeout": 5})
    assert job.wait().exit_code == 0
    assert job.log_file.read_text() == "hello\n"
    assert job.state is State.DONE
    assert job.result == job.wait(0)


@pytest.mark.parametrize("text", ["run: exit 7", b"run: exit 7"])
def test_the_text_of_a_job_file_will_do(box: SpoolBox, text: str | bytes) -> None:
    box.start()
    job = box.api.submit(text, name="seven")
    assert job.id == "seven"
    assert job.wait().exit_code == 7


def test_the_example_in_the_manual_runs(box: SpoolBox) -> None:
    box.start()
    text = runnerd.api.__doc__ or ""
    example = "from runnerd import Spool\n" + textwrap.dedent(
        "\n".join(line for line in text.splitlines() if line.startswith("    "))
    )
    assert "submit" in example
    env = {**os.environ, "RUNNERD_SPOOL": str(box.root)}
    done = subprocess.run(
        [sys.executable, "-c", example], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "hello\n\n"


def test_who_submits_under_one_name_at_the_same_time_loses_nothing(box: SpoolBox) -> None:
    box.start()
    box.stop()
    script = (
        "import sys; from runnerd import Spool\n"
        "spool = Spool(sys.argv[1])\n"
        "for _ in range(25): print(spool.submit('run: echo x', name='n').id)\n"
    )
    submitters = [
        subprocess.Popen(
            [sys.executable, "-c", script, box.root], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    told = [job_id for each in submitters for job_id in each.communicate()[0].split()]
    assert len(told) == 100
    assert len(os.listdir(box.path("incoming"))) == 100
    assert len(set(told)) == 100


def test_a_taken_name_gets_the_next_number(box: SpoolBox) -> None:
    box.start()
    box.stop()
    assert [box.api.submit("run: 'true'", name="n").id for _ in range(3)] == ["n", "n.2", "n.3"]


def test_what_cannot_be_submitted_is_said(box: SpoolBox) -> None:
    with pytest.raises(RunnerdError, match="nothing can be dropped"):
        box.api.submit("run: x")
    box.start()
    with pytest.raises(RunnerdError, match=r"job\['env'\]\['A'\] is None"):
        box.api.submit({"run": "x", "env": {"A": None}})
    with pytest.raises(RunnerdError, match="cannot be a job's id"):
        box.api.submit("run: x", name="../x")


def test_wait_gives_up_when_asked_to(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    job = box.api.submit({"run": f"read x < {gate}"})
    with pytest.raises(TimeoutError, match=r"after 0\.2 s"):
        job.wait(0.2)
    until(lambda: job.status is not None, "no status")
    assert job.status is not None
    assert job.status.state is State.RUNNING
    gate.open()
    assert job.wait().state is State.DONE


def test_a_job_that_is_not_there_is_said(box: SpoolBox) -> None:
    box.start()
    box.stop()
    for wrong in ("never", "../../etc", ""):
        with pytest.raises(NoSuchJob):
            box.api.job(wrong)
    job = box.api.submit("run: 'true'")
    box.path("incoming", f"{job.id}.yaml").unlink()
    with pytest.raises(NoSuchJob, match="is gone"):
        job.wait()


def test_jobs_are_listed_newest_first(box: SpoolBox) -> None:
    box.start()
    for name in ("c", "a", "b"):
        box.run(name, "run: 'true'")
    assert [job.id for job in box.api.jobs(State.DONE)] == ["b", "a", "c"]
    assert [job.id for job in box.api.jobs(State.DONE, limit=1)] == ["b"]
    assert box.api.jobs(State.QUEUED) == []
