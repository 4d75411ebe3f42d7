"""The JSON Schemas: what they let pass and what not, beside our own verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from anyfile import EXECUTORS
from badfiles import Case, cases

from runnerd import records
from runnerd.conclude import Origin, conclude_strange
from runnerd.executors import Executors, built_in
from runnerd.model import JobId, State
from runnerd.outcome import Status
from runnerd.schema import About, schema_of

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "etc/schema"
BUILT_IN = Executors(built_in()).catalogue(Path("/nonexistent"))


class Loader(yaml.SafeLoader):
    """YAML as editors read it: like JSON, with no times and no yes or no for a boolean."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in KNOWN]
    for KNOWN in [("null", "int", "float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def accepts(about: About, data: Any) -> bool:
    checker = jsonschema.Draft202012Validator(schema_of(about, EXECUTORS))
    return bool(checker.is_valid(data))


@pytest.mark.parametrize("about", About)
def test_a_schema_is_one_and_is_shipped_as_it_is_made(about: About) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(about, BUILT_IN))
    shipped = json.loads((SHIPPED / f"{about}.json").read_text())
    assert shipped == schema_of(about, BUILT_IN), (
        f"run: runnerctl schema {about} > etc/schema/{about}.json"
    )


@pytest.mark.parametrize("field", [each for each in EXECUTORS.job.fields if each.supported])
def test_the_example_of_every_field_is_good_for_the_schema(field: Any) -> None:
    text = f"{field.name}: {field.example}\n"
    if field.name not in ("run", "command", "uses", "steps"):
        text += "run: x\n"
    assert accepts(About.JOB, yaml.load(text, Loader=Loader))  # noqa: S506  # a SafeLoader


@pytest.mark.parametrize("field", [each for each in EXECUTORS.step.fields if not each.supported])
def test_what_is_not_supported_yet_is_not_offered(field: Any) -> None:
    text = f"steps: [{{run: x, {field.name}: {field.example}}}]\n"
    assert not accepts(About.JOB, yaml.load(text, Loader=Loader))  # noqa: S506


@pytest.mark.parametrize(
    "case",
    [case for case in cases() if case.file in ("job.yaml", "runnerd.yaml", "template.yaml")],
    ids=lambda case: case.title,
)
def test_the_schema_refuses_what_we_refuse(case: Case) -> None:
    """As far as it can know, and where the file can be read at all."""
    try:
        data = yaml.load(case.data, Loader=Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    named = {"runnerd.yaml": About.CONFIG, "template.yaml": About.TEMPLATE}
    about = named.get(case.file, About.JOB)
    if case.title in EDITORS_CANNOT_KNOW:
        assert accepts(about, data), "then it can know: take it off the list"
    else:
        assert not accepts(about, data)


EDITORS_CANNOT_KNOW = {
    "an executor that does not exist",
    "an executor with nothing like it",
    "a command without a program",
    "a command with a NUL character",
    "a name over two lines",
    "a duration of nothing",
    "a duration beyond a year",
    "a variable with a NUL character",
    "a variable that is a secret too",
    "a user that nobody knows",
    "a time that does not exist",
    "two ways to wait",
    "steps that need each other",
    "steps that need what is not there",
    "a queue that does not exist",
    "parameters without a template",
    "a template that does not exist",
    "a template that is broken",
    "a parameter that does not exist",
    "a parameter that is missing",
    "a host name that is an option",
    "a host name with a path",
    "a number beyond its range",
    "a number that is none",
    "a value that is not one of those",
    "a boolean that is a yes",
    "a path that leaves its directory",
    "a path somewhere else",
    "a text that is an option",
    "a text that does not match",
    "a text of two lines",
    "an anchor",
    "a directive",
    "a duplicate key",
    "fields that belong to the template",
    "a byte order mark in the middle",
    "the executor docker without its options",
    "options of docker for another executor",
    "options of docker for some steps, and for one that has no use for them",
    "a limit that no container has",
    "a template that names no parameter of its own",
}


def test_results_and_status_are_what_their_schemas_say() -> None:
    result = conclude_strange("x", 0.0, Origin(host="h", version="v"))
    assert accepts(About.RESULT, records.plain(result))
    assert not accepts(About.RESULT, {**records.plain(result), "state": "lost"})
    assert not accepts(About.RESULT, {**records.plain(result), "exit_code": "0"})
    status = Status(
        id=JobId("x"),
        name=None,
        state=State.RUNNING,
        pid=1,
        attempt=1,
        started_at="now",
        queue="default",
    )
    assert accepts(About.STATUS, records.plain(status))


@pytest.mark.parametrize("path", sorted((ROOT / "etc").rglob("*.yaml")), ids=lambda path: path.name)
def test_an_example_names_its_schema_and_is_good_for_it(path: Path) -> None:
    text = path.read_text()
    first = text.partition("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    schema = (path.parent / first.partition("=")[2]).resolve()
    assert schema.parent == SHIPPED
    assert accepts(About(schema.stem), yaml.load(text, Loader=Loader))  # noqa: S506
