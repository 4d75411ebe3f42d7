"""Give any bytes to each reader of files that strangers write, and insist on a decent answer."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from runnerd import records
from runnerd.admit import judge_text
from runnerd.catalogue import Catalogue
from runnerd.complaints import complain
from runnerd.config import Config, read_config
from runnerd.configfile import Setup
from runnerd.errors import Invalid
from runnerd.faults import MOST
from runnerd.fields import DOCKER
from runnerd.model import JobSpec, Problem, Refusal
from runnerd.policy import Who
from runnerd.templates import read_template

EXECUTORS = Catalogue({"shell": None, "docker": DOCKER})
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
job: {run: x, labels: {title: "${TITLE}"}}
"""
SETUP = Setup(
    config=Config(slots=1),
    secrets=Path("/nowhere"),
    executors=EXECUTORS,
    programs=Path("/nowhere"),
    templates={"site": read_template("site", SITE, executors=EXECUTORS), "broken": None},
)
ROOT = Who(user="root", uid=0, groups=frozenset(), trusted=True)
MEMBER = Who(user="alice", uid=1001, groups=frozenset(["runner"]))
FILES = ("job.yaml", "job.json", "runnerd.yaml", "template.yaml")


def complaints(file: str, data: bytes, who: Who = ROOT) -> tuple[Problem, ...]:
    """What is wrong with a file, by its name: a configuration, a template, or else a job."""
    try:
        if file == "runnerd.yaml":
            read_config(data, cpus=1)
        elif file == "template.yaml":
            read_template("template", data, executors=EXECUTORS)
        else:
            verdict, _ = judge_text(file, data, SETUP, who)
            if isinstance(verdict, Refusal):
                assert verdict.problems
                return verdict.problems
            assert records.loads(JobSpec, records.dumps(verdict)) == verdict
    except Invalid as invalid:
        return invalid.problems
    return ()


def insist(file: str, data: bytes) -> None:
    """Nothing but the one kind of error, few of them, short, and fit for a terminal."""
    for who in (ROOT, MEMBER) if file.startswith("job") else (ROOT,):
        problems = complaints(file, data, who)
        assert len(problems) <= MOST
        assert all(len(problem.message) < 1000 for problem in problems)
        said = complain(problems, file).replace("\n", "")
        assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in said)
