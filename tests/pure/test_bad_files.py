"""Bad files, and the exact words that each gets: the table is `data/bad_files.txt`."""

from __future__ import annotations

from pathlib import Path

import pytest
from badfiles import Case, cases

from runnerd.admit import judge_text
from runnerd.complaints import complain
from runnerd.config import Config, read_config
from runnerd.configfile import Setup
from runnerd.errors import Invalid
from runnerd.model import Problem, Reason, Refusal
from runnerd.policy import Who
from runnerd.templates import read_template

EXECUTORS = ("shell", "docker")
SITE = b"""
allow: {groups: [runner]}
params:
  domain: {type: hostname}
  php: {type: enum, values: ["8.2", "8.3"], default: "8.3"}
  quota: {type: integer, min: 1, max: 100, default: 10}
  tls: {type: boolean, default: true}
  docroot: {type: path, below: /srv/www, required: false}
  owner: {pattern: "[a-z-]*", example: alice, required: false}
  title: {required: false}
job: {run: x}
"""
SETUP = Setup(
    config=Config(slots=1),
    secrets=Path("/nowhere"),
    executors=EXECUTORS,
    templates={"site": read_template("site", SITE, executors=EXECUTORS), "broken": None},
)
ROOT = Who(user="root", uid=0, groups=frozenset(), trusted=True)


def complaints(file: str, data: bytes) -> tuple[Problem, ...]:
    """What is wrong with a file, by its name: a configuration, a template, or else a job."""
    try:
        if file == "runnerd.yaml":
            read_config(data, cpus=1)
        elif file == "template.yaml":
            read_template("template", data, executors=EXECUTORS)
        else:
            verdict = judge_text(file, data, SETUP, ROOT)
            if isinstance(verdict, Refusal):
                assert verdict.reason is Reason.INVALID
                return verdict.problems
    except Invalid as invalid:
        return invalid.problems
    return ()


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_a_bad_file_gets_these_words(case: Case) -> None:
    assert complain(complaints(case.file, case.data), case.file) == case.said


def test_the_table_is_read() -> None:
    assert len(cases()) >= 60
