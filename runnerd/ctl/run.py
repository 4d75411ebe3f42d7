"""run: one job in the foreground, by the same code as in the daemon, and without one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from runnerd import api, ids
from runnerd.admit import judge
from runnerd.complaints import complain
from runnerd.conclude import exit_status
from runnerd.configfile import Setup
from runnerd.errors import RunnerdError
from runnerd.executors import installed
from runnerd.model import Refusal
from runnerd.outcome import Postponed
from runnerd.processes import adopt_orphans
from runnerd.runner import Runner, origin, shut_in, wakes_by
from runnerd.secretstore import secret_store
from runnerd.spool import Spool

from . import main, setup_of
from .complete import files
from .show import harmless
from .submit import read_file


@main.command()
@click.argument("file", metavar="FILE", shell_complete=files)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="A spool of your own to file the job in; without it nothing is kept.",
)
@click.pass_context
def run(ctx: click.Context, file: str, keep: Path | None) -> None:
    """Run FILE (- for standard input) here and now, and exit as the job did.

    No daemon is needed and none is asked. What the job prints goes to standard output.
    """
    shut_in()
    setup = setup_of(ctx)
    adopt_orphans()
    with _own_spool(keep) as spool:
        sys.exit(_run(spool, setup, file))


@contextlib.contextmanager
def _own_spool(keep: Path | None) -> Iterator[Spool]:
    """A spool that nobody else serves."""
    os.umask(0o022)
    with contextlib.ExitStack() as stack:
        root = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runnerctl-")))
        spool = stack.enter_context(contextlib.closing(Spool.open(root.absolute())))
        spool.lock()
        yield spool


def _run(spool: Spool, setup: Setup, file: str) -> int:
    stem = ids.stem(Path(file).name)
    name = stem if stem is not None and ids.is_id(stem) else "job"
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # openat's leases: fcntl(2)
    heard: list[int] = []
    wakes = wakes_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, act=heard.append)

    suffix = Path(file).suffix if stem is not None else ".yaml"
    job = api.Spool(spool.root).submit(read_file(file), name=name, suffix=suffix)
    with judge(spool, f"{job.id}{suffix}", setup, now=time.time()) as judged:
        if isinstance(judged.verdict, Refusal):
            click.echo(complain(judged.verdict.problems, file).rstrip("\n"), err=True)
            return 125
        judged.callback = None  # nobody serves this spool: there is no courier
        claimed = spool.claim(judged)
    if claimed is None:
        raise RunnerdError(f"{spool.root}: somebody else took the job away")
    runner = Runner(
        spool,
        installed().within(setup.programs),
        secret_store(setup.secrets),
        origin(),
        echo_fd=sys.stdout.fileno(),
        asked=lambda: signal.Signals(heard[0]).name if heard else None,
    )
    while isinstance(result := runner.run(claimed, runner.prepare(claimed), wakes), Postponed):
        click.echo(f"runnerctl: {harmless(result.attempt.message)}; trying again", err=True)
        select.select([wakes], [], [], max(0.0, result.retry_at - time.time()))
        claimed.attempts = (*claimed.attempts, result.attempt)
    claimed.close()
    if result.reason is not None:
        click.echo(f"runnerctl: {harmless(result.message)}", err=True)
    return exit_status(result)
