"""ctl: runnerctl, the command line for people. Each module is one family of verbs.

Exit status of all verbs: 0; 1 when the answer is no (nothing found, a file is invalid); 2 for wrong
usage. `run`, `wait` and `submit --wait` exit as the job did: its own status, 128 + N after signal
N, 124 after its timeout, 130 when cancelled, 125 when it could not run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from runnerd import __version__
from runnerd.api import Spool
from runnerd.errors import RunnerdError

CONTEXT = {"help_option_names": ["-h", "--help"]}


class Group(click.Group):
    """Turns what people can put right into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RunnerdError as error:
            click.echo(f"runnerctl: {error}", err=True)
            sys.exit(1)
        except BrokenPipeError:
            # Whoever read our output has enough; keep the interpreter from flushing at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


@click.group(cls=Group, context_settings=CONTEXT)
@click.option(
    "--spool",
    type=click.Path(path_type=Path),
    help="The spool; default $RUNNERD_SPOOL, or the one that this machine's daemon serves.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, spool: Path | None) -> None:
    """Submit jobs to runnerd, run them, look at them."""
    ctx.obj = spool


def the_spool(ctx: click.Context) -> Spool:
    """The spool that the command line names."""
    return Spool(ctx.obj)


def as_json(command: click.decorators.FC) -> click.decorators.FC:
    """The option that every verb has which prints data."""
    return click.option("--json", "json_", is_flag=True, help="Print JSON.")(command)


from . import look, run, submit  # noqa: E402  # they add their verbs to `main`

__all__ = ["look", "main", "run", "submit"]
