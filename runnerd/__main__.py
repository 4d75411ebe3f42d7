"""runnerd, the daemon's command line: reads the configuration and puts the parts together."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from . import __version__, cgroup, events
from .configfile import CONFIG_FILE, Setup, load_setup, spool_root
from .daemon import Daemon
from .errors import RunnerdError
from .executors import Executor, known
from .nursery import Nursery
from .runner import Runner, origin, shut_in
from .secretstore import secret_store
from .spool import Spool

EX_SOFTWARE, EX_CONFIG = 70, 78  # sysexits.h


@click.command(name="runnerd")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help=f"Configuration; default {CONFIG_FILE} if there is one, else the built-in defaults.",
)
@click.option(
    "--spool", type=click.Path(path_type=Path), help="Spool; overrides the configuration."
)
@click.option("--once", is_flag=True, help="Run what is in the spool, then end.")
@click.option("--check", is_flag=True, help="Check the configuration, then end.")
@click.version_option(__version__, message="%(prog)s %(version)s")
def main(file: Path | None, spool: Path | None, *, once: bool, check: bool) -> None:
    """Run the jobs that are dropped into a spool.

    Ends on SIGTERM and SIGINT; jobs that run then go on and are filed. SIGHUP reads the
    configuration again. Exit status: 0; 78 if the configuration or the spool cannot be used;
    70 after a fault of its own.
    """
    shut_in()
    events.open_log()
    try:
        executors = known()
        setup = load_setup(file, executors.keys())
        if check:
            _report(setup)
            return
        _serve(setup, spool or spool_root(setup.config), file, executors, once=once)
    except RunnerdError as error:
        click.echo(f"runnerd: {error}", err=True)
        sys.exit(EX_CONFIG)
    except Exception as error:  # noqa: BLE001  # our own fault: say so and end; jobs go on
        events.log_crash(error)
        sys.exit(EX_SOFTWARE)


def _report(setup: Setup) -> None:
    if setup.faults:
        raise RunnerdError("\n".join(setup.faults))
    click.echo(f"the configuration is good; templates: {len(setup.templates)}")


def _serve(
    setup: Setup, root: Path, file: Path | None, executors: Mapping[str, Executor], *, once: bool
) -> None:
    os.umask(0o022)
    spool = Spool.open(root.absolute(), group=setup.config.group)
    who = origin()
    for fault in setup.faults:
        events.log(events.TemplateBroken(why=fault))
    # Forked first: before the watcher's threads, and before the lock, which only we may hold.
    tree, why = cgroup.delegated_tree()
    events.log(events.Limits(how=why))
    if tree is not None:
        cgroup.remove_leftovers(tree)
    secrets = secret_store(setup.secrets)
    nursery = Nursery(Runner(spool, executors, secrets, who, tree).serve)
    try:
        spool.lock()
    except RunnerdError:
        nursery.close()
        raise
    daemon = Daemon(setup, spool, nursery, who, lambda: load_setup(file, executors.keys()))
    daemon.run(once=once)


if __name__ == "__main__":
    main()
