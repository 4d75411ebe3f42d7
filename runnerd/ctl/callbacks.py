"""callbacks: what of the jobs' news waits to be told and why, and what was given up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import click

from runnerd import units
from runnerd.api import Job, NoSuchJob, Spool
from runnerd.control import Verb
from runnerd.disk import DIRECTORY, Disk
from runnerd.errors import RunnerdError
from runnerd.history import Delivery
from runnerd.outbox import Damaged, Outbox
from runnerd.webhook import Entry, EntryName

from . import main
from .complete import untold
from .show import as_json, harmless, print_data


@main.group(invoke_without_command=True)
@click.option("--limit", default=100, show_default=True, help="At most so many of each.")
@as_json
@click.pass_context
def callbacks(ctx: click.Context, limit: int, *, json_: bool) -> None:
    """List the news that wait to be told, with the reason, and those that were given up.

    With --json an object: waiting and dead (how many there are), and events, each with id, event,
    state, url, since, tries, why, again_at.
    """
    if ctx.invoked_subcommand is not None:
        return
    spool = Spool(ctx.obj)
    with _outbox(spool) as outbox:
        waiting, dead = _sorted(outbox.names()), _sorted(outbox.dead_names())
        rows = [*_rows(spool, outbox, waiting[:limit], dead=False)]
        rows += _rows(spool, outbox, dead[:limit], dead=True)
    data = {"waiting": len(waiting), "dead": len(dead), "events": rows}
    lines = [f"{'STATE':8} {'SINCE':24} {'ID':32} {'EVENT':10} {'TRIES':>5} WHY"]
    lines += [
        f"{row['state']:8} {row['since']:24} {row['id']:32} {row['event']:10} "
        f"{row['tries']:5} {row['url']}: {row['why']}"
        for row in rows
    ]
    if len(waiting) + len(dead) > len(rows):
        lines.append(f"in all: {len(waiting)} waiting, {len(dead)} dead")
    text = "\n".join(lines) if rows else "nothing waits to be told"
    print_data(data, json_=json_, text=harmless(text))


@callbacks.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True, shell_complete=untold)
@click.pass_context
def retry(ctx: click.Context, job_ids: tuple[str, ...]) -> None:
    """Tell the news of jobs now, and once more what was given up."""
    for job_id in job_ids:
        Spool(ctx.find_root().obj).request(Verb.TELL, job_id)


@contextlib.contextmanager
def _outbox(spool: Spool) -> Iterator[Outbox]:
    path = spool.root / "outbox"
    try:
        fd = os.open(path, DIRECTORY)
    except PermissionError:
        raise RunnerdError(
            "what waits to be told may be listed by the daemon's user only"
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise RunnerdError(f"{spool.root}: there is no spool here") from None
    try:
        yield Outbox(Disk(), fd)
    finally:
        os.close(fd)


def _sorted(names: Iterator[EntryName]) -> list[EntryName]:
    return sorted(names, key=lambda name: (name.job, name.number))


def _rows(
    spool: Spool, outbox: Outbox, names: list[EntryName], *, dead: bool
) -> Iterator[dict[str, Any]]:
    """A line for each event. Of one that was not tried, what its endpoint said last is told."""
    failing: dict[str, str] = {}
    entries: list[tuple[EntryName, Entry | None, list[Delivery]]] = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # it is delivered by now
            try:
                entry = outbox.read_dead(name) if dead else outbox.read(name)
            except Damaged:
                entry = None
            entries.append((name, entry, _tries(spool, entry)))
    for _, entry, tries in entries:
        if entry is not None and tries and tries[-1].why is not None:
            failing[entry.url] = tries[-1].why
    for name, entry, tries in entries:
        url = entry.url if entry is not None else None
        why = tries[-1].why if tries else None
        if entry is None:
            why = "it is damaged; run: runnerctl fsck"
        elif why is None and url in failing:
            why = f"its endpoint fails: {failing[url]}"
        yield {
            "id": name.job,
            "event": str(name.news),
            "state": "dead" if dead else "waiting",
            "url": url,
            "since": units.rfc3339(entry.since) if entry is not None else "",
            "tries": len(tries),
            "why": why or "not tried yet",
            "again_at": tries[-1].again_at if tries and not dead else None,
        }


def _tries(spool: Spool, entry: Entry | None) -> list[Delivery]:
    if entry is None:
        return []
    try:
        deliveries = Job(spool, entry.job).deliveries
    except NoSuchJob:
        return []
    return [each for each in deliveries if each.id == entry.id]
