"""list, show, logs, wait: see what became of a job. Reads the directories and nothing else."""

from __future__ import annotations

import bisect
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from runnerd import records, units
from runnerd.api import Job, NoSuchJob, Spool, changes
from runnerd.catalogue import Catalogue
from runnerd.errors import Invalid, RunnerdError
from runnerd.model import JobId, State
from runnerd.parse import parse
from runnerd.schedule import DEFAULT_QUEUE

from . import main, setup_of
from .complete import job_ids
from .show import as_json, harmless, print_data, print_pieces, print_result

_LOOK_AGAIN_S = 1.0
_PIECE = 1 << 16


@main.command("list")
@click.option("--state", type=click.Choice([each.value for each in State]), help="Only these.")
@click.option("--limit", default=20, show_default=True, help="At most so many of each state.")
@as_json
@click.pass_context
def list_jobs(ctx: click.Context, state: str | None, limit: int, *, json_: bool) -> None:
    """List jobs, newest first, state by state.

    With --json a list of objects: id, state, reason, name, since, message.
    """
    spool = Spool(ctx.obj)
    rows = []
    for each in [State(state)] if state else list(State):
        try:
            rows += [_row(job, each) for job in spool.jobs(each, limit=limit)]
        except PermissionError:
            click.echo(
                f"runnerctl: who is {each} may be listed by the daemon's user only", err=True
            )
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchJob(f"{spool.root}: there is no spool here") from None
    lines = [f"{'STATE':8} {'SINCE':24} {'ID':32} MESSAGE"]
    lines += [
        f"{row['state']:8} {row['since']:24} {row['id']:32} {row['message'] or row['name'] or ''}"
        for row in rows
    ]
    print_data(rows, json_=json_, text=harmless("\n".join(lines)))


@main.command()
@click.argument("job_id", metavar="ID", shell_complete=job_ids(*State))
@as_json
@click.pass_context
def show(ctx: click.Context, job_id: str, *, json_: bool) -> None:
    """Show all that is known of a job: its result, or its status, or what it waits for.

    With --json an object: the fields of result.json or status.json (see the schemas), directory and
    callbacks (each try to tell of it); of a job that waits id, state, submitted_at, waits.
    """
    data = _details(Spool(ctx.obj).job(job_id), lambda: setup_of(ctx).executors)
    told = [_try_in_words(each) for each in data.get("callbacks", ())]
    lines = [
        f"{key + ':':14} {value}"
        for key, value in {**data, "callbacks": told}.items()
        if value not in (None, [], {}, ())
    ]
    print_data(data, json_=json_, text=harmless("\n".join(lines)))


