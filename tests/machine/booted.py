"""booted: a Debian that systemd has booted, in a container.

All that is changed in it lies in an overlay and is gone with it. systemd-nspawn(1) makes the
container; its processes are seen from here, and programs are started in it by nsenter(1).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import debian

PATIENCE_S = 60.0
_HIERARCHIES = ("", "unified", "systemd", "memory", "pids", "cpu", "cpuacct")
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def missing() -> list[str]:
    """What this machine lacks to boot one, in words."""
    return debian.missing("systemd-nspawn", "nsenter", "unshare")


@dataclass(frozen=True, slots=True)
class Booted:
    """A running system. `pid`: of its first process."""

    pid: int

    def path(self, inside: str) -> Path:
        """How a path of the system is reached from here."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program in it as root; what it printed. Its failure fails the test."""
        done = self.attempt(*command)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in it as root, which may fail."""
        enter = ["nsenter", "--target", str(self.pid), "--all", "--", *command]
        return subprocess.run(enter, capture_output=True, text=True, check=False, env=_ENVIRONMENT)

    def show(self, unit: str, what: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={what}", unit).strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def await_that(self, fact: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not fact():
            assert time.monotonic() < deadline, f"{what}\n{self.journal('runnerd')}"
            time.sleep(0.05)


@contextlib.contextmanager
def booted(release: str, scratch: Path) -> Iterator[Booted]:
    """Boot a system, with what runnerd needs of Debian; shut it down afterwards."""
    tree, name = debian.tree(release), f"runnerd-{os.getpid()}"
    upper, work, root = (scratch / each for each in ("upper", "work", "root"))
    for each in (upper, work, root):
        each.mkdir()
    groups = [
        Path("/sys/fs/cgroup", each, name)
        for each in _HIERARCHIES
        if Path("/sys/fs/cgroup", each, "cgroup.procs").exists()
    ]
    for group in groups:
        group.mkdir()
    script = [f"echo $$ >{group}/cgroup.procs" for group in groups]
    script.append(f"mount -t overlay -o lowerdir={tree},upperdir={upper},workdir={work} o {root}")
    script.append(
        f"exec systemd-nspawn --quiet --directory={root} --machine={name} --boot --register=no"
        " --keep-unit --private-network --link-journal=no --console=pipe"
    )
    with (scratch / "console").open("wb") as console:
        nspawn = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-ec", "\n".join(script)],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
    try:
        yield _await_boot(nspawn, scratch / "console")
    finally:
        nspawn.terminate()  # an orderly shutdown
        nspawn.wait()
        for group in groups:
            for directory, _, _ in os.walk(group, topdown=False):
                Path(directory).rmdir()


def _await_boot(nspawn: subprocess.Popen[bytes], console: Path) -> Booted:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and nspawn.poll() is None:
        children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
        if children:
            system = Booted(int(children[0]))
            state = system.run("systemctl", "is-system-running", "--wait", check=False).strip()
            if state in ("running", "degraded"):
                return system
        time.sleep(0.05)
    raise AssertionError(f"it does not boot: {console.read_text(errors='replace')[-3000:]}")
