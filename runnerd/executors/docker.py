"""docker: a step as a container of Docker's engine, or of Podman by its compatible interface.

An attendant, a child of the runner, looks after the container; what the step is there says
`container`. Here is the runner's side of it.

Guarantees: a container has ended and is removed before its step is concluded; where its engine
            cannot be reached, that is owed, and `sweep` does it later. Containers are found by
            their labels alone, and those of other spools are left alone.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runnerd import records
from runnerd.errors import NotStartable
from runnerd.fields import DOCKER
from runnerd.model import Mount, Reason, Step
from runnerd.outcome import Exited, Failed, NotStarted, Outcome, Stopped, Usage
from runnerd.recovery import CONTAINER

from . import Executor, Place, Running
from .container import JOB, OWNER, Order, order
from .process import pidfd_of

if TYPE_CHECKING:
    from .attendant import Report, Shared

FILE = CONTAINER.removeprefix(".")
_MACHINE_ID = Path("/etc/machine-id")
_ENDING_S, _SWEEP_S = 10.0, 30.0


class Docker(Executor):
    """The executor of that name."""

    options = DOCKER
    about = "A container of Docker's engine, or of Podman by its compatible socket."
    fenced = False

    def __init__(self) -> None:
        self._version: str | None = None  # of the engine's interface, as of the last good job

    def start(self, step: Step, place: Place) -> Running:
        _load()
        from .attendant import Shared, attend  # noqa: PLC0415  # loads much, for docker jobs alone
        from .meter import has_cgroup_v2  # noqa: PLC0415

        try:
            # Its name in the job's directory tells who finds it that there may be a container.
            script = place.keep(FILE, (step.run or "").encode())
            made = order(
                step,
                place,
                owner=owner_of(place.spool),
                script=script,
                cgroup_v2=has_cgroup_v2(),
            )
            for each in made.mounts:
                _insist_on_plain(each)
            shared = Shared()
            pid, sock = attend(made, place.output_fd, shared, self._version)
        except OSError as error:
            raise NotStartable(f"its container cannot be made: {error}") from error
        return _Attended(pid, pidfd_of(pid, os.kill), sock, shared, made, place.owe, self._learn)

    def _learn(self, version: str | None) -> None:
        self._version = version

    def sweep(self, spool: str, lives: Callable[[str], bool]) -> int:
        _load()
        from .engine import Engine  # noqa: PLC0415

        engine = Engine(timeout_s=_SWEEP_S)
        try:
            return engine.remove_all(
                {OWNER: owner_of(spool)}, but=lambda labels: lives(labels.get(JOB, ""))
            )
        finally:
            engine.close()


def owner_of(spool: str) -> str:
    """What tells the containers of this machine's spool from those of any other."""
    import hashlib  # noqa: PLC0415  # with OpenSSL, for docker jobs alone

    try:
        machine = _MACHINE_ID.read_text("ascii").strip()
    except OSError:
        machine = socket.gethostname()
    return hashlib.sha256(f"{machine}\0{spool}".encode()).hexdigest()[:32]


@functools.cache
def _load() -> None:
    """Load what the first docker job of a process needs, so that those after it are fast."""
    try:
        from . import engine  # noqa: F401, PLC0415
    except ImportError as error:
        message = f"the Python package docker cannot be used (python3-docker): {error}"
        raise NotStartable(message) from error


def _insist_on_plain(mount: Mount) -> None:
    """Refuse a path with a link in it: the policy has allowed what the path says."""
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    path = ""
    try:
        for part in filter(None, mount.source.split("/")):
            path += f"/{part}"
            inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = inner
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise NotStartable(f"{mount.source} cannot be mounted: {path} is a symbolic link")
    except OSError as error:
        raise NotStartable(f"{path} cannot be mounted: {error.strerror}") from None
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Attended:
    """A container, by way of its attendant. `pid` is the attendant's."""

    pid: int
    _pidfd: int
    _sock: socket.socket
    _shared: Shared
    _order: Order
    _owe: Callable[[], None]
    _learn: Callable[[str | None], None]

    def fileno(self) -> int:
        return self._pidfd

    def apart_s(self) -> float:
        return self._shared.pulled_s

    def signal(self, number: int) -> None:
        # Until conclude() reaps it, its number cannot mean anybody else.
        os.kill(self.pid, signal.SIGUSR1 if number == signal.SIGKILL else number)

    def conclude(self) -> tuple[Outcome, Usage | None]:
        os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        report, made = self._report(), self._shared.made
        self._shared.close()
        self._learn(report.version if report is not None else None)
        if report is None:
            if made:
                self._clean_up()
            return Failed("the process that looked after its container was killed"), None
        if report.left:
            self._owe()
        outcome: Outcome
        if report.limit is not None:
            outcome = Stopped(Reason.LIMIT, report.limit)
        elif report.exit_code is not None:
            outcome = Exited(report.exit_code)
        else:
            trouble = report.trouble or ""
            outcome = Failed(trouble) if report.started else NotStarted(trouble)
        return outcome, report.usage

    def _report(self) -> Report | None:
        from .attendant import Report  # noqa: PLC0415

        with self._sock as sock:
            sock.setblocking(False)  # noqa: FBT003
            try:
                data = sock.recv(1 << 16)
            except OSError:
                return None
        return records.loads(Report, data) if data else None

    def _clean_up(self) -> None:
        """Remove what it has abandoned."""
        from .engine import Engine  # noqa: PLC0415

        try:
            engine = Engine(timeout_s=_ENDING_S)
            engine.remove_all(self._order.labels)
            engine.close()
        except NotStartable:
            self._owe()
