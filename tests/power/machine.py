"""machine: record a workload in a whole machine, and cut its power while it works.

The machine's disk is the same that notes every write, so that what the cut may have left can be had
in all its forms, and what earlier cuts would have left as well.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import debian
import vm
from namespaces import run
from recorder import PLUGIN, Recording
from writelog import Image, load_log

PROJECT = Path(__file__).parents[2]
PATIENCE_S = 300.0  # emulation is slow, and there may be other work
_LINES = 55  # about what a whole workload tells
_PARTS = ("runnerd", "tests/power", "tests/support")


def missing() -> list[str]:
    """What this machine lacks to boot another, in words."""
    return debian.missing(vm.PROGRAM)


@dataclass(frozen=True, slots=True)
class Machine:
    """`here`: where the paths of the workload lie. `acks`: what has come over the wire."""

    release: str
    here: Path
    acks: Path

    def cut(self, base: Image, seed: int, mutant: str | None) -> Recording:
        """Boot, work, and cut the power at some moment."""
        chance = random.Random(seed)  # noqa: S311  # to be had again from the same seed
        until, after_s = chance.randint(1, _LINES), chance.random() * 0.5
        disk, log, init = (self.here / each for each in ("vm.img", "writes.log", "init"))
        base.save(disk)
        for each in (log, self.acks):
            each.write_bytes(b"")
        words = [str(self.here), str(seed), *([mutant] if mutant else [])]
        init.write_text(f"#!/bin/sh\nexec python3 /mnt/tests/power/guest.py {' '.join(words)}\n")
        init.chmod(0o755)
        project = self._project(init)
        with self._served(disk, log) as drive:
            machine = vm.boot(
                debian.disk(self.release),
                init="/mnt/init",
                project=project,
                drives=[drive],
                console=self.here / "console",
                wire=self.acks,
            )
            try:
                self._await(lambda: self.acks.read_bytes().count(b"\n") >= until, machine)
                time.sleep(after_s)  # a moment by chance, not a wait for something
            finally:
                machine.kill()
                machine.wait()
        recording = Recording(base, load_log(log), self.acks.read_bytes())
        for each in (disk, log, project):
            each.unlink()
        return recording

    def _project(self, init: Path) -> Path:
        """A file system with what runs in the machine."""
        image, parts = self.here / "project.img", self.here / "project"
        no_caches = shutil.ignore_patterns("__pycache__")
        for each in _PARTS:
            shutil.copytree(PROJECT / each, parts / each, ignore=no_caches)
        shutil.copy(init, parts / "init")
        with image.open("wb") as file:
            file.truncate(16 << 20)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(parts), str(image))
        shutil.rmtree(parts)
        return image

    @contextlib.contextmanager
    def _served(self, disk: Path, log: Path) -> Iterator[str]:
        """The disk, as QEMU sees it through the plugin."""
        path = self.here / "nbd"
        server_options = ("--foreground", "--exit-with-parent", "--unix", str(path))
        plugin = ("python", str(PLUGIN), f"file={disk}", f"log={log}", f"acks={self.acks}")
        with subprocess.Popen(["nbdkit", *server_options, *plugin]) as server:
            try:
                self._await(path.exists, server)
                yield f"nbd:unix:{path}"
            finally:
                server.terminate()
        path.unlink()

    def _await(self, fact: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not fact():
            if time.monotonic() > deadline or process.poll() is not None:
                console = self.here / "console"
                said = console.read_text(errors="replace")[-3000:] if console.exists() else ""
                raise TimeoutError(f"the machine does not go on: {said}")
            time.sleep(0.01)
