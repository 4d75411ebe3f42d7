"""show: how verbs print: text for people, JSON for programs, nothing raw for a terminal."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Iterable

import click

from runnerd import records
from runnerd.conclude import exit_status
from runnerd.model import State
from runnerd.outcome import Result

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def as_json(command: click.decorators.FC) -> click.decorators.FC:
    """The option that every verb has which prints data."""
    return click.option("--json", "json_", is_flag=True, help="Print JSON.")(command)


def print_data(data: object, *, json_: bool, text: str) -> None:
    """The data as JSON, or the text."""
    click.echo(json.dumps(data, indent=2) if json_ else text)


def print_result(result: Result, *, json_: bool) -> int:
    """A result in one line, or as JSON; the exit status that says the same."""
    reason = f" ({result.reason})" if result.reason else ""
    text = f"{result.id}: {result.state}{reason}, {result.message}"
    print_data(records.plain(result), json_=json_, text=harmless(text))
    return 0 if result.state is State.DONE else exit_status(result) or 1


def print_pieces(pieces: Iterable[bytes]) -> None:
    """What a job printed: as it is for a file or a pipe, without control codes for a terminal."""
    if not sys.stdout.isatty():
        for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for piece in pieces:
        click.echo(harmless(decoder.decode(piece)), nl=False)
    click.echo(harmless(decoder.decode(b"", final=True)), nl=False)


def harmless(text: str) -> str:
    """The text with control characters, but for tab and newline, made visible."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
