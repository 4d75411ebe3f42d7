"""submit, validate: give a job file to the spool, or only see what it would say."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from runnerd import ids, records
from runnerd.admit import judge_text
from runnerd.api import Spool
from runnerd.complaints import complain
from runnerd.errors import RunnerdError
from runnerd.executors import known
from runnerd.model import Refusal

from . import main
from .show import as_json, print_data, print_result


@main.command()
@click.argument("file")
@click.option("--name", help="The job's id; default: the file's name without its suffix.")
@click.option("--wait", "wait", is_flag=True, help="Wait for the end and exit as the job did.")
@as_json
@click.pass_context
def submit(ctx: click.Context, file: str, name: str | None, *, wait: bool, json_: bool) -> None:
    """Drop FILE (- for standard input) into the spool and print the job's id.

    Where the id is taken, the job gets the next free one: ID.2, ID.3 ...
    """
    suffix = Path(file).suffix if file.endswith(ids.SUFFIXES) else ".yaml"
    wanted = name or (None if file == "-" else Path(file).name.removesuffix(suffix))
    job = Spool(ctx.obj).submit(read_file(file), name=wanted, suffix=suffix)
    if not wait:
        print_data({"id": job.id}, json_=json_, text=job.id)
        return
    sys.exit(print_result(job.wait(), json_=json_))


@main.command()
@click.argument("files", nargs=-1, required=True)
@as_json
def validate(files: tuple[str, ...], *, json_: bool) -> None:
    """Check job FILES, and all job files below directories, without running anything."""
    executors = known().keys()
    answers, good = [], True
    for path in _job_files(files):
        verdict = judge_text(Path(path).name, read_file(path), executors=executors)
        problems = verdict.problems if isinstance(verdict, Refusal) else ()
        answers.append({"file": path, "valid": not problems, "errors": records.plain(problems)})
        good = good and not problems
        if not json_:
            click.echo(complain(problems, path).rstrip("\n") if problems else f"{path}: good")
    if json_:
        print_data(answers, json_=True, text="")
    sys.exit(0 if good else 1)


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
