"""peers: what people use instead, as it comes: xargs, GNU parallel, nq, task-spooler, and queues.

The queues in Python run the same command; those with a broker get a Redis of their own on a Unix
socket, which syncs each change as we do. What is not installed is named as missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import await_that, scratch

COMMAND = ["sh", "-c", "true"]
TASKS = Path(__file__).with_name("tasks.py")
# Debian's packages have these in /usr/bin; the tests' environment in its own.
PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"


@dataclass(frozen=True, slots=True)
class Peer:
    """`needs`: programs, and modules of Python, without which there is nothing to measure."""

    name: str
    programs: tuple[str, ...]
    modules: tuple[str, ...]
    run_s: Callable[[int, int, Path], float]

    def missing(self) -> list[str]:
        """What is not installed."""
        programs = [each for each in self.programs if shutil.which(each, path=PATH) is None]
        return programs + [each for each in self.modules if importlib.util.find_spec(each) is None]

    def rate(self, jobs: int, slots: int) -> float:
        """Jobs in a second."""
        return jobs / self.run_s(jobs, slots, scratch())


def _numbers(jobs: int) -> str:
    return "".join(f"{number}\n" for number in range(jobs))


def _timed_s(command: list[str], words: str) -> float:
    began = time.monotonic()
    subprocess.run(command, input=words, text=True, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def xargs_s(jobs: int, slots: int, _: Path) -> float:
    """The limit: it forks, and that is all."""
    return _timed_s(["xargs", "-P", str(slots), "-n", "1", *COMMAND], _numbers(jobs))


def _parallel_s(jobs: int, slots: int, here: Path) -> float:
    os.environ["PARALLEL_HOME"] = str(here)
    (here / "will-cite").touch()
    return _timed_s(["parallel", "-j", str(slots), "-n", "1", "sh -c true #"], _numbers(jobs))


def _nq_s(jobs: int, slots: int, here: Path) -> float:
    """One directory is one slot."""
    lanes = [{**os.environ, "NQDIR": str(here / str(number))} for number in range(slots)]
    began = time.monotonic()
    for number in range(jobs):
        lane = lanes[number % slots]
        subprocess.run(["nq", *COMMAND], env=lane, check=True, stdout=subprocess.DEVNULL)
    for lane in lanes:
        subprocess.run(["nq", "-w"], env=lane, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _spooler_s(jobs: int, slots: int, here: Path) -> float:
    with spooler(here, slots) as environment:
        began = time.monotonic()
        for _ in range(jobs):
            command = ["tsp", "-n", *COMMAND]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["tsp", "-w"], env=environment, check=True)  # for the last one
        return time.monotonic() - began


@contextmanager
def spooler(here: Path, slots: int) -> Iterator[dict[str, str]]:
    """A task-spooler of our own; the environment that leads to it."""
    environment = {**os.environ, "TS_SOCKET": str(here / "tsp"), "TMPDIR": str(here)}
    subprocess.run(["tsp", "-S", str(slots)], env=environment, check=True)
    try:
        yield environment
    finally:
        subprocess.run(["tsp", "-K"], env=environment, check=False)


@contextmanager
def _redis(here: Path) -> Iterator[None]:
    command = ["redis-server", "--port", "0", "--unixsocket", str(here / "redis.sock")]
    command += ["--dir", str(here), "--appendonly", "yes", "--appendfsync", "always"]
    with _ended_after(command, here):
        await_that((here / "redis.sock").exists)
        yield


@contextmanager
def _ended_after(command: list[str], here: Path, **environment: str) -> Iterator[None]:
    with (
        (here / "log").open("ab") as log,
        subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=TASKS.parent,
            env={**os.environ, "PATH": PATH, **environment},
            start_new_session=True,
        ) as process,
    ):
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _queue_s(kind: str, worker: Callable[[int, Path], list[str]]) -> Callable[..., float]:
    def run_s(jobs: int, slots: int, here: Path) -> float:
        ended = here / "ended"
        ended.touch()
        environment = {"BENCH_PEER": kind, "BENCH_DIR": str(here), "PYTHONPATH": str(TASKS.parent)}
        with contextlib.ExitStack() as running:
            if kind != "huey-sqlite":
                running.enter_context(_redis(here))
            running.enter_context(_ended_after(worker(slots, here), here, **environment))
            _put(slots, environment)()
            await_that(lambda: ended.stat().st_size == slots)  # all is up
            put = _put(jobs, environment)
            began = time.monotonic()
            put()
            await_that(lambda: ended.stat().st_size == slots + jobs)
            return time.monotonic() - began

    return run_s


def _put(jobs: int, environment: dict[str, str]) -> Callable[[], None]:
    """A process that is ready to put so many jobs into the queue; to be told once."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import tasks; tasks.fill()"],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()

    def go() -> None:
        process.communicate(f"{jobs}\n")
        assert process.returncode == 0

    return go


def _huey(slots: int, _: Path) -> list[str]:
    return ["huey_consumer", "tasks.app", "-w", str(slots), "-k", "process", "-n", "-q"]


def _rq(slots: int, here: Path) -> list[str]:
    url = f"unix://{here}/redis.sock"
    return ["rq", "worker-pool", "--url", url, "-n", str(slots), "--quiet"]


def _celery(slots: int, _: Path) -> list[str]:
    options = ["-c", str(slots), "-l", "ERROR", "--without-gossip", "--without-mingle"]
    return ["celery", "-A", "tasks", "worker", *options]


PEERS = (
    Peer("GNU parallel", ("parallel",), (), _parallel_s),
    Peer("nq", ("nq",), (), _nq_s),
    Peer("task-spooler", ("tsp",), (), _spooler_s),
    Peer("huey, SQLite", ("huey_consumer",), ("huey",), _queue_s("huey-sqlite", _huey)),
    Peer(
        "huey, Redis",
        ("huey_consumer", "redis-server"),
        ("huey", "redis"),
        _queue_s("huey-redis", _huey),
    ),
    Peer("RQ", ("rq", "redis-server"), ("rq",), _queue_s("rq", _rq)),
    Peer(
        "Celery, Redis",
        ("celery", "redis-server"),
        ("celery", "redis"),
        _queue_s("celery", _celery),
    ),
)
XARGS = Peer("xargs -P", ("xargs",), (), xargs_s)
