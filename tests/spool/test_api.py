"""The Python API, beside a real daemon."""

from __future__ import annotations

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
