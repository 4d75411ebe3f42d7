"""crashpoints: stand at every call by which the programs change a spool, and die or fail there.

`install` puts itself in front of the functions of `os` that change something, in this process and
in all that it forks: the daemon, its nursery, the runners. Jobs are programs of their own and do
not know it.

A point is a call by what it is, not by its number: who makes it, which call, on which path, for the
which time. So it is met in the next run too, whatever happens at the same time elsewhere.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from runnerd import disk

_OWN_NUMBER = re.compile(r"\.spare\.\d+")
RUNNER, NURSERY = "runnerd-runner", "runnerd-nursery"
COURIER, CARRIER = "runnerd-courier", "runnerd-carrier"
BY_NAME = ("mkdir", "mkfifo", "unlink", "rmdir", "chmod", "chown", "truncate", "open")
BY_FD = ("write", "pwrite", "writev", "fsync", "fdatasync", "fchmod", "fchown", "ftruncate")
BY_TWO = ("rename", "replace", "link")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# What a full disk refuses; all else still works there. Without descriptors, nothing can be opened.
_TAKES_ROOM = {"open", "mkdir", "mkfifo", "write", "pwrite", "writev", "splice", "link", "fsync"}
_REFUSES = {errno.ENOSPC: _TAKES_ROOM, errno.EDQUOT: _TAKES_ROOM, errno.EMFILE: {"open"}}


class Act(StrEnum):
    """What happens at a point."""

    KILL = "kill"  # the process that came there dies
    KILL_ALL = "kill all"  # all die: the others before their next change
    KILL_TWICE = "kill twice"  # all die, and then the daemon that recovers, somewhere
    FAIL = "fail"  # the call fails
    FAIL_ON = "fail on"  # and so do all others that can fail so, for a while


DEATHS = (Act.KILL, Act.KILL_ALL, Act.KILL_TWICE)


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do at which point, or at the daemon's change with that number ("7").

    `lasting_s`: how long calls go on failing.
    """

    point: str
    act: Act
    errno: int = 0
    lasting_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.act} {errno.errorcode.get(self.errno, '')}".strip()


class Points:
    """The points of one spool. `trace` gets a line for each; `fired` shows that the fault came."""

    def __init__(self, root: Path, trace: Path, fired: Path, fault: Fault | None) -> None:
        self._root = str(root)
        self._fired = str(fired)
        self._fault = fault
        self._counts: Counter[str] = Counter()
        self._open, self._write, self._stat = os.open, os.write, os.stat
        self._trace_fd = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def install(self) -> None:
        """Stand in front of the calls, for good."""
        for name in BY_NAME:
            setattr(os, name, self._named(name, getattr(os, name)))
        for name in BY_FD:
            setattr(os, name, self._described(name, getattr(os, name)))
        for name in BY_TWO:
            setattr(os, name, self._paired(name, getattr(os, name)))
        os.remove = os.unlink
        os.splice = self._spliced(os.splice)
        os.setxattr = self._described("setxattr", os.setxattr)
        os.posix_spawn = self._spawned(os.posix_spawn)
        os.fork = self._spawned(os.fork)
        disk.rename_new = self._renamed_new(disk.rename_new)

    # --- the calls ------------------------------------------------------------------------------

    def _named(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, dir_fd: int | None = None, **more: Any) -> Any:
            if name != "open" or args[0] & _WRITES:
                self._meet(name, self._path(path, dir_fd))
            return real(path, *args, dir_fd=dir_fd, **more)

        return call

    def _described(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: Any, *args: Any, **more: Any) -> Any:
            self._meet(name, self._path(fd, None))
            return real(fd, *args, **more)

        return call

    def _paired(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, target: Any, **fds: Any) -> Any:
            self._meet(
                name,
                self._path(source, fds.get("src_dir_fd")),
                self._path(target, fds.get("dst_dir_fd")),
            )
            return real(source, target, **fds)

        return call

    def _renamed_new(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(name: str, target: str, *, at: int, to: int) -> None:
            self._meet("renameat2", self._path(name, at), self._path(target, to))
            real(name, target, at=at, to=to)

        return call

    def _spliced(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(source: int, target: int, count: int, **more: Any) -> int:
            self._meet("splice", self._path(target, None))
            return real(source, target, count, **more)

        return call

    def _spawned(self, real: Callable[..., int]) -> Callable[..., int]:
        """Not a change of the disk, but the moment at which the work of a job may begin."""

        def call(*args: Any, **more: Any) -> int:
            if _comm() == RUNNER:
                self._meet("spawn", self._root)
            return real(*args, **more)

        return call

    # --- the points -----------------------------------------------------------------------------

    def _meet(self, call: str, *paths: str) -> None:
        if not any(path.startswith(self._root) for path in paths):
            return
        shown = " ".join(os.path.relpath(path, self._root) for path in paths)
        shown = _OWN_NUMBER.sub(".spare.PID", shown)  # the same point in the next run
        what = f"{_role()} {call} {shown}"
        self._counts[what] += 1
        point = f"{what} #{self._counts[what]}"
        self._write(self._trace_fd, f"{point}\n".encode())
        if self._fault is not None:
            number = str(self._counts.total()) if what.startswith("daemon") else ""
            self._act(self._fault, call, is_it=self._fault.point in (point, number))

    def _act(self, fault: Fault, call: str, *, is_it: bool) -> None:
        since = self._fired_at()
        if since is None and is_it:
            os.close(self._open(self._fired, os.O_CREAT | os.O_WRONLY, 0o600))
            if fault.act in DEATHS:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(fault.errno, os.strerror(fault.errno))
        if since is None:
            return
        if fault.act in (Act.KILL_ALL, Act.KILL_TWICE):
            os.kill(os.getpid(), signal.SIGKILL)
        lasts = fault.act is Act.FAIL_ON and time.time() < since + fault.lasting_s
        if lasts and call in _REFUSES.get(fault.errno, {call}):
            raise OSError(fault.errno, os.strerror(fault.errno))

    def _fired_at(self) -> float | None:
        try:
            return self._stat(self._fired).st_mtime
        except FileNotFoundError:
            return None

    def _path(self, path: Any, dir_fd: int | None) -> str:
        if isinstance(path, int):
            return _target(path)
        above = Path.cwd() if dir_fd is None else Path(_target(dir_fd))
        return str(above / os.fsdecode(path))


def _target(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return ""


def _comm() -> str:
    return Path("/proc/self/comm").read_text().strip()


def _role() -> str:
    roles = {RUNNER: "runner", NURSERY: "nursery", COURIER: "courier", CARRIER: "carrier"}
    return roles.get(_comm(), "daemon")
