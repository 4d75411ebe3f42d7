"""The declaration of the fields, the file that ships, and what a job file becomes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyfile import EXECUTORS

from runnerd import records
from runnerd.config import CONFIG
from runnerd.errors import Invalid
from runnerd.executors.ssh import SSH
from runnerd.faults import Faults
from runnerd.model import (
    Artifact,
    Concurrency,
    Docker,
    IoShare,
    JobSpec,
    Limits,
    Mount,
    News,
    Reason,
    Retry,
    Step,
    When,
)
from runnerd.parse import parse
from runnerd.shapes import Field, Items, Record, Table
from runnerd.templates import template_record
from runnerd.yamlsafe import read

JOB, TEMPLATE = EXECUTORS.job, template_record(EXECUTORS)


def every_field(record: Record) -> Iterator[Field]:
    """All fields of a record, and of the records in them."""
    for field in record.fields:
        yield field
        kind = field.kind
        while isinstance(kind, Items | Table):
            kind = kind.item if isinstance(kind, Items) else kind.value
        if isinstance(kind, Record):
            yield from every_field(kind)


DECLARED = [field for record in (JOB, CONFIG, TEMPLATE, SSH) for field in every_field(record)]


@pytest.mark.parametrize("field", DECLARED, ids=lambda field: field.name)
def test_every_field_has_help_and_a_good_example(field: Field) -> None:
    assert field.help.endswith(".")
    document = read(f"{field.name}: {field.example}\n".encode())
    faults = Faults(document)
    field.kind.read(document.top[field.name].value, faults)
    assert not faults.problems()


@pytest.mark.parametrize("field", JOB.fields, ids=lambda field: field.name)
def test_a_field_works_or_is_refused(field: Field) -> None:
    """One by one: none is taken and then ignored."""
    text = f"{field.name}: {field.example}\n"
    if field.name == "with":
        text += "uses: create-vhost\n"
    elif field.name not in ("run", "command", "uses", "steps"):
        text += "run: x\n"
    if field.name in EXECUTORS:
        text += f"executor: {field.name}\n"
    try:
        spec = parse(text.encode(), executors=EXECUTORS)
    except Invalid as invalid:
        (problem,) = invalid.problems
        assert not field.supported
        assert problem.message == f"`{field.name}`: not supported yet by this runnerd"
        assert (problem.code, problem.line, problem.column) == ("unsupported", 1, 1)
    else:
        assert field.supported
        assert spec != parse(b"run: other\n", executors=EXECUTORS)


@pytest.mark.parametrize("record", [JOB, CONFIG, TEMPLATE])
def test_names_of_fields_are_unique(record: Record) -> None:
    assert len({field.name for field in record.fields}) == len(record.fields)


def test_the_shipped_configuration_names_every_key_with_its_help() -> None:
    text = (Path(__file__).parents[2] / "etc/runnerd.yaml").read_text()
    named = re.findall(r"^# ([a-z_]+):(?: |$)", text, re.MULTILINE)
    assert named == [field.name for field in CONFIG.fields]
    for field in CONFIG.fields:
        assert field.help in text.replace("\n# ", " ")


def test_a_job_file_becomes_what_it_says() -> None:
    data = b"name: N\ncommand: [a, 'b c']\nenv: {A: '1'}\ntimeout: 10m\nlabels: {x/y: z}\n"
    assert parse(data, executors=EXECUTORS) == JobSpec(
        steps=(Step(command=("a", "b c"), env={"A": "1"}),),
        name="N",
        timeout_s=600,
        labels={"x/y": "z"},
    )


def test_a_file_with_many_faults_is_not_told_all_of_them() -> None:
    with pytest.raises(Invalid) as caught:
        parse("".join(f"a{n}: b\n" for n in range(5000)).encode(), executors=EXECUTORS)
    assert len(caught.value.problems) == 100


def test_all_of_a_job_is_typed() -> None:
    document = read(EVERYTHING.encode())
    faults = Faults(document)
    values = JOB.values(document.top, faults)
    assert not faults.problems()
    assert records.made(Docker, values["docker"]).mounts == (
        Mount(source="/srv", target="/data", read_only=True),
    )
    assert values["limits"] == Limits(
        memory_bytes=512 << 20,
        cpu=1.5,
        cpu_time_s=60.0,
        processes=64,
        open_files=1024,
        file_size_bytes=1 << 30,
        output_bytes=100 << 20,
        nice=-5,
        io=IoShare.IDLE,
    )
    on = (Reason.EXIT, Reason.TIMEOUT, Reason.INTERRUPTED)
    assert values["retry"] == Retry(max=3, delay_s=10.0, backoff=1.5, max_delay_s=600.0, on=on)
    assert values["concurrency"] == Concurrency(group="customer-42", limit=2)
    assert values["not_before"] == 1796094000.0
    assert values["artifacts"] == (Artifact(path="*.pdf"), Artifact(path="r/", required=True))
    assert values["callback"].events == (News.STARTED, News.FINISHED)
    assert values["steps"][1] == {"command": ("ls",), "when": When.ALWAYS, "needs": ("a",)}


EVERYTHING = """\
steps: [{id: a, run: x}, {command: [ls], if: always, needs: [a]}]
docker: {image: php, mounts: ["/srv:/data:ro"]}
limits: {memory: 512M, cpu: 150%, cpu_time: 60s, processes: 64, open_files: 1024, file_size: 1G,
         output: 100MiB, nice: -5, io: idle}
retry: {max: 3, delay: 10s, backoff: 1.5, max_delay: 10m, on: [exit, timeout, interrupted]}
queue: billing
priority: -10
concurrency: {group: customer-42, limit: 2}
not_before: 2026-12-01T04:00:00+01:00
delay: 15m
expires: 2h
needs: [render-4711]
artifacts: ["*.pdf", {path: r/, required: true}]
callback: {url: "https://backend.example/hook", events: [started, finished], secret: backend}
"""
