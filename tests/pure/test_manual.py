"""The manual: all of what is declared stands in it, and what stands in it is right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import manual
import pytest
from manual import Example, plain

from runnerd import __main__ as daemon
from runnerd import ctl, events, meanings
from runnerd.config import CONFIG, read_config
from runnerd.configfile import CONFIG_FILE
from runnerd.control import Verb
from runnerd.events import Event
from runnerd.executors import Executors, built_in
from runnerd.model import News, Reason, State
from runnerd.outcome import Result, Status
from runnerd.parse import parse
from runnerd.schema import About
from runnerd.settings import ParameterType
from runnerd.shapes import Field, Record, record_in
from runnerd.templates import read_template, template_record

EXECUTORS = Executors(built_in()).catalogue(Path("/nonexistent"))
PAGES = ["runnerd.8", "runnerctl.1", "runnerd.yaml.5", "runnerd-job.5", "runnerd-spool.7"]
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "SEE ALSO"]
CONTEXT = click.Context(ctl.main, info_name="runnerctl")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manual") / "out"
    manual.make(out)
    return out


@pytest.fixture(scope="module")
def words(made: Path) -> Mapping[str, str]:
    return {name: plain((made / "man" / name).read_text()) for name in PAGES}


def test_it_is_made_whole_and_nothing_else_is(made: Path) -> None:
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    shells = {"bash/runnerctl", "zsh/_runnerctl", "fish/runnerctl.fish"}
    assert files == {f"man/{name}" for name in PAGES} | {f"completion/{each}" for each in shells}
    assert not list(manual.SOURCES.rglob("*.pyc"))


def test_it_is_the_same_wherever_and_whenever_it_is_made(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    manual.make(again, TZ="Asia/Tokyo", LANG="C.UTF-8", COLUMNS="200", PYTHONHASHSEED="7")
    for path in (each for each in made.rglob("*") if each.is_file()):
        assert path.read_bytes() == (again / path.relative_to(made)).read_bytes()
    assert '"2026-09-21"' in (made / "man/runnerd.8").read_text()


def test_the_program_says_how_it_is_used() -> None:
    done = subprocess.run(
        ["sh", manual.ROOT / "packaging/manual"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "usage: manual OUTDIR\n")


# --- all that is declared ------------------------------------------------------------------------


def every_field(record: Record) -> Iterator[Field]:
    for each in record.fields:
        if each.supported:
            yield each
            inner = record_in(each.kind)
            yield from every_field(inner) if inner is not None else ()


DECLARED = [
    *(("runnerd.yaml.5", each) for each in every_field(CONFIG)),
    *(("runnerd-job.5", each) for each in every_field(template_record(EXECUTORS))),
    *(("runnerd-job.5", each) for each in every_field(EXECUTORS.job) if each.name not in EXECUTORS),
]


@pytest.mark.parametrize(("page", "field"), DECLARED, ids=lambda each: getattr(each, "name", each))
def test_every_field_is_there_with_its_words(
    words: Mapping[str, str], page: str, field: Field
) -> None:
    assert f" {field.name}: {field.example[:40]}" in words[page]
    assert " ".join(field.help.replace("`", "").split()) in words[page]
    if field.default is not None:
        assert f"Default: {field.default}.".replace("`", "") in words[page]


def verbs(group: click.Group, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        path = f"{ctx.command_path} {name}"
        yield path, command
        if isinstance(command, click.Group):
            yield from verbs(command, click.Context(command, info_name=name, parent=ctx))


VERBS = list(verbs(ctl.main, CONTEXT))


@pytest.mark.parametrize(("path", "command"), VERBS, ids=[path for path, _ in VERBS])
def test_every_verb_and_option_is_there(
    words: Mapping[str, str], path: str, command: click.Command
) -> None:
    following = [*(each for each, _ in VERBS[1:]), "EXIT STATUS"]
    own = words["runnerctl.1"].partition("later versions may add names")[2]
    own = own[own.index(f" {path}") :].partition(f" {following[VERBS.index((path, command))]}")[0]
    assert " ".join((command.help or "-").replace("`", "").split()) in own
    for each in command.params:
        if isinstance(each, click.Option):
            assert ", ".join(each.opts) in own
            assert (each.help or "-").replace("`", "") in own


def test_the_options_of_the_programs_are_there(words: Mapping[str, str]) -> None:
    for each in ctl.main.params:
        assert isinstance(each, click.Option)
        assert ", ".join(each.opts) in words["runnerctl.1"]
        assert (each.help or "-") in words["runnerctl.1"]
    options = daemon.parser()._actions  # noqa: SLF001
    assert len(options) > 5
    for option in options:
        assert ", ".join(option.option_strings) in words["runnerd.8"]
        assert (option.help or "-") in words["runnerd.8"]


KINDS = [
    each
    for each in vars(events).values()
    if isinstance(each, type) and issubclass(each, Event) and each is not Event
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_is_there_with_its_explanation(
    words: Mapping[str, str], kind: type[Event]
) -> None:
    sentence = re.sub(r"\{(\w+)[^}]*\}", r"\1", kind.sentence).replace("`", "")
    text = words["runnerd.8"]
    entry = text[text.index(sentence) :].partition("MESSAGE_ID=")
    assert entry[2].startswith(kind.message_id)
    explained = entry[0].removeprefix(sentence).removesuffix(f"{kind.__name__}, ")
    assert len(explained.split()) > 4


@pytest.mark.parametrize("name", [*State, *Reason, *News, *Verb])
def test_every_word_of_a_spool_is_explained(words: Mapping[str, str], name: str) -> None:
    known: dict[Any, str] = {**meanings.STATES, **meanings.REASONS, **meanings.NEWS}
    assert known.keys() == {*State, *Reason, *News}
    text = words["runnerd-spool.7"]
    for meaning in (value for word, value in known.items() if word == name):
        assert f" {name} {meaning}" in text
    assert re.search(rf"[ .]{name}\b", text)


@pytest.mark.parametrize("kind", meanings.FIELDS, ids=lambda kind: kind.__name__)
def test_every_field_that_runnerd_writes_is_explained(words: Mapping[str, str], kind: type) -> None:
    assert [each.name for each in fields(kind)] == list(meanings.FIELDS[kind])
    for name, meaning in meanings.FIELDS[kind].items():
        assert f" {name} {meaning}" in words["runnerd-job.5"]
    assert {Result, Status} <= meanings.FIELDS.keys()


def test_what_is_written_by_hand_has_all_of_its_kind(words: Mapping[str, str]) -> None:
    for each in ParameterType:
        assert re.search(rf" {each} [A-Zt]", words["runnerd-job.5"])
    for status in (0, 2, daemon.EX_SOFTWARE, daemon.EX_CONFIG):
        assert re.search(rf"EXIT STATUS.* {status} [A-Z].*ENVIRONMENT", words["runnerd.8"])
    exits = words["runnerctl.1"].partition("EXIT STATUS")[2].partition("ENVIRONMENT")[0]
    for number in ("0", "1", "2", "124", "125", "128 + N", "130"):
        assert f" {number} " in exits
    for variable in ("JOB_ID", "JOB_DIR", "SUBMITTER", "ATTEMPT", "OUTPUT", "PROGRESS"):
        assert f"RUNNER_{variable}" in words["runnerd-job.5"]
    for field in events.FIELDS.values():
        assert field in words["runnerd.8"]
    for page in PAGES:
        assert str(CONFIG_FILE.parent) in words[page] or page == "runnerd-spool.7"
        others = {each for each in PAGES if each != page}
        see = words[page].partition("SEE ALSO")[2]
        assert all(f"{each.rpartition('.')[0]} (" in see for each in others)
    assert all(f"/{each}.json" in "".join(words.values()) for each in (About.JOB, About.CONFIG))


# --- what is there is right ----------------------------------------------------------------------


@pytest.mark.parametrize("example", manual.examples("job"), ids=str)
def test_every_job_in_it_is_one(example: Example) -> None:
    assert parse(example.text.encode(), executors=EXECUTORS).steps


@pytest.mark.parametrize("example", manual.examples("config"), ids=str)
def test_every_configuration_in_it_is_one(example: Example) -> None:
    assert read_config(example.text.encode(), cpus=2) != read_config(b"", cpus=2)


@pytest.mark.parametrize("example", manual.examples("template"), ids=str)
def test_every_template_in_it_is_one(example: Example) -> None:
    assert read_template("t", example.text.encode(), executors=EXECUTORS).parameters


def test_no_example_is_left_out() -> None:
    programs = {"sh", "php", "php-check", "python", "node", "go"}  # spool/test_manual_examples.py
    kinds = [each.kind for each in manual.examples()]
    assert set(kinds) == {"job", "config", "template", "text"} | programs
    sources = "".join(path.read_text() for path in manual.SOURCES.glob("*.in"))
    assert sources.count("\n.EX") == sources.count("\n.EE") == len(kinds)


@pytest.mark.parametrize(
    "example", [each for each in manual.examples("text") if "runnerctl " in each.text], ids=str
)
def test_every_command_in_it_can_be_given(example: Example) -> None:
    for name, rest in re.findall(r"runnerctl ([a-z]+)([^\n|&]*)", example.text):
        command = ctl.main.get_command(CONTEXT, name)
        assert command is not None
        given = [word for word in rest.split() if word.startswith("-")]
        known = {option for each in command.params for option in each.opts}
        assert set(given) <= known


# --- what programs for manuals say of it ---------------------------------------------------------


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man(1)")
@pytest.mark.parametrize("name", PAGES)
def test_man_formats_it_without_a_warning(made: Path, name: str) -> None:
    """As lintian does."""
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", made / "man" / name],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANROFFSEQ": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man(1)")
@pytest.mark.parametrize("name", PAGES)
def test_an_example_can_be_copied_from_the_screen(made: Path, name: str) -> None:
    """No quote, dash or caret has become another one."""
    done = subprocess.run(
        ["man", "-E", "UTF-8", "-l", made / "man" / name],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "150"},
        capture_output=True,
        text=True,
        check=True,
    )
    shown = {line.strip() for line in done.stdout.splitlines()}
    for example in (each for each in manual.examples() if each.page == name):
        assert {line.strip() for line in example.text.splitlines()} <= shown


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="there is no mandoc(1)")
@pytest.mark.parametrize("name", PAGES)
def test_mandoc_has_no_objection(made: Path, name: str) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", made / "man" / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("lexgrog") is None, reason="there is no lexgrog(1)")
@pytest.mark.parametrize("name", PAGES)
def test_apropos_finds_it(made: Path, name: str) -> None:
    path = made / "man" / name
    done = subprocess.run(["lexgrog", path], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f'{path}: "{name.rpartition(".")[0]} - ')
