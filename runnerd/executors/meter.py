"""meter: what a container uses, read from its cgroups while they are there; and its sure end.

Works where the engine runs on this machine and the container's main process can be seen. Where not,
nothing is known, and nothing is done.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from runnerd.frozen import frozen
from runnerd.outcome import Usage

_ROOT = Path("/sys/fs/cgroup")


def has_cgroup_v2() -> bool:
    """Whether this machine has version 2 alone."""
    return (_ROOT / "cgroup.controllers").exists()


class Meter:
    """One container, from its start on. `usage`: as of the last look that showed anything."""

    def __init__(self, pid: int | None, container: str) -> None:
        self.usage: Usage | None = None
        self.out_of_memory = False  # whether the kernel has killed for that; Podman does not tell
        self._pidfd: int | None = None
        self._paths: dict[str, Path] = {}
        if pid is None:
            return
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            found = _cgroups(Path(f"/proc/{pid}/cgroup").read_text("utf-8"))
            # The number may be of another machine's process, or of another by now.
            self._paths = {name: path for name, path in found.items() if container in str(path)}
            if self._paths:
                self._pidfd = pidfd
            else:
                os.close(pidfd)

    @property
    def cpu_s(self) -> float:
        return self.usage.cpu_user_s + self.usage.cpu_system_s if self.usage else 0.0

    def look(self) -> None:
        """Read what was used up to now."""
        read = _read_v2 if "" in self._paths and "cpuacct" not in self._paths else _read_v1
        with contextlib.suppress(OSError, ValueError, LookupError):
            self.usage = read(self._paths)
            self.out_of_memory |= _oom_kills(self._paths) > 0

    def kill(self) -> None:
        """Kill the main process, and with it all that its process namespace holds."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def _cgroups(text: str) -> dict[str, Path]:
    """The directories of a process by controller; of version 2 by the empty name: cgroups(7)."""
    found = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = _ROOT / name / path.lstrip("/")
    return found


def _oom_kills(paths: dict[str, Path]) -> int:
    here = paths.get("memory")
    file = paths[""] / "memory.events" if here is None else here / "memory.oom_control"
    return next((int(count) for name, count in _File(file).words() if name == "oom_kill"), 0)


@frozen
class _File:
    """A file of numbers with names."""

    path: Path

    def words(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text("ascii").splitlines()]

    def number(self) -> int:
        return int(self.path.read_text("ascii"))


def _read_v2(paths: dict[str, Path]) -> Usage:
    here = paths[""]
    cpu = {words[0]: int(words[1]) for words in _File(here / "cpu.stat").words()}
    read = written = 0
    most: int | None = None
    with contextlib.suppress(OSError):  # no controller
        most = _File(here / "memory.peak").number()
    with contextlib.suppress(OSError):
        for _, *words in _File(here / "io.stat").words():
            values = dict(word.split("=", 1) for word in words)
            read += int(values.get("rbytes", 0))
            written += int(values.get("wbytes", 0))
    return Usage(
        cpu_user_s=round(cpu["user_usec"] / 1e6, 3),
        cpu_system_s=round(cpu["system_usec"] / 1e6, 3),
        max_memory_bytes=most,
        read_bytes=read,
        write_bytes=written,
    )


def _read_v1(paths: dict[str, Path]) -> Usage:
    cpu = paths["cpuacct"]
    moved = {"Read": 0, "Write": 0}
    most: int | None = None
    with contextlib.suppress(OSError, LookupError):
        most = _File(paths["memory"] / "memory.max_usage_in_bytes").number()
    with contextlib.suppress(OSError, LookupError):
        for words in _File(paths["blkio"] / "blkio.throttle.io_service_bytes").words():
            if len(words) == 3 and words[1] in moved:
                moved[words[1]] += int(words[2])
    return Usage(
        cpu_user_s=round(_File(cpu / "cpuacct.usage_user").number() / 1e9, 3),
        cpu_system_s=round(_File(cpu / "cpuacct.usage_sys").number() / 1e9, 3),
        max_memory_bytes=most,
        read_bytes=moved["Read"],
        write_bytes=moved["Write"],
    )
