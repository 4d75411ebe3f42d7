"""api: submit jobs and look at them, from Python. `from runnerd import Spool`.

    job = Spool().submit({"run": "echo hello"})
    if job.wait().exit_code == 0:
        print(job.log_file.read_text())

Submitting needs no daemon, and no right but that of dropping a file: the directories are all there
is.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import select
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ids, records
from .control import Verb, read_request
from .drop import drop_bundle, drop_file, sources_of
from .errors import RunnerdError
from .model import JobId, State
from .outcome import Result, Status
from .units import epoch

if TYPE_CHECKING:
    from .history import Delivery
    from .watch import Watch

_LOOK_AGAIN_S = 5.0  # a lost event costs this much
_PLACES = {State.RUNNING: "running", State.DONE: "done", State.FAILED: "failed"}


class NoSuchJob(RunnerdError):
    """There is no job of this id: never submitted, cancelled while it was queued, or pruned."""


class Spool:
    """A spool, by its directory; by default the one that this machine's daemon serves."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        named = path or os.environ.get("RUNNERD_SPOOL")
        self.root = (Path(named) if named else _configured_root()).absolute()

    def submit(
        self,
        job: Mapping[str, Any] | str | bytes,
        *,
        name: str | None = None,
        suffix: str = ".yaml",
        inputs: Iterable[str | os.PathLike[str]] = (),
    ) -> Job:
        """Drop a job: a mapping of its fields, or the text of a job file.

        `name` becomes its id; where that is taken, the next free of name.2, name.3 ... Without a
        name it gets a new one. `inputs`: files and directories to be copied into its work/. Raises
        RunnerdError if the name cannot be an id, if an input cannot be read, or if nothing may be
        dropped here.
        """
        data = _text(job) if isinstance(job, Mapping) else job
        wanted = name or f"job-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        if not ids.is_id(wanted):
            raise RunnerdError(f"{wanted!a} cannot be a job's id: {ids.RULE}")
        content = data.encode() if isinstance(data, str) else data
        sources, incoming = sources_of(inputs), self.root / "incoming"
        while True:
            job_id = ids.free_id(JobId(wanted), self._is_taken)
            try:
                if sources:
                    drop_bundle(incoming, job_id, f"job{suffix}", content, sources)
                else:
                    drop_file(incoming, job_id + suffix, content)
            except FileExistsError:
                continue  # somebody was faster
            return Job(self, job_id)

    def job(self, job_id: str) -> Job:
        """A job by its id. Raises NoSuchJob."""
        job = Job(self, JobId(job_id))
        if not ids.is_id(job_id) or job.state is None:
            raise NoSuchJob(f"{job_id!a}: there is no such job in {self.root}")
        return job

    def jobs(self, state: State, *, limit: int | None = None) -> list[Job]:
        """The jobs in one state, newest first. Raises PermissionError where that is not allowed."""
        found: list[tuple[float, JobId]] = []
        for job_id, entry in self._entries(state):
            with contextlib.suppress(FileNotFoundError):  # moved on meanwhile
                found.append((entry.stat(follow_symlinks=False).st_ctime, job_id))
        newest = sorted(found, reverse=True)[:limit]
        return [Job(self, job_id) for _, job_id in newest]

    def job_ids(self, state: State) -> list[JobId]:
        """The same by their ids, in no order: however many there are, this is quick."""
        return [job_id for job_id, _ in self._entries(state)]

    def _entries(self, state: State) -> Iterator[tuple[JobId, os.DirEntry[str]]]:
        place = self.root / ("incoming" if state is State.QUEUED else _PLACES[state])
        with os.scandir(place) as entries:
            for each in entries:
                name = _queued_id(each) if state is State.QUEUED else each.name
                if name is not None and ids.is_id(name):
                    yield JobId(name), each

    def request(self, verb: Verb, job_id: str | None = None) -> None:
        """Ask the daemon for something. It looks who asks, and logs what it did.

        Raises RunnerdError if nothing may be asked here.
        """
        name = verb.value if job_id is None else f"{job_id}.{verb.value}"
        with contextlib.suppress(FileExistsError):  # asked for already
            drop_file(self.root / "control", name, b"")

    def asked(self) -> bool:
        """Whether something was asked for and not yet looked at. False where we may not look."""
        with contextlib.suppress(PermissionError):
            return any(read_request(name, 0) for name in os.listdir(self.root / "control"))
        return False

    def _is_taken(self, job_id: JobId) -> bool:
        in_the_way = os.path.lexists(self.root / "incoming" / job_id)
        return in_the_way or Job(self, job_id).state is not None


