"""cancel, retry, pause, resume, drain: ask the daemon for something, by a file in control/."""

from __future__ import annotations

import sys
import time

import click

from runnerd.api import Spool, changes
from runnerd.control import Verb
from runnerd.model import State

from . import main
from .complete import job_ids

_LOOK_AGAIN_S = 1.0
_PATIENCE_S = 10.0


@main.command()
@click.argument(
    "job_ids",
    metavar="ID...",
    nargs=-1,
    required=True,
    shell_complete=job_ids(State.QUEUED, State.RUNNING),
)
@click.pass_context
def cancel(ctx: click.Context, job_ids: tuple[str, ...]) -> None:
    """Cancel jobs that wait or run. What runs gets SIGTERM, and later SIGKILL."""
    _ask_about(Spool(ctx.obj), Verb.CANCEL, job_ids)


@main.command()
@click.argument(
    "job_ids",
    metavar="ID...",
    nargs=-1,
    required=True,
    shell_complete=job_ids(State.DONE, State.FAILED),
)
@click.pass_context
def retry(ctx: click.Context, job_ids: tuple[str, ...]) -> None:
    """Submit jobs that have ended once more, as they were, under their next free ids."""
    _ask_about(Spool(ctx.obj), Verb.RETRY, job_ids)


@main.command()
@click.pass_context
def pause(ctx: click.Context) -> None:
    """Start no more jobs, until `resume`. What runs goes on; a restart changes nothing."""
    Spool(ctx.obj).request(Verb.PAUSE)


@main.command()
@click.pass_context
def resume(ctx: click.Context) -> None:
    """Start jobs again after `pause` or `drain`."""
    Spool(ctx.obj).request(Verb.RESUME)


@main.command()
@click.option("--timeout", type=float, help="Give up after so many seconds.")
@click.pass_context
def drain(ctx: click.Context, timeout: float | None) -> None:
    """Start no more jobs, and wait until none runs. `resume` ends it."""
    spool = Spool(ctx.obj)
    spool.request(Verb.PAUSE)
    deadline = None if timeout is None else time.monotonic() + timeout
    with changes([spool.root / "done", spool.root / "failed", spool.root / "control"]) as changed:
        while spool.asked() or _running(spool):
            if deadline is not None and time.monotonic() >= deadline:
                click.echo(f"runnerctl: still running: {', '.join(_running(spool))}", err=True)
                sys.exit(124)
            changed(_LOOK_AGAIN_S)


def _running(spool: Spool) -> list[str]:
    """The jobs that hold a slot. One that waits for its next attempt does not."""
    return [
        job.id
        for job in spool.jobs(State.RUNNING)
        if (status := job.status) is None or status.retry_at is None
    ]


def _ask_about(spool: Spool, verb: Verb, job_ids: tuple[str, ...]) -> None:
    for job_id in job_ids:
        spool.job(job_id)  # raises NoSuchJob
        spool.request(verb, job_id)
