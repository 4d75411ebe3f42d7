"""fsck: check a spool that no daemon serves, and mend it."""

from __future__ import annotations

import os
import re
import socket
import sys

import click

from runnerd import __version__, api, fsck, records
from runnerd.conclude import Origin
from runnerd.configfile import load_config
from runnerd.damage import NOTES, Found

from . import main
from .show import as_json, harmless, print_data


@main.command("fsck")
@click.option("--repair", is_flag=True, help="Mend what is found.")
@as_json
@click.pass_context
def check(ctx: click.Context, *, repair: bool, json_: bool) -> None:
    """Check a spool that no daemon serves, as the daemon's user.

    Prints a line for each thing that is wrong: its place, what it is, and what --repair does about
    it. Jobs that still run are left alone; what the daemon settles by itself when it starts is
    told, and is no fault.

    A repair never removes what could be a result, an output or a job. What cannot be explained
    goes to failed/ with a result that says so, or gets a name that ends in .damaged; where a result
    had to be changed, the old one stays beside it as result.json.damaged or result.json.original.

    With --json a list of objects: path, fault (one word), message, remedy, mended.

    Exit status: 0 if nothing is wrong, or all of it is mended; 1 if faults are left, or if a daemon
    serves the spool.
    """
    os.umask(0o022)  # as the daemon's: its submitter reads what is written for a job
    root = api.Spool(ctx.obj).root
    group = load_config(ctx.find_root().params["config"]).group
    origin = Origin(host=socket.gethostname(), version=__version__)
    found = fsck.fsck(root, origin, repair=repair, group=group)
    left = sum(each.is_open for each in found)
    lines = [*map(_line, found), _summary(found, left)]
    print_data(records.plain(found), json_=json_, text="\n".join(lines))
    sys.exit(1 if left else 0)


def _line(found: Found) -> str:
    """One line, whatever is in a name: newlines and bytes that are no UTF-8 are made visible."""
    if found.mended:
        done = f" (mended: {found.remedy})"
    elif found.remedy:
        done = f" (remedy: {found.remedy})"
    else:
        done = ""
    text = f"{found.path}: {found.message}{done}".encode("utf-8", "backslashreplace").decode()
    return harmless(re.sub(r"[\n\t]", lambda char: f"\\x{ord(char[0]):02x}", text))


def _summary(found: list[Found], left: int) -> str:
    faults = [each for each in found if each.fault not in NOTES]
    if not faults:
        return "nothing is wrong"
    mended = f", {len(faults) - left} mended" if len(faults) > left else ""
    return f"faults: {len(faults)}{mended}"
