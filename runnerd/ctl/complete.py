"""complete: what the shell offers when somebody presses Tab.

A completion must be quick, and must not print anything but its words: whatever is in the way, there
are none. What verbs take is said beside them; click does the rest.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from runnerd.api import Spool
from runnerd.catalogue import unfit
from runnerd.configfile import load_config, served_spool, template_names
from runnerd.errors import RunnerdError
from runnerd.executors import built_in
from runnerd.model import State
from runnerd.webhook import read_name

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
MOST = 1000  # more than anybody reads; many more, and the shell stands still


def job_ids(*states: State) -> Completer:
    """The ids of the jobs in these states."""

    def names(ctx: click.Context) -> Iterable[str]:
        spool = Spool(_root(ctx))
        for state in states:
            with contextlib.suppress(OSError):  # what waits, not everybody may list
                yield from spool.job_ids(state)

    return _completer(names)


def _untold(ctx: click.Context) -> Iterable[str]:
    outbox = _root(ctx) / "outbox"
    for place in (outbox, outbox / "dead"):
        try:
            entries = [read_name(name) for name in os.listdir(place)]
        except OSError:
            continue
        yield from (each.job for each in entries if each is not None)


def _executors(ctx: click.Context) -> Iterable[str]:
    """The names of all that could be one: nothing is loaded or started for it."""
    with contextlib.suppress(OSError):
        programs = os.listdir(load_config(_config(ctx)).executors)
        yield from (each for each in programs if unfit(each) is None)
    yield from built_in()
    yield from (each.name for each in entry_points(group="runnerd.executors"))


def _templates(ctx: click.Context) -> Iterable[str]:
    return template_names(_config(ctx))


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of files: the shell knows them best."""
    return [CompletionItem(incomplete, type="file")]


def files_without_template(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """A file, where no template is named."""
    return [] if ctx.params.get("uses") else files(ctx, param, incomplete)


def _completer(names: Callable[[click.Context], Iterable[str]]) -> Completer:
    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            given = ctx.params.get(param.name or "") or ()
            found = {each for each in names(ctx) if each.startswith(incomplete)}
        except (RunnerdError, OSError):
            return []
        wanted = sorted(found.difference(given if isinstance(given, tuple) else ()))
        return [CompletionItem(each) for each in _fewer(wanted)]

    return complete


def _fewer(found: list[str]) -> list[str]:
    """The first and the last: they have in common what all of them have."""
    return found if len(found) <= MOST else [*found[: MOST // 2], *found[-MOST // 2 :]]


def _config(ctx: click.Context) -> Path | None:
    file: Path | None = ctx.find_root().params.get("config")
    return file


def _root(ctx: click.Context) -> Path:
    """The spool, as `main` finds it, which does not run now."""
    spool: Path | None = ctx.find_root().params.get("spool")
    file = _config(ctx)
    if spool is None and file is not None:
        spool = served_spool(load_config(file))
    return Spool(spool).root


executors = _completer(_executors)
templates = _completer(_templates)
untold = _completer(_untold)
