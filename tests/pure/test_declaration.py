"""The declaration of the fields, the file that ships, and what a job file becomes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runnerd.config import read_config
from runnerd.errors import Invalid
from runnerd.fields import CONFIG, JOB
from runnerd.model import JobSpec, Step
from runnerd.parse import parse


def test_every_field_has_help_and_a_good_example() -> None:
    for field in JOB:
        assert field.help.endswith(".")
        text = f"{field.name}: {field.example}\n"
        if field.name not in ("run", "command"):
            text += "run: x\n"
        assert parse(text.encode(), executors=["shell"])
    for field in CONFIG:
        assert field.help.endswith(".")
        assert read_config(f"{field.name}: {field.example}\n".encode(), cpus=2)


def test_the_shipped_configuration_names_every_key_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "etc/runnerd.yaml").read_text()
    set_lines = re.findall(r"^# ([a-z_]+: \S+)$", text, re.MULTILINE)
    shipped = read_config("\n".join(set_lines).encode(), cpus=4)
    assert [line.partition(":")[0] for line in set_lines] == [field.name for field in CONFIG]
    assert shipped.spool == "/var/spool/runner"
    default = read_config(b"", cpus=4)
    assert (default.slots, default.group) == (shipped.slots, shipped.group)
    assert (default.runner_idle_s, default.rescan_s) == (shipped.runner_idle_s, shipped.rescan_s)
    assert read_config(text.encode(), cpus=4) == default
    for field in CONFIG:
        assert field.help in text.replace("\n# ", " ")


def test_a_job_file_becomes_what_it_says() -> None:
    data = b"name: N\ncommand: [a, 'b c']\nenv: {A: '1'}\ntimeout: 10m\nlabels: {x/y: z}\n"
    assert parse(data, executors=["shell"]) == JobSpec(
        step=Step(executor="shell", command=("a", "b c"), env={"A": "1"}),
        name="N",
        timeout_s=600,
        labels={"x/y": "z"},
    )


def test_a_file_with_many_faults_is_not_told_all_of_them() -> None:
    with pytest.raises(Invalid) as caught:
        parse("".join(f"a{n}: b\n" for n in range(5000)).encode(), executors=["shell"])
    assert len(caught.value.problems) <= 101