@dataclass(frozen=True)
class Job:
    """One job of a spool. Everything is looked up when it is asked for."""

    spool: Spool
    id: JobId

    @property
    def state(self) -> State | None:
        """Where the job is, or None if there is none."""
        return self._find()[0]

    @property
    def directory(self) -> Path:
        """The job's directory. Raises NoSuchJob while there is none."""
        state, path = self._find()
        if state in (None, State.QUEUED):
            raise NoSuchJob(f"{self.id}: has no directory; it is {state or 'not in the spool'}")
        return path

    @property
    def file(self) -> Path:
        """Its job file in incoming/, while it waits there."""
        path = self._find()[1]
        inner = (path / name for name in ids.JOB_FILES) if path.is_dir() else ()
        return next((each for each in inner if each.exists()), path)

    @property
    def attempt(self) -> int:
        """The number of the attempt that runs, or was the last."""
        result = self.result
        if result is not None:
            return max(1, len(result.attempts))
        status = self.status
        return status.attempt if status is not None else 1

    @property
    def attempt_started_at(self) -> float:
        """When that began (seconds since the epoch), or 0 if it is not known."""
        result, status = self.result, self.status
        if result is not None and result.attempts:
            started = result.attempts[-1].started_at
        else:
            started = status.started_at if status is not None else None
        return epoch(started) if started is not None else 0.0

    @property
    def log_file(self) -> Path:
        """What the job printed."""
        return self.directory / "output.log"

    @property
    def result(self) -> Result | None:
        """How the job ended, or None as long as it has not."""
        state, path = self._find()
        if state not in (State.DONE, State.FAILED):
            return None
        try:
            return records.loads(Result, _read_plain(path / "result.json"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunnerdError(f"{path / 'result.json'}: {error}") from error

    @property
    def status(self) -> Status | None:
        """What a running job is doing, as far as it has been written."""
        with contextlib.suppress(OSError, ValueError):
            return records.loads(Status, (self._find()[1] / "status.json").read_bytes())
        return None

    @property
    def changed_at(self) -> float:
        """When it came where it is (seconds since the epoch), or 0 if it is gone."""
        with contextlib.suppress(OSError):
            return self._find()[1].stat(follow_symlinks=False).st_ctime
        return 0.0

    @property
    def deliveries(self) -> list[Delivery]:
        """The tries to tell its news, the oldest first. Raises NoSuchJob while there is no job."""
        from . import history  # noqa: PLC0415  # most callers never ask

        with contextlib.suppress(FileNotFoundError):
            return list(history.read(_read_plain(self.directory / history.DELIVERIES)))
        return []

    def wait(self, timeout_s: float | None = None) -> Result:
        """Wait for the end. Raises TimeoutError, or NoSuchJob if the job is gone."""
        result = self.result
        if result is not None:
            return result
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with changes(self.spool.root / each for each in ("done", "failed")) as changed:
            while (result := self.result) is None:
                if self.state is None:
                    raise NoSuchJob(f"{self.id}: the job is gone from {self.spool.root}")
                left = _LOOK_AGAIN_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self.id}: still {self.state} after {timeout_s} s")
                changed(min(left, _LOOK_AGAIN_S))
        return result

    def _find(self) -> tuple[State | None, Path]:
        """Looks in the order in which a job moves, so that one that moves is not missed."""
        for suffix in ids.SUFFIXES:
            path = self.spool.root / "incoming" / (self.id + suffix)
            if os.path.lexists(path):
                return State.QUEUED, path
        bundle = self.spool.root / "incoming" / self.id
        if bundle.is_dir() and not bundle.is_symlink():
            return State.QUEUED, bundle
        for state, place in _PLACES.items():
            path = self.spool.root / place / self.id
            if os.path.lexists(path):
                return state, path
        return None, Path()


def _queued_id(entry: os.DirEntry[str]) -> str | None:
    if ids.is_bundle(entry.name) and entry.is_dir(follow_symlinks=False):
        return entry.name
    return ids.stem(entry.name)


def _configured_root() -> Path:
    from . import configfile  # noqa: PLC0415  # most callers name their spool

    return configfile.served_spool(configfile.load_config(None))


class Changes:
    """Waits for a change in some directories; `add` adds one. Made by `changes`."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.add = watch.add

    def __call__(self, timeout_s: float) -> None:
        """Return at a change since the last call, or after the time."""
        poll = select.poll()  # not select(): it knows no descriptor over 1023
        poll.register(self._watch, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            self._watch.take()


@contextlib.contextmanager
def changes(directories: Iterable[Path], *, writes: bool = False) -> Iterator[Changes]:
    """A way to wait for files that come into these directories, or, with `writes`, grow there."""
    from .watch import Watch  # noqa: PLC0415  # slow to load, and most callers never wait

    watch = Watch(writes=writes)
    try:
        for each in directories:
            watch.add(each)
        yield Changes(watch)
    finally:
        watch.stop()


def _read_plain(path: Path) -> bytes:
    """A file, and nothing that a read could wait for: a bad disk may have made a FIFO of it."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "this is no plain file; run: runnerctl fsck")
        return file.read()


def _text(job: Mapping[str, Any]) -> str:
    """A mapping as a job file. All of it are texts there, so None would become a word."""
    _refuse_none(job, "job")
    return json.dumps(job, ensure_ascii=False, indent=1)


def _refuse_none(value: object, where: str) -> None:
    if value is None:
        raise RunnerdError(f"{where} is None; leave the field out instead")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_none(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_none(item, f"{where}[{index}]")
