"""Bad files, and the exact words that each gets. The table is `data/bad_files.txt`.

A case is a line of ==== with a title, a file, a line of ----, and what is said. After the title may
stand the file's name (job.yaml if none), which also says what it is, and `escaped`: the file's bytes
are then written as in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runnerd.admit import judge_text
from runnerd.complaints import complain
from runnerd.config import Config, read_config
from runnerd.configfile import Setup
from runnerd.errors import Invalid
from runnerd.model import Problem, Reason, Refusal
from runnerd.policy import Who
from runnerd.templates import read_template

TABLE = Path(__file__).parent / "data/bad_files.txt"
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


@dataclass(frozen=True)
class Case:
    title: str
    file: str
    data: bytes
    said: str


def cases() -> Iterator[Case]:
    for part in re.split(r"^==== ", TABLE.read_text(), flags=re.MULTILINE)[1:]:
        head, _, rest = part.partition("\n")
        title, *options = head.split(" | ")
        text, _, said = rest.partition("----\n")
        names = [each for each in options if each != "escaped"]
        data = text.encode()
        if "escaped" in options:
            data = text.encode().decode("unicode_escape").encode("latin-1")
        yield Case(title, (names or ["job.yaml"])[0], data, said)


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
    assert len(list(cases())) >= 60
