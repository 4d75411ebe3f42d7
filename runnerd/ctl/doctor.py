"""doctor: look at the machine and at a spool, and say what is wrong and what puts it right."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from runnerd import records
from runnerd.config import read_config
from runnerd.configfile import CONFIG_FILE, Setup, served_spool
from runnerd.errors import RunnerdError
from runnerd.frozen import frozen

from . import check_machine, check_spool, main, setup_of
from .case import Case, daemon_of, owner_of
from .findings import TABLE, CannotTell, Finding, Verdict
from .show import as_json, harmless, print_data

Check = Callable[[Case], Iterable[Finding]]

# What is looked at, in this order, and what is said when nothing is wrong with it.
CHECKS: dict[str, tuple[Check, str]] = {
    "configuration": (check_machine.configuration, "configuration and templates are good"),
    "secrets": (check_machine.secrets, "nobody but the daemon's user reads them"),
    "executors": (check_machine.executors, "all of them can be used"),
    "packages": (check_machine.packages, "they are new enough"),
    "spool": (check_spool.directories, "its directories are as they should be"),
    "space": (check_spool.space, "there is room"),
    "daemon": (check_spool.daemon, "it serves, and answers"),
    "descriptors": (check_machine.descriptors, "the daemon may open enough files"),
    "cgroups": (check_machine.cgroups, "each job gets one, with all controllers"),
    "inotify": (check_machine.inotify, "changes are told at once"),
    "engine": (check_machine.engine, "it answers, or nobody wants it"),
    "clock": (check_machine.clock, "it is synchronised, and nothing is from the future"),
    "journal": (check_machine.journal, "it keeps the log, or systemd is not here"),
    "metrics": (check_machine.metrics, "they are written, or not asked for"),
    "incoming": (check_spool.incoming, "nothing lies there but what waits"),
    "control": (check_spool.control, "nothing lies there"),
    "jobs": (check_spool.jobs, "those in running/ are looked after, the last results are whole"),
    "callbacks": (check_spool.callbacks, "none is late, none was given up"),
}


@frozen(kw_only=True)
class Line:
    """One line of the report. `finding`: a word for programs; None if nothing is wrong."""

    check: str
    verdict: Verdict
    finding: str | None
    message: str
    remedy: str | None


@main.command()
@click.argument("checks", metavar="[CHECK]...", nargs=-1, type=click.Choice(list(CHECKS)))
@as_json
@click.pass_context
def doctor(ctx: click.Context, checks: tuple[str, ...], *, json_: bool) -> None:
    """Look at the machine and the spool: what is wrong, and what puts it right.

    Looks at all, or at each CHECK that is named, by the second word of the lines. Prints a line for
    each thing: `good`; `wrong` and `warning` with the remedy; `unknown` where you may not see it:
    as root, or as the daemon's user, you see all. It changes nothing; if a daemon serves the spool,
    it is asked for a sign of life. What disks and people did to the jobs themselves, `runnerctl
    fsck` finds, while no daemon serves.

    With --json a list of objects: check, verdict, finding (one word), message, remedy.

    Exit status: 0 if nothing is wrong, whatever there is of warnings; 1 otherwise.
    """
    file: Path | None = ctx.find_root().params["config"]
    case = case_of(file, ctx.obj, lambda: setup_of(ctx), now=time.time())
    lines = list(examine(case, checks or CHECKS))
    wrong = sum(each.verdict is Verdict.WRONG for each in lines)
    warnings = sum(each.verdict is Verdict.WARNING for each in lines)
    texts = [*map(_text, lines), f"wrong: {wrong}, warnings: {warnings}"]
    print_data(records.plain(lines), json_=json_, text="\n".join(texts))
    sys.exit(1 if wrong else 0)


def examine(case: Case, checks: Iterable[str]) -> Iterator[Line]:
    """These checks, one after the other."""
    for name in checks:
        check, good = CHECKS[name]
        lines = list(_lines(name, check, case))
        yield from lines or [
            Line(check=name, verdict=Verdict.GOOD, finding=None, message=good, remedy=None)
        ]


def _lines(name: str, check: Check, case: Case) -> Iterator[Line]:
    """What one check finds. What it may not see is no fault."""
    try:
        for each in check(case):
            row = TABLE[each.word]
            yield Line(
                check=name,
                verdict=row.verdict,
                finding=each.word,
                message=row.message.format_map(each.values),
                remedy=row.remedy.format_map(each.values),
            )
    except (CannotTell, OSError, RunnerdError) as error:
        why = case.lack if isinstance(error, PermissionError) else str(error)
        yield Line(
            check=name,
            verdict=Verdict.UNKNOWN,
            finding="unknown",
            message=f"cannot tell: {why}",
            remedy=None,
        )


def case_of(
    file: Path | None, spool: Path | None, load: Callable[[], Setup], *, now: float
) -> Case:
    """What is to be examined. A broken configuration is only one of the findings."""
    complaint, setup = None, None
    try:
        setup = load()
        config = setup.config
    except RunnerdError as error:
        complaint = str(error)
        config = read_config(b"", cpus=len(os.sched_getaffinity(0)))
    named = spool or os.environ.get("RUNNERD_SPOOL") or served_spool(config)
    root = Path(os.path.realpath(named))
    served, pid = daemon_of(root)
    return Case(
        root=root,
        file=file or CONFIG_FILE,
        config=config,
        setup=setup,
        complaint=complaint,
        uid=owner_of(root),
        served=served,
        pid=pid,
        now=now,
    )


def _text(line: Line) -> str:
    remedy = f" (remedy: {line.remedy})" if line.remedy else ""
    text = f"{line.verdict:8} {line.check:13} {line.message}{remedy}"
    text = text.encode("utf-8", "backslashreplace").decode()
    return harmless(re.sub(r"[\n\t]", lambda char: f"\\x{ord(char[0]):02x}", text))
