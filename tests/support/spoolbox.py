"""A real spool in a temporary directory, and a real daemon that serves it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import jsonschema
import psutil
from invariant import living, named

from runnerd import api
from runnerd.catalogue import Catalogue
from runnerd.config import Config
from runnerd.configfile import Setup
from runnerd.model import State
from runnerd.outcome import Result
from runnerd.schema import About, schema_of
from runnerd.secretstore import SecretStore
from runnerd.spool import Spool

PATIENCE_S = 20.0
SHELL = Catalogue({"shell": None})
SETUP = Setup(
    config=Config(slots=2),
    secrets=Path("/nonexistent"),
    executors=SHELL,
    programs=Path("/nonexistent"),
)
SECRETS = SecretStore(SETUP.secrets)
RESULTS = jsonschema.Draft202012Validator(schema_of(About.RESULT, SHELL))


class SpoolBox:
    """One spool. `start` as many daemons as you like, one after the other."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.root = scratch / "spool"
        self.log = scratch / "daemon.log"
        self.api = api.Spool(self.root)
        self.daemon: subprocess.Popen[bytes] | None = None
        # Not below scratch: the path of a socket has at most 107 bytes.
        self._notify_dir = tempfile.mkdtemp(prefix="notify-")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(f"{self._notify_dir}/socket")
        self.notify.settimeout(PATIENCE_S)
        self.gates: dict[str, Gate] = {}
        self._status = ""
        self.user: str | None = None  # whom the daemon runs as, if not as ourselves

    # --- the daemon -----------------------------------------------------------------------------

    def start(self, *options: str, watchdog_s: float | None = None, **config: object) -> None:
        """Start a daemon and wait until it says that it is ready."""
        self.launch(*options, watchdog_s=watchdog_s, **config)
        self.await_notice("READY=1")

    def launch(self, *options: str, watchdog_s: float | None = None, **config: object) -> None:
        self.configure(**config)
        env = {**os.environ, "NOTIFY_SOCKET": f"{self._notify_dir}/socket", "MY_SECRET": "s3cret"}
        if watchdog_s is not None:
            env["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.program, "--config", str(self.config_file), *options],
                env=env,
                stderr=log,
                stdin=subprocess.DEVNULL,
                user=self.user,
                group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
                extra_groups=None if self.user is None else [],
            )

    def configure(self, **config: object) -> None:
        lines = [f"{key}: {value}\n" for key, value in {"slots": 2, **config}.items()]
        self.config_file.write_text("".join(lines))

    @property
    def config_file(self) -> Path:
        return self.scratch / "runnerd.yaml"

    def template(self, name: str, text: str) -> None:
        """Install a template where the daemon looks for it."""
        directory = self.scratch / "jobs.d"
        directory.mkdir(exist_ok=True)
        (directory / f"{name}.yaml").write_text(text)

    def secret(self, name: str, value: str, mode: int = 0o600) -> None:
        directory = self.scratch / "secrets"
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(value)
        (directory / name).chmod(mode)

    @property
    def program(self) -> list[str]:
        return [sys.executable, "-m", "runnerd", "--spool", str(self.root)]

    def await_notice(self, text: str) -> None:
        """Wait for a message to systemd that has this line."""
        while True:
            if text in self.notify.recv(4096).decode().split("\n"):
                return

    def reload(self) -> None:
        """Have the configuration read again, and wait until that has happened."""
        assert self.daemon is not None
        while select.select([self.notify], [], [], 0)[0]:
            self.notify.recv(4096)  # a full queue would lose the notices that we wait for
        self.daemon.send_signal(signal.SIGHUP)
        self.await_notice("RELOADING=1")
        self.await_notice("READY=1")

    def stop(self) -> None:
        """Ask the daemon to end; it must, and without a complaint."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        assert self.daemon.wait(PATIENCE_S) == 0, self.log.read_text()
        self.daemon = None

    def kill(self) -> None:
        """The daemon dies on the spot."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def nursery(self) -> psutil.Process:
        assert self.daemon is not None
        (nursery,) = psutil.Process(self.daemon.pid).children()
        return nursery

    def runners(self) -> list[psutil.Process]:
        return named(self.nursery().children(), "runnerd-runner")

    def close(self) -> None:
        """Stop the daemon; then nothing that knows this spool may be alive."""
        patience_s = 0.0  # a daemon that does not stop is not waited for twice
        try:
            if self.daemon is not None and self.daemon.poll() is None:
                self.stop()
            patience_s = PATIENCE_S
        finally:
            self.notify.close()
            shutil.rmtree(self._notify_dir)
            left = self._end_all(patience_s)
            if self.daemon is not None:
                self.daemon.wait()
        assert not left, f"left behind: {left}"

    def _end_all(self, patience_s: float) -> list[psutil.Process]:
        """Wait for all that knows this spool; what is still there then is killed, and told."""
        _, left = psutil.wait_procs(living(self.root), timeout=patience_s)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=PATIENCE_S)
        return left

    # --- jobs -----------------------------------------------------------------------------------

    def path(self, place: str, *names: str) -> Path:
        return self.root.joinpath(place, *names)

    def drop(self, name: str, job: str | bytes) -> None:
        """Write and rename, as submitters do. `name` without a suffix gets .yaml."""
        file = name if name.endswith((".yaml", ".yml", ".json")) else f"{name}.yaml"
        staged = self.scratch / "staged"
        staged.write_bytes(job.encode() if isinstance(job, str) else job)
        staged.rename(self.path("incoming", file))

    def result(self, job_id: str, within_s: float = PATIENCE_S) -> Result:
        """Wait for the end of a job that may not even be there yet."""
        job = api.Job(self.api, job_id)  # type: ignore[arg-type]
        with api.changes([self.path("done"), self.path("failed")]) as changed:
            deadline = time.monotonic() + within_s
            while job.state not in (State.DONE, State.FAILED):
                left = deadline - time.monotonic()
                assert left > 0, f"{job_id} is {job.state}; the log: {self.log.read_text()}"
                changed(left)
        RESULTS.validate(json.loads((job.directory / "result.json").read_bytes()))
        result = job.result
        assert result is not None
        return result

    def started(self, job_id: str) -> None:
        """Wait until a job runs: its status is written after its start."""
        path = self.path("running", job_id, "status.json")
        until(path.exists, f"{job_id} did not start; the log: {self.log.read_text()}")

    def control(self, name: str) -> None:
        """Ask for something by a file of this name."""
        staged = self.scratch / "asked"
        staged.touch()
        staged.rename(self.path("control", name))

    def status(self) -> str:
        """What the daemon last told systemd about itself."""
        while select.select([self.notify], [], [], 0)[0]:
            for line in self.notify.recv(4096).decode().split("\n"):
                if line.startswith("STATUS="):
                    self._status = line
        return self._status

    def says(self, text: str) -> None:
        """Wait until the daemon's log has this: a job is filed before it is told of."""
        until(lambda: text in self.log.read_text(), f"not in the log: {text}")

    def run(self, name: str, job: str | bytes, within_s: float = PATIENCE_S) -> Result:
        self.drop(name, job)
        return self.result(name, within_s)

    def output(self, job_id: str) -> str:
        return api.Job(self.api, job_id).log_file.read_text()  # type: ignore[arg-type]

    def gate(self, name: str = "gate") -> Gate:
        return Gate(self.scratch / name)


class Opener(Protocol):
    """The fixture `open_spool`: a spool in this process, closed after the test."""

    def __call__(self, root: Path, group: str | None = None) -> Spool: ...


class Gate:
    """A FIFO at which jobs report and wait: `read x < gate`. No clock is involved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> None:
        """Wait until a job stands at the gate, and let it through."""
        until(lambda: self._try_open() is not None, f"no job came to {self.path}")

    def _try_open(self) -> int | None:
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO: nobody reads yet
            return None
        os.write(fd, b"go\n")
        os.close(fd)
        return fd


class Reports:
    """A FIFO into which jobs write a line, and from which the test reads them as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)
        self._lines: list[str] = []
        self._rest = b""

    def next(self) -> str:
        """The next line, or an assertion after the patience is over."""
        while not self._lines:
            assert select.select([self._fd], [], [], PATIENCE_S)[0], "no report came"
            *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
            self._lines += [line.decode() for line in lines]
        return self._lines.pop(0)

    def close(self) -> None:
        os.close(self._fd)


def until(fact: Callable[[], bool], message: str, within_s: float = PATIENCE_S) -> None:
    """Poll for a fact that gives no event."""
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)
