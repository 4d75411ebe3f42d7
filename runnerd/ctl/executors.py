"""executors: what can run a step here, whether it can be used, and what options it takes."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import click

from runnerd.configfile import load_config
from runnerd.errors import RunnerdError
from runnerd.executors import built_in, installed
from runnerd.frozen import frozen
from runnerd.shapes import Field, Record, record_in

from . import complete, main
from .show import as_json, harmless, print_data

BUILT_IN, PLUGIN, PROGRAM = "built in", "Python plugin", "program"


@frozen
class Found:
    """One executor. `why`: of one that cannot be used."""

    name: str
    kind: str
    why: str | None = None
    about: str | None = None
    options: Record | None = None


@main.command("executors")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete.executors)
@as_json
@click.pass_context
def list_executors(ctx: click.Context, names: tuple[str, ...], *, json_: bool) -> None:
    """List the executors, or those NAMEd: whether they can be used, and their options.

    Python plugins are loaded for that, and programs are asked to describe themselves, as the daemon
    does when it starts.

    With --json a list of objects: name, kind (built in, Python plugin, program), usable, why (it is
    not), about, options; of each option name, takes, help, example, default, required, options (of
    one that is a mapping itself).

    Exit status: 0; 1 if one of those that are listed cannot be used, or is not here.
    """
    found = _found(ctx.find_root().params["config"])
    missing = set(names) - {each.name for each in found}
    if missing:
        raise RunnerdError(f"there is no executor {', '.join(sorted(missing))} here")
    listed = [each for each in found if not names or each.name in names]
    text = "\n".join(line for each in listed for line in _sheet(each))
    print_data([_data(each) for each in listed], json_=json_, text=harmless(text))
    sys.exit(1 if any(each.why is not None for each in listed) else 0)


def _found(config: Path | None) -> list[Found]:
    """All there are. One that is broken may have the name of a good one, which then counts."""
    here = installed()
    own = built_in()
    catalogue = here.catalogue(Path(load_config(config).executors))

    def kind_of(name: str, plugins: Container[str]) -> str:
        return PLUGIN if name in plugins else PROGRAM

    good = [
        Found(
            name=name,
            kind=BUILT_IN if name in own else kind_of(name, here.loaded),
            about=catalogue.about.get(name),
            options=options,
        )
        for name, options in catalogue.options.items()
    ]
    broken = catalogue.broken.items()
    return [*good, *(Found(name, kind_of(name, here.broken), why) for name, why in broken)]


def _sheet(executor: Found) -> Iterator[str]:
    if executor.why is not None:
        yield f"{executor.name}: {executor.kind}, cannot be used: {executor.why}"
        return
    about = f"; {_one_line(executor.about)}" if executor.about else ""
    yield f"{executor.name}: {executor.kind}{about}"
    if executor.options is not None:
        yield from _lines(executor.options, "  ")


def _lines(record: Record, indent: str) -> Iterator[str]:
    for each in record.fields:
        yield f"{indent}{each.name}: {each.kind.describe()}; {_absent(each)}"
        yield f"{indent}    {_one_line(each.help)} Example: {each.example}"
        inner = record_in(each.kind)
        if inner is not None:
            yield from _lines(inner, indent + "    ")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _absent(field: Field) -> str:
    if field.required:
        return "required"
    return f"default {field.default}" if field.default is not None else "may be left out"


def _data(executor: Found) -> dict[str, Any]:
    return {
        "name": executor.name,
        "kind": executor.kind,
        "usable": executor.why is None,
        "why": executor.why,
        "about": executor.about,
        "options": _options(executor.options),
    }


def _options(record: Record | None) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "takes": each.kind.describe(),
            "help": each.help,
            "example": each.example,
            "default": each.default,
            "required": each.required,
            "options": _options(record_in(each.kind)),
        }
        for each in (record.fields if record is not None else ())
    ]
