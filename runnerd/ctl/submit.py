"""submit, validate: give a job file to the spool, or only see what it would say."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from runnerd import ids, records
from runnerd.accounts import account_named, own_account
from runnerd.admit import judge_text, who_is
from runnerd.api import Job, Spool
from runnerd.complaints import complain
from runnerd.errors import RunnerdError
from runnerd.model import Refusal
from runnerd.policy import Who

from . import main, setup_of
from .complete import files, files_without_template, templates
from .show import as_json, harmless, print_data, print_result


@main.command()
@click.argument(
    "what",
    nargs=-1,
    required=True,
    metavar="FILE | NAME=VALUE...",
    shell_complete=files_without_template,
)
@click.option(
    "--uses",
    metavar="TEMPLATE",
    shell_complete=templates,
    help="Use this template, with these parameters.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="PATH",
    shell_complete=files,
    help="A file or directory to be copied into the job's work/; again for more.",
)
@click.option("--name", help="The job's id; default: the file's name without its suffix.")
@click.option("--wait", "wait", is_flag=True, help="Wait for the end and exit as the job did.")
@as_json
@click.pass_context
def submit(
    ctx: click.Context,
    what: tuple[str, ...],
    uses: str | None,
    inputs: tuple[str, ...],
    name: str | None,
    *,
    wait: bool,
    json_: bool,
) -> None:
    """Drop FILE (- for standard input) into the spool and print the job's id.

    With --uses, the job is what the template makes of the parameters: NAME=VALUE... Where the id is
    taken, the job gets the next free one: ID.2, ID.3 ...

    With --json an object with the id, or, after --wait, the result.
    """
    spool = Spool(ctx.obj)
    if uses is not None:
        fields = {"uses": uses, "with": _parameters(what)}
        job = spool.submit(fields, name=name, inputs=inputs)
    elif len(what) == 1:
        job = _submit_file(spool, what[0], name, inputs)
    else:
        raise click.UsageError("one FILE at a time; NAME=VALUE needs --uses TEMPLATE")
    if not wait:
        print_data({"id": job.id}, json_=json_, text=job.id)
        return
    sys.exit(print_result(job.wait(), json_=json_))


def _submit_file(spool: Spool, file: str, name: str | None, inputs: tuple[str, ...]) -> Job:
    suffix = Path(file).suffix if file.endswith(ids.SUFFIXES) else ".yaml"
    wanted = name or (None if file == "-" else Path(file).name.removesuffix(suffix))
    return spool.submit(read_file(file), name=wanted, suffix=suffix, inputs=inputs)


def _parameters(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.UsageError(f"{word!a} is no parameter; write NAME=VALUE")
        if name in found:
            raise click.UsageError(f"the parameter {name} is given twice")
        found[name] = value
    return found


@main.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, shell_complete=files)
@click.option("--as", "user", metavar="USER", help="Ask the policy as well: may USER submit it?")
@as_json
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...], user: str | None, *, json_: bool) -> None:
    """Check job FILES, and all job files below directories, without running anything.

    With --json a list of objects: file, valid, reason, errors (code, message, line, column,
    snippet).
    """
    setup, who = setup_of(ctx), _who(user)
    answers, good = [], True
    for path in _job_files(files):
        verdict, _ = judge_text(_file_name(path), read_file(path), setup, who)
        problems = verdict.problems if isinstance(verdict, Refusal) else ()
        answers.append(
            {
                "file": path,
                "valid": not problems,
                "reason": verdict.reason if isinstance(verdict, Refusal) else None,
                "errors": records.plain(problems),
            }
        )
        good = good and not problems
        if json_:
            continue
        if isinstance(verdict, Refusal):
            click.echo(complain(problems, path).rstrip("\n"))
        else:
            runs = f"; it would run as {verdict.user or user}" if user is not None else ""
            click.echo(f"{harmless(path)}: good{runs}")
    if json_:
        print_data(answers, json_=True, text="")
    sys.exit(0 if good else 1)


def _who(user: str | None) -> Who:
    """Whom the policy is asked about; without a name, ourselves, for whom there is none."""
    if user is None:
        return who_is(os.geteuid(), own_account())
    account = account_named(user)
    if account is None:
        raise RunnerdError(f"there is no user {user} here")
    return who_is(account.uid, account, own_uid=0)  # as the daemon of root sees it


def _file_name(path: str) -> str:
    """The name that decides: a file of another name is judged as if it had a good one."""
    name = Path(path).name
    return name if ids.is_job_file(name) else "job.yaml"


def read_file(path: str) -> bytes:
    """A file's content, or standard input's for `-`. Raises RunnerdError."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise RunnerdError(f"{path}: {error.strerror}") from error


def _job_files(files: tuple[str, ...]) -> list[str]:
    found = []
    for path in files:
        if not Path(path).is_dir():
            found.append(path)
            continue
        below = sorted(str(each) for each in Path(path).rglob("*") if ids.is_job_file(each.name))
        if not below:
            raise RunnerdError(f"{path}: there are no job files ({', '.join(ids.SUFFIXES)}) here")
        found += below
    return found
