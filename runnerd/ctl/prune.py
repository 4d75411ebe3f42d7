"""prune: remove filed jobs by hand, as the daemon does by itself."""

from __future__ import annotations

import os
import re
import sys
import time

import click

from runnerd import api, prune, records, retention, units
from runnerd.configfile import load_config
from runnerd.errors import RunnerdError
from runnerd.model import State
from runnerd.settings import Keep, Retention
from runnerd.spool import Spool

from . import main
from .show import as_json, harmless, print_data


def _age(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else units.duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@main.command("prune")
@click.option("--dry-run", is_flag=True, help="Tell what would be removed, and remove nothing.")
@click.option(
    "--older-than",
    metavar="AGE",
    callback=_age,
    help="What ended longer ago, like 30d, instead of what `retention` says.",
)
@click.option(
    "--state", type=click.Choice([State.DONE.value, State.FAILED.value]), help="Only these."
)
@as_json
@click.pass_context
def prune_jobs(
    ctx: click.Context, *, dry_run: bool, older_than: float | None, state: str | None, json_: bool
) -> None:
    """Remove filed jobs, as the daemon's user: by `retention` in the configuration, or by age.

    A job whose callbacks still wait is kept. The daemon may serve meanwhile. With --json an object:
    `pruned` and `waiting` (what is kept for its callbacks), each a list of id, state, ended_at,
    size; and `stuck`, what could not be removed, and why.

    Exit status: 0; 1 if something could not be removed.
    """
    config = load_config(ctx.find_root().params["config"])
    wanted = config.retention if older_than is None else _all(Keep(age_s=older_than))
    if state is not None:
        wanted = Retention(**{state: getattr(wanted, state)})
    if not wanted.bounded:
        which = f"{state} jobs" if state else "jobs"
        raise RunnerdError(f"all {which} are kept, as `retention` says; give --older-than AGE")
    root = api.Spool(ctx.obj).root
    if not (root / State.DONE).is_dir():
        raise RunnerdError(f"{root}: there is no spool here")
    os.umask(0o022)
    spool = Spool.open(root, group=config.group)
    now = time.time()
    if dry_run:
        plan = prune.plan(spool, wanted, now, _at_once)
        report = prune.Report(pruned=plan.jobs, waiting=plan.waiting)
    else:
        report = prune.prune(spool, wanted, now, _at_once)
    data = {
        "pruned": records.plain(report.pruned),
        "waiting": records.plain(report.waiting),
        "stuck": list(report.stuck),
    }
    for each in data["pruned"] + data["waiting"]:
        each["ended_at"] = units.rfc3339(each["ended_at"])
        del each["waits"]
    print_data(data, json_=json_, text="\n".join(_lines(report, dry_run=dry_run)))
    sys.exit(1 if report.stuck else 0)


def _lines(report: prune.Report, *, dry_run: bool) -> list[str]:
    done = "would be removed" if dry_run else "removed"
    return [
        *(_line(job) for job in report.pruned),
        *(f"{_line(job)}  kept: callbacks of it wait" for job in report.waiting),
        *(
            "not removed: " + harmless(re.sub(r"[\n\t]", lambda at: f"\\x{ord(at[0]):02x}", each))
            for each in report.stuck
        ),
        f"jobs {done}: {len(report.pruned)}",
    ]


def _line(job: retention.Filed) -> str:
    return f"{units.rfc3339(job.ended_at)}  {job.state}/{job.id}"


def _all(keep: Keep) -> Retention:
    return Retention(done=keep, failed=keep)


def _at_once() -> None:
    """A person waits for it."""