@main.command()
@click.argument(
    "job_id",
    metavar="ID",
    shell_complete=job_ids(State.RUNNING, State.DONE, State.FAILED),
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("-t", "--times", is_flag=True, help="Put the time before each line.")
@click.option("--attempt", type=int, help="Of this attempt; default: the last.")
@click.pass_context
def logs(
    ctx: click.Context, job_id: str, *, follow: bool, times: bool, attempt: int | None
) -> None:
    """Print what a job printed."""
    job = Spool(ctx.obj).job(job_id)
    name = "output.log"
    if attempt is not None and attempt < job.attempt:
        name = f"output.{attempt}.log"
    stamp = Stamps(job, name) if times else None
    if follow:
        print_pieces(_stamped(_follow(job), stamp))
        return
    try:
        with (job.directory / name).open("rb") as log:
            print_pieces(_stamped(iter(lambda: log.read(_PIECE), b""), stamp))
    except FileNotFoundError:
        raise NoSuchJob(f"{job.id}: has printed nothing yet") from None


@main.command()
@click.argument(
    "job_ids",
    metavar="ID...",
    nargs=-1,
    required=True,
    shell_complete=job_ids(State.QUEUED, State.RUNNING),
)
@click.option("--timeout", type=float, help="Give up after so many seconds.")
@as_json
@click.pass_context
def wait(
    ctx: click.Context, job_ids: tuple[str, ...], timeout: float | None, *, json_: bool
) -> None:
    """Wait for the end of jobs; exit as the first did that failed, or with 0.

    Prints a line for each; with --json its result.
    """
    spool, status = Spool(ctx.obj), 0
    for job_id in job_ids:
        try:
            result = spool.job(job_id).wait(timeout)
        except TimeoutError as error:
            click.echo(f"runnerctl: {error}", err=True)
            sys.exit(124)
        ended = print_result(result, json_=json_)
        status = status or ended
    sys.exit(status)


class Stamps:
    """When the bytes of a log were written, by its file of times."""

    def __init__(self, job: Job, log: str) -> None:
        self._job = job
        self._name = log.replace(".log", ".timing")
        self._ends: list[int] = []
        self._times: list[float] = []
        self._read = 0
        self._clock = job.attempt_started_at

    def at(self, offset: int) -> str:
        """The time of a byte, as RFC 3339."""
        if not self._ends or self._ends[-1] <= offset:
            self._read_more()
        index = bisect.bisect_right(self._ends, offset)
        known = self._times[index] if index < len(self._times) else self._clock
        return units.rfc3339(known)

    def _read_more(self) -> None:
        with contextlib.suppress(OSError, NoSuchJob):
            data = (self._job.directory / self._name).read_bytes()[self._read :]
            whole, _, _ = data.rpartition(b"\n")
            self._read += len(whole) + 1 if whole else 0
            for line in whole.split(b"\n") if whole else ():
                kind, since_s, size = line.split()
                if kind == b"O":
                    self._clock += float(since_s)
                    self._times.append(self._clock)
                    self._ends.append((self._ends[-1] if self._ends else 0) + int(size))


def _stamped(pieces: Iterator[bytes], stamps: Stamps | None) -> Iterator[bytes]:
    """The pieces, with the time before each line if that is wanted."""
    if stamps is None:
        yield from pieces
        return
    offset, starts = 0, True
    for piece in pieces:
        out = []
        for line in piece.splitlines(keepends=True):
            out.append(f"{stamps.at(offset)} ".encode() + line if starts else line)
            offset += len(line)
            starts = line.endswith(b"\n")
        yield b"".join(out)


def _row(job: Job, state: State) -> dict[str, Any]:
    """A line of the list. A job that has moved on meanwhile is shown where it was seen."""
    result, message = None, None
    try:
        result = job.result
    except RunnerdError as error:
        message = str(error)  # the others are still to be seen
    return {
        "id": job.id,
        "state": state.value,
        "reason": result.reason if result else None,
        "name": result.name if result else None,
        "since": result.finished_at if result else units.rfc3339(job.changed_at),
        "message": result.message if result else message,
    }


def _details(job: Job, executors: Callable[[], Catalogue]) -> dict[str, Any]:
    record = job.result or job.status
    if record is not None:
        known: dict[str, Any] = records.plain(record)
    else:
        known = {
            "id": job.id,
            "state": str(job.state),
            "submitted_at": units.rfc3339(job.changed_at),
        }
    if job.state not in (None, State.QUEUED):
        known["directory"] = str(job.directory)
        known["callbacks"] = records.plain(job.deliveries)
    elif job.state is State.QUEUED:
        known["waits"] = _why_waiting(job, executors())
    return known


def _try_in_words(delivery: dict[str, Any]) -> str:
    event = delivery["event"].removeprefix("runnerd.job.")
    how = "told" if delivery["delivered"] else f"not told, {delivery['why']}"
    return f"{event} {delivery['at']} {how}"


def _why_waiting(job: Job, executors: Catalogue) -> str:
    """Why a job is not running yet, as far as can be told from the directories."""
    try:
        spec = parse(job.file.read_bytes(), executors=executors, as_json=job.file.suffix == ".json")
    except (OSError, Invalid):
        return "it is not looked at yet, or its file is not ours to read"
    open_needs = [need for need in spec.needs if not _is_done(job.spool, need)]
    if open_needs:
        return f"for the jobs that it needs: {', '.join(open_needs)}"
    not_before = spec.not_before or (job.changed_at + (spec.delay_s or 0.0))
    if not_before > time.time():
        return f"for its time: {units.rfc3339(not_before)}"
    running = [each.status for each in job.spool.jobs(State.RUNNING)]
    group = spec.concurrency
    if (
        group is not None
        and sum(each is not None and each.group == group.group for each in running) >= group.limit
    ):
        return f"for its concurrency group {group.group}, of which {group.limit} may run"
    if (job.spool.root / ".paused").exists():
        return "for `runnerctl resume`: no jobs are started"
    return f"for its turn in the queue {spec.queue or DEFAULT_QUEUE}"


def _is_done(spool: Spool, job_id: str) -> bool:
    return Job(spool, JobId(job_id)).state is State.DONE


def _follow(job: Job) -> Iterator[bytes]:
    """The job's output, from its first byte until the job has ended."""
    root = job.spool.root
    places = (root / each for each in ("running", "done", "failed"))
    with changes(places, writes=True) as changed:
        log_fd = None
        while True:
            state = job.state
            if log_fd is None and state not in (None, State.QUEUED):
                log_fd = _open_log(job)
                if log_fd is not None and state is State.RUNNING:
                    with contextlib.suppress(OSError):  # filed meanwhile: the next look sees that
                        changed.add(root / "running" / job.id)
            while log_fd is not None and (piece := os.read(log_fd, _PIECE)):
                yield piece
            if state is None:
                raise NoSuchJob(f"{job.id}: the job is gone")
            if state in (State.DONE, State.FAILED):
                return
            changed(_LOOK_AGAIN_S)


def _open_log(job: Job) -> int | None:
    try:
        return os.open(job.log_file, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NoSuchJob):
        return None
