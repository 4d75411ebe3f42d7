"""ctl: runnerctl, the command line for people. Each module is one family of verbs.

Exit status of all verbs: 0; 1 when the answer is no (nothing found, a file is invalid); 2 for wrong
usage. `run`, `wait` and `submit --wait` exit as the job did: its own status, 128 + N after signal
N, 124 after its timeout, 130 when cancelled, 125 when it could not run.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from runnerd import __version__
from runnerd.configfile import Setup, load_config, load_setup, served_spool
from runnerd.errors import RunnerdError
from runnerd.executors import installed

_CONTEXT = {"help_option_names": ["-h", "--help"]}
# verb -> the module that has it. Only the one that is asked for is loaded: scripts call us often.
_VERBS = {
    **dict.fromkeys(("list", "logs", "show", "wait"), "look"),
    **dict.fromkeys(("submit", "validate"), "submit"),
    **dict.fromkeys(("templates", "schema"), "templates"),
    **dict.fromkeys(("cancel", "retry", "pause", "resume", "drain"), "control"),
    "callbacks": "callbacks",
    "executors": "executors",
    "doctor": "doctor",
    "fsck": "fsck",
    "prune": "prune",
    "run": "run",
    "watch": "watch",
}


class Group(click.Group):
    """Loads verbs, and turns what people can put right into one line and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's interface
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _VERBS:
            importlib.import_module(f".{_VERBS[cmd_name]}", __name__)  # it adds itself
        return super().get_command(ctx, cmd_name)

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


@click.group(cls=Group, context_settings=_CONTEXT)
@click.option(
    "--spool",
    type=click.Path(path_type=Path),
    help="The spool; default $RUNNERD_SPOOL, or the one that this machine's daemon serves.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The configuration; default the one that this machine's daemon reads.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, spool: Path | None, config: Path | None) -> None:
    """Submit jobs to runnerd, run them, look at them."""
    # Of a broken configuration the doctor says more than that.
    if spool is None and config is not None and ctx.invoked_subcommand != "doctor":
        spool = served_spool(load_config(config))
    ctx.obj = spool


def setup_of(ctx: click.Context) -> Setup:
    """What the administrator set up. Raises RunnerdError if the configuration is broken."""
    return load_setup(ctx.find_root().params["config"], installed().catalogue)
