"""pieces: the lists in the manual, made of the declarations that the programs work by."""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
from roff import bold, entry, escaped, italic, prose

from runnerd import __main__ as daemon
from runnerd import ctl, events, meanings
from runnerd.config import CONFIG
from runnerd.events import Event
from runnerd.executors import Executors, built_in
from runnerd.executors.ssh import SSH
from runnerd.fields import DOCKER, JOB
from runnerd.outcome import Result, Status
from runnerd.shapes import Field, Items, Record, Table, record_in
from runnerd.templates import template_record

ROOT = Path(__file__).parents[2]
_LONGEST_EXAMPLE = 56


def _template() -> Record:
    return template_record(Executors(built_in()).catalogue(Path("/nonexistent")))


RECORDS: Mapping[str, Record] = {
    "job": JOB,
    "docker": DOCKER,
    "ssh": SSH,
    "config": CONFIG,
    "template": _template(),
}

# --- what people write --------------------------------------------------------------------------


def fields(name: str) -> Iterator[str]:
    """The fields of a record, and of those in it."""
    yield from _fields(RECORDS[name])


def _fields(record: Record) -> Iterator[str]:
    for each in record.fields:
        if each.supported:
            inner = record_in(each.kind)
            below = () if inner is None else _fields(inner)
            tag = f"{bold(each.name + ':')} {escaped(_short(each.example))}"
            yield from entry(tag, prose(_words(each)), below=below)


def _short(example: str) -> str:
    return example if len(example) <= _LONGEST_EXAMPLE else f"{example[:_LONGEST_EXAMPLE]}..."


def _words(field: Field) -> str:
    """All that is to be said of a field."""
    words = [field.help, *_taken(field)]
    if field.required:
        words.append("It must be there.")
    elif field.default is not None:
        words.append(f"Default: {field.default}.")
    return " ".join(words)


def _taken(field: Field) -> Iterator[str]:
    kind = field.kind
    inner = record_in(kind)
    if isinstance(kind, Table):
        yield f"Names: {kind.rule}."
        if kind.reserved is not None:
            yield f"Those that start with {kind.reserved} are runnerd's own."
        yield "The value of each is a mapping:" if inner else f"Values: {kind.value.describe()}."
    elif inner is None:
        yield f"Takes {kind.describe()}."
    elif isinstance(kind, Items):
        yield f"A list of {kind.least} to {kind.most} mappings."
    if inner is not None and inner.short is not None:
        yield f"A lone text is its `{inner.short}`."


# --- what runnerd writes ------------------------------------------------------------------------


def states() -> Iterator[str]:
    return _meanings(meanings.STATES)


def reasons() -> Iterator[str]:
    return _meanings(meanings.REASONS)


def news() -> Iterator[str]:
    return _meanings(meanings.NEWS)


def _meanings(words: Mapping[Any, str]) -> Iterator[str]:
    for each, meaning in words.items():
        yield from entry(bold(each), prose(meaning))


def record(name: str) -> Iterator[str]:
    """The fields of a file that runnerd writes."""
    yield from _record({"result": Result, "status": Status}[name])


def _record(kind: type) -> Iterator[str]:
    hints = get_type_hints(kind)
    words = meanings.FIELDS[kind]
    for each in fields_of(kind):
        inner = [part for part in _parts(hints[each.name]) if part in meanings.FIELDS]
        # What is wrong is told once as the first of all.
        below = _record(inner[0]) if inner and each.name != "error" else ()
        yield from entry(bold(each.name), prose(words[each.name]), below=below)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for each in get_args(hint):
        yield from _parts(each)


def log() -> Iterator[str]:
    """Every line of the log, the worst first, with its explanation."""
    explained = dict(_catalog((ROOT / "systemd/runnerd.catalog").read_text("utf-8")))
    kinds = [each for each in vars(events).values() if _is_event(each)]
    for level, title in _LEVELS.items():
        yield f".SS {title}"
        for kind in (each for each in kinds if each.level == level):
            yield from entry(_form(kind.sentence), prose(explained[kind.message_id]))
            yield from (".br", f"{kind.__name__}, MESSAGE_ID={kind.message_id}")


_LEVELS = {
    logging.ERROR: r"Errors (priority err): somebody should look",
    logging.WARNING: r"Warnings (warning)",
    events.NOTICE: r"Notices (notice)",
    logging.INFO: r"The usual (info)",
}


def _is_event(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Event) and value is not Event


def _form(sentence: str) -> str:
    """A sentence with its fields as what they are: places."""
    parts = string.Formatter().parse(sentence.replace("`", ""))
    return "".join(escaped(text) + (italic(name) if name else "") for text, name, _, _ in parts)


def _catalog(text: str) -> Iterator[tuple[str, str]]:
    """The explanations by MESSAGE_ID: after the headers of each entry."""
    named = text.replace("@JOB_ID@", "ID").replace("@JOB_USER@", "the submitter")
    for part in named.split("\n-- ")[1:]:
        head, _, body = part.partition("\n\n")
        yield head.split("\n")[0].strip(), _COMMAND.sub(r"`\1`.", body)


# There a line may end with a command, ready to be copied, and has no full stop then.
_COMMAND = re.compile(r"\b((?:runnerctl|runnerd) [^.\n]*)$", re.MULTILINE)


# --- the programs -------------------------------------------------------------------------------


def options(program: str) -> Iterator[str]:
    """The options of a program itself."""
    if program == "runnerd":
        for each in daemon.parser()._actions:  # noqa: SLF001  # argparse has no other way
            value = "|".join(each.choices) if each.choices else str(each.metavar or "")
            tag = " ".join([*each.option_strings, value]).rstrip()
            yield from entry(bold(tag), prose(each.help or ""))
        return
    ctx = click.Context(ctl.main, info_name=program, **ctl.main.context_settings)
    yield from _options(ctl.main.get_params(ctx), ctx)


def _options(params: Iterable[click.Parameter], ctx: click.Context) -> Iterator[str]:
    for each in params:
        told = each.get_help_record(ctx)
        if told is not None and isinstance(each, click.Option):
            yield from entry(bold(told[0]), prose(told[1]))


def verbs() -> Iterator[str]:
    """The verbs of runnerctl."""
    yield from _verbs(ctl.main, click.Context(ctl.main, info_name="runnerctl"))


def _verbs(group: click.Group, ctx: click.Context) -> Iterator[str]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=ctx)
        # Without --help, which all have.
        own = [*_options(command.params, inner)]
        unsaid = {"COMMAND [ARGS]...", *(() if own else ("[OPTIONS]",))}
        pieces = [each for each in command.collect_usage_pieces(inner) if each not in unsaid]
        tag = " ".join([bold(inner.command_path), *map(escaped, pieces)])
        words = [prose(each) for each in (command.help or "").split("\n\n")]
        yield from entry(tag, *words, below=own)
        if isinstance(command, click.Group):
            yield from _verbs(command, inner)


PIECES: Mapping[str, Callable[..., Iterator[str]]] = {
    "fields": fields,
    "states": states,
    "reasons": reasons,
    "news": news,
    "record": record,
    "log": log,
    "options": options,
    "verbs": verbs,
}
