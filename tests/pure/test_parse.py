"""Job files: what each fault is called, where it is, and how people read of it."""

from __future__ import annotations

import pytest
from anyfile import EXECUTORS
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd import records
from runnerd.catalogue import Catalogue
from runnerd.complaints import complain
from runnerd.errors import Invalid
from runnerd.model import Docker, JobSpec, Problem
from runnerd.parse import parse

FIELDS = ["name", "run", "command", "executor", "env", "timeout", "labels", "timout"]
VALUES = ["x", "''", "[a, b]", "[]", "{A: b}", "{}", "10m", "-1", "[[a]]", "{A: [b]}", "|\n  a", ""]


def faults(data: bytes) -> tuple[Problem, ...]:
    with pytest.raises(Invalid) as caught:
        parse(data, executors=EXECUTORS)
    return caught.value.problems


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    problems = faults(b"timout: 5\nenv: {1: a, RUNNER_X: b}\nexecutor: no\nrun: []\n")
    assert [(each.line, each.column) for each in problems] == [
        (1, 1),
        (2, 7),
        (2, 13),
        (3, 11),
        (4, 6),
    ]


def test_a_list_of_commands_is_one_script() -> None:
    spec = parse(b"run:\n- set -e\n- |\n  echo 1\n  echo 2\n- ls\n", executors=EXECUTORS)
    assert spec.steps[0].run == "set -e\necho 1\necho 2\n\nls"


def test_the_executor_is_the_shell_unless_it_is_named() -> None:
    assert parse(b"run: x", executors=EXECUTORS).steps[0].executor == "shell"
    spec = parse(b"run: x\nexecutor: docker\ndocker: {image: a}", executors=EXECUTORS)
    assert spec.steps[0].executor == "docker"


@pytest.mark.parametrize(
    "text",
    [
        "run: x\ntimeout: {}",
        "run: x\n? {}\n: b",
        "run: x\nexecutor: {}",
        "run: x\nenv:\n  ? {}-\n  : b",
        "run: x\nname: !{}",
        "run: x\nname: *{}",
        "run: x\nname: &{} y",
    ],
)
def test_a_sentence_does_not_repeat_a_long_value(text: str) -> None:
    for problem in faults(text.replace("{}", "a" * 100_000).encode()):
        assert len(problem.message) < 350


@given(st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES)), max_size=5))
@settings(deadline=None)
def test_any_fields_are_a_job_or_faults_with_places(pairs: list[tuple[str, str]]) -> None:
    try:
        spec = parse("".join(f"{k}: {v}\n" for k, v in pairs).encode(), executors=EXECUTORS)
    except Invalid as invalid:
        for problem in invalid.problems:
            assert problem.line is not None or problem.code in ("empty", "nothing-to-run")
    else:
        assert isinstance(spec, JobSpec)
        assert (spec.steps[0].run is None) != (spec.steps[0].command is None)


# --- what people read ---------------------------------------------------------------------------


def test_a_complaint_reads_like_a_compiler() -> None:
    problems = faults(b"name: x\nrun: y\ntimout: 5\nenv: {A: [b]}\n")
    assert complain(problems, "invoice.yaml") == (
        "invoice.yaml:3:1: unknown field `timout`: did you mean `timeout`?\n"
        "    3 | timout: 5\n"
        "      | ^\n"
        "invoice.yaml:4:10: `env.A`: expected a text, found a list\n"
        "    4 | env: {A: [b]}\n"
        "      |          ^\n"
    )


def test_a_complaint_without_a_place_is_one_line() -> None:
    assert complain(faults(b"# nothing\n"), "a.yaml") == "a.yaml: the file is empty\n"


def test_the_caret_stands_right_behind_tabs_and_hidden_characters() -> None:
    problem = Problem(code="c", message="m", line=1, column=4, snippet="\ta\x1bb")
    assert complain((problem,), "f") == "f:1:4: m\n    1 |  a\\x1bb\n      |       ^\n"


def test_a_place_far_out_in_a_wide_line_shows_no_wrong_caret() -> None:
    (problem,) = faults(b'{"run": "' + b"x" * 500 + b'", "nam": 1}')
    assert problem.column == 513
    assert complain((problem,), "f") == "f:1:513: unknown field `nam`: did you mean `name`?\n"


@pytest.mark.parametrize(
    "hidden", ["\x1b[2J", "\r", "\x9b", "\u202e", "\u200f", "\ufeff", "\udcff"]
)
def test_nothing_in_a_complaint_moves_the_cursor_or_hides(hidden: str) -> None:
    problem = Problem(code="c", message=hidden, line=1, column=1, snippet=hidden)
    text = complain((problem,), f"{hidden}.yaml")
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.encode()


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("run: x\nexecutor: docker", 2, 11, "the executor docker needs options, like docker:"),
        ("run: x\ndocker: {image: a}", 2, 1, "`docker` is of use to the executor docker only"),
        (
            "executor: docker\ndocker: {image: a}\nsteps: [{run: x, executor: shell}]",
            *(2, 1),
            "`docker` is of use to the executor docker only",
        ),
        (
            "steps:\n- {docker: {image: b}, run: y}",
            *(2, 4),
            "`steps`: `docker` is of use to the executor docker only",
        ),
        (
            "steps:\n- {run: x, executor: docker}",
            *(2, 3),
            "`steps`: the executor docker needs options",
        ),
        ("run: x\nexecutor: broken", 2, 11, "the executor broken is disabled here: no reason"),
        ("run: x\nbroken: {a: b}", 2, 9, "`broken`: the executor is disabled here: no reason"),
    ],
)
def test_options_are_of_the_executor_that_runs_something(
    text: str, line: int, column: int, message: str
) -> None:
    executors = Catalogue(EXECUTORS.options, {"broken": "no reason"})
    with pytest.raises(Invalid) as caught:
        parse(text.encode(), executors=executors)
    problem = next(each for each in caught.value.problems if message in each.message)
    assert (problem.line, problem.column) == (line, column)


def test_a_step_has_the_options_of_its_own_executor() -> None:
    text = """
executor: docker
docker: {image: common, registry_auth: login}
steps:
- {run: a}
- {run: b, executor: shell}
- {run: c, docker: {image: own}}
"""
    steps = parse(text.encode(), executors=EXECUTORS).steps
    images = [(each.options or {}).get("image") for each in steps]
    assert images == ["common", None, "own"]
    assert [each.secrets for each in steps] == [("login",), (), ()]
    assert records.made(Docker, steps[2].options) == Docker(image="own")
