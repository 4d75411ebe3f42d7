"""templates, schema: what the administrator offers, and what files look like, for editors."""

from __future__ import annotations

import json
import shlex
from typing import Any

import click

from runnerd import parameters, records
from runnerd.errors import RunnerdError
from runnerd.schema import About, schema_of
from runnerd.templates import Template

from . import complete, main, setup_of
from .show import as_json, harmless, print_data


@main.command("templates")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete.templates)
@as_json
@click.pass_context
def list_templates(ctx: click.Context, names: tuple[str, ...], *, json_: bool) -> None:
    """List the templates, or those NAMEd: their parameters, and an example to copy.

    With --json a list of objects: name, description, allow, params, example.
    """
    setup = setup_of(ctx)
    for fault in setup.faults:
        click.echo(f"runnerctl: {harmless(fault)}", err=True)
    missing = set(names) - setup.templates.keys()
    if missing:
        raise RunnerdError(f"there is no template {', '.join(sorted(missing))} here")
    found = [
        template
        for name, template in setup.templates.items()
        if template is not None and (not names or name in names)
    ]
    text = "\n".join(map(_sheet, found)) or "there are no templates here"
    print_data(list(map(_data, found)), json_=json_, text=harmless(text))


@main.command()
@click.argument("about", type=click.Choice([each.value for each in About]))
@click.pass_context
def schema(ctx: click.Context, about: str) -> None:
    """Print the JSON Schema of a kind of file, with the options of the executors that are here."""
    click.echo(json.dumps(schema_of(About(about), setup_of(ctx).executors), indent=2))


def _sheet(template: Template) -> str:
    lines = [f"{template.name}: {template.description or 'no description'}"]
    lines.append(f"  for {_allowed(template)}")
    for name, parameter in template.parameters.items():
        if parameters.is_required(parameter):
            default = "required"
        elif parameter.default is not None:
            default = f"default {parameter.default}"
        else:
            default = "may be left out"
        lines.append(f"  {name}: {parameters.describe(parameter)}; {default}")
        if parameter.help:
            lines.append(f"      {parameter.help}")
    lines.append(f"  example: {_example(template)}\n")
    return "\n".join(lines)


def _allowed(template: Template) -> str:
    users = [f"user {name}" for name in template.allow.users]
    return ", ".join([*users, *(f"group {name}" for name in template.allow.groups)]) or "nobody"


def _example(template: Template) -> str:
    """A command that submits it, ready to be pasted into a shell."""
    values = [f"{name}={value}" for name, value in _examples(template).items()]
    return shlex.join(["runnerctl", "submit", "--uses", template.name, *values])


def _examples(template: Template) -> dict[str, str]:
    return {
        name: parameters.example_of(each)
        for name, each in template.parameters.items()
        if parameters.is_required(each)
    }


def _data(template: Template) -> dict[str, Any]:
    return {
        "name": template.name,
        "description": template.description,
        "allow": records.plain(template.allow),
        "params": {
            name: {
                **{key: each for key, each in records.plain(value).items() if each is not None},
                "required": parameters.is_required(value),
            }
            for name, value in template.parameters.items()
        },
        "example": {"uses": template.name, "with": _examples(template)},
    }
