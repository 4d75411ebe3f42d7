"""runnerd, the daemon's command line: reads the configuration and puts the parts together."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from . import __version__, cgroup, events, messages, records
from .configfile import CONFIG_FILE, Setup, load_setup, spool_root
from .daemon import Daemon
from .errors import RunnerdError
from .executors import Executors, installed
from .journal import LogFormat, open_log
from .model import Claim, StartMark
from .nursery import Nursery
from .outcome import Result, Status
from .processes import adopt_orphans, give_memory_back
from .runner import Runner, origin, shut_in
from .secretstore import SecretStore, secret_store
from .settings import Ceiling
from .spool import Spool

EX_SOFTWARE, EX_CONFIG = 70, 78  # sysexits.h


def parser() -> argparse.ArgumentParser:
    """The options. Not by click, as in runnerctl: it would stay in memory, with all runners."""
    found = argparse.ArgumentParser(
        prog="runnerd",
        description="Run the jobs that are dropped into a spool.",
        epilog="Ends on SIGTERM and SIGINT; jobs that run then go on and are filed. SIGHUP reads "
        "the configuration again. Exit status: 0; 78 if the configuration or the spool cannot be "
        "used; 70 after a fault of its own.",
        allow_abbrev=False,
        add_help=False,
    )
    add = found.add_argument
    add(
        "--config",
        type=Path,
        metavar="PATH",
        help=f"Configuration; default {CONFIG_FILE} if there is one, else the built-in defaults.",
    )
    add("--spool", type=Path, metavar="PATH", help="Spool; overrides the configuration.")
    add("--once", action="store_true", help="Run what is in the spool, then end.")
    add("--check", action="store_true", help="Check the configuration, then end.")
    add(
        "--log-format",
        choices=[each.value for each in LogFormat],
        default=LogFormat.AUTO.value,
        help="The log: text or json as lines on standard error, journal as entries with fields; "
        "auto is journal for a service of systemd, or else text. Default: auto.",
    )
    add("--version", action="version", version=f"runnerd {__version__}", help="Show the version.")
    add("--help", action="help", help="Show this message and exit.")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The program: its arguments, or those of this process."""
    asked = parser().parse_args(arguments)
    shut_in()
    try:
        open_log(LogFormat(asked.log_format))
        executors = installed()
        setup = load_setup(asked.config, executors.catalogue)
        if asked.check:
            _report(setup)
            return
        root = asked.spool or spool_root(setup.config)
        _serve(setup, root, asked.config, executors, once=asked.once)
    except RunnerdError as error:
        sys.stderr.write(f"runnerd: {error}\n")
        sys.exit(EX_CONFIG)
    except Exception as error:  # noqa: BLE001  # our own fault: say so and end; jobs go on
        events.log_crash(error)
        sys.exit(EX_SOFTWARE)


def _report(setup: Setup) -> None:
    disabled = [
        f"the executor {name} is disabled: {why}" for name, why in setup.executors.broken.items()
    ]
    if setup.faults or disabled:
        raise RunnerdError("\n".join([*setup.faults, *disabled]))
    sys.stdout.write(f"the configuration is good; templates: {len(setup.templates)}\n")


def _serve(
    setup: Setup, root: Path, file: Path | None, executors: Executors, *, once: bool
) -> None:
    os.umask(0o022)
    spool = Spool.open(root.absolute(), group=setup.config.group)
    who = origin()
    for fault in setup.faults:
        events.log(events.TemplateBroken(why=fault))
    for name, why in setup.executors.broken.items():
        events.log(events.ExecutorDisabled(name=name, why=why))
    # Forked first: before the watcher's threads, and before the lock, which only we may hold.
    tree, how = cgroup.delegated_tree()
    events.log(events.Limits(how=how))
    if tree is not None:
        cgroup.remove_leftovers(tree)
    adopt_orphans()
    secrets = secret_store(setup.secrets)
    startable = executors.within(setup.programs)
    runner = Runner(spool, startable, secrets, who, tree)
    if tree is None and any(rule.limits != Ceiling() for rule in setup.config.rules):
        from . import kin  # noqa: F401, PLC0415  # else each runner would load it
    messages.prepare()
    records.prepare(Claim, StartMark, Status, Result)
    give_memory_back()
    nursery = Nursery(runner.serve, partial(_deliver, spool, secrets))
    try:
        spool.lock()
    except RunnerdError:
        nursery.close()
        raise

    def reload() -> Setup:
        # The runners look for programs where they did at the start.
        return load_setup(file, lambda _: executors.catalogue(setup.programs))

    Daemon(setup, spool, nursery, who, reload).run(once=once)


def _deliver(spool: Spool, secrets: SecretStore, daemon: socket.socket) -> None:
    from .courier import Courier  # noqa: PLC0415  # large, and only where there is something to tell

    Courier(spool, secrets, __version__).serve(daemon)


if __name__ == "__main__":
    main()
