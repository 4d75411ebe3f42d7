"""Templates: what a submitter chooses reaches a script in one way, and changes nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd import parameters
from runnerd.catalogue import Catalogue
from runnerd.errors import Invalid
from runnerd.fields import DOCKER
from runnerd.model import JobSpec, OnDuplicate, Step
from runnerd.parse import make_spec
from runnerd.settings import Parameter, ParameterType
from runnerd.templates import Template, fill_in, find, read_template
from runnerd.yamlsafe import read

EXECUTORS = Catalogue({"shell": None})
SITE = """
description: Create a site.
allow: {groups: [runner]}
params:
  domain: {type: hostname}
  note: {multiline: true, allow_dash: true, max_length: 100000, required: false}
  php: {type: enum, values: ["8.2", "8.3"], default: "8.3"}
job:
  name: Create ${DOMAIN}
  user: www-data
  timeout: 5m
  env: {SITE: "https://${DOMAIN}/", PARAM_PHP: "7"}
  labels: {site: "${DOMAIN}", note: "${NOTE}", plain: "$${DOMAIN} $DOMAIN"}
  run: ./create "$PARAM_DOMAIN" ${DOMAIN}
"""


def template(text: str = SITE) -> Template:
    return read_template("site", text.encode(), executors=EXECUTORS)


def used(made: Template, values: Mapping[str, Any], more: str = "") -> JobSpec:
    lines = ["uses: site", *(["with:"] if values else [])]
    lines += [f"  {name}: {quoted(value)}" for name, value in values.items()]
    document = read("\n".join([*lines, more]).encode())
    return fill_in(make_spec(document, EXECUTORS), document, made, EXECUTORS)


def quoted(text: str) -> str:
    """A YAML text, with escapes for everything that is not plain."""
    escaped = (c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(escaped)}"'


def told(made: Template, values: Mapping[str, Any], more: str = "") -> list[str]:
    with pytest.raises(Invalid) as caught:
        used(made, values, more)
    return [problem.message for problem in caught.value.problems]


def test_a_template_becomes_a_job() -> None:
    assert used(template(), {"domain": "Example.ORG"}) == JobSpec(
        steps=(
            Step(
                run='./create "$PARAM_DOMAIN" ${DOMAIN}',
                env={
                    "SITE": "https://example.org/",
                    "PARAM_DOMAIN": "example.org",
                    "PARAM_PHP": "8.3",
                },
            ),
        ),
        name="Create example.org",
        user="www-data",
        timeout_s=300.0,
        labels={"site": "example.org", "note": "", "plain": "${DOMAIN} $DOMAIN"},
        template="site",
        parameters=("domain", "php"),
    )


def test_a_submitter_may_say_what_runs_nothing() -> None:
    more = "name: mine\nlabels: {site: forged, order: '7'}\non_duplicate: reject\n"
    spec = used(template(), {"domain": "a.example"}, more)
    assert (spec.name, spec.on_duplicate) == ("mine", OnDuplicate.REJECT)
    assert spec.labels["order"] == "7"
    assert spec.labels["site"] == "a.example"


@pytest.mark.parametrize(
    "more",
    [
        "env: {LD_PRELOAD: /tmp/x.so}",
        "user: root",
        "run: id",
        "command: [id]",
        "timeout: 1h",
        "kill_after: 1h",
        "executor: shell",
        "secrets: {A: b}",
    ],
)
def test_a_submitter_may_say_nothing_of_what_runs(more: str) -> None:
    document = read(f"uses: site\nwith: {{domain: a.example}}\n{more}\n".encode())
    with pytest.raises(Invalid, match=r"beside `uses`|only one field can say what to run"):
        make_spec(document, EXECUTORS)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(deadline=None)
def test_any_text_arrives_as_it_is_or_not_at_all(text: str) -> None:
    made = template()
    try:
        spec = used(made, {"domain": "a.example", "note": text})
    except Invalid:
        assert any(ord(each) < 0x20 or ord(each) == 0x7F for each in text)
        return
    (step,) = spec.steps
    assert step.env["PARAM_NOTE"] == text
    assert step.run == './create "$PARAM_DOMAIN" ${DOMAIN}'
    assert spec.labels["note"] == text


def test_a_value_does_not_name_another_parameter() -> None:
    spec = used(template(), {"domain": "a.example", "note": "${DOMAIN} $${PHP} $PARAM_DOMAIN"})
    assert spec.labels["note"] == "${DOMAIN} $${PHP} $PARAM_DOMAIN"


def test_what_comes_of_a_value_is_checked_like_any_job() -> None:
    (message,) = told(template(), {"domain": "a.example", "note": "x" * 1001})
    assert message == (
        "the template site makes no good job of this: `labels.note`: longer than 1000 characters"
    )


def test_all_faults_of_the_values_are_told() -> None:
    assert told(template(), {"php": "7", "dmain": "x"}) == [
        "`with`: the parameter `domain` of site is missing: a host name, like example.org",
        "`with.php`: expected one of 8.2, 8.3, found '7'",
        "unknown parameter `with.dmain`: did you mean `domain`?",
    ]


def test_a_template_that_is_broken_or_absent_is_told() -> None:
    document = read(b"uses: sit")
    spec = make_spec(document, EXECUTORS)
    with pytest.raises(Invalid, match="the template sit is broken"):
        find(spec, document, {"sit": None})
    with pytest.raises(Invalid, match="there is no template `sit` here; did you mean `site`"):
        find(spec, document, {"site": template()})


def test_the_example_of_every_parameter_is_good() -> None:
    for kind in ParameterType:
        made = Parameter(type=kind, values=("b", "a"), below="/srv", min=5, max=9)
        assert parameters.value_of(made, parameters.example_of(made))


def test_the_secret_of_a_template_is_not_for_its_submitter() -> None:
    """Who may run a second job as the same user may look into the first."""
    with pytest.raises(Invalid, match="a template with `secrets` needs a `user`"):
        template("allow: {}\njob: {run: x, secrets: {A: smtp}}")
    assert template("allow: {}\njob: {run: x, secrets: {A: smtp}, user: www-data}").job


# --- kinds of parameters ------------------------------------------------------------------------

STRING = Parameter()
LINES = Parameter(multiline=True)
DASH = Parameter(allow_dash=True)
WORD = Parameter(pattern="[a-z]+", example="a", max_length=5)
NUMBER = Parameter(type=ParameterType.INTEGER, min=-5, max=100)
PATH = Parameter(type=ParameterType.PATH, below="/srv/www")
HOST = Parameter(type=ParameterType.HOSTNAME)
FLAG = Parameter(type=ParameterType.BOOLEAN)


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        (STRING, "", ""),
        (STRING, "$(id) `id` ; | & > \\ ' \" * ~ #", None),
        (STRING, "Ünï ©ode \U0001f600", None),
        (LINES, "a\n-b\tc\n", None),
        (DASH, "-rf", None),
        (WORD, "abcde", None),
        (NUMBER, "007", "7"),
        (NUMBER, "-05", "-5"),
        (NUMBER, "-0", "0"),
        (PATH, "a/b.c", "/srv/www/a/b.c"),
        (PATH, "/srv/www/a/", "/srv/www/a"),
        (PATH, "a..b", "/srv/www/a..b"),
        (HOST, "WWW.Example.org", "www.example.org"),
        (HOST, "localhost", None),
        (HOST, "xn--bcher-kva.example", None),
        (FLAG, "false", None),
    ],
)
def test_a_good_value(parameter: Parameter, text: str, value: str | None) -> None:
    assert parameters.value_of(parameter, text) == (text if value is None else value)


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        *((STRING, text) for text in ("-x", "--", "-", "a\nb", "a\0", "\x1b[2J", "x" * 201)),
        *((LINES, text) for text in ("-a\nb", "a\0", "a\rb", "\x7f")),
        *((WORD, text) for text in ("", "abcdef", "aB", "a\n", "a b")),
        *((NUMBER, text) for text in ("", "101", "-6", "1.0", "1e1", "0x10", " 1", "٣", "9" * 99)),
        *((PATH, text) for text in ("", ".", "/", "..", "a/../b", "/etc", "/srv/wwwx/a", "a//b")),
        *((PATH, text) for text in ("/srv/www", "/srv/www/", "/srv/www/..", "a\0b", "a\nb", "./a")),
        *((HOST, text) for text in ("", "-a", "a-", "a..b", ".a", "a.", "a_b", "a/b", "ä.example")),
        *((HOST, text) for text in ("a b", "a\n", "x" * 64, "--help", "a." * 127 + "com")),
        *((FLAG, text) for text in ("", "yes", "1", "True", "true ")),
    ],
)
def test_a_bad_value_is_refused_with_a_sentence(parameter: Parameter, text: str) -> None:
    with pytest.raises(ValueError, match=r"^(expected|a value that starts with -)"):
        parameters.value_of(parameter, text)


def test_parameters_stand_in_the_options_of_an_executor() -> None:
    text = """
allow: {groups: [runner]}
params: {tag: {pattern: "[a-z0-9.]+", example: "8.3"}}
job:
  executor: docker
  docker: {image: "php:${TAG}", user: "${TAG}"}
  run: x
"""
    executors = Catalogue({"shell": None, "docker": DOCKER})
    with pytest.raises(Invalid, match=r"docker\.user"):  # a field that is not filled
        read_template("site", text.encode(), executors=executors)
    made = read_template("site", text.replace(', user: "${TAG}"', "").encode(), executors=executors)
    document = read(b"uses: site\nwith: {tag: alpine}\n")
    spec = fill_in(make_spec(document, executors), document, made, executors)
    assert spec.steps[0].options is not None
    assert spec.steps[0].options["image"] == "php:alpine"
