"""watch: what runs and what waits, live: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runnerd import units
from runnerd.api import Spool, changes
from runnerd.frozen import frozen
from runnerd.model import State
from runnerd.outcome import Status

from . import main
from .show import harmless


@frozen
class View:
    """One look. `queued` is None where we may not look into incoming/."""

    running: tuple[Status, ...]
    queued: int | None


@main.command()
@click.option("--every", default=0.5, show_default=True, help="Look so often, in seconds.")
@click.option("--once", is_flag=True, help="Look once, and end.")
@click.pass_context
def watch(ctx: click.Context, every: float, *, once: bool) -> None:
    """Watch the running jobs, their progress, and the queue. Ends with Ctrl-C."""
    spool = Spool(ctx.obj)
    with contextlib.suppress(KeyboardInterrupt):
        if once:
            click.echo("\n".join(_lines(_look(spool))))
        elif sys.stdout.isatty():
            _draw(spool, every)
        else:
            _tell(spool, every)


def _look(spool: Spool) -> View:
    found = [status for job in spool.jobs(State.RUNNING) if (status := job.status) is not None]
    found.sort(key=lambda status: (status.started_at, status.id))
    try:
        queued: int | None = len(spool.jobs(State.QUEUED))
    except PermissionError:
        queued = None
    return View(tuple(found), queued)


def _draw(spool: Spool, every_s: float) -> None:
    places = [spool.root / each for each in ("running", "done", "failed")]
    # Looks by itself would be work for nothing: only we know when there is news.
    with (
        changes(places) as changed,
        Live(console=Console(), auto_refresh=False, transient=True) as live,
    ):
        while True:
            live.update(_picture(_look(spool), time.time()), refresh=True)
            changed(every_s)


def _picture(view: View, now: float) -> Group:
    table = Table(box=None, pad_edge=False, expand=True)
    for title in ("JOB", "FOR", "PROGRESS", ""):
        table.add_column(title, no_wrap=True)
    for status in view.running:
        took = units.in_words(max(0, int(now - units.epoch(status.started_at))))
        bar = ProgressBar(total=100, completed=status.percent or 0, width=24)
        if status.percent is None:  # it says nothing: a bar that only shows that it lives
            bar = ProgressBar(total=None, pulse=True, width=24)
        table.add_row(Text(status.id), took, bar, Text(harmless(_words(status))))
    return Group(table, Text(_summary(view)))


def _tell(spool: Spool, every_s: float) -> None:
    """A line for each change, and nothing while nothing changes."""
    told: set[str] = set()
    while True:
        lines = _lines(_look(spool))
        for line in lines:
            if line not in told:
                click.echo(line)
        told = set(lines)
        sys.stdout.flush()
        time.sleep(every_s)


def _lines(view: View) -> list[str]:
    return [*(harmless(f"{each.id}: {_words(each)}") for each in view.running), _summary(view)]


def _words(status: Status) -> str:
    words = []
    if status.retry_at is not None:
        words.append(f"attempt {status.attempt} failed, the next one at {status.retry_at}")
    elif status.percent is not None:
        words.append(f"{status.percent:g}%")
    if status.step is not None:
        words.append(f"step {status.step} ({status.steps_done + 1} of {status.steps})")
    if status.progress is not None:
        words.append(status.progress)
    return " ".join(words) or "running"


def _summary(view: View) -> str:
    queued = "" if view.queued is None else f", {view.queued} queued"
    return f"{len(view.running)} running{queued}"
